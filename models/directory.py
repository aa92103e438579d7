"""Model directories: config.json and model.safetensors, read and written as one."""

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import nn

from models import files
from models.config import CONFIG_FILE, WEIGHTS_FILE, ModelConfig, ModelDirectoryError, read_config
from models.networks import ConvNet, create


def load(directory: Path) -> tuple[ModelConfig, ConvNet]:
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
    if config.weights_sha256 and config.weights_sha256 != weights_digest(directory):
        raise ModelDirectoryError(
            f"{path} is not the file that {directory / CONFIG_FILE} was written with (weights_sha256): "
            "write the directory again, or, if you meant to change the weights, remove that field"
        )
    network.load_state_dict(weights)
    return config, network.eval()


def save(directory: Path, config: ModelConfig, network: nn.Module) -> None:
    """Write a model directory; each file appears whole or not at all. Raises OSError.

    The configuration comes last and bears the digest of the weights, so that load() refuses the one
    with another's weights.
    """
    weights = to_bytes({name: tensor.contiguous().cpu() for name, tensor in network.state_dict().items()})
    config = config.model_copy(update={"weights_sha256": hashlib.sha256(weights).hexdigest()})
    directory.mkdir(parents=True, exist_ok=True)
    files.write(directory / WEIGHTS_FILE, weights)
    files.write(directory / CONFIG_FILE, (config.model_dump_json(indent=2) + "\n").encode())


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
