"""Other people's checkpoints: the authors' names, timm's, containers; and everything that is refused."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from models import directory, imagenet, weights
from models.config import BUNDLED_MODEL, WEIGHTS_FILE, ModelDirectoryError, Network, read_config
from models.networks import create
from models.weights import WeightsError, git_blob_id, read_checkpoint, verify
from tests.models import recipe

TINY = Network(family="mobilenetv2", attention="ca", width=0.1)
TIMM_SHAPES = recipe.DATA / "timm_shapes.json"  # what timm 1.0.31's state dicts hold
LABELS = ("a", "b", "c")


def saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def tiny_weights() -> dict[str, Tensor]:
    return create(TINY, 3).state_dict()


def test_the_authors_checkpoint_computes_what_their_code_computes(tmp_path: Path):
    path = saved(tmp_path / "mbv2_ca.pth", recipe.weights("mbv2_ca_shapes.json"))

    imported = read_checkpoint(path)

    x = np.random.Generator(np.random.PCG64(7)).random((2, 3, 224, 224), dtype=np.float32)
    with torch.inference_mode():
        logits = imported.network(torch.from_numpy(x))
    assert recipe.relative_error(logits, recipe.REFERENCE["mbv2_ca_logits"]) < 1e-4
    config = imported.config
    assert config.name == "mbv2_ca"
    assert config.network.name == "mobilenetv2_ca_100"
    assert config.labels == imagenet.labels()
    assert config.preprocessing == imagenet.PREPROCESSING
    assert (config.preprocessing.input_size, config.preprocessing.resize_size) == (224, 256)


def test_what_is_not_the_published_file_is_said_to_be_another(tmp_path: Path):
    path = saved(tmp_path / "x.pth", tiny_weights())

    imported = read_checkpoint(path, TINY, LABELS)

    assert imported.remarks[0] == (
        f"git blob id {git_blob_id(path.read_bytes())}: not the authors' mbv2_ca.pth "
        "(07b6640600b7d767acfaebcf5ddb801b675073df)"
    )


def test_the_published_file_is_known_by_its_git_blob_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = saved(tmp_path / "x.pth", tiny_weights())
    monkeypatch.setattr(weights, "RELEASED_GIT_BLOB", git_blob_id(path.read_bytes()))

    imported = read_checkpoint(path, TINY, LABELS)

    assert imported.remarks[0].endswith(": the file that the authors published")
    assert "as the CoordAtt authors published it" in imported.config.description


def test_a_git_blob_id_is_gits():
    # git hash-object of an empty file and of "hello\n", from git's own documentation.
    assert git_blob_id(b"") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
    assert git_blob_id(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"


@pytest.mark.parametrize(("name", "ours"), [("mobilenetv2_100", "none"), ("efficientnet_b0", "se")])
def test_timms_names_are_read(tmp_path: Path, name: str, ours: str):
    shapes = json.loads(TIMM_SHAPES.read_text())[name]
    state = {key: torch.randn(shape).abs() if shape else torch.tensor(0) for key, shape in shapes.items()}
    path = saved(tmp_path / "timm.pth", {"arch": name, "epoch": 3, "state_dict": state})

    imported = read_checkpoint(path, Network.parse(f"{name.removesuffix('_100')}_{ours}_100"))

    assert "took the weights under 'state_dict'" in imported.remarks
    assert "its names are timm's" in imported.remarks
    assert imported.config.preprocessing.interpolation == "bicubic"
    found = imported.network.state_dict()
    assert sum(value.numel() for value in found.values()) == sum(value.numel() for value in state.values())
    assert torch.equal(found["features.0.0.weight"], state["conv_stem.weight"])
    assert torch.equal(found["features.1.conv.0.weight"], state["blocks.0.0.conv_dw.weight"])
    last = "features.16.conv.7" if ours == "se" else "features.17.conv.6"
    stage = "blocks.6.0.conv_pwl.weight"
    assert torch.equal(found[f"{last}.weight"], state[stage])
    assert torch.equal(found["classifier.1.bias"], state["classifier.bias"])


@pytest.mark.parametrize("container", ["state_dict", "model", "state_dict_ema"])
@pytest.mark.parametrize("wrapper", ["", "module.", "_orig_mod."])
def test_weights_are_found_where_training_scripts_put_them(tmp_path: Path, container: str, wrapper: str):
    state = tiny_weights()
    wrapped = {f"{wrapper}{name}": value for name, value in state.items()}
    path = saved(tmp_path / "x.pth", {"epoch": 7, container: wrapped})

    found = read_checkpoint(path, TINY, LABELS).network.state_dict()

    assert all(torch.equal(found[name], state[name]) for name in state)


def test_averaged_weights_are_preferred(tmp_path: Path):
    plain, averaged = tiny_weights(), tiny_weights()

    imported = read_checkpoint(
        saved(tmp_path / "x.pth", {"state_dict": plain, "state_dict_ema": averaged}), TINY, LABELS
    )

    assert torch.equal(imported.network.state_dict()["features.0.0.weight"], averaged["features.0.0.weight"])
    assert "took the weights under 'state_dict_ema'" in imported.remarks


def test_safetensors_are_read(tmp_path: Path):
    save_file(tiny_weights(), tmp_path / "x.safetensors")

    assert read_checkpoint(tmp_path / "x.safetensors", TINY, LABELS).config.labels == LABELS


def test_half_precision_becomes_float32(tmp_path: Path):
    state = {name: value.half() if value.is_floating_point() else value for name, value in tiny_weights().items()}

    imported = read_checkpoint(saved(tmp_path / "x.pth", state), TINY, LABELS)

    assert {value.dtype for value in imported.network.state_dict().values()} == {torch.float32, torch.int64}


def test_missing_and_unknown_names_and_other_shapes_are_all_reported(tmp_path: Path):
    state = tiny_weights()
    state["surprise.weight"] = state.pop("features.3.conv.0.weight")
    state["features.0.0.weight"] = torch.zeros(9, 3, 3, 3)

    with pytest.raises(WeightsError) as refusal:
        read_checkpoint(saved(tmp_path / "x.pth", state), TINY, LABELS)

    message = str(refusal.value)
    assert "is no checkpoint of mobilenetv2_ca_010" in message
    assert "1 missing (features.3.conv.0.weight)" in message
    assert "1 unknown (surprise.weight)" in message
    assert "features.0.0.weight [9, 3, 3, 3] instead of [8, 3, 3, 3]" in message


def test_missing_counters_are_reported_and_no_reason_to_refuse(tmp_path: Path):
    state = {name: value for name, value in tiny_weights().items() if not name.endswith("num_batches_tracked")}

    imported = read_checkpoint(saved(tmp_path / "x.pth", state), TINY, LABELS)

    assert "batch counters (num_batches_tracked) are missing" in imported.remarks[-1]


class Evil:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("evil-was-here"),))


@pytest.mark.parametrize("data", [b"", b"no pickle", pickle.dumps({"a": Evil()})], ids=["empty", "text", "code"])
def test_what_is_no_checkpoint_is_refused_and_runs_nothing(
    tmp_path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.pth").write_bytes(data)

    with pytest.raises(WeightsError, match="cannot be read as a checkpoint, without running code"):
        read_checkpoint(tmp_path / "x.pth")

    assert not (tmp_path / "evil-was-here").exists()


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {}, {"state_dict": {}}, torch.zeros(3)])
def test_a_file_without_weights_says_what_was_found(tmp_path: Path, content: object):
    with pytest.raises(WeightsError, match="there is no state dict in it"):
        read_checkpoint(saved(tmp_path / "x.pth", content))


@pytest.mark.parametrize(("labels", "words"), [(None, "3 classes, not ImageNet's 1000"), (("a",), "--labels 1 lines")])
def test_labels_must_fit_the_classes(tmp_path: Path, labels: tuple[str, ...] | None, words: str):
    with pytest.raises(WeightsError, match=words):
        read_checkpoint(saved(tmp_path / "x.pth", tiny_weights()), TINY, labels)


def test_verify_says_what_it_checked():
    lines = "\n".join(verify(BUNDLED_MODEL))

    assert "mobilenetv2_ca_025, 298,730 parameters, 10 labels" in lines
    assert f"weights sha256 {read_config(BUNDLED_MODEL).weights_sha256}, as config.json records" in lines


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("features.5.conv.0.weight", float("nan"), "not finite"),
        ("features.5.conv.1.running_var", -1.0, "negative variances"),
        ("classifier.1.bias", float("inf"), "not finite"),
    ],
)
def test_verify_refuses_values_that_cannot_be(tmp_path: Path, name: str, value: float, words: str):
    config, network = directory.load(BUNDLED_MODEL)
    network.state_dict()[name].fill_(value)
    directory.save(tmp_path, config, network)

    with pytest.raises(ModelDirectoryError, match=words):
        verify(tmp_path)


def test_verify_refuses_changed_weights(tmp_path: Path):
    directory.save(tmp_path, *directory.load(BUNDLED_MODEL))
    state = load_file(tmp_path / WEIGHTS_FILE)
    save_file({**state, "classifier.1.bias": state["classifier.1.bias"] + 1}, tmp_path / WEIGHTS_FILE)

    with pytest.raises(ModelDirectoryError, match="weights_sha256"):
        verify(tmp_path)
