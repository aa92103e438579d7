"""Measures a model directory on pictures that it was not trained on, in the form in which it is served."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from models.config import ModelConfig
from models.directory import load
from models.inference import Classifier, for_inference
from models.training import digits, folders, record
from models.training.data import DataError, Examples
from models.training.digits import DigitsSource
from models.training.folders import Track, untracked
from models.training.pictures import as_served

CALIBRATION_BINS = 15  # Guo et al. (2017), section 4.1
MOST_CLASSES_SHOWN = 30


@dataclass(frozen=True)
class Evaluation:
    """What a model makes of labelled pictures; `str` of it is the report."""

    labels: tuple[str, ...]
    scores: Tensor
    """float32 [N, classes], each row summing to 1"""
    targets: Tensor
    """int64 [N]"""

    @property
    def total(self) -> int:
        return len(self.targets)

    @cached_property
    def answers(self) -> Tensor:
        """The class with the highest score: int64 [N]."""
        return self.scores.argmax(dim=1)

    @cached_property
    def confusion(self) -> Tensor:
        """How many pictures of each class (row) were answered with each (column): int64 [classes, classes]."""
        classes = len(self.labels)
        return (self.targets * classes + self.answers).bincount(minlength=classes**2).view(classes, classes)

    @property
    def correct(self) -> int:
        return int(self.confusion.diagonal().sum())

    @property
    def accuracy(self) -> float:
        """Top-1, 0 to 1."""
        return self.correct / self.total

    def top(self, k: int) -> float:
        """Share of the pictures whose class is among the k with the highest scores."""
        best = self.scores.topk(min(k, len(self.labels))).indices
        return float((best == self.targets.unsqueeze(1)).any(dim=1).double().mean())

    def calibration_error(self) -> float:
        """Expected calibration error of the top score (Guo et al. 2017, equation 3), in equally wide bins."""
        confidence = self.scores.amax(dim=1).double()
        bins = (confidence * CALIBRATION_BINS).long().clamp_max(CALIBRATION_BINS - 1)
        right = (self.answers == self.targets).double()
        gaps = torch.zeros(CALIBRATION_BINS, dtype=torch.double).index_add_(0, bins, right - confidence)
        return float(gaps.abs().sum() / self.total)

    def worst_mistakes(self, count: int) -> list[int]:
        """Indices of wrong answers, the most confident first."""
        wrong = (self.answers != self.targets).nonzero().flatten()
        confidence = self.scores[wrong].amax(dim=1)
        return wrong[confidence.argsort(descending=True, stable=True)][:count].tolist()

    def __str__(self) -> str:
        lines = [f"top-1 {self.accuracy:.2%} ({self.correct} of {self.total} held-out pictures)"]
        if len(self.labels) > 5:
            lines.append(f"top-5 {self.top(5):.2%}")
        lines.append(f"expected calibration error {self.calibration_error():.2%}")
        totals, rights = self.confusion.sum(dim=1).tolist(), self.confusion.diagonal().tolist()
        rows = [row for row in zip(self.labels, rights, totals, strict=True) if row[2]]
        if len(rows) > MOST_CLASSES_SHOWN:
            rows = sorted(rows, key=lambda row: row[1] / row[2])[:MOST_CLASSES_SHOWN]
            lines.append(f"the {MOST_CLASSES_SHOWN} worst classes:")
        width = max(len(label) for label, _, _ in rows)
        lines += [f"  {label:<{width}}  {right} of {total}" for label, right, total in rows]
        return "\n".join(lines)


@dataclass(frozen=True)
class HeldOut:
    """Pictures to measure on, and what there is to say about how they were found."""

    batches: Iterable[Examples]
    remarks: tuple[str, ...] = ()


def evaluate(
    directory: Path, data: str, device: str = "cpu", track: Track = untracked
) -> tuple[Evaluation, tuple[str, ...]]:
    """Measure a model directory, in float32 and with batch norm folded, on `digits` or a folder of pictures.

    Pictures that the model was trained on are left out. Returns remarks for people, too. `track`
    wraps the pass over the files. Raises ModelDirectoryError, DataError.
    """
    config, network = load(directory)
    held_out = _held_out(directory, config, data, track)
    return score(for_inference(network, config).to(device), held_out.batches, config.labels), held_out.remarks


def score(classifier: Classifier, batches: Iterable[Examples], labels: tuple[str, ...]) -> Evaluation:
    """Run a classifier over examples whose targets are indices into `labels`. Raises DataError if there are none."""
    scores, targets = [], []
    with torch.inference_mode():
        for examples in batches:
            scores.append(classifier(examples.pixels.to(classifier.mean.device)).cpu())
            targets.append(examples.targets)
    if not targets:
        raise DataError("there are no pictures to measure on")
    return Evaluation(labels, torch.cat(scores), torch.cat(targets))


def _held_out(directory: Path, config: ModelConfig, data: str, track: Track) -> HeldOut:
    if data == digits.NAME:
        if config.labels != DigitsSource.labels:
            raise DataError(f"{directory} does not tell the labels of {data}: {', '.join(DigitsSource.labels)}")
        return HeldOut(digits.held_out(config.preprocessing))
    folder = folders.read_evaluation(Path(data), config, track)
    seen = record.trained_on(directory)
    items = [item for item in folder.items if item.digest not in seen]
    left_out = len(folder.items) - len(items)
    if not items:
        raise DataError(f"{directory} was trained on every picture in {data}; measure it on others")
    remarks = [folders.describe(folder.skipped)] if folder.skipped else []
    if left_out:
        remarks.append(f"left out {left_out} pictures that it was trained on")
    return HeldOut(as_served(items, config.preprocessing), tuple(remarks))
