"""The control rules of the HorizontalPodAutoscaler (autoscaling/v2) and of KEDA, one decision at a time.

https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/ and pkg/controller/podautoscaler;
https://keda.sh/docs/latest/reference/scaledobject-spec/ and pkg/fallback.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain, repeat
from statistics import fmean

SYNC_SECONDS = 15.0  # --horizontal-pod-autoscaler-sync-period
TOLERANCE = 0.1  # --horizontal-pod-autoscaler-tolerance


@dataclass(frozen=True)
class Policy:
    """At most so many pods, or per cent of them, in any period of so many seconds."""

    kind: str
    """Pods or Percent"""
    value: int
    seconds: float

    def limit(self, replicas: int, direction: int) -> int:
        if self.kind == "Pods":
            return replicas + direction * self.value
        limit = replicas * (100 + direction * self.value) / 100
        return math.ceil(limit - 1e-9) if direction > 0 else int(limit + 1e-9)


@dataclass(frozen=True)
class Direction:
    """How fast to scale one way."""

    window: float
    """stabilizationWindowSeconds"""
    policies: tuple[Policy, ...]
    select: str = "Max"
    """Max, Min or Disabled"""


UP = Direction(0, (Policy("Pods", 4, 15), Policy("Percent", 100, 15)))
DOWN = Direction(300, (Policy("Percent", 100, 15),))


@dataclass
class Hpa:
    """The controller's memory of one HorizontalPodAutoscaler; ask `scale` once a SYNC_SECONDS."""

    least: int
    most: int
    up: Direction = UP
    down: Direction = DOWN
    _recommended: list[tuple[float, int]] = field(default_factory=list)
    _changes: list[tuple[float, int]] = field(default_factory=list)

    def scale(self, now: float, replicas: int, desired: int | None) -> int:
        """The replicas from now on; `desired` by the metric, None if it could not be had."""
        if desired is None or replicas == 0:
            return replicas
        if replicas > self.most:
            new = self.most
        elif replicas < self.least:
            new = self.least
        else:
            new = self._limited(now, replicas, self._stabilised(now, replicas, desired))
        if new != replicas:
            self._changes.append((now, new - replicas))
        return new

    def _stabilised(self, now: float, replicas: int, desired: int) -> int:
        """The least of the recommendations in the window for up, the most of those in the one for down."""
        keep = now - max(self.up.window, self.down.window)
        self._recommended = [one for one in self._recommended if one[0] > keep]
        up = min([desired, *(one for at, one in self._recommended if at > now - self.up.window)])
        down = max([desired, *(one for at, one in self._recommended if at > now - self.down.window)])
        self._recommended.append((now, desired))
        return min(max(replicas, up), down)

    def _limited(self, now: float, replicas: int, desired: int) -> int:
        if desired > replicas:
            limit = max(replicas, self._limit(now, replicas, self.up, 1))
            return min(desired, self.most, limit)
        if desired < replicas:
            limit = min(replicas, self._limit(now, replicas, self.down, -1))
            return max(desired, self.least, limit)
        return replicas

    def _limit(self, now: float, replicas: int, rules: Direction, direction: int) -> int:
        if rules.select == "Disabled":
            return replicas
        longest = max(policy.seconds for policy in chain(self.up.policies, self.down.policies))
        self._changes = [one for one in self._changes if one[0] > now - longest]
        limits = []
        for policy in rules.policies:
            changed = sum(change for at, change in self._changes if at > now - policy.seconds)
            limits.append(policy.limit(replicas - changed, direction))
        return max(limits) if (rules.select == "Max") == (direction > 0) else min(limits)


def desired_by_total(total: float, per_pod: float, replicas: int) -> int:
    """Of an external metric with AverageValue, which is divided by all replicas, ready or not."""
    if replicas and abs(total / (per_pod * replicas) - 1) <= TOLERANCE:
        return replicas
    return math.ceil(total / per_pod - 1e-9)


def desired_by_pods(
    used: Sequence[float], target: float, replicas: int, unready: int = 0, missing: int = 0
) -> int | None:
    """Of a resource metric; `used` by each ready pod, as target is. None if there is no ready pod.

    Pods without a metric count as if they used the target when the others ask for fewer, and nothing when they ask for
    more; those not ready yet count only then, as nothing. If that turns the direction, nothing is done.
    """
    if not used:
        return None
    ratio = fmean(used) / target
    more = ratio > 1
    rebalance = unready > 0 and more
    if not missing and not rebalance:
        return replicas if abs(ratio - 1) <= TOLERANCE else math.ceil(ratio * len(used) - 1e-9)
    others = list(repeat(0.0 if more else target, missing)) + list(repeat(0.0, unready if more else 0))
    counted = len(used) + len(others)
    new = (sum(used) + sum(others)) / counted / target
    desired = math.ceil(new * counted - 1e-9)
    turned = (
        (ratio < 1 < new) or (new < 1 < ratio) or (new < 1 and desired > replicas) or (new > 1 and desired < replicas)
    )
    return replicas if turned or abs(new - 1) <= TOLERANCE else desired


@dataclass
class Keda:
    """A ScaledObject with one trigger; the HorizontalPodAutoscaler that it makes asks `desired` at every sync.

    `pollingInterval` has no part in that: at so many seconds KEDA itself asks `activate`, between none and some.
    """

    threshold: float
    hpa: Hpa
    failure_threshold: int = 0
    fallback_replicas: int | None = None
    fallback_behavior: str = "static"
    """static, currentReplicas, currentReplicasIfHigher or currentReplicasIfLower"""
    polling: float = 30.0
    cooldown: float = 300.0
    to_zero: bool = False
    """minReplicaCount is 0: the HorizontalPodAutoscaler's is 1 then"""
    _failures: int = 0
    _active: float = -math.inf

    def desired(self, value: float | None, replicas: int) -> int | None:
        """Of the query's value, None if it failed; then None, too, until the failures are too many."""
        if value is not None:
            self._failures = 0
            return desired_by_total(value, self.threshold, replicas)
        self._failures += 1
        if self.fallback_replicas is None or self._failures <= self.failure_threshold:
            return None
        return {
            "static": self.fallback_replicas,
            "currentReplicas": replicas,
            "currentReplicasIfHigher": max(replicas, self.fallback_replicas),
            "currentReplicasIfLower": min(replicas, self.fallback_replicas),
        }[self.fallback_behavior]

    def activate(self, now: float, value: float | None, replicas: int) -> int:
        """The replicas from now on: one instead of none when there is load, none once there was none for `cooldown`."""
        if value is None or not self.to_zero:
            return replicas
        if value > 0:
            self._active = now
            return max(1, replicas)
        return 0 if now - self._active >= self.cooldown else replicas
