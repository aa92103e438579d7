"""Many pods, second by second: what comes, who is ready, what the autoscaler sees and does, and what fails.

At a million images a second nobody can follow each of them. A balancer that sends each image to any pod makes of one
Poisson process as many independent ones; so pods that have been ready equally long are one cohort, in which each gets
the mean. While a pod gets less than it can answer its queue is at rest within the second, and the table of one pod,
which was simulated image by image, says what happens. When it gets more, its queue grows from second to second up to
its slots, and shrinks after.
"""

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import simpy

from loadtests.capacity.autoscalers import SYNC_SECONDS, Hpa, Keda, desired_by_pods
from loadtests.capacity.cores import Process
from loadtests.capacity.table import Table

HOUR = 3600
AVERAGED_SECONDS = 60.0  # the ScaledObject's avg_over_time
CPU_SECONDS = 15  # metrics-server's --metric-resolution
SYNC_OFFSET = 5.0  # the clocks of Prometheus and of the controller know nothing of each other
UNHEARD_SECONDS = (
    50.0  # --node-monitor-grace-period (40 before Kubernetes 1.32): until a dead node's pods get no requests
)
EVICTED_SECONDS = 300.0  # tolerationSeconds, by default: until they are replaced


@dataclass(frozen=True)
class Failure:
    """A node or a whole zone is gone for so many seconds."""

    what: str
    """node or zone"""
    at: float
    seconds: float


@dataclass(frozen=True)
class Cluster:
    """Where the pods run."""

    start_seconds: float
    """from the autoscaler's decision to ready"""
    zones: int = 3
    pods_per_node: int = 4
    failures: tuple[Failure, ...] = ()
    scrape_seconds: float = 15.0


@dataclass
class History:
    """Each second's, as lists; images are counted."""

    load: list[float] = field(default_factory=list)
    ready: list[int] = field(default_factory=list)
    replicas: list[int] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    """answered after the SLO's time"""
    refused: list[float] = field(default_factory=list)
    """429"""
    lost: list[float] = field(default_factory=list)
    """sent to pods that were gone, or to nobody"""

    @property
    def images(self) -> float:
        return sum(self.load)

    @property
    def missed(self) -> float:
        """Part of the images that were not answered in time, in the worst hour."""
        worst = 0.0
        for first in range(0, len(self.load), HOUR):
            hour = slice(first, first + HOUR)
            missed = sum(self.late[hour]) + sum(self.refused[hour]) + sum(self.lost[hour])
            worst = max(worst, missed / max(1.0, sum(self.load[hour])))
        return worst

    @property
    def pod_hours(self) -> float:
        return sum(self.replicas) / HOUR


@dataclass(eq=False)
class _Cohort:
    """Pods of one zone that have had the same fate."""

    count: int
    zone: int
    created: float
    ready: float = math.inf
    heard: float = math.inf
    """until when they answer: a failure, or their end"""
    backlog: float = 0.0
    """images of each, beyond what is at rest"""


class Fleet:
    """One run; `run` it once."""

    def __init__(
        self, table: Table, slo: float, cluster: Cluster, autoscaler: Keda | tuple[Hpa, float], seed: int = 0
    ) -> None:
        """autoscaler: KEDA's, or the HorizontalPodAutoscaler by CPU and its target as a part of the pod's cores."""
        self._table, self._slo, self._cluster, self._autoscaler = table, slo, cluster, autoscaler
        self._hpa = autoscaler.hpa if isinstance(autoscaler, Keda) else autoscaler[0]
        self._env = simpy.Environment()
        self._random = np.random.default_rng(seed)
        self._live = [True] * cluster.zones
        self._cohorts: list[_Cohort] = []
        self._gone: list[_Cohort] = []  # still in Prometheus' averages
        self._scrapes: deque[tuple[float, float]] = deque()  # when, and images waiting at a pod
        self._waiting = 0.0
        self._deviation = 0.0
        self._cores: deque[float] = deque(maxlen=CPU_SECONDS)
        self._replicas = 0
        self._pending = 0  # there is no zone for them
        self._loads = [one.load for one in table.points]
        self._rows = [
            ((1 - one.refused) * one.late(slo), one.refused, one.waiting, one.deviation, one.cores)
            for one in table.points
        ]
        self.history = History()

    def run(self, rates: Sequence[float], replicas: int) -> History:
        """Mean images/s of each second; and how many pods are there, ready, when it begins."""
        env, cluster = self._env, self._cluster
        self._replicas = replicas
        self._start(replicas, at_once=True)
        env.process(self._load(rates))
        env.process(self._every(cluster.scrape_seconds, 0.0, self._scrape))
        env.process(self._every(SYNC_SECONDS, SYNC_OFFSET, self._sync))
        if isinstance(self._autoscaler, Keda) and self._autoscaler.to_zero:
            env.process(self._every(self._autoscaler.polling, SYNC_OFFSET, self._poll))
        for failure in cluster.failures:
            env.process(self._fail(failure))
        env.run(until=len(rates))
        return self.history

    def _every(self, seconds: float, offset: float, what: Callable[[], None]) -> Process:
        yield self._env.timeout(offset)
        while True:
            what()
            yield self._env.timeout(seconds)

    # -- images --------------------------------------------------------------------------------

    def _load(self, rates: Sequence[float]) -> Process:
        for images in self._random.poisson(rates).tolist():
            self._second(float(images))
            yield self._env.timeout(1)

    def _second(self, images: float) -> None:
        now, history = self._env.now, self.history
        ready = [one for one in self._cohorts if one.ready <= now < one.heard]
        silent = sum(one.count for one in self._cohorts if one.ready < one.heard <= now < one.heard + UNHEARD_SECONDS)
        pods = sum(one.count for one in ready)
        late = refused = waiting = cores = 0.0
        lost = images * silent / (pods + silent) if pods else images
        if pods:
            each = (images - lost) / pods
            at_rest = self._at(each)
            for cohort in ready:
                one_late, one_refused, one_waiting = self._cohort_second(cohort, each, at_rest)
                late += cohort.count * one_late
                refused += cohort.count * one_refused
                waiting += cohort.count * one_waiting
            self._waiting, self._deviation, cores = waiting / pods, at_rest[3], at_rest[4]
        self._cores.append(cores)
        history.load.append(images)
        history.ready.append(pods)
        history.replicas.append(self._replicas)
        history.late.append(late)
        history.refused.append(refused)
        history.lost.append(lost)

    def _cohort_second(self, cohort: _Cohort, each: float, at_rest: tuple[float, ...]) -> tuple[float, float, float]:
        """Images of one pod that are late, refused, and waiting."""
        table = self._table
        if cohort.backlog == 0 and each <= self._loads[-1]:
            return each * at_rest[0], each * at_rest[1], at_rest[2]
        before = cohort.backlog
        grown = before + each - table.capacity
        cohort.backlog = min(max(0.0, grown), table.pod.queue_images)
        refused = max(0.0, grown - table.pod.queue_images)
        delay = (before + cohort.backlog) / 2 / table.capacity
        busiest = table.points[-1]
        late = (each - refused) * (busiest.late(self._slo - delay) if delay < self._slo else 1.0)
        full = cohort.backlog / table.pod.queue_images
        return late, refused, busiest.waiting + full * max(0.0, table.full.waiting - busiest.waiting)

    def _at(self, load: float) -> tuple[float, ...]:
        """Late and refused parts, waiting, its deviation, and cores used, of a pod at rest."""
        loads, rows = self._loads, self._rows
        if load <= loads[0] or load >= loads[-1]:
            return rows[0] if load <= loads[0] else rows[-1]
        at = bisect_right(loads, load)
        part = (load - loads[at - 1]) / (loads[at] - loads[at - 1])
        return tuple(low + part * (high - low) for low, high in zip(rows[at - 1], rows[at], strict=True))

    # -- the autoscaler ------------------------------------------------------------------------

    def _scrape(self) -> None:
        """Of each pod at one moment; the mean of n of them is as much surer as there are more."""
        pods = max(1, sum(one.count for one in self._cohorts))
        noise = self._random.normal() * self._deviation / math.sqrt(pods)
        self._scrapes.append((self._env.now, max(0.0, self._waiting + noise)))
        while self._scrapes[0][0] <= self._env.now - AVERAGED_SECONDS:
            self._scrapes.popleft()

    def _query(self) -> float | None:
        """sum(avg_over_time(…[1m])): each pod's mean over the minute, also of those that ended in it. None if empty."""
        now, total, seen = self._env.now, 0.0, False
        self._gone = [one for one in self._gone if one.heard > now - AVERAGED_SECONDS]
        for one in [*self._cohorts, *self._gone]:
            values = [
                waiting if one.ready <= at else 0.0 for at, waiting in self._scrapes if one.created <= at < one.heard
            ]
            if values:
                seen = True
                total += one.count * sum(values) / len(values)
        return total if seen else None

    def _sync(self) -> None:
        self._merge()
        now = self._env.now
        if isinstance(self._autoscaler, Keda):
            desired = self._autoscaler.desired(self._query(), self._replicas)
        else:
            ready = sum(one.count for one in self._cohorts if one.ready <= now < one.heard)
            missing = sum(one.count for one in self._cohorts if one.heard <= now)
            used = sum(self._cores) / max(1, len(self._cores)) / self._table.pod.cores
            target = self._autoscaler[1]
            unready = self._replicas - ready - missing
            desired = desired_by_pods([used] * ready, target, self._replicas, max(0, unready), missing)
        self._scale(self._hpa.scale(now, self._replicas, desired))

    def _poll(self) -> None:
        assert isinstance(self._autoscaler, Keda)
        # With no pod there is no series of ours: only what the gateway counts could wake the first one.
        value = self._query() if self._replicas else self.history.load[-1] if self.history.load else 0.0
        self._scale(self._autoscaler.activate(self._env.now, value, self._replicas))

    def _scale(self, replicas: int) -> None:
        change, self._replicas = replicas - self._replicas, replicas
        if change > 0:
            self._start(change)
        for _ in range(-change):
            if self._pending:
                self._pending -= 1
            else:
                self._end_one()

    # -- pods ----------------------------------------------------------------------------------

    def _start(self, count: int, at_once: bool = False) -> None:
        """Spread over the zones, to the emptiest first."""
        zones = [zone for zone, live in enumerate(self._live) if live]
        if not zones:
            self._pending += count
            return
        filled = {zone: sum(one.count for one in self._cohorts if one.zone == zone) for zone in zones}
        added = dict.fromkeys(zones, 0)
        for _ in range(count):
            zone = min(zones, key=lambda one: filled[one] + added[one])
            added[zone] += 1
        now = self._env.now
        for zone, pods in added.items():
            if pods:
                ready = now if at_once else now + self._cluster.start_seconds
                self._cohorts.append(_Cohort(pods, zone, now, ready))

    def _end_one(self) -> None:
        """Whoever is not ready first, then the youngest of the fullest zone."""
        now = self._env.now
        filled = [sum(one.count for one in self._cohorts if one.zone == zone) for zone in range(self._cluster.zones)]
        cohort = max(self._cohorts, key=lambda one: (not one.ready <= now < one.heard, filled[one.zone], one.created))
        cohort.count -= 1
        if cohort.ready <= now < cohort.heard:
            self._gone.append(_Cohort(1, cohort.zone, cohort.created, cohort.ready, now))
        if not cohort.count:
            self._cohorts.remove(cohort)

    def _merge(self) -> None:
        """Cohorts that Prometheus' minute no longer tells apart become one a zone."""
        now = self._env.now
        old: dict[int, _Cohort] = {}
        for cohort in list(self._cohorts):
            if max(cohort.ready, cohort.created) > now - AVERAGED_SECONDS or cohort.heard < math.inf:
                continue
            first = old.setdefault(cohort.zone, cohort)
            if first is not cohort:
                pods = first.count + cohort.count
                first.backlog = (first.count * first.backlog + cohort.count * cohort.backlog) / pods
                first.count = pods
                self._cohorts.remove(cohort)

    # -- failures ------------------------------------------------------------------------------

    def _fail(self, failure: Failure) -> Process:
        """The fullest zone, or a node in it. Its pods get requests until that is noticed, and are replaced later."""
        env = self._env
        yield env.timeout(failure.at)
        zone = max(range(self._cluster.zones), key=lambda one: sum(c.count for c in self._cohorts if c.zone == one))
        left = math.inf if failure.what == "zone" else self._cluster.pods_per_node
        hit: list[_Cohort] = []
        for cohort in [one for one in self._cohorts if one.zone == zone and one.heard == math.inf]:
            count = int(min(left, cohort.count))
            left -= count
            cohort.count -= count
            if not cohort.count:
                self._cohorts.remove(cohort)
            if count:
                hit.append(_Cohort(count, zone, cohort.created, cohort.ready, env.now))
        self._cohorts += hit
        if failure.what == "zone":
            self._live[zone] = False
        replaced = min(failure.seconds, EVICTED_SECONDS)  # a node that comes back starts its pods again
        yield env.timeout(replaced)
        if replaced == failure.seconds:
            self._live[zone] = True
        self._replace(hit)
        yield env.timeout(failure.seconds - replaced)
        self._live[zone] = True
        pending, self._pending = self._pending, 0
        self._start(pending)

    def _replace(self, hit: list[_Cohort]) -> None:
        """Those that the autoscaler has not given up meanwhile."""
        for cohort in hit:
            if cohort in self._cohorts:
                self._cohorts.remove(cohort)
                self._gone.append(cohort)
                self._start(cohort.count)
