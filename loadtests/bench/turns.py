"""Things measured in turns, round after round: the machine's speed drifts, and their ratios must not."""

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any, TypeVar

import torch

from models.compile import Run

# After a call the threads of some runtimes wait for the next one, busily, for some milliseconds.
OTHERS_REST = 0.05
Way = TypeVar("Way")
Figure = TypeVar("Figure")


def in_turns(ways: Mapping[Way, Callable[[], Figure]], rounds: int) -> dict[Way, list[Figure]]:
    """What each of the ways gave in each round."""
    found: dict[Way, list[Figure]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            found[name].append(way())
    return found


def spread(values: Sequence[float], digits: int = 2) -> dict[str, Any]:
    return {
        "median": round(median(values), digits),
        "min": round(min(values), digits),
        "max": round(max(values), digits),
        "runs": len(values),
    }


def ratio(these: Sequence[float], those: Sequence[float]) -> dict[str, Any]:
    """Of what was measured in the same round."""
    return spread([this / that for this, that in zip(these, those, strict=True)], 3)


def spreads(runs: Sequence[Mapping[str, float]], digits: int = 2) -> dict[str, Any]:
    """Of each figure that every run has."""
    return {name: spread([run[name] for run in runs], digits) for name in runs[0]}


def rate(run: Run, images: torch.Tensor, seconds: float) -> float:
    """Images/s of about `seconds` of run(images)."""
    time.sleep(OTHERS_REST)
    with torch.inference_mode():
        run(images)  # the caches are still the others'
        done, started = 0, time.perf_counter()
        while (now := time.perf_counter()) < started + seconds:
            done += len(run(images))
    return done / (now - started)
