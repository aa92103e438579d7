"""The bundled digits: what it gets right, on the scans held out and in fonts that it was not trained on."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file

from models.config import BUNDLED_MODEL, WEIGHTS_FILE, Network, read_config
from models.directory import load
from models.images import Picture
from models.inference import Classifier, for_inference
from models.training import scanned_digits
from models.training.data import Examples
from models.training.digits import DigitsSource
from models.training.drawn_digits import ON_CANVAS, TrainingDigits, segments
from models.training.evaluate import evaluate
from models.training.fit import Recipe
from models.training.train import Job, Watch, train

PICTURES = Path(__file__).parents[2] / "data" / "digits"

# The strokes of a written hand, in a canvas 280 pixels square.
WRITTEN = {
    0: "M150 50C60 40 60 240 140 240C230 240 230 50 140 50",
    1: "M100 90L145 40L140 240",
    2: "M80 90C90 20 220 30 190 120C170 170 110 210 80 235L210 235",
    3: "M85 60C150 20 220 60 190 110C170 140 130 140 130 140C200 140 230 200 180 230C140 255 90 240 70 215",
    4: "M110 40L80 150L210 150M170 50L165 245",
    5: "M200 45L100 45L90 130C150 100 220 140 200 200C180 250 110 245 80 220",
    6: "M180 40C90 90 60 200 120 235C190 260 230 160 160 140C110 130 90 180 95 200",
    7: "M80 60L200 55L130 240",
    8: "M190 70C150 20 80 50 100 100C130 140 220 170 190 220C150 260 60 240 90 190C120 140 210 120 190 70",
    9: "M190 90C160 30 80 50 85 110C95 160 180 150 190 90L185 240",
}


@cache
def served() -> Classifier:
    config, network = load(BUNDLED_MODEL)
    return for_inference(network, config)


def classify(pixels: list[np.ndarray]) -> list[int]:
    with torch.inference_mode():
        return served()(torch.from_numpy(np.stack(pixels))).argmax(dim=1).tolist()


def right(answers: list[int]) -> int:
    """How many of ten answers, in the order of the digits, are right."""
    return sum(answer == digit for digit, answer in enumerate(answers))


def test_at_least_985_of_1000_held_out_scans_are_right():
    result, remarks = evaluate(BUNDLED_MODEL, "digits")

    assert result.total == 360
    assert result.accuracy >= 0.985
    assert result.accuracy == pytest.approx(read_config(BUNDLED_MODEL).training["held_out_accuracy"], abs=0.003)
    assert remarks == ()


@pytest.mark.parametrize(
    ("pictures", "at_least"),
    [
        ("dejavu-sans-{}.png", 9),
        ("dejavu-sans-{}.jpg", 9),
        ("dejavu-sans-inverted-{}.png", 9),
        ("dejavu-sans-off-centre-{}.png", 9),
        ("liberation-sans-{}.png", 9),
        ("liberation-serif-{}.png", 9),
        ("freemono-bold-{}.png", 9),
        ("open-sans-{}.png", 9),
    ],
)
def test_digits_of_unseen_fonts_are_read(pictures, at_least):
    preprocessing = read_config(BUNDLED_MODEL).preprocessing
    files = [(PICTURES / pictures.format(digit)).read_bytes() for digit in range(10)]

    answers = classify([Picture(file).pixels(preprocessing) for file in files])

    assert right(answers) >= at_least, answers


@pytest.mark.parametrize("brush", [8, 20, 30])
def test_digits_drawn_with_a_mouse_are_read(brush):
    size = scanned_digits.PREPROCESSING.input_size
    pixels = []
    for path in WRITTEN.values():
        canvas = Image.new("RGB", (280, 280), "white")
        pen = ImageDraw.Draw(canvas)
        for piece in segments(path).tolist():
            pen.line([tuple(end) for end in piece], fill="black", width=brush)
            for end in piece:
                pen.circle(end, brush / 2, fill="black")
        pixels.append(np.asarray(canvas.resize((size, size), Image.Resampling.BILINEAR)))

    answers = classify(pixels)

    assert right(answers) >= 9, answers


def test_bundled_weights_stay_small():
    assert (BUNDLED_MODEL / WEIGHTS_FILE).stat().st_size < 2_000_000


def test_split_is_a_stratified_fifth():
    train_part, held_out = scanned_digits.load()

    assert (len(train_part.targets), len(held_out.targets)) == (1437, 360)
    share = held_out.targets.bincount() / (train_part.targets.bincount() + held_out.targets.bincount())
    assert torch.allclose(share, torch.full((10,), 0.2), atol=0.005)


def test_scans_are_seen_as_a_posted_png_would_be():
    _, held_out = scanned_digits.load()

    assert held_out.pixels.dtype == torch.uint8
    assert held_out.pixels.shape[1:] == (scanned_digits.SIZE, scanned_digits.SIZE, 3)
    assert held_out.pixels.amax() == 255


def test_varied_digits_are_repeatable_and_of_every_class():
    train_part, _ = scanned_digits.load(ON_CANVAS)
    few = Examples(train_part.pixels[:50], train_part.targets[:50])
    source = TrainingDigits(few)

    first = source.batch(256, torch.Generator().manual_seed(1))
    again = source.batch(256, torch.Generator().manual_seed(1))

    assert torch.equal(first.pixels, again.pixels)
    assert first.pixels.shape == (256, scanned_digits.SIZE, scanned_digits.SIZE, 3)
    assert set(first.targets.tolist()) == set(range(10))


def test_the_same_seed_trains_the_same_weights(tmp_path, monkeypatch):
    load_all = scanned_digits.load

    def load_few(*preprocessing):
        scans, held_out = load_all(*preprocessing)
        return Examples(scans.pixels[:50], scans.targets[:50]), held_out

    monkeypatch.setattr(scanned_digits, "load", load_few)
    monkeypatch.setattr(DigitsSource, "epoch_batches", 2)
    network = Network(family="mobilenetv2", width=0.125)
    lines: list[str] = []

    for run in ("one", "two"):
        train(Job("digits", tmp_path / run, network, Recipe(epochs=2, seed=3)), Watch(lines.append))

    assert len(lines) == 4
    one, two = (load_file(tmp_path / run / WEIGHTS_FILE) for run in ("one", "two"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert read_config(tmp_path / "one").training["seed"] == 3


def test_difficulty_rises_from_easy_to_hard():
    source = DigitsSource(epochs=2, batch_size=64, seed=0)

    first, last = (next(iter(source.epoch(number))).pixels.float() for number in (0, 1))

    # Light on dark, without colour; later of any colour.
    assert (first[..., 0] - first[..., 2]).abs().max() == 0
    assert (last[..., 0] - last[..., 2]).abs().max() > 50
