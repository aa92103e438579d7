"""Pictures of one striped patch somewhere on a noisy ground: the same pictures ask what it is, or where it is."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from models.config import Preprocessing
from models.training.data import Examples

Task = Literal["where", "what"]

SIZE = 64
GRID = 4  # "where": in which of 4x4 cells the patch's centre lies
# "what": which of 4 directions its stripes have, and which of 4 widths, so that chance is 1 in 16 for both.
DIRECTIONS = tuple(index * math.pi / 4 for index in range(GRID))
WAVELENGTHS = (3.5, 5.0, 7.0, 10.0)  # pixels
INSIDE = 0.15  # how far from the edges every centre stays, as a part of the picture's width
SPREAD = (8.0, 11.0)  # standard deviation of the patch's Gaussian outline, pixels
TURN = 0.15  # radians that a direction varies by; two are 0.79 apart
STRETCH = 0.06  # by how much a wavelength varies; two are a factor of 1.4 apart
CONTRAST = (0.25, 0.5)
NOISE = 0.05  # standard deviation; pixels are 0 to 1
PREPROCESSING = Preprocessing(input_size=SIZE, resize_size=SIZE, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
LABELS: dict[Task, tuple[str, ...]] = {
    "where": tuple(f"row {row} column {column}" for row in range(GRID) for column in range(GRID)),
    "what": tuple(
        f"{math.degrees(direction):.0f} degrees {wavelength} pixels"
        for direction in DIRECTIONS
        for wavelength in WAVELENGTHS
    ),
}
HELD_OUT_SEED = 1_000_000_007  # one held-out set for every run


@dataclass(frozen=True)
class Gratings:
    """Endless pictures for training, some batches held out; `task` says which label they bear."""

    task: Task
    seed: int
    epoch_batches: int
    batch_size: int
    held_out_batches: int = 32

    preprocessing = PREPROCESSING

    @property
    def labels(self) -> tuple[str, ...]:
        return LABELS[self.task]

    def epoch(self, number: int) -> Iterator[Examples]:
        return self._batches(1_000 * self.seed + number, self.epoch_batches)

    def held_out(self) -> Iterator[Examples]:
        return self._batches(HELD_OUT_SEED, self.held_out_batches)

    def _batches(self, seed: int, count: int) -> Iterator[Examples]:
        generator = Generator().manual_seed(seed)
        for _ in range(count):
            pictures = draw(self.batch_size, generator)
            yield Examples(pictures.pixels, pictures.where if self.task == "where" else pictures.what)


@dataclass(frozen=True)
class Pictures:
    """Drawn pictures uint8 [N, SIZE, SIZE, 3], and both their labels, int64 [N]."""

    pixels: Tensor
    where: Tensor
    what: Tensor


def draw(count: int, generator: Generator) -> Pictures:
    """`count` pictures at random: kind, place, phase, colours, ground and noise independent of each other."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.empty(count, *shape).uniform_(low, high, generator=generator)

    what = torch.randint(len(LABELS["what"]), (count,), generator=generator)
    direction = torch.tensor(DIRECTIONS)[what // GRID] + uniform(-TURN, TURN)
    wavelength = torch.tensor(WAVELENGTHS)[what % GRID] * (1 + uniform(-STRETCH, STRETCH))
    place = uniform(0, 1, 2)
    column, row = (place * GRID).long().unbind(1)
    x, y = (SIZE * (INSIDE + (1 - 2 * INSIDE) * place)).view(-1, 2, 1, 1).unbind(1)

    axis = torch.arange(SIZE) + 0.5
    across, down = axis - x, axis.view(-1, 1) - y
    cos, sin = direction.cos().view(-1, 1, 1), direction.sin().view(-1, 1, 1)
    phase = 2 * math.pi * ((cos * across + sin * down) / wavelength.view(-1, 1, 1) + uniform(0, 1, 1, 1))
    outline = (-0.5 * (across.square() + down.square()) / uniform(*SPREAD, 1, 1).square()).exp()
    stripes = (phase.sin() * outline).unsqueeze(1)

    ground = F.interpolate(uniform(0.3, 0.7, 3, 4, 4), size=SIZE, mode="bicubic")
    noise = torch.empty(count, 3, SIZE, SIZE).normal_(0, NOISE, generator=generator)
    rgb = ground + uniform(*CONTRAST, 1, 1, 1) * uniform(0.5, 1.0, 3, 1, 1) * stripes + noise
    pixels = rgb.clamp(0, 1).mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    return Pictures(pixels, row * GRID + column, what)
