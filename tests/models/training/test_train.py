"""Training on a folder of pictures: what it leaves, and what survives a kill, a full disk and a wrong call."""

import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from models import directory
from models.config import BUNDLED_MODEL, WEIGHTS_FILE, ModelDirectoryError, Network, read_config
from models.training.augmentation import augment, crop
from models.training.checkpoint import CheckpointError
from models.training.data import DataError
from models.training.evaluate import evaluate
from models.training.fit import Diverged, Recipe
from models.training.scanned_digits import PREPROCESSING
from models.training.train import Job, Watch, train
from tests.models.training.shapes import draw_set

TINY = Network(family="mobilenetv2", attention="ca", width=0.1)
FILES = ["confusion.png", "curves.csv", "curves.png", "mistakes.png", "pictures.csv"]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_set(tmp_path_factory.mktemp("data") / "shapes", per_class=10)


def job(shapes: Path, out: Path, **changes: object) -> Job:
    recipe = Recipe(epochs=3, batch_size=8, seed=1)
    return replace(Job(str(shapes), out, TINY, recipe, input_size=32), **changes)


def silent(_: str) -> None:
    """Reports to nobody."""


class Killed(BaseException):
    """Stands for a kill right after an epoch."""


def die_after(epoch: int) -> Watch:
    def report(line: str) -> None:
        if line.startswith(f"epoch {epoch}/"):
            raise Killed

    return Watch(report)


def test_a_training_leaves_a_model_directory_and_its_record(shapes: Path, tmp_path: Path):
    lines: list[str] = []

    evaluation = train(job(shapes, tmp_path / "out"), Watch(lines.append))

    config = read_config(tmp_path / "out")
    assert config.labels == ("circle", "square", "triangle")
    assert config.network == TINY
    assert config.name == "out"
    assert config.training["held_out_correct"] == evaluation.correct
    assert evaluation.total == 6
    assert sorted(path.name for path in (tmp_path / "out" / "training").iterdir()) == FILES
    curves = (tmp_path / "out" / "training" / "curves.csv").read_text().splitlines()
    assert curves[0] == "epoch,learning_rate,loss,top1,held_out_loss,held_out_top1,seconds"
    assert [line.split(",")[0] for line in curves[1:]] == ["1", "2", "3"]
    for chart in FILES[:4:2]:
        assert Image.open(tmp_path / "out" / "training" / chart).size > (200, 200)
    assert lines[0] == "24 pictures of 3 classes to learn from, 6 held out"
    assert [line[:9] for line in lines[1:]] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]


def test_measuring_afterwards_leaves_out_what_it_learned_from(shapes: Path, tmp_path: Path):
    trained = train(job(shapes, tmp_path / "out"), Watch(silent))

    measured, remarks = evaluate(tmp_path / "out", str(shapes))

    assert remarks == ("left out 24 pictures that it was trained on",)
    assert torch.equal(measured.scores, trained.scores)


def test_a_killed_training_goes_on_to_the_same_weights(shapes: Path, tmp_path: Path):
    train(job(shapes, tmp_path / "whole"), Watch(silent))
    with pytest.raises(Killed):
        train(job(shapes, tmp_path / "killed"), die_after(2))
    lines: list[str] = []

    train(job(shapes, tmp_path / "killed"), Watch(lines.append))

    assert any(line.startswith("goes on after epoch 2") for line in lines)
    assert sum(line.startswith("epoch ") for line in lines) == 1
    whole, killed = (load_file(tmp_path / name / WEIGHTS_FILE) for name in ("whole", "killed"))
    assert all(torch.equal(whole[name], killed[name]) for name in whole)


def test_an_unfinished_training_of_other_settings_is_not_gone_on_with(shapes: Path, tmp_path: Path):
    with pytest.raises(Killed):
        train(job(shapes, tmp_path), die_after(1))

    with pytest.raises(CheckpointError, match=r"learning_rate 0.003, now 0.5.*name another --out"):
        train(job(shapes, tmp_path, recipe=Recipe(epochs=3, batch_size=8, seed=1, learning_rate=0.5)), Watch(silent))


def test_a_broken_checkpoint_says_what_to_do(shapes: Path, tmp_path: Path):
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "checkpoint.pt").write_bytes(b"half a checkpoint")

    with pytest.raises(CheckpointError, match="remove it to start anew"):
        train(job(shapes, tmp_path), Watch(silent))


def test_patience_ends_a_training_that_learns_nothing_more_and_keeps_the_best(shapes: Path, tmp_path: Path):
    # So small a rate changes no answer, so that the first epoch stays the best.
    recipe = Recipe(epochs=50, batch_size=8, patience=2, learning_rate=1e-12)
    lines: list[str] = []

    train(job(shapes, tmp_path, recipe=recipe), Watch(lines.append))

    assert sum(line.startswith("epoch ") for line in lines) == 3
    assert read_config(tmp_path).training["epochs_done"] == 3


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_both_optimizers_lower_the_loss(shapes: Path, tmp_path: Path, optimizer: str):
    rate = {"adamw": 3e-3, "sgd": 0.02}[optimizer]
    changes = {"network": read_config(BUNDLED_MODEL).network, "init": BUNDLED_MODEL, "input_size": None}

    train(job(shapes, tmp_path, recipe=Recipe(6, 8, optimizer, rate), **changes), Watch(silent))

    rows = [line.split(",") for line in (tmp_path / "training" / "curves.csv").read_text().splitlines()[1:]]
    assert float(rows[-1][2]) < float(rows[0][2])


def test_transfer_takes_the_body_and_makes_a_new_head(shapes: Path, tmp_path: Path):
    network = read_config(BUNDLED_MODEL).network
    recipe = Recipe(epochs=1, batch_size=8, learning_rate=1e-12, weight_decay=0.0)
    lines: list[str] = []

    train(
        job(shapes, tmp_path, network=network, init=BUNDLED_MODEL, input_size=None, recipe=recipe), Watch(lines.append)
    )

    assert "begins with the weights of digits (mobilenetv2_ca_025), with a new head for 3 classes" in lines
    before, after = load_file(BUNDLED_MODEL / WEIGHTS_FILE), load_file(tmp_path / WEIGHTS_FILE)
    torch.testing.assert_close(before["features.5.conv.0.weight"], after["features.5.conv.0.weight"])
    assert after["classifier.1.weight"].shape[0] == 3
    assert read_config(tmp_path).preprocessing == PREPROCESSING


def test_weights_of_another_network_are_refused_by_name_and_shape(shapes: Path, tmp_path: Path):
    with pytest.raises(ModelDirectoryError) as refusal:
        train(job(shapes, tmp_path, init=BUNDLED_MODEL), Watch(silent))

    assert "--init has mobilenetv2_ca_025, and --network is mobilenetv2_ca_010" in str(refusal.value)
    assert re.search(r"\d+ other shape \(features\.\d+\.conv\.\d+\.weight \[", str(refusal.value))


def test_the_digits_are_seen_at_one_size(tmp_path: Path):
    with pytest.raises(DataError, match="32 pixels"):
        train(Job("digits", tmp_path, TINY, Recipe(1), input_size=64), Watch(silent))


def test_a_varied_view_is_repeatable_and_has_the_right_size():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 80, 3), dtype=np.uint8))

    one, again, other = (augment(image, PREPROCESSING, True, np.random.default_rng(seed)) for seed in (1, 1, 2))

    assert one.shape == (32, 32, 3)
    assert one.dtype == np.uint8
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_crops_lie_inside_whatever_the_shape():
    generator = np.random.default_rng(0)
    for width, height in [(100, 100), (1000, 3), (1, 1), (40, 300)]:
        for _ in range(200):
            left, top, right, bottom = crop(width, height, generator)
            assert 0 <= left < right <= width
            assert 0 <= top < bottom <= height


def test_no_mirror_keeps_left_and_right():
    half = np.zeros((64, 64, 3), np.uint8)
    half[:, :32] = 255
    image = Image.fromarray(half)

    views = [augment(image, PREPROCESSING, False, np.random.default_rng(seed)) for seed in range(30)]

    assert all(view[:, 0].mean() >= view[:, -1].mean() for view in views)


def test_a_training_that_diverges_ends_and_says_so(shapes: Path, tmp_path: Path):
    with pytest.raises(Diverged, match="lower --learning-rate than 1e\\+30"):
        train(job(shapes, tmp_path, recipe=Recipe(9, 8, "sgd", learning_rate=1e30)), Watch(silent))

    assert not (tmp_path / WEIGHTS_FILE).exists()


@pytest.mark.cuda
def test_training_on_cuda_learns_and_leaves_a_model_for_any_device(shapes: Path, tmp_path: Path):
    evaluation = train(job(shapes, tmp_path, device="cuda"), Watch(silent))

    assert evaluation.total == 6
    measured, _ = evaluate(tmp_path, str(shapes))
    torch.testing.assert_close(measured.scores, evaluation.scores, atol=1e-3, rtol=0)


@pytest.mark.slow
def test_a_kill_in_the_middle_of_an_epoch_costs_no_more_than_that_epoch(shapes: Path, tmp_path: Path):
    out = tmp_path / "out"
    command = coordserve_train(shapes, out, "--epochs", 200)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("epoch   2/200"):
                break
        time.sleep(0.1)  # into the third epoch; wherever it is, the second must not be lost
        process.send_signal(signal.SIGKILL)
    assert not (out / WEIGHTS_FILE).exists()

    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = next(line for line in process.stdout if line.startswith("goes on after epoch"))
        process.send_signal(signal.SIGINT)
        process.wait()

    assert int(told.split()[4].rstrip(",")) >= 2


@pytest.mark.slow
def test_a_full_disk_leaves_the_last_checkpoint(shapes: Path, tmp_path: Path):
    """A limit on the size of files stands for the disk: writing beyond it fails in the middle of the file."""
    out = tmp_path / "out"
    with pytest.raises(Killed):
        train(job(shapes, out), die_after(1))
    checkpoint = out / "training" / "checkpoint.pt"
    before = checkpoint.read_bytes()
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({len(before) // 2}, {len(before) // 2}))"
    code = f"{limit}; from service.cli import main; raise SystemExit(main({coordserve_train(shapes, out)[3:]!r}))"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert done.returncode == 1, done.stderr
    assert "cannot save" in done.stderr
    assert "epoch 1 is safe" in done.stderr
    assert "Traceback" not in done.stderr
    assert checkpoint.read_bytes() == before
    assert sorted(path.name for path in checkpoint.parent.iterdir()) == ["checkpoint.pt", "curves.csv"]


def test_a_model_directory_with_another_ones_weights_is_refused(shapes: Path, tmp_path: Path):
    for name, seed in (("one", 1), ("other", 2)):
        train(job(shapes, tmp_path / name, recipe=Recipe(epochs=1, batch_size=8, seed=seed)), Watch(silent))
    (tmp_path / "one" / WEIGHTS_FILE).write_bytes((tmp_path / "other" / WEIGHTS_FILE).read_bytes())

    with pytest.raises(ModelDirectoryError, match="weights_sha256"):
        directory.load(tmp_path / "one")

    config = json.loads((tmp_path / "one" / "config.json").read_text())
    del config["weights_sha256"]
    (tmp_path / "one" / "config.json").write_text(json.dumps(config))
    assert directory.load(tmp_path / "one")[0].weights_sha256 is None


def coordserve_train(shapes: Path, out: Path, *more: object) -> list[str]:
    """The command line of job(shapes, out)."""
    flags = [
        "--data",
        shapes,
        "--out",
        out,
        "--network",
        TINY.name,
        "--input-size",
        32,
        "--epochs",
        3,
        "--batch-size",
        8,
    ]
    return [sys.executable, "-m", "service.cli", "train", *map(str, [*flags, "--seed", 1, "--device", "cpu", *more])]
