"""Training pictures as varied as a camera makes them: cropped, mirrored, in another light."""

import math

import numpy as np
from PIL import Image, ImageEnhance

from models.config import Preprocessing
from models.images import Pixels
from models.resizing import RESAMPLING

AREA = (0.35, 1.0)  # of the picture that a crop keeps; Szegedy et al. (2015) take 0.08, for a million pictures
RATIO = (3 / 4, 4 / 3)  # of a crop's width to its height
LIGHT = 0.3  # brightness, contrast and saturation are multiplied by 1 - LIGHT to 1 + LIGHT
ATTEMPTS = 10


def augment(image: Image.Image, preprocessing: Preprocessing, mirror: bool, generator: np.random.Generator) -> Pixels:
    """A varied view of an RGB picture of any size: uint8 [input_size, input_size, 3]."""
    size = preprocessing.input_size
    box = crop(*image.size, generator)
    image = image.resize((size, size), RESAMPLING[preprocessing.interpolation], box=box)
    if mirror and generator.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhance(image).enhance(generator.uniform(1 - LIGHT, 1 + LIGHT))
    return np.asarray(image)


def crop(width: int, height: int, generator: np.random.Generator) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a part of AREA and RATIO, in pixels; all of the picture if none fits."""
    for _ in range(ATTEMPTS):
        area = width * height * generator.uniform(*AREA)
        ratio = math.exp(generator.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        across, down = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if across <= width and down <= height:
            left, top = generator.uniform(0, width - across), generator.uniform(0, height - down)
            return left, top, left + across, top + down
    return 0, 0, width, height
