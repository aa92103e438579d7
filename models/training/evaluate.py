"""Measures a model directory on held-out data, in the form in which it is served."""

from dataclasses import dataclass
from pathlib import Path

import torch

from models.directory import load
from models.inference import Classifier, for_inference
from models.training import digits

BATCH = 256


@dataclass(frozen=True)
class ClassResult:
    """How many of the held-out pictures of one class were labelled rightly."""

    label: str
    correct: int
    total: int


@dataclass(frozen=True)
class Evaluation:
    """Top-1 on the held-out part of a data set."""

    correct: int
    total: int
    per_class: tuple[ClassResult, ...]

    @property
    def accuracy(self) -> float:
        return self.correct / self.total

    def __str__(self) -> str:
        width = max(len(result.label) for result in self.per_class)
        lines = [f"top-1 {self.accuracy:.2%} ({self.correct} of {self.total} held-out pictures)"]
        lines += [f"  {result.label:<{width}}  {result.correct} of {result.total}" for result in self.per_class]
        return "\n".join(lines)


def evaluate(directory: Path, data: str) -> Evaluation:
    """Top-1 of a model directory on the held-out part of `data`, in float32 and with batch norm folded.

    Raises ModelDirectoryError, and DataError where the data is unknown or not installed or has other labels.
    """
    digits.check_name(data)
    config, network = load(directory)
    if config.labels != digits.LABELS:
        raise digits.DataError(f"{directory} does not tell the labels of {data}: {', '.join(digits.LABELS)}")
    _, held_out = digits.load(config.preprocessing)
    return score(for_inference(network, config), held_out, config.labels)


def score(classifier: Classifier, examples: digits.Examples, labels: tuple[str, ...]) -> Evaluation:
    """Top-1 of a classifier on examples whose targets are indices into `labels`."""
    with torch.inference_mode():
        scores = torch.cat([classifier(pixels) for pixels in examples.pixels.split(BATCH)])
    right = scores.argmax(dim=1) == examples.targets
    correct = examples.targets[right].bincount(minlength=len(labels)).tolist()
    total = examples.targets.bincount(minlength=len(labels)).tolist()
    per_class = tuple(ClassResult(*row) for row in zip(labels, correct, total, strict=True))
    return Evaluation(sum(correct), sum(total), per_class)
