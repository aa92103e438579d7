"""Model directories: config.json and model.safetensors, read and written as one."""

import hashlib
import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import nn

from models.config import CONFIG_FILE, WEIGHTS_FILE, ModelConfig, ModelDirectoryError, read_config
from models.networks import create


def load(directory: Path) -> tuple[ModelConfig, nn.Module]:
    """The configuration and its network with float32 weights, in eval mode. Raises ModelDirectoryError."""
    config = read_config(directory)
    path = directory / WEIGHTS_FILE
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelDirectoryError(f"cannot read the weights {path}: {error}") from error
    network = create(config.network, config.num_classes)
    if differences := compare(network.state_dict(), weights):
        raise ModelDirectoryError(
            f"{path} does not fit {directory / CONFIG_FILE} ({config.network.name}, {config.num_classes} labels): "
            + "; ".join(differences)
        )
    network.load_state_dict(weights)
    return config, network.eval()


def save(directory: Path, config: ModelConfig, network: nn.Module) -> None:
    """Write a model directory; each file appears whole or not at all."""
    directory.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.contiguous().cpu() for name, tensor in network.state_dict().items()}
    unfinished = directory / f".{WEIGHTS_FILE}.part"
    unfinished.write_bytes(to_bytes(weights))
    _publish(unfinished, directory / WEIGHTS_FILE)
    unfinished = directory / f".{CONFIG_FILE}.part"
    unfinished.write_text(config.model_dump_json(indent=2) + "\n")
    _publish(unfinished, directory / CONFIG_FILE)


def weights_digest(directory: Path) -> str:
    """sha256 of the weights file, hexadecimal."""
    with (directory / WEIGHTS_FILE).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def compare(expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor], limit: int = 3) -> list[str]:
    """What keeps `found` from being loaded as `expected`, at most `limit` names of each kind; [] if nothing."""
    kinds = {
        "missing": [name for name in expected if name not in found],
        "unknown": [name for name in found if name not in expected],
        "other shape": [
            f"{name} {list(found[name].shape)} instead of {list(tensor.shape)}"
            for name, tensor in expected.items()
            if name in found and found[name].shape != tensor.shape
        ],
    }
    return [
        f"{len(names)} {kind} ({', '.join(names[:limit])}{', …' if len(names) > limit else ''})"
        for kind, names in kinds.items()
        if names
    ]


def _publish(unfinished: Path, path: Path) -> None:
    with unfinished.open("rb") as file:
        os.fsync(file.fileno())
    unfinished.replace(path)
