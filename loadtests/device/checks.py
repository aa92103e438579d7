"""Whether what is measured is right: every batch size, as it is served, beside eager float32."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from models.compile import TOLERANCE, Run
from service.arena import Arena
from service.overlapped import Overlapped

ROUNDS = 3  # of fresh inputs: what one leaves behind the next must not take for its own


def agreement(
    form: Overlapped, arena: Arena, reference: Run, sizes: Sequence[int], spoil: Callable[[], None] = lambda: None
) -> list[dict[str, Any]]:
    """Of each batch size: the largest difference, as a part of the highest score, and what is wrong, if anything.

    reference: images uint8 on the CPU to scores float32. spoil() fills all outputs with NaN.
    """
    generator = np.random.default_rng()
    return [_of_size(form, arena, reference, size, spoil, generator) for size in sizes]


def _of_size(
    form: Overlapped,
    arena: Arena,
    reference: Run,
    size: int,
    spoil: Callable[[], None],
    generator: np.random.Generator,
) -> dict[str, Any]:
    worst, wrong = 0.0, []
    for _ in range(ROUNDS):
        slots = generator.permutation(len(arena.pixels))[:size].tolist()
        arena.pixels[slots] = _pictures(size, arena.pixels.shape[1], generator)
        spoil()
        form.submit(slots, None, 0.0)
        found = [scores.copy() for _ in iter(lambda: len(form.pipeline), 0) for _, scores in form.pipeline.landed(0.0)]
        expected = reference(torch.from_numpy(arena.pixels[slots])).cpu().numpy()
        if not np.isfinite(found[0]).all():
            wrong.append("NaN, infinity, or not written")
        difference = np.abs(found[0] - expected).max(axis=1) / expected.max(axis=1)
        worst = max(worst, float(difference.max()))
    if not worst <= TOLERANCE[form.target.dtype]:
        wrong.append(f"more than {TOLERANCE[form.target.dtype]:g} of the highest score away")
    return {"batch": size, "worst": worst, "wrong": sorted(set(wrong))}


def _pictures(count: int, size: int, generator: np.random.Generator) -> np.ndarray:
    """Blocks of every coarseness under noise, uint8 [count, size, size, 3]."""
    found = np.empty((count, size, size, 3), np.uint8)
    for picture in found:
        coarse = int(generator.integers(1, 17))
        cells = generator.integers(0, 256, (coarse, coarse, 3), dtype=np.uint8)
        side = -(-size // coarse)
        blocks = cells.repeat(side, 0).repeat(side, 1)[:size, :size].astype(np.int16)
        picture[:] = (blocks + generator.integers(-16, 17, blocks.shape)).clip(0, 255)
    return found
