"""Other people's checkpoints into model directories, strictly; and whether a model directory is sound."""

import hashlib
import io
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor

from models import cost, directory, imagenet, timm_names
from models.config import CONFIG_FILE, ModelConfig, ModelDirectoryError, Network
from models.inference import check_images, for_inference
from models.networks import ConvNet, create
from models.networks.coordatt import CoordAtt, accept_released_names

RELEASED = Network(family="mobilenetv2", attention="ca")  # what the CoordAtt authors publish as mbv2_ca.pth
RELEASED_GIT_BLOB = "07b6640600b7d767acfaebcf5ddb801b675073df"
# Where training scripts keep the weights, the best first: timm's averaged ones are those it reports.
CONTAINERS = ("state_dict_ema", "model_ema", "state_dict", "model", "model_state_dict")
WRAPPERS = ("module.", "_orig_mod.")  # DataParallel, torch.compile
COUNTER = "num_batches_tracked"  # of batch norm; nothing that is computed here depends on it
TIMM_INTERPOLATION = "bicubic"  # timm trained its MobileNetV2 and EfficientNet-B0 with it


class WeightsError(Exception):
    """A checkpoint that cannot be imported; the message says why."""


@dataclass(frozen=True)
class Imported:
    """A checkpoint as a network, and what there is to say about it."""

    config: ModelConfig
    network: ConvNet
    remarks: tuple[str, ...]


def read_checkpoint(path: Path, network: Network | None = None, labels: tuple[str, ...] | None = None) -> Imported:
    """Read a PyTorch checkpoint or safetensors file: the authors' names, ours, or timm's; never by unpickling code.

    `network` is the released MobileNetV2 with Coordinate Attention unless given; `labels` are
    ImageNet's for 1000 classes. Every name and shape must fit. Raises WeightsError, OSError.
    """
    data = path.read_bytes()
    blob = git_blob_id(data)
    released = blob == RELEASED_GIT_BLOB
    remarks = [
        f"git blob id {blob}: "
        + ("the file that the authors published" if released else f"not the authors' mbv2_ca.pth ({RELEASED_GIT_BLOB})")
    ]
    weights = dict(_unwrap(_unpickle(data, path), remarks))
    network = network or RELEASED
    from_timm = timm_names.STEM in weights
    if from_timm:
        weights = timm_names.to_ours(weights, network)
        remarks.append("its names are timm's")
    weights = {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}
    classes = _classes(weights)
    built = create(network, classes)
    weights = _current_names(built, weights)
    counters = [name for name in built.state_dict() if name.endswith(COUNTER) and name not in weights]
    if counters:
        remarks.append(f"{len(counters)} batch counters ({COUNTER}) are missing and set to 0; nothing depends on them")
        weights |= dict.fromkeys(counters, torch.tensor(0))
    if differences := directory.compare(built.state_dict(), weights, limit=5):
        raise WeightsError(
            f"{path} is no checkpoint of {network.name}: {'; '.join(differences)}; name its network with --network"
        )
    built.load_state_dict(weights)
    preprocessing = imagenet.PREPROCESSING
    if from_timm:
        preprocessing = preprocessing.model_copy(update={"interpolation": TIMM_INTERPOLATION})
    config = ModelConfig(
        name=re.sub(r"[^A-Za-z0-9._-]", "-", path.stem).lstrip("._-")[:128] or network.name,
        description=f"Imported from {path.name}" + (", as the CoordAtt authors published it." if released else "."),
        network=network,
        preprocessing=preprocessing,
        labels=_labels(classes, labels),
        training={"imported_from": path.name, "git_blob": blob},
    )
    return Imported(config, built.eval(), tuple(remarks))


def git_blob_id(data: bytes) -> str:
    """What `git hash-object` prints for a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def verify(path: Path) -> list[str]:
    """Check a model directory beyond what loading it does; what was found, for people. Raises ModelDirectoryError."""
    config, network = directory.load(path)
    digest = directory.weights_digest(path)
    for name, value in network.state_dict().items():
        if not bool(value.isfinite().all()):
            raise ModelDirectoryError(f"{path}: {name} has values that are not finite")
        if name.endswith("running_var") and bool((value < 0).any()):
            raise ModelDirectoryError(f"{path}: {name} has negative variances")
    parameters = cost.parameters(network)
    with torch.inference_mode():
        scores = for_inference(network, config)(check_images(config.preprocessing.input_size))
    if not bool(scores.isfinite().all()):
        raise ModelDirectoryError(f"{path}: its scores on drawn images are not finite")
    recorded = f"as {CONFIG_FILE} records" if config.weights_sha256 else f"{CONFIG_FILE} records none to compare with"
    return [
        f"{config.name}: {config.network.name}, {parameters:,} parameters, {config.num_classes} labels",
        f"weights sha256 {digest}, {recorded}",
        f"all names and shapes fit, all values are finite, and so are the scores on {len(scores)} drawn images",
    ]


def _unpickle(data: bytes, path: Path) -> Any:
    if path.suffix == ".safetensors":
        try:
            return load_safetensors(data)
        except SafetensorError as error:
            raise WeightsError(f"{path} is not a safetensors file: {error}") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the pickle's version, before it fails
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # other bytes make the unpickler raise nearly anything
        # torch's own message goes on to advise reading the file without this safety.
        reason = (
            str(error).rpartition("WeightsUnpickler error:")[2].strip().partition("\n")[0].partition(" Please")[0]
            or "it ends early"
        )
        raise WeightsError(
            f"{path} cannot be read as a checkpoint, without running code from it: {reason}; "
            "what torch.save(model.state_dict(), path) writes can"
        ) from error


def _unwrap(saved: Any, remarks: list[str]) -> Iterator[tuple[str, Tensor]]:
    for container in CONTAINERS:
        if isinstance(saved, Mapping) and isinstance(saved.get(container), Mapping):
            remarks.append(f"took the weights under {container!r}")
            saved = saved[container]
            break
    if not isinstance(saved, Mapping) or not all(isinstance(value, Tensor) for value in saved.values()) or not saved:
        found = ", ".join(map(str, saved))[:200] if isinstance(saved, Mapping) else type(saved).__name__
        raise WeightsError(f"there is no state dict in it, nor under {', '.join(CONTAINERS)}; found: {found}")
    for name, value in saved.items():
        for wrapper in WRAPPERS:
            name = name.removeprefix(wrapper)
        yield name, value


def _current_names(network: ConvNet, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """What each CoordAtt's hook does while loading, done before comparing."""
    weights = dict(weights)
    for name, module in network.named_modules():
        if isinstance(module, CoordAtt):
            accept_released_names(module, weights, f"{name}.")
    return weights


def _classes(weights: Mapping[str, Tensor]) -> int:
    head = weights.get("classifier.1.weight")
    return len(head) if head is not None and head.ndim == 2 else len(imagenet.labels())


def _labels(classes: int, labels: tuple[str, ...] | None) -> tuple[str, ...]:
    if classes < 2:
        raise WeightsError(f"it has {classes} class; a classifier has at least 2")
    if labels is None:
        if classes != len(imagenet.labels()):
            raise WeightsError(
                f"it has {classes} classes, not ImageNet's 1000: give their names, a line each, by --labels"
            )
        return imagenet.labels()
    if len(labels) != classes:
        raise WeightsError(f"it has {classes} classes, and --labels {len(labels)} lines")
    return labels
