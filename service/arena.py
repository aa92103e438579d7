"""The slot arena: one memfd that all processes map, with the pixels and the scores of every image in the service.

Its size is the bound of the queue and of its memory. A memfd, because /dev/shm is 64 MB in a default pod.
"""

import mmap
import os

import numpy as np
from numpy.typing import NDArray

ALIGNMENT = 4096
SPAN_BYTES = 24  # W3C trace context: a trace id of 16, a span id of 8


class Arena:
    """`slots` places for an image and its scores.

    pixels: uint8 [slots, size, size, 3], written by the worker that owns the slot, read by the engine.
    scores: float32 [slots, classes], written by the engine, read by the owner.
    used:   uint8 [slots], 1 while the slot is taken; written by the owner, counted by /metrics.
    spans:  uint8 [slots, 24], trace and span id of the request, then of its batch; zeros, or untouched, if not traced.
    """

    def __init__(self, fd: int, slots: int, size: int, classes: int) -> None:
        """Map the arena behind `fd`, which stays open and the caller's."""
        self.fd = fd
        parts, length = _layout(slots, size, classes)
        self._map = mmap.mmap(fd, length)
        self.pixels: NDArray[np.uint8] = self._view(parts[0], np.uint8, (slots, size, size, 3))
        self.scores: NDArray[np.float32] = self._view(parts[1], np.float32, (slots, classes))
        self.used: NDArray[np.uint8] = self._view(parts[2], np.uint8, (slots,))
        self.spans: NDArray[np.uint8] = self._view(parts[3], np.uint8, (slots, SPAN_BYTES))

    @classmethod
    def create(cls, slots: int, size: int, classes: int) -> "Arena":
        fd = os.memfd_create("coordserve-arena", os.MFD_CLOEXEC)
        os.ftruncate(fd, _layout(slots, size, classes)[1])
        return cls(fd, slots, size, classes)

    def _view(self, offset: int, dtype: type, shape: tuple[int, ...]) -> NDArray:
        count = int(np.prod(shape))
        return np.frombuffer(self._map, dtype, count, offset).reshape(shape)


def _layout(slots: int, size: int, classes: int) -> tuple[list[int], int]:
    """Offsets of pixels, scores, used and spans, and the length of the whole, bytes."""
    offsets, end = [], 0
    for length in (slots * size * size * 3, slots * classes * 4, slots, slots * SPAN_BYTES):
        offsets.append(end)
        end += -(-length // ALIGNMENT) * ALIGNMENT
    return offsets, end
