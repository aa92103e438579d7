"""Resizing against Pillow's, and by Pillow where the faster library is missing."""

import numpy as np
import pytest
from PIL import Image

from models import resizing
from models.config import Preprocessing
from models.resizing import RESAMPLING, resize_and_crop
from tests.conftest import noise

# Height and width: landscape, portrait, square, strips, a single pixel, and smaller than what is asked for.
SIZES = [(375, 500), (501, 333), (224, 224), (256, 256), (65, 64), (17, 19), (40, 700), (1, 1), (1, 300), (300, 2)]


def to(input_size: int, resize_size: int, interpolation: str = "bilinear") -> Preprocessing:
    return Preprocessing(
        input_size=input_size, resize_size=resize_size, interpolation=interpolation, mean=(0, 0, 0), std=(1, 1, 1)
    )


def resized_whole_then_cropped(pixels: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """torchvision's Resize and CenterCrop, spelled out with Pillow."""
    image = Image.fromarray(pixels)
    width, height = image.size
    short, size = preprocessing.resize_size, preprocessing.input_size
    whole = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
    left, top = round((whole[0] - size) / 2), round((whole[1] - size) / 2)
    resized = image.resize(whole, RESAMPLING[preprocessing.interpolation])
    return np.asarray(resized.crop((left, top, left + size, top + size)))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("input_size", "resize_size"), [(224, 256), (64, 64), (101, 117)])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_pixels_are_at_most_a_level_from_pillow(
    height: int, width: int, input_size: int, resize_size: int, interpolation: str
):
    # Grey enough for bicubic overshoot not to be clipped.
    pixels = noise(1, height, width) // 2 + 64
    preprocessing = to(input_size, resize_size, interpolation)

    found = resize_and_crop(pixels, preprocessing)

    expected = resized_whole_then_cropped(pixels, preprocessing)
    assert found.shape == expected.shape == (input_size, input_size, 3)
    difference = np.abs(found.astype(int) - expected)
    assert difference.max() <= (1 if interpolation == "bilinear" else 2)
    assert (difference <= 1).mean() >= 0.999


def test_any_shape_of_picture_is_resized():
    shapes = np.random.default_rng(3).integers(1, (400, 3000), (200, 2))

    for height, width in [*shapes, *shapes[:, ::-1]]:
        assert resize_and_crop(np.full((height, width, 3), 77, np.uint8), to(32, 37)).tolist() == [[[77] * 3] * 32] * 32


def test_pixels_need_not_be_contiguous():
    pixels = noise(2, 90, 120)

    found = resize_and_crop(pixels[::-1, ::2], to(32, 32))

    assert found.tolist() == resize_and_crop(pixels[::-1, ::2].copy(), to(32, 32)).tolist()


def test_pillow_resizes_where_the_faster_library_is_missing(monkeypatch: pytest.MonkeyPatch):
    pixels, preprocessing = noise(1, 375, 500), to(224, 256)
    fast = resize_and_crop(pixels, preprocessing)
    monkeypatch.setattr(resizing, "Resizer", None)

    slow = resize_and_crop(pixels, preprocessing)

    assert np.abs(slow.astype(int) - fast).max() <= 1
