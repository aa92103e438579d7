"""The training loop: epochs that depend on nothing but the state the one before left, so that a killed run goes on."""

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from models.config import Preprocessing
from models.training.data import Examples, Source

Optimizer = Literal["adamw", "sgd"]
# SGD's are the CoordAtt authors' (section 4.1); AdamW's learned the digits.
LEARNING_RATE: dict[Optimizer, float] = {"adamw": 3e-3, "sgd": 0.05}
TRANSFER = 1 / 3  # of that rate for weights that have learned something already
WEIGHT_DECAY: dict[Optimizer, float] = {"adamw": 0.05, "sgd": 4e-5}
MOMENTUM = 0.9
WARM_UP = 0.06  # of all steps
AVERAGED = 0.05  # of all steps, about whose mean the weights kept are


class Diverged(Exception):
    """A training whose loss is no number any more; the message says what to do."""


@dataclass(frozen=True)
class Recipe:
    """How to train; together with the data, the network and the number of threads it fixes the weights."""

    epochs: int
    batch_size: int = 64
    optimizer: Optimizer = "adamw"
    learning_rate: float = LEARNING_RATE["adamw"]
    weight_decay: float = WEIGHT_DECAY["adamw"]
    label_smoothing: float = 0.05
    patience: int | None = None
    """stop after so many epochs without a better held-out top-1, and keep the best epoch's weights, not the last's"""
    seed: int = 0


@dataclass(frozen=True)
class Epoch:
    """What one epoch measured; held-out figures are those of the averaged weights."""

    epoch: int
    learning_rate: float
    loss: float
    top1: float
    held_out_loss: float
    held_out_top1: float
    seconds: float


@dataclass
class State:
    """Everything that the next epoch depends on."""

    network: nn.Module
    averaged: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    history: list[Epoch] = field(default_factory=list)
    random: list[Tensor] = field(default_factory=list)
    """states of the generators of CPU and CUDA devices, which dropout draws from"""
    best: dict[str, Tensor] | None = None
    """averaged weights of the epoch with the best held-out top-1, where the recipe has patience"""

    @classmethod
    def start(cls, network: nn.Module, recipe: Recipe, device: torch.device) -> "State":
        """Before the first epoch."""
        network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        scaler = torch.amp.GradScaler(device.type, enabled=amp_dtype(device) == torch.float16)
        return cls(network, copy.deepcopy(network), _optimizer(network, recipe), scaler)

    @property
    def weights(self) -> dict[str, Tensor]:
        """The weights to keep if training ends now."""
        return self.best if self.best is not None else self.averaged.state_dict()

    def best_epoch(self) -> int:
        """Index in `history` of the first epoch with the best held-out top-1."""
        return max(range(len(self.history)), key=lambda index: (self.history[index].held_out_top1, -index))

    def finished(self, recipe: Recipe) -> bool:
        """Whether no epoch is left to do."""
        done = len(self.history)
        waited = done > 0 and recipe.patience is not None and done - 1 - self.best_epoch() >= recipe.patience
        return done >= recipe.epochs or waited

    def to_dict(self) -> dict[str, Any]:
        """As torch.save takes it and torch.load(weights_only=True) gives it back."""
        return {
            "network": self.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "history": [vars(epoch) for epoch in self.history],
            "random": self.random,
            "best": self.best,
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Become what to_dict gave."""
        for name in ("network", "averaged", "optimizer", "scaler"):
            getattr(self, name).load_state_dict(saved[name])
        self.history = [Epoch(**epoch) for epoch in saved["history"]]
        self.random = saved["random"]
        self.best = saved["best"]


def fit(
    state: State, source: Source, recipe: Recipe, after_epoch: Callable[[State], None], *, progress: bool = False
) -> None:
    """Train until the recipe's end; calls `after_epoch` when one is in the state. `progress` draws a bar on stderr.

    Raises Diverged.
    """
    device = next(state.network.parameters()).device
    normalise = Normalise(source.preprocessing, device)
    steps = recipe.epochs * source.epoch_batches
    if state.random:
        torch.set_rng_state(state.random[0])
        torch.cuda.set_rng_state_all(state.random[1:])
    with tqdm(total=steps, initial=len(state.history) * source.epoch_batches, disable=not progress, leave=False) as bar:
        while not state.finished(recipe):
            number, started = len(state.history), time.monotonic()
            bar.set_description(f"epoch {number + 1}/{recipe.epochs}")
            loss, top1, seen = 0.0, 0.0, 0
            state.network.train()
            for index, examples in enumerate(source.epoch(number)):
                step = number * source.epoch_batches + index
                rate = learning_rate(step, steps, recipe.learning_rate)
                images, targets = normalise(examples.pixels), examples.targets.to(device, non_blocking=True)
                batch_loss, right = _step(state, images, targets, rate, recipe)
                # At first the average knows nothing and must move far.
                average(state.averaged, state.network, min(1.0, max(1 / (AVERAGED * steps), 1 / (step + 1))))
                loss, top1, seen = loss + batch_loss * len(targets), top1 + right, seen + len(targets)
                bar.set_postfix(loss=f"{loss / seen:.3f}", top1=f"{top1 / seen:.1%}", refresh=False)
                bar.update()
            held_out_loss, held_out_top1 = measure(state.averaged, source.held_out(), normalise, device)
            state.history.append(
                Epoch(
                    number + 1,
                    rate,
                    loss / seen,
                    top1 / seen,
                    held_out_loss,
                    held_out_top1,
                    round(time.monotonic() - started, 2),
                )
            )
            if recipe.patience is not None and state.best_epoch() == number:
                state.best = {name: value.clone() for name, value in state.averaged.state_dict().items()}
            state.random = [torch.get_rng_state(), *torch.cuda.get_rng_state_all()]
            after_epoch(state)


def _step(state: State, images: Tensor, targets: Tensor, rate: float, recipe: Recipe) -> tuple[float, int]:
    """One step of the optimizer; the batch's loss and how many of it were right."""
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    dtype = amp_dtype(images.device)
    with torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32):
        logits = state.network(images)
    loss = F.cross_entropy(logits.float(), targets, label_smoothing=recipe.label_smoothing)
    if not math.isfinite(value := loss.item()):
        raise Diverged(
            f"the loss is {value} in epoch {len(state.history) + 1}: the weights are lost; go back with a lower "
            f"--learning-rate than {recipe.learning_rate:g}"
        )
    state.optimizer.zero_grad()
    state.scaler.scale(loss).backward()
    state.scaler.step(state.optimizer)
    state.scaler.update()
    return value, int((logits.argmax(dim=1) == targets).sum())


class Normalise:
    """Pixels to what the network sees, on the device."""

    def __init__(self, preprocessing: Preprocessing, device: torch.device) -> None:
        self.mean = torch.tensor(preprocessing.mean, device=device) * 255
        self.std = torch.tensor(preprocessing.std, device=device) * 255

    def __call__(self, pixels: Tensor) -> Tensor:
        """uint8 [N, S, S, 3] to float32 [N, 3, S, S] in channels_last memory."""
        return ((pixels.to(self.mean.device, non_blocking=True) - self.mean) / self.std).permute(0, 3, 1, 2)


@torch.no_grad()
def measure(
    network: nn.Module, batches: Iterable[Examples], normalise: Normalise, device: torch.device
) -> tuple[float, float]:
    """Mean cross-entropy and top-1 of a network in eval mode over batches; both NaN if there is none."""
    network.eval()
    loss, right, seen = 0.0, 0, 0
    for examples in batches:
        targets = examples.targets.to(device)
        logits = network(normalise(examples.pixels)).float()
        loss += F.cross_entropy(logits, targets, reduction="sum").item()
        right += int((logits.argmax(dim=1) == targets).sum())
        seen += len(targets)
    return (loss / seen, right / seen) if seen else (math.nan, math.nan)


def amp_dtype(device: torch.device) -> torch.dtype:
    """What convolutions compute in: half precision on CUDA, bfloat16 where it is native."""
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def learning_rate(step: int, steps: int, highest: float) -> float:
    """Of one step of all: up to `highest` in a straight line, then down to 0 along a cosine."""
    warm_up = math.ceil(steps * WARM_UP)
    if step < warm_up:
        return highest * (step + 1) / warm_up
    return highest * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


@torch.no_grad()
def average(averaged: nn.Module, network: nn.Module, share: float) -> None:
    """Move `averaged`, batch statistics and all, by `share` of the way towards `network`."""
    for mean, value in zip(averaged.state_dict().values(), network.state_dict().values(), strict=True):
        if value.is_floating_point():
            mean.lerp_(value, share)
        else:
            mean.copy_(value)


def _optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Weight decay on matrices and kernels, not on biases and norms."""
    matrices = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            groups, recipe.learning_rate, momentum=MOMENTUM, nesterov=True, weight_decay=recipe.weight_decay
        )
    return torch.optim.AdamW(groups, recipe.learning_rate, weight_decay=recipe.weight_decay)


@contextmanager
def reproducible(seed: int, threads: int) -> Iterator[None]:
    """Seeded, on a fixed number of threads, and deterministic (on a CPU); afterwards as before."""
    threads_before, deterministic_before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(not torch.cuda.is_available())
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(deterministic_before)
            torch.set_num_threads(threads_before)
