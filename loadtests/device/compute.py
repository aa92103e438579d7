"""Images/s of the network by batch size, mode and dtype, and what each stage of a batch takes."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from service.overlapped import Overlapped


def measured(form: Overlapped, largest: int) -> Overlapped:
    """The same, with every batch size up to the largest prepared and timed."""
    for _ in form.measure(np.zeros((largest, 1, 1, 3), np.uint8)):
        pass
    return form


def warm(form: Overlapped, sizes: Sequence[int]) -> Overlapped:
    """The same, with these batch sizes prepared."""
    for size in sorted(sizes, reverse=True):
        form.warm_up(np.zeros((size, 1, 1, 3), np.uint8), 1.0)
    return form


def rows(form: Overlapped, seconds: float) -> Iterator[dict[str, Any]]:
    """A row for each batch size that is prepared."""
    for size, times in sorted(form.pipeline.times.items()):
        yield {
            "mode": form.name,
            "dtype": form.target.dtype,
            "batch": size,
            "images_per_second": round(sustained(form, size, seconds), 1),
            **{f"{stage}_ms": round(1000 * value, 4) for stage, value in times._asdict().items()},
        }


def sustained(form: Overlapped, size: int, seconds: float) -> float:
    """Images/s while every lane is always taken, from the slots to the scores."""
    slots, done, started = [at % form.slots for at in range(size)], 0, time.perf_counter()
    while (now := time.perf_counter()) < started + seconds or form.pipeline:
        if now < started + seconds and not form.full:
            form.submit(slots, None, time.monotonic())
        done += sum(size for _ in form.pipeline.landed(time.monotonic()))
    return done / (now - started)
