"""What a training leaves beside the model, in OUT/training: its curves, and which pictures it has seen."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from models import files
from models.training.fit import Epoch
from models.training.folders import Split

DIRECTORY = "training"
CURVES, PICTURES, CHECKPOINT = "curves.csv", "pictures.csv", "checkpoint.pt"
TRAIN, HELD_OUT = "train", "held out"


def write_curves(out: Path, history: Sequence[Epoch]) -> None:
    """One row an epoch, with the columns of Epoch."""
    rows = [[f"{value:.6g}" for value in asdict(epoch).values()] for epoch in history]
    _write(out / DIRECTORY / CURVES, [[field.name for field in fields(Epoch)], *rows])


def write_pictures(out: Path, split: Split) -> None:
    """One row a picture: on which side it was, its label, the digest of its bytes, and where it lay."""
    parts = [(TRAIN, item) for item in split.train] + [(HELD_OUT, item) for item in split.held_out]
    rows = [[part, split.labels[item.target], item.digest, str(item.path)] for part, item in parts]
    _write(out / DIRECTORY / PICTURES, [["part", "label", "sha256", "path"], *rows])


def trained_on(model: Path) -> set[str]:
    """Digests of the pictures that a model directory was trained on; none where it does not say."""
    try:
        with (model / DIRECTORY / PICTURES).open(newline="") as file:
            return {row["sha256"] for row in csv.DictReader(file) if row["part"] == TRAIN}
    except FileNotFoundError:
        return set()


def _write(path: Path, rows: list[list[str]]) -> None:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write(path, text.getvalue().encode())
