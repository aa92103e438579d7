"""The commands other than `serve`, as a shell would run them."""

import subprocess
import sys
from pathlib import Path

import pytest

from models.config import BUNDLED_MODEL, read_config
from tests.conftest import DIGITS

SEVEN, THREE = DIGITS / "dejavu-sans-7.png", DIGITS / "dejavu-sans-3.png"


def coordserve(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("coordserve")), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_predict_names_what_it_sees():
    done = coordserve("predict", SEVEN, THREE)

    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith(f"{SEVEN}: seven ")
    assert second.startswith(f"{THREE}: three ")


def test_predict_goes_on_after_a_bad_file_and_says_so(tmp_path: Path):
    text = tmp_path / "text.png"
    text.write_text("no picture")

    done = coordserve("predict", text, tmp_path / "missing.png", SEVEN, "--top-k", "3")

    assert done.returncode == 1
    assert done.stdout.startswith(f"{SEVEN}: seven ")
    assert done.stdout.count(",") == 2
    assert f"{text}: not a JPEG, PNG or WebP image" in done.stderr
    assert "missing.png: No such file" in done.stderr


def test_evaluate_prints_the_held_out_accuracy():
    done = coordserve("evaluate", "--data", "digits")

    assert done.returncode == 0, done.stderr
    training = read_config(BUNDLED_MODEL).training
    assert f"({training['held_out_correct']} of 360 held-out pictures)" in done.stdout


def test_train_writes_a_model_that_predict_reads(tmp_path: Path):
    out = tmp_path / "model"

    trained = coordserve("train", "--data", "digits", "--out", out, "--network", "mobilenetv2_ca_010", "--epochs", "1")
    predicted = coordserve("predict", "--model", out, SEVEN)

    assert trained.returncode == 0, trained.stderr
    assert "epoch 1/1" in trained.stdout
    assert "top-1" in trained.stdout
    assert predicted.returncode == 0, predicted.stderr
    assert read_config(out).network.name == "mobilenetv2_ca_010"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["train", "--data", "cats", "--out", "x"], 1, "cats is not a folder; --data names one"),
        (["train", "--data", "digits", "--out", "x", "--epochs", "0"], 2, "not a whole number from 1"),
        (["train", "--data", "digits", "--out", "x", "--network", "resnet_ca_100"], 2, "'resnet_ca_100' is no network"),
        (["train", "--data", "digits", "--out", "x", "--learning-rate", "-1"], 2, "not a number above 0"),
        (["train", "--data", "digits", "--out", "x", "--weight-decay", "7"], 1, "--weight-decay 7.0 is not from 0"),
        (["train", "--data", "digits", "--out", "x", "--init", "nowhere"], 1, "cannot read nowhere/config.json"),
        (["train", "--data", "digits", "--out", "x", "--device", "cuda"], 1, "no CUDA device"),
        (["weights", "import", "nowhere.pth", "--to", "x"], 1, "No such file"),
        (["weights", "import", "README.md", "--to", "x"], 1, "cannot be read as a checkpoint"),
        (["weights", "verify", "nowhere"], 1, "cannot read nowhere/config.json"),
        (["train", "--data", "digits", "--out", "x", "--batch-size", "1"], 1, "batch norm needs at least 2"),
        (["train", "--data", "digits", "--out", "x", "--seed", "-1"], 2, "not a whole number from 0"),
        (["train", "--data", ".", "--out", "x", "--input-size", "4"], 1, "--input-size 4: Input should be"),
        (["weights"], 2, "ACTION"),
        (["evaluate", "nowhere", "--data", "digits"], 1, "cannot read nowhere/config.json"),
        (["predict", "--top-k", "0", "x.png"], 2, "not a whole number from 1"),
        (["predict", "--model", "nowhere", "x.png"], 1, "cannot read nowhere/config.json"),
        (["predict", "--top-k", "5000000000", "x.png"], 2, "not a whole number from 1 to 20000"),
        (["serve", "--protect-metrics"], 1, "error: to protect /metrics there must be keys: give --api-keys-file"),
        (["dance"], 2, "invalid choice"),
    ],
)
def test_a_wrong_call_is_said_in_one_line(arguments: list[str], code: int, words: str):
    done = coordserve(*arguments)

    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_reader_who_has_seen_enough_is_no_error():
    command = f"{Path(sys.executable).with_name('coordserve')} models | head -n 1"

    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)

    assert "parameters, million" in done.stdout
    assert "Traceback" not in done.stderr
    assert "Error" not in done.stderr
