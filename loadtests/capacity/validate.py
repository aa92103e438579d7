"""The simulation beside the real service: p50 and p99 of one pod in open loop, at parts of what it can answer.

The machine's speed drifts. So what it can answer is measured again before and after each load, and the times of that
load are put at the speed that the pod file knows. The simulated pod gets every request when the real one was sent it:
the client's timers count in milliseconds, so that requests come in clumps. Latency counts from then.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import uvloop

from loadtests.capacity import serving
from loadtests.capacity.measure import CONNECTIONS, Bench, good, started
from loadtests.capacity.pod import Pod
from loadtests.client import hurry, percentile, poisson

LOADS = (0.3, 0.6, 0.9)
BETWEEN_SECONDS = 3.0
ASKED = 0.20  # how far the simulation may be off
FEWEST_SIMULATED = 10_000  # requests: less is luck
PERCENTILES = (50, 99)


@dataclass(frozen=True)
class Compared:
    """One load, in one round; seconds at the pod file's speed."""

    load: float
    """part of what it could answer"""
    measured: tuple[float, ...]
    """p50, p99"""
    simulated: tuple[float, ...]
    refused: int


@dataclass(frozen=True)
class Verdict:
    """Medians over the rounds."""

    load: float
    percentile: int
    measured: float
    simulated: float

    @property
    def off(self) -> float:
        return self.simulated / self.measured - 1


def compare(pod: Pod, model: Path, cache: Path, seconds: float, rounds: int) -> list[list[Compared]]:
    """For each of LOADS its rounds."""
    with started(model, cache) as (service, _):
        bench = Bench(service, CONNECTIONS)
        with hurry():
            return uvloop.run(_rounds(pod, bench, seconds, rounds))


def verdicts(found: Sequence[Sequence[Compared]]) -> list[Verdict]:
    return [
        Verdict(
            LOADS[index],
            percent,
            median(one.measured[at] for one in rounds),
            median(one.simulated[at] for one in rounds),
        )
        for index, rounds in enumerate(found)
        for at, percent in enumerate(PERCENTILES)
    ]


async def _rounds(pod: Pod, bench: Bench, seconds: float, rounds: int) -> list[list[Compared]]:
    await bench.connect()

    async def capacity() -> float:
        loop = await bench.closed_loop(BETWEEN_SECONDS)
        return len(good(loop.answers)) / loop.seconds

    found: list[list[Compared]] = [[] for _ in LOADS]
    before = await capacity()
    for turn in range(rounds):
        for index, load in enumerate(LOADS):
            rate = load * before
            loaded = await bench.open_loop(poisson(rate, seconds, seed=turn))
            after = await capacity()
            speed = (before + after) / 2 / pod.capacity
            before = after
            answers = good(loaded.answers)
            first = serving.WARM_UP * seconds
            counted = [answer for answer in answers if answer.due >= first]
            measured = [(answer.due + answer.seconds - answer.sent) * speed for answer in counted]
            times = sorted(answer.sent * speed for answer in loaded.answers)
            simulated = serving.open_loop(pod, times, turn).latencies
            found[index].append(
                Compared(
                    rate / speed / pod.capacity,
                    tuple(percentile(measured, percent) for percent in PERCENTILES),
                    tuple(percentile(simulated, percent) for percent in PERCENTILES),
                    len(loaded.answers) - len(answers),
                )
            )
    return found


def simulate(pod: Pod, rate: float, seconds: float, seed: int = 0) -> serving.Served:
    """One pod in open loop, for at least so long."""
    return serving.open_loop(pod, poisson(rate, max(seconds, FEWEST_SIMULATED / rate), seed), seed)
