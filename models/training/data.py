"""What training takes: labelled pictures in batches, some of them held out."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from models.config import Preprocessing


class DataError(Exception):
    """Training or evaluation data that cannot be had or used; the message says what to do."""


@dataclass(frozen=True)
class Examples:
    """Pictures as the service's workers hand them to the network, and what they show."""

    pixels: Tensor
    """uint8 [N, S, S, 3]"""
    targets: Tensor
    """int64 [N], indices into the labels"""

    def split(self, batch_size: int) -> Iterator["Examples"]:
        """The same in batches."""
        return map(Examples, self.pixels.split(batch_size), self.targets.split(batch_size))


class Source(Protocol):
    """Something to learn from."""

    @property
    def labels(self) -> tuple[str, ...]: ...

    @property
    def preprocessing(self) -> Preprocessing: ...

    @property
    def epoch_batches(self) -> int: ...

    def epoch(self, number: int) -> Iterable[Examples]:
        """The `epoch_batches` batches of one epoch, counted from 0; for the same number always the same."""

    def held_out(self) -> Iterable[Examples]:
        """Batches of the pictures that no epoch has, always the same."""
