"""Batches of a folder's pictures, decoded as the service decodes them, in processes beside the training."""

import os
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from models.config import Preprocessing
from models.images import Picture
from models.training.augmentation import augment
from models.training.data import Examples
from models.training.folders import Item, Split

MOST_WORKERS = 16


class PictureSource:
    """Epochs over the training part of a split, and its held-out part as the service would see it."""

    def __init__(self, split: Split, preprocessing: Preprocessing, batch_size: int, seed: int, mirror: bool) -> None:
        self.labels = split.labels
        self.preprocessing = preprocessing
        self._train = _Augmented(split.train, preprocessing, seed, mirror)
        self._held_out = _AsServed(split.held_out, preprocessing)
        self._batch_size = min(batch_size, len(split.train))
        self._seed = seed
        # The last, smaller batch is left out: batch norm over a picture or two would do harm.
        self.epoch_batches = len(split.train) // self._batch_size

    def epoch(self, number: int) -> Iterator[Examples]:
        order = np.random.default_rng((self._seed, number)).permutation(len(self._train.items)).tolist()
        order = order[: self.epoch_batches * self._batch_size]
        return _batches(self._train, [(number, index) for index in order], self._batch_size)

    def held_out(self) -> Iterator[Examples]:
        return _batches(self._held_out, range(len(self._held_out.items)), self._batch_size)


def as_served(items: Sequence[Item], preprocessing: Preprocessing, batch_size: int = 64) -> Iterator[Examples]:
    """The pictures in their order, in batches, as the service would see them."""
    return _batches(_AsServed(items, preprocessing), range(len(items)), batch_size)


class _Augmented(Dataset):
    """Varied pictures; how depends on seed, epoch and picture alone, not on which process makes them."""

    def __init__(self, items: Sequence[Item], preprocessing: Preprocessing, seed: int, mirror: bool) -> None:
        self.items, self.preprocessing, self.seed, self.mirror = items, preprocessing, seed, mirror

    def __getitem__(self, key: tuple[int, int]) -> tuple[np.ndarray, int]:
        epoch, index = key
        item = self.items[index]
        image = Picture(item.path.read_bytes()).decode(self.preprocessing.resize_size)
        generator = np.random.default_rng((self.seed, epoch, index))
        return augment(image, self.preprocessing, self.mirror, generator), item.target


class _AsServed(Dataset):
    def __init__(self, items: Sequence[Item], preprocessing: Preprocessing) -> None:
        self.items, self.preprocessing = items, preprocessing

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        item = self.items[index]
        return Picture(item.path.read_bytes()).pixels(self.preprocessing), item.target


def _batches(dataset: Dataset, keys: Sequence, batch_size: int) -> Iterator[Examples]:
    workers = min(MOST_WORKERS, len(os.sched_getaffinity(0)) - 1, -(-len(keys) // batch_size))
    return iter(
        DataLoader(
            dataset,
            batch_size,
            sampler=keys,
            num_workers=workers,
            collate_fn=_collate,
            pin_memory=torch.cuda.is_available(),
        )
    )


def _collate(examples: list[tuple[np.ndarray, int]]) -> Examples:
    pixels, targets = zip(*examples, strict=True)
    return Examples(torch.from_numpy(np.stack(pixels)), torch.tensor(targets))
