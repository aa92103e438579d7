"""Networks to load the service with, beside the bundled one."""

from pathlib import Path

import torch
from torch import nn

from loadtests.pictures import blots
from models import compile as compiler
from models import cost, directory
from models.config import BUNDLED_MODEL, ModelConfig, Network, Preprocessing, read_config
from models.inference import Classifier
from models.networks import create
from service.settings import available_cores

IMAGENET = Preprocessing(input_size=224, resize_size=256, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
LOGITS_SPREAD = 0.3  # standard deviation, small: random weights make much more of rounding than trained ones do


def imagenet_sized(folder: Path) -> Path:
    """A model directory of MobileNetV2+CA 1.0 at 224 with random weights, whose scores tell pictures apart.

    Without batch norms that know what they normalise the signal is lost on its way, and any arithmetic is right.
    """
    config = ModelConfig(
        name="mobilenetv2_ca_100",
        network=Network(family="mobilenetv2"),
        preprocessing=IMAGENET,
        labels=tuple(f"class {index}" for index in range(1000)),
    )
    torch.manual_seed(0)
    network = create(config.network, config.num_classes)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches
    with torch.no_grad():
        normalise = Classifier(network, config.preprocessing).normalise
        for seed in range(4):
            network.train()(normalise(torch.from_numpy(blots(8, 224, seed))))
        logits = network.eval()(normalise(torch.from_numpy(blots(8, 224, seed=9))))
        network.classifier[-1].weight *= LOGITS_SPREAD / logits.std()
    directory.save(folder / config.name, config, network)
    return folder / config.name


def with_classes(folder: Path, classes: int) -> Path:
    """A model directory of the bundled network's size, with so many classes and random weights."""
    bundled = read_config(BUNDLED_MODEL)
    labels = tuple(f"class {index}" for index in range(classes))
    config = ModelConfig(
        name=f"classes_{classes}", network=bundled.network, preprocessing=bundled.preprocessing, labels=labels
    )
    torch.manual_seed(0)
    directory.save(folder / config.name, config, create(config.network, classes))
    return folder / config.name


def target(model: Path, dtype: str = "auto") -> compiler.Target:
    """What the service would run a model for on this machine."""
    config, network = directory.load(model)
    work = cost.multiply_adds(network, config.preprocessing.input_size)
    return compiler.choose_target("auto", dtype, available_cores(), work)


def compiled(model: Path, cache: Path, dtype: str = "auto") -> compiler.Target:
    """Compile a model into the cache as the service would; for what."""
    chosen = target(model, dtype)
    compiler.compile_package(cache, model, chosen)
    return chosen
