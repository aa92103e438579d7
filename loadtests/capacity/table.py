"""What one pod does at each load, simulated once; between the loads, interpolated."""

from bisect import bisect_right
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loadtests.capacity import serving
from loadtests.capacity.pod import Pod
from loadtests.client import poisson

PARTS = (0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.93, 0.96)  # of the capacity
OVERLOAD = 1.3  # where the queue is full all the time
REQUESTS = 8_000  # at each load; near the capacity queues are long, and more are needed
MOST_CONNECTIONS = 256


@dataclass(frozen=True)
class Point:
    """One load, in images/s."""

    load: float
    latencies: NDArray[np.float64]
    """seconds, sorted"""
    refused: float
    """part of the images"""
    waiting: float
    """mean of coordserve_queue_images + coordserve_inflight_images, which the ScaledObject asks for"""
    deviation: float
    """its standard deviation over time"""
    cores: float
    """used"""

    def late(self, seconds: float) -> float:
        """Part of the answers that take longer."""
        return 1 - float(np.searchsorted(self.latencies, seconds, side="right")) / len(self.latencies)


@dataclass(frozen=True)
class Table:
    """A pod whose clients run elsewhere."""

    pod: Pod
    capacity: float
    """images/s while there is always more"""
    points: tuple[Point, ...]
    full: Point
    """with a full queue"""

    def misses(self, load: float, slo: float) -> float:
        """Part of the images that are refused or answered after more than `slo` seconds, while queues are at rest."""
        return self._between(load, [point.refused + (1 - point.refused) * point.late(slo) for point in self.points])

    def waiting(self, load: float) -> float:
        return self._between(load, [point.waiting for point in self.points])

    def best_load(self, slo: float, goal: float) -> float:
        """The most images/s at which the part `goal` of them is answered within `slo` seconds; 0 if there is none."""
        loads = np.linspace(self.points[0].load, self.points[-1].load, 200)
        return max((float(load) for load in loads if self.misses(load, slo) <= 1 - goal), default=0.0)

    def load_where(self, values: list[float], limit: float) -> float:
        """The most images/s at which `values`, one for each point, are at most `limit`; at least the first load."""
        rising = np.maximum.accumulate(values)
        if limit >= rising[-1]:
            return self.points[-1].load
        at = max(1, bisect_right(list(rising), limit))
        (low, high), (first, last) = (rising[at - 1], rising[at]), (self.points[at - 1].load, self.points[at].load)
        return first + (last - first) * max(0.0, limit - low) / (high - low)

    def _between(self, load: float, values: list[float]) -> float:
        return float(np.interp(load, [point.load for point in self.points], values))


def simulated(pod: Pod, requests: int = REQUESTS) -> Table:
    pod = pod.alone()
    connections = min(pod.queue_images, MOST_CONNECTIONS)
    capacity = serving.closed_loop(pod, connections, requests + connections).rate
    return Table(
        pod,
        capacity,
        tuple(_point(pod, part * capacity, round(requests * (2 if part > 0.8 else 1))) for part in PARTS),
        _point(pod, OVERLOAD * capacity, requests + round(pod.queue_images / (OVERLOAD - 1))),
    )


def _point(pod: Pod, load: float, requests: int) -> Point:
    served = serving.open_loop(pod, poisson(load, requests / load))
    answered = len(served.latencies)
    return Point(
        load,
        np.sort(served.latencies),
        served.refused / (answered + served.refused),
        served.waiting,
        max(0.0, served.waiting_squared - served.waiting**2) ** 0.5,
        served.cores_used,
    )
