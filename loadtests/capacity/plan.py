"""From a load and a service level objective to the autoscaler's threshold, and to what the fleet needs and misses."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from loadtests.capacity import manifests
from loadtests.capacity.autoscalers import TOLERANCE, Hpa, Keda
from loadtests.capacity.fleet import Cluster, Fleet, History
from loadtests.capacity.table import Table

# Of the threshold that is right at rest: the lower, the more pods are ready for what comes while others start.
PARTS = (1.0, 0.85, 0.7, 0.55, 0.4, 0.3, 0.2, 0.1)
UNLIMITED = 10_000_000


@dataclass(frozen=True)
class Objective:
    """Of the images of every hour this part is answered within so many seconds."""

    seconds: float
    goal: float = 0.99


@dataclass(frozen=True)
class Plan:
    """A threshold and the run that it made."""

    load: float
    """images/s that one pod may have at rest"""
    threshold: float
    """of the autoscaler's metric, for each replica"""
    met: bool
    history: History


def threshold_at_rest(table: Table, slo: Objective) -> tuple[float, float]:
    """Images/s of one pod that meet the objective, and the ScaledObject's threshold that keeps it there.

    Within its tolerance the controller does nothing, so that the threshold is lower than what waits at that load.
    0, 0 if even a pod with hardly any load does not meet it.
    """
    load = table.best_load(slo.seconds, slo.goal)
    return load, table.waiting(load) / (1 + TOLERANCE) if load else 0.0


def with_keda(
    table: Table,
    rates: Sequence[float],
    slo: Objective,
    cluster: Cluster,
    threshold: float | None = None,
    most: int | None = None,
) -> Plan:
    """The highest threshold that meets the objective; the best of PARTS if none does. Or what a given one does.

    Without a given one there has to be one at rest.
    """
    load, at_rest = threshold_at_rest(table, slo)
    rules = manifests.keda()
    tried = [threshold] if threshold else [_rounded(part * at_rest) for part in PARTS if at_rest]
    plans = []
    for one in tried:
        scaler = replace(rules, threshold=one, hpa=_limited(rules.hpa, most))
        pod_load = table.load_where([point.waiting for point in table.points], one)
        history = _run(table, rates, slo, cluster, scaler, scaler.hpa, pod_load)
        plans.append(Plan(load, one, history.missed <= 1 - slo.goal, history))
        if plans[-1].met:
            break
    return min(plans, key=lambda plan: (not plan.met, plan.history.missed))


def with_hpa(table: Table, rates: Sequence[float], slo: Objective, cluster: Cluster, most: int | None = None) -> Plan:
    """What the HorizontalPodAutoscaler of deploy/ does; its threshold is a part of the requested CPU."""
    rules, target = manifests.hpa()
    scaler = _limited(rules, most)
    pod_load = table.load_where([point.cores for point in table.points], target * table.pod.cores)
    history = _run(table, rates, slo, cluster, (scaler, target), scaler, pod_load)
    return Plan(table.best_load(slo.seconds, slo.goal), target, history.missed <= 1 - slo.goal, history)


def _run(
    table: Table,
    rates: Sequence[float],
    slo: Objective,
    cluster: Cluster,
    scaler: Keda | tuple[Hpa, float],
    hpa: Hpa,
    pod_load: float,
) -> History:
    """Beginning with as many pods as the first rate calls for."""
    replicas = min(hpa.most, max(hpa.least, math.ceil(rates[0] / pod_load)))
    return Fleet(table, slo.seconds, cluster, scaler).run(rates, replicas)


def _limited(rules: Hpa, most: int | None) -> Hpa:
    """Without the memory of another run; maxReplicas is what the plan is to find, unless it is given."""
    return replace(copy.deepcopy(rules), most=most or UNLIMITED)


def _rounded(value: float) -> float:
    """Down to two digits, as one would write it into a manifest."""
    digits = 1 - math.floor(math.log10(value))
    return math.floor(value * 10**digits) / 10**digits
