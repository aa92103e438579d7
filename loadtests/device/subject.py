"""The network that is measured, and the ways in which a device runs it."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from loadtests import networks
from models import compile as compiler
from models import directory
from models.compile import Target
from models.config import read_config
from models.inference import Classifier, for_inference
from models.networks import create
from service import forms, overlapped
from service.arena import Arena
from service.cuda_device import pin
from service.overlapped import Overlapped

SLOTS = 1024
LARGEST = 256


@dataclass(frozen=True)
class Subject:
    """MobileNetV2 with Coordinate Attention at 224 pixels, random weights: speed does not depend on them."""

    model: Path
    plain: Path
    """the same without attention"""
    cache: Path
    target: Target

    @classmethod
    def made(cls, folder: Path) -> "Subject":
        """Write both model directories."""
        model = networks.imagenet_sized(folder)
        config = read_config(model)
        plain = replace(config, name="plain", network=replace(config.network, attention="none"))
        directory.save(folder / plain.name, plain, create(plain.network, plain.num_classes))
        target = networks.target(model)
        compiler.configure(target)
        return cls(model, folder / plain.name, folder / "cache", target)

    @cached_property
    def arena(self) -> Arena:
        """Slots full of noise, which the driver has locked."""
        config = read_config(self.model)
        arena = Arena.create(SLOTS, config.preprocessing.input_size, config.num_classes)
        arena.pixels[:] = np.random.default_rng(0).integers(0, 256, arena.pixels.shape, np.uint8)
        pin(arena)
        return arena

    def classifier(self, dtype: torch.dtype, model: Path | None = None) -> Classifier:
        """As it is served, op by op."""
        config, network = directory.load(model or self.model)
        return for_inference(network, config, dtype).to(self.target.device)

    def form(self, mode: str, dtype: str, model: Path | None = None) -> Overlapped:
        """`eager`, `aot` (compiled if it is not in the cache) or `jit`, not measured yet."""
        target, model = replace(self.target, dtype=dtype), model or self.model
        if mode == "aot":
            form = forms.aot(compiler.compile_package(self.cache, model, target), target)
        elif mode == "jit":
            run = compiler.jit(compiler.for_compiling(model, target), self.cache, target.device)
            form = forms.Form("jit", run, target)
        else:
            form = forms.eager(model, target)
        placed = overlapped.placed(form, Path("/nonexistent"), self.arena, LARGEST)
        assert isinstance(placed, Overlapped)
        return placed
