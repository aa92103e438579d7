"""A device that carries out orders when a test says so, or at once: pipeline.Device without a GPU."""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from service.arena import Arena
from service.pipeline import LANES, Decoded, Stage, Times

Scores = NDArray[np.float32]


class FakeDevice:
    """Computes with `run(pixels uint8 [N, S, S, 3])` from an arena.

    `held` stages are done only once finish() says so. `faults` raise: by the name of a call, before it does anything.
    """

    def __init__(self, arena: Arena, run: Callable[[NDArray[np.uint8]], Scores], held: Sequence[Stage] = ()) -> None:
        self._arena, self._run, self._held = arena, run, held
        self._pixels = np.zeros((LANES, len(arena.pixels), *arena.pixels.shape[1:]), np.uint8)
        self._scores = np.zeros((LANES, len(arena.pixels), arena.scores.shape[1]), np.float32)
        self._pending: Counter[tuple[int, Stage]] = Counter()
        self.faults: dict[str, Exception] = {}
        self.prepared: list[int] = []
        self.most = 1 << 30
        """images that fit into its memory"""

    def prepare(self, images: int) -> None:
        self._check("prepare")
        if images > self.most:
            raise MemoryError
        self.prepared.append(images)

    def copy_in(self, lane: int, slots: Sequence[int], decoded: Decoded) -> None:
        self._order("copy_in", lane, Stage.COPY)
        self._pixels[lane, : len(slots)] = self._arena.pixels[list(slots)]
        for at, slot in enumerate(slots):
            if slot in decoded:
                self._pixels[lane, at] = decoded[slot]

    def launch(self, lane: int, images: int) -> None:
        assert images in self.prepared, f"{images} is no batch size that was prepared"
        if images > self.most:
            raise MemoryError
        self._order("launch", lane, Stage.COMPUTE)
        self._scores[lane, :images] = self._run(self._pixels[lane, :images])

    def copy_out(self, lane: int, images: int) -> None:
        self._order("copy_out", lane, Stage.READ)

    def done(self, lane: int, stage: Stage) -> bool:
        self._check("done")
        return not any(self._pending[lane, earlier] for earlier in Stage if earlier <= stage)

    def scores(self, lane: int, images: int) -> Scores:
        return self._scores[lane, :images]

    def seconds(self, lane: int) -> Times:
        return Times(0.001, 0.010, 0.0001)

    def finish(self, lane: int, stage: Stage) -> None:
        self._pending[lane, stage] = 0

    def _order(self, call: str, lane: int, stage: Stage) -> None:
        self._check(call)
        if stage in self._held:
            assert not self._pending[lane, stage], "the lane is taken"
            self._pending[lane, stage] = 1

    def _check(self, call: str) -> None:
        if call in self.faults:
            raise self.faults[call]
