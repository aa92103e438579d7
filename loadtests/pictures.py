"""Pictures to load the service with, drawn, and the same at every call."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def photo(width: int, height: int, quality: int) -> bytes:
    """A JPEG of smooth shapes with grain; 224x224 at quality 75 is about 9 kB."""
    generator = np.random.default_rng(0)
    shapes = Image.fromarray(generator.integers(0, 256, (14, 14, 3), dtype=np.uint8))
    smooth = np.asarray(shapes.resize((width, height), Image.Resampling.BICUBIC)).astype(float)
    file = io.BytesIO()
    pixels = (smooth + generator.normal(0, 6, smooth.shape)).clip(0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return file.getvalue()


def blots(count: int, size: int, seed: int = 0) -> NDArray[np.uint8]:
    """Blots of every coarseness, with more and less grain: uint8 [count, size, size, 3]."""
    generator = np.random.default_rng(seed)
    found = np.empty((count, size, size, 3), np.uint8)
    for index in range(count):
        coarse = int(generator.integers(2, size // 2))
        blots = Image.fromarray(generator.integers(0, 256, (coarse, coarse, 3), dtype=np.uint8))
        smooth = np.asarray(blots.resize((size, size), Image.Resampling.BICUBIC)).astype(float)
        grain = generator.normal(0, generator.uniform(0, 30), smooth.shape)
        found[index] = (smooth + grain).clip(0, 255)
    return found


def encoded_blots(count: int, size: int) -> list[bytes]:
    """The same as JPEGs."""
    found = []
    for pixels in blots(count, size):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=90)
        found.append(file.getvalue())
    return found
