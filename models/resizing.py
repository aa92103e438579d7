"""Decoded pixels to the square that a network takes, as torchvision's Resize and CenterCrop make it."""

from functools import lru_cache
from math import ceil, floor

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.config import Preprocessing
from models.image_headers import MalformedImage

try:
    from cykooz_resizer import CropBox, FilterType, ImageData, PixelType, ResizeAlg, ResizeOptions, Resizer
except ImportError:  # no wheel for this machine: Pillow does the same, four times slower
    Resizer = None

Pixels = NDArray[np.uint8]
Box = tuple[float, float, float, float]
Part = tuple[slice, slice]

RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
# How far a filter reaches to each side, in the larger of the pixels before and after.
REACH = {"bilinear": 1, "bicubic": 2}


def resize_and_crop(pixels: Pixels, preprocessing: Preprocessing) -> Pixels:
    """RGB uint8 [height, width, 3] to [input_size, input_size, 3]. Raises MalformedImage.

    The shorter side is resized to `resize_size` and the centre cropped. Values are at most a level
    from Pillow's, except where bicubic ones of one direction were clipped: that depends on which is first.
    """
    height, width, _ = pixels.shape
    short, size, interpolation = preprocessing.resize_size, preprocessing.input_size, preprocessing.interpolation
    try:
        if Resizer:
            return _resize(pixels, *_plan(width, height, short, size, interpolation), size)
        box = _surviving(width, height, short, size)
        image = Image.fromarray(pixels)
        return np.asarray(image.resize((size, size), RESAMPLING[interpolation], box=box))
    except (ValueError, RuntimeError) as error:  # less than a pixel wide once it is resized
        raise MalformedImage(f"{width}x{height} pixels cannot be resized: {error}") from error


def _surviving(width: int, height: int, short: int, size: int) -> Box:
    """Left, top, right and bottom of what the crop leaves, in pixels before the resize, which computes no others."""
    resized = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
    left, top = (round((length - size) / 2) / length for length in resized)
    right, bottom = left + size / resized[0], top + size / resized[1]
    return left * width, top * height, min(1.0, right) * width, min(1.0, bottom) * height


@lru_cache(1024)
def _plan(width: int, height: int, short: int, size: int, interpolation: str) -> tuple[Part, "ResizeOptions"]:
    """The pixels that have a say in what the crop leaves, and what to do to them."""
    left, top, right, bottom = _surviving(width, height, short, size)
    reach = REACH[interpolation] * max(1.0, (right - left) / size, (bottom - top) / size) + 1
    columns = slice(max(0, floor(left - reach)), min(width, ceil(right + reach)))
    rows = slice(max(0, floor(top - reach)), min(height, ceil(bottom + reach)))
    options = ResizeOptions(
        ResizeAlg.convolution(FilterType.bilinear if interpolation == "bilinear" else FilterType.catmull_rom),
        use_alpha=False,
        crop_box=CropBox(left - columns.start, top - rows.start, right - left, bottom - top),
    )
    return (rows, columns), options


def _resize(pixels: Pixels, part: Part, options: "ResizeOptions", size: int) -> Pixels:
    needed = pixels[part]
    height, width, _ = needed.shape
    # A new Resizer costs nothing; a shared one would make the threads of a worker wait for each other.
    resized = ImageData(size, size, PixelType.U8x3)
    Resizer().resize(ImageData(width, height, PixelType.U8x3, needed.tobytes()), resized, options)
    return np.frombuffer(resized.get_buffer(), np.uint8).reshape(size, size, 3)
