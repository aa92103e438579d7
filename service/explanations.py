"""What the engine found when asked where a network looked, and how it lies in the slot's pixels on its way back.

The pixels have done their service by then: a map of their size takes a third of their room, and those of
the blocks fit into the rest.
"""

import struct
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

BEST = 0xFFFF  # in place of a class: whichever has the highest score
_COUNT, _BLOCK = struct.Struct("<H"), struct.Struct("<HHH")
_LEVELS = 255


class Method(IntEnum):
    """How to find where the network looked."""

    COORDATT = 0  # the gates of its Coordinate Attention blocks
    GRADCAM = 1


@dataclass(frozen=True)
class Block:
    """One Coordinate Attention block: means over channels of its gates within (0, 1), float32."""

    feature: int
    """which of the network's `features` it is in"""
    a_h: NDArray[np.float32]
    """of rows, [H]"""
    a_w: NDArray[np.float32]
    """of columns, [W]"""
    map: NDArray[np.float32]
    """of the products of both, [H, W]"""


@dataclass(frozen=True)
class Explanation:
    """Where a network looked in one image."""

    map: NDArray[np.uint8]
    """[S, S], 255 where it looked most"""
    blocks: list[Block] = field(default_factory=list)


def levels(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """0..1 as 0..255."""
    return (values * _LEVELS).round().astype(np.uint8)


def pack(explanation: Explanation, pixels: NDArray[np.uint8]) -> None:
    """Write over the pixels uint8 [S, S, 3] of a slot. Raises ValueError if S is too small for so many blocks."""
    head = _COUNT.pack(len(explanation.blocks)) + b"".join(
        _BLOCK.pack(block.feature, *block.map.shape) for block in explanation.blocks
    )
    values = [array.ravel() for block in explanation.blocks for array in (block.a_h, block.a_w, block.map)]
    tail = np.concatenate(values).astype("<f2").tobytes() if values else b""
    data = head + explanation.map.tobytes() + tail
    if len(data) > pixels.size:
        raise ValueError(f"an explanation of {len(data)} bytes does not fit into {pixels.size} bytes of pixels")
    pixels.reshape(-1)[: len(data)] = np.frombuffer(data, np.uint8)


def unpack(pixels: NDArray[np.uint8]) -> Explanation:
    """What pack() wrote over pixels uint8 [S, S, 3]; owns its memory."""
    data = pixels.tobytes()
    (count,) = _COUNT.unpack_from(data)
    described = [_BLOCK.unpack_from(data, _COUNT.size + index * _BLOCK.size) for index in range(count)]
    offset = _COUNT.size + count * _BLOCK.size
    size = len(pixels)
    found = np.frombuffer(data, np.uint8, size * size, offset).reshape(size, size)
    offset += found.size
    blocks = []
    for feature, height, width in described:
        arrays = []
        for shape in ((height,), (width,), (height, width)):
            values = np.frombuffer(data, "<f2", int(np.prod(shape)), offset).astype(np.float32)
            arrays.append(values.reshape(shape))
            offset += 2 * values.size
        blocks.append(Block(feature, *arrays))
    return Explanation(found, blocks)
