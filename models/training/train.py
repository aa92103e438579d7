"""Trains a network and writes its model directory; the same arguments give the same weights on the same machine."""

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from models.config import ModelConfig, Network
from models.directory import save
from models.inference import for_inference
from models.networks import create
from models.training import digits
from models.training.drawn_digits import ON_CANVAS, TrainingDigits
from models.training.evaluate import Evaluation, score

EPOCH_BATCHES = 100  # varied digits never run out, so an epoch is a number of batches
BATCH = 64
THREADS = 2  # sums are rounded differently on another number of threads, so that it is part of the recipe

LEARNING_RATE = 3e-3
WARM_UP = 0.06  # of all steps
WEIGHT_DECAY = 0.05
LABEL_SMOOTHING = 0.05
# Small digits of any colour anywhere in the picture teach a new network next to nothing for hundreds of steps. What
# fills the frame, light on dark, it learns in a hundred, and then keeps up as the pictures become harder.
EASY = 0.35  # of all steps, over which difficulty rises from 0 to 1
AVERAGED_STEPS = 200  # the weights saved are a mean of about the last 200 steps'

Batches = Callable[[int, float], tuple[Tensor, Tensor]]
"""batches(size, difficulty 0..1): images uint8 [size, H, W, 3] and targets int64 [size], others at each call"""


def train(
    data: str,
    out: Path,
    network: Network,
    epochs: int,
    seed: int,
    *,
    epoch_batches: int = EPOCH_BATCHES,
    threads: int = THREADS,
    report: Callable[[str], None] = print,
) -> Evaluation:
    """Train `network` on the training part of `data`, write the model directory `out`, and measure it held-out.

    The held-out part is looked at once, after the last step. `report` takes a line an epoch. Raises DataError.
    """
    digits.check_name(data)
    scans, _ = digits.load(ON_CANVAS)
    _, held_out = digits.load()
    config = ModelConfig(
        name=data,
        description="Handwritten and printed digits: scikit-learn's 8x8 scans, and digits drawn from paths and a font.",
        network=network,
        preprocessing=digits.PREPROCESSING,
        labels=digits.LABELS,
    )
    with reproducible(seed, threads):
        source, generator = TrainingDigits(scans), Generator().manual_seed(seed)

        def batches(size: int, difficulty: float) -> tuple[Tensor, Tensor]:
            examples = source.batch(size, generator, difficulty)
            return examples.pixels, examples.targets

        trained = fit(config, batches, epochs, epoch_batches, report)
        evaluation = score(for_inference(copy.deepcopy(trained), config), held_out, config.labels)
    training = {
        "command": f"coordserve train --data {data} --width {network.width} --epochs {epochs} --seed {seed}",
        "data": data,
        "epochs": epochs,
        "images_per_epoch": epoch_batches * BATCH,
        "seed": seed,
        "threads": threads,
        "torch": torch.__version__,
        "held_out_correct": evaluation.correct,
        "held_out_total": evaluation.total,
        "held_out_accuracy": round(evaluation.accuracy, 4),
    }
    save(out, config.model_copy(update={"training": training}), trained)
    return evaluation


def fit(
    config: ModelConfig, batches: Batches, epochs: int, epoch_batches: int, report: Callable[[str], None]
) -> nn.Module:
    """A new network of `config`, trained: AdamW, a cosine after a warm-up, smoothed labels, averaged weights."""
    network = create(config.network, config.num_classes).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    averaged = copy.deepcopy(network)
    mean = torch.tensor(config.preprocessing.mean) * 255
    std = torch.tensor(config.preprocessing.std) * 255
    matrices = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, weight_decay=WEIGHT_DECAY)
    steps = epochs * epoch_batches
    network.train()
    for epoch in range(epochs):
        started, loss_sum, right = time.monotonic(), 0.0, 0
        for step in range(epoch * epoch_batches, (epoch + 1) * epoch_batches):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, steps)
            images, targets = batches(BATCH, min(1.0, step / (EASY * steps)))
            logits = network(((images - mean) / std).permute(0, 3, 1, 2))
            loss = F.cross_entropy(logits, targets, label_smoothing=LABEL_SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            average(averaged, network, step)
            loss_sum += loss.item()
            right += int((logits.argmax(dim=1) == targets).sum())
        report(
            f"epoch {epoch + 1:>{len(str(epochs))}}/{epochs}  loss {loss_sum / epoch_batches:.3f}"
            f"  top-1 {right / (epoch_batches * BATCH):.1%}  {time.monotonic() - started:.0f} s"
        )
    return averaged.eval()


def learning_rate(step: int, steps: int) -> float:
    """Of one step of all: up to LEARNING_RATE in a straight line, then down to 0 along a cosine."""
    warm_up = math.ceil(steps * WARM_UP)
    if step < warm_up:
        return LEARNING_RATE * (step + 1) / warm_up
    return LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


@torch.no_grad()
def average(averaged: nn.Module, network: nn.Module, step: int) -> None:
    """Move `averaged`, batch statistics and all, a little towards `network`; far at first, where it knows nothing."""
    share = max(1 / AVERAGED_STEPS, 1 / (step + 1))
    for mean, value in zip(averaged.state_dict().values(), network.state_dict().values(), strict=True):
        if value.is_floating_point():
            mean.lerp_(value, share)
        else:
            mean.copy_(value)


@contextmanager
def reproducible(seed: int, threads: int) -> Iterator[None]:
    """Seeded, deterministic and on a fixed number of threads; afterwards as before."""
    threads_before, deterministic_before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(deterministic_before)
            torch.set_num_threads(threads_before)
