"""A folder of pictures for each class: which pictures there are, which are held out, and which cannot be read."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models import imagenet
from models.config import ModelConfig, Preprocessing
from models.images import ImageError, Picture
from models.training.data import DataError

HELD_OUT = 0.2
TRAIN, VALIDATION, TEST = "train", ("val", "validation"), ("test",)
LEAST_CLASSES = 2

Track = Callable[[Iterator[Any], int], Iterable[Any]]
"""track(items, how many): the same items, while showing how far they have come"""


def untracked(items: Iterator[Any], total: int) -> Iterable[Any]:
    """Shows nothing."""
    return items


@dataclass(frozen=True)
class Item:
    """A picture file that can be read."""

    path: Path
    target: int
    digest: str
    """sha256 of its bytes, hexadecimal: what tells pictures apart wherever they lie"""


@dataclass(frozen=True)
class Skipped:
    """A file among the pictures that cannot be used."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Folder:
    """The pictures under one folder, by class."""

    labels: tuple[str, ...]
    items: tuple[Item, ...]
    skipped: tuple[Skipped, ...]


@dataclass(frozen=True)
class Split:
    """What to learn from, and what not."""

    labels: tuple[str, ...]
    train: tuple[Item, ...]
    held_out: tuple[Item, ...]
    skipped: tuple[Skipped, ...]


def read_split(directory: Path, preprocessing: Preprocessing, track: Track = untracked) -> Split:
    """Pictures of `directory`/train and /val where it has both; else of `directory`, a fifth of each class held out.

    The fifth is chosen by what is in the files, so that it stays the same wherever they lie and
    copies of a picture are on one side. `track` wraps the pass over the files, to show its progress.
    Raises DataError.
    """
    _refuse_missing(directory)
    held_out = _existing(directory, VALIDATION + TEST)
    if (directory / TRAIN).is_dir() and held_out:
        train = read_folder(directory / TRAIN, preprocessing, track=track)
        _refuse_few_classes(directory / TRAIN, train)
        rest = read_folder(held_out[0], preprocessing, train.labels, track)
        return Split(train.labels, train.items, rest.items, train.skipped + rest.skipped)
    folder = read_folder(directory, preprocessing, track=track)
    _refuse_few_classes(directory, folder)
    parts = [_hold_out(folder, target) for target in range(len(folder.labels))]
    return Split(
        folder.labels,
        tuple(item for train_items, _ in parts for item in train_items),
        tuple(item for _, held_out_items in parts for item in held_out_items),
        folder.skipped,
    )


def read_folder(
    directory: Path, preprocessing: Preprocessing, labels: Sequence[str] | None = None, track: Track = untracked
) -> Folder:
    """Every picture below each class's folder. `labels` are the classes that may be there, in the order of targets.

    Each file is read and decoded once, so that a broken one is known now and not in the middle of
    an epoch. Files and folders whose names begin with a dot are passed over. Raises DataError.
    """
    _refuse_missing(directory)
    names = _classes(directory)
    if not names:
        raise DataError(f"{directory} has no folders; it must have one for each class, with its pictures in it")
    labels = tuple(names) if labels is None else tuple(labels)
    if strange := sorted(set(names) - set(labels)):
        raise DataError(
            f"{directory} has folders that are no class of this model: {_some(strange)}; it knows {_some(labels)}"
        )
    targets = {label: target for target, label in enumerate(labels)}
    files = [(path, targets[name]) for name in names for path in _files(directory / name)]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # decoders let go of the GIL
        read = list(track(pool.map(lambda file: _read(file[0], file[1], preprocessing), files), len(files)))
    items = tuple(entry for entry in read if isinstance(entry, Item))
    if not items:
        raise DataError(f"there is no picture in {directory} that can be read: JPEG, PNG and WebP are")
    return Folder(labels, items, tuple(entry for entry in read if isinstance(entry, Skipped)))


def read_evaluation(directory: Path, config: ModelConfig, track: Track = untracked) -> Folder:
    """The pictures to measure a model on: `directory`/test or /val where it has them, else all of it.

    A class's folder bears its label, or, for the labels of ImageNet, its WordNet id. Raises DataError.
    """
    _refuse_missing(directory)
    held_out = _existing(directory, TEST + VALIDATION)
    root = held_out[0] if held_out and held_out[0].name not in config.labels else directory
    wordnet_ids = imagenet.wordnet_ids() if config.labels == imagenet.labels() else ()
    named_by_id = wordnet_ids and all(name in wordnet_ids for name in _classes(root))
    return read_folder(root, config.preprocessing, wordnet_ids if named_by_id else config.labels, track)


def describe(skipped: Sequence[Skipped], limit: int = 10) -> str:
    """Which files were skipped and why, for people; at most `limit` of them by name."""
    lines = [f"skipped, as no pictures that can be read: {len(skipped)}"]
    lines += [f"  {one.path}: {one.reason}" for one in skipped[:limit]]
    return "\n".join(lines + ([f"  and {len(skipped) - limit} more"] if len(skipped) > limit else []))


def _hold_out(folder: Folder, target: int) -> tuple[list[Item], list[Item]]:
    items = [item for item in folder.items if item.target == target]
    by_content: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        by_content[item.digest].append(item)
    if len(by_content) < 2:
        raise DataError(
            f"class {folder.labels[target]!r} has {len(by_content)} different pictures that can be read; "
            "it needs 2, one to learn from and one to hold out"
        )
    chosen = set(sorted(by_content)[: max(1, round(HELD_OUT * len(by_content)))])
    return [item for item in items if item.digest not in chosen], [item for item in items if item.digest in chosen]


def _existing(directory: Path, names: Sequence[str]) -> list[Path]:
    return [directory / name for name in names if (directory / name).is_dir()]


def _classes(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _read(path: Path, target: int, preprocessing: Preprocessing) -> Item | Skipped:
    try:
        data = path.read_bytes()
        Picture(data).pixels(preprocessing)
    except (OSError, ImageError) as error:
        return Skipped(path, str(error.strerror if isinstance(error, OSError) else error))
    return Item(path, target, hashlib.sha256(data).hexdigest())


def _files(directory: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(directory, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(folder, name) for name in sorted(files) if not name.startswith("."))


def _refuse_missing(directory: Path) -> None:
    if not directory.is_dir():
        raise DataError(f"{directory} is not a folder; --data names one with a folder of pictures for each class")


def _refuse_few_classes(directory: Path, folder: Folder) -> None:
    if len(folder.labels) < LEAST_CLASSES:
        raise DataError(f"{directory} has one class, {folder.labels[0]!r}; telling apart needs at least 2 folders")


def _some(names: Sequence[str], limit: int = 5) -> str:
    return ", ".join(map(repr, names[:limit])) + (f" and {len(names) - limit} more" if len(names) > limit else "")
