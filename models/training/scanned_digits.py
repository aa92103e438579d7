"""scikit-learn's handwritten digits: 8x8 scans, light on dark, split into training and held-out."""

import io
from functools import cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from models.config import Preprocessing
from models.images import Picture, Pixels
from models.training.data import DataError, Examples

LABELS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SIZE = 32
PREPROCESSING = Preprocessing(
    input_size=SIZE, resize_size=SIZE, interpolation="bilinear", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
)

HELD_OUT = 0.2
SPLIT_SEED = 0
BRIGHTEST = 16  # scikit-learn's scans count the inked pixels of 4x4 cells


@cache
def load(preprocessing: Preprocessing = PREPROCESSING) -> tuple[Examples, Examples]:
    """Training (80 %) and held-out (20 %) scans, the split stratified. Raises DataError without scikit-learn."""
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise DataError(f"the digits come with scikit-learn ({error}): pip install 'coordserve[train]'") from error
    images, targets = load_digits(return_X_y=True)
    pictures = np.round(images.reshape(-1, 8, 8) * (255 / BRIGHTEST)).astype(np.uint8)
    parts = train_test_split(pictures, targets, test_size=HELD_OUT, stratify=targets, random_state=SPLIT_SEED)
    train, held_out, train_targets, held_out_targets = parts
    return (
        Examples(_served(train, preprocessing), torch.from_numpy(train_targets).long()),
        Examples(_served(held_out, preprocessing), torch.from_numpy(held_out_targets).long()),
    )


def _served(pictures: Pixels, preprocessing: Preprocessing) -> Tensor:
    """Each picture [8, 8] as if its PNG had been posted."""
    decoded = []
    for picture in pictures:
        png = io.BytesIO()
        Image.fromarray(picture).save(png, "PNG")
        decoded.append(Picture(png.getvalue()).pixels(preprocessing))
    return torch.from_numpy(np.stack(decoded))
