"""A JPEG on its way to the device's decoder: as it came, in its slot's pixels, behind what a worker knows of it."""

import struct
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.image_parts import is_plain_jpeg
from models.images import Picture

_HEAD = struct.Struct("<IIIB3x")
# A whole batch lies decoded in the device's memory, each row and column of it resized before the crop. Larger ones
# are decoded at a fraction on the CPU, anyway.
MOST_PIXELS = 2_000_000
MOST_STRETCHED = 4  # the longer side, in lengths of the shorter


class Jpeg(NamedTuple):
    """What a worker has checked."""

    data: bytes
    width: int
    height: int
    orientation: int
    """1 to 8, of Exif"""


def pack(picture: Picture, pixels: NDArray[np.uint8]) -> bool:
    """Write a picture into the pixels uint8 [S, S, 3] of a slot; False if it is none for a device, or too large."""
    width, height = picture.size
    end = _HEAD.size + len(picture.data)
    if (
        picture.format != "JPEG"
        or end > pixels.size
        or width * height > MOST_PIXELS
        or max(width, height) > MOST_STRETCHED * min(width, height)
        or not is_plain_jpeg(picture.data)
    ):
        return False
    room = pixels.reshape(-1)
    room[: _HEAD.size] = np.frombuffer(_HEAD.pack(len(picture.data), width, height, picture.orientation), np.uint8)
    room[_HEAD.size : end] = np.frombuffer(picture.data, np.uint8)
    return True


def unpack(pixels: NDArray[np.uint8]) -> Jpeg:
    """What pack() wrote; owns its memory."""
    room = pixels.reshape(-1)
    length, width, height, orientation = _HEAD.unpack(room[: _HEAD.size].tobytes())
    return Jpeg(room[_HEAD.size : _HEAD.size + length].tobytes(), width, height, orientation)
