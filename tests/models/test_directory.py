"""Model directories: what is written is what is read, and what does not fit is named."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from models import directory
from models.config import CONFIG_FILE, WEIGHTS_FILE, ModelConfig, ModelDirectoryError, Network, Preprocessing
from models.networks import create

CONFIG = ModelConfig(
    name="tiny",
    network=Network(family="mobilenetv2", width=0.25),
    preprocessing=Preprocessing(input_size=32, resize_size=36, mean=(0.1, 0.2, 0.3), std=(1, 1, 1)),
    labels=("a", "b", "c"),
)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    directory.save(tmp_path / "tiny", CONFIG, create(CONFIG.network, 3))
    return tmp_path / "tiny"


def test_what_is_saved_is_loaded(tmp_path: Path):
    network = create(CONFIG.network, 3).eval()
    directory.save(tmp_path / "tiny", CONFIG, network)

    config, loaded = directory.load(tmp_path / "tiny")

    digest = directory.weights_digest(tmp_path / "tiny")
    assert config == CONFIG.model_copy(update={"weights_sha256": digest})
    x = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(loaded(x), network(x))
    assert sorted(path.name for path in (tmp_path / "tiny").iterdir()) == [CONFIG_FILE, WEIGHTS_FILE]


def test_weights_of_another_network_are_named(saved: Path):
    weights = load_file(saved / WEIGHTS_FILE)
    weights["classifier.1.bias"] = torch.zeros(7)
    weights["extra.weight"] = weights.pop("features.0.0.weight")
    save_file(weights, saved / WEIGHTS_FILE)

    with pytest.raises(ModelDirectoryError) as refusal:
        directory.load(saved)

    message = str(refusal.value)
    assert "1 missing (features.0.0.weight)" in message
    assert "1 unknown (extra.weight)" in message
    assert "classifier.1.bias [7] instead of [3]" in message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": ["only one"]}, "labels"),
        ({"labels": ["a", "b", "a"]}, "'a' more than once"),
        ({"network": {"family": "resnet"}}, "network.family"),
        ({"surprise": 1}, "surprise"),
        ({"name": "../up"}, "name"),
    ],
)
def test_a_wrong_configuration_names_the_field(saved: Path, change: dict, words: str):
    config = json.loads((saved / CONFIG_FILE).read_text())
    (saved / CONFIG_FILE).write_text(json.dumps({**config, **change}))

    with pytest.raises(ModelDirectoryError, match=words):
        directory.load(saved)


def test_missing_files_say_what_a_model_directory_is(tmp_path: Path):
    with pytest.raises(ModelDirectoryError, match=r"config.json and model.safetensors"):
        directory.load(tmp_path)


@pytest.mark.parametrize("sizes", [(64, 32), (4, 32)])
def test_impossible_preprocessing_is_refused(sizes: tuple[int, int]):
    with pytest.raises(ValueError, match=r"size"):
        Preprocessing(input_size=sizes[0], resize_size=sizes[1], mean=(0, 0, 0), std=(1, 1, 1))
