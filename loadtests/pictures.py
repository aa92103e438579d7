"""Pictures to load the service with, drawn, and the same at every call.

`python -m loadtests.pictures` draws the corpus of `make loadtest`, whose pods have nothing to draw it with.
"""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from loadtests.questions import CORPUS, NUMBERS
from models.config import Preprocessing
from models.resizing import RESAMPLING


def photo(width: int, height: int, quality: int, image_format: str = "JPEG") -> bytes:
    """Smooth shapes with grain; as a JPEG, 224x224 at quality 75 is about 9 kB, 500x375 at 85 37 kB."""
    return _encoded(_scene(width, height, grain=6), image_format, quality=quality)


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
    return [_encoded(Image.fromarray(pixels), "JPEG", quality=90) for pixels in blots(count, size)]


def with_pillow(data: bytes, preprocessing: Preprocessing) -> Image.Image:
    """As most documentation has it: decode, resize the shorter side, crop the centre (torchvision's rule)."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    short, size = preprocessing.resize_size, preprocessing.input_size
    scale = short / min(image.size)
    width, height = (max(short, int(length * scale)) for length in image.size)
    image = image.resize((width, height), RESAMPLING[preprocessing.interpolation])
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.crop((left, top, left + size, top + size))


def draw_corpus(folder: Path) -> None:
    """Photos of several sizes and formats, and digits that the bundled network reads."""
    corpus = {
        "small.jpg": photo(224, 224, 75),
        "medium.jpg": photo(500, 375, 75),
        "large.jpg": photo(1920, 1440, 75),
        "small.png": _encoded(_scene(96, 96, grain=0), "PNG"),
        "small.webp": photo(224, 224, 75, "WEBP"),
    }
    folder.mkdir(exist_ok=True)
    for name, content in corpus.items():
        (folder / name).write_bytes(content)
    for digit, name in enumerate(NUMBERS):
        (folder / f"{name}.png").write_bytes(_encoded(_digit(digit), "PNG"))


def _scene(width: int, height: int, grain: float) -> Image.Image:
    generator = np.random.default_rng(0)
    shapes = Image.fromarray(generator.integers(0, 256, (14, 14, 3), dtype=np.uint8))
    smooth = np.asarray(shapes.resize((width, height), Image.Resampling.BICUBIC)).astype(float)
    return Image.fromarray((smooth + generator.normal(0, grain, smooth.shape)).clip(0, 255).astype(np.uint8))


def _digit(digit: int) -> Image.Image:
    """Dark on light, or light on dark, as Pillow's own font writes it."""
    light, dark = (230, 226, 214), (40, 44, 60)
    paper, ink = (light, dark) if digit % 2 else (dark, light)
    image = Image.new("RGB", (64, 64), paper)
    ImageDraw.Draw(image).text((32, 32), str(digit), ink, ImageFont.load_default(46), anchor="mm")
    return image


def _encoded(image: Image.Image, image_format: str, **options: int) -> bytes:
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


if __name__ == "__main__":
    draw_corpus(CORPUS)
