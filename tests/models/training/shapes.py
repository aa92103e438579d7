"""A small set of pictures that tests draw themselves: circles, squares and triangles."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

LABELS = ("circle", "square", "triangle")


def draw_set(root: Path, per_class: int, seed: int = 0) -> Path:
    """A folder for each class with as many pictures, JPEG and PNG, of any colours and of several sizes."""
    generator = np.random.default_rng(seed)
    for label in LABELS:
        (root / label).mkdir(parents=True)
        for index in range(per_class):
            draw(label, generator).save(root / label / f"{index:03d}.{'jpg' if index % 2 else 'png'}")
    return root


def draw(label: str, generator: np.random.Generator) -> Image.Image:
    """One picture of a class: dark on light, near the middle."""
    width, height = generator.integers(60, 90, 2).tolist()
    ground, ink = generator.integers(150, 256, 3).tolist(), generator.integers(0, 90, 3).tolist()
    image = Image.new("RGB", (width, height), tuple(ground))
    r = min(width, height) * generator.uniform(0.25, 0.35)
    x, y = generator.uniform(-4, 4) + width / 2, generator.uniform(-4, 4) + height / 2
    pen = ImageDraw.Draw(image)
    if label == "circle":
        pen.ellipse([x - r, y - r, x + r, y + r], fill=tuple(ink))
    elif label == "square":
        pen.rectangle([x - r, y - r, x + r, y + r], fill=tuple(ink))
    else:
        pen.polygon([(x, y - r), (x - r, y + r), (x + r, y + r)], fill=tuple(ink))
    return image
