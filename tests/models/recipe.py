"""The weights behind the reference outputs in tests/data: a recipe over the names and shapes of the authors' code."""

import json
import math
import zlib
from pathlib import Path

import numpy as np
import torch

DATA = Path(__file__).parent.parent / "data"
REFERENCE = np.load(DATA / "coordatt.npz")


def weights(shapes_file: str) -> dict[str, torch.Tensor]:
    """A state dict in the authors' names, equal to the one that their code computed the references with."""
    shapes = json.loads((DATA / shapes_file).read_text())
    return {name: _tensor(name, shape) for name, shape in shapes.items()}


def _tensor(name: str, shape: list[int]) -> torch.Tensor:
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(("a:" + name).encode())))
    last = name.rpartition(".")[2]
    if last == "num_batches_tracked":
        return torch.zeros(shape, dtype=torch.int64)
    if last in ("running_mean", "bias"):
        values = generator.normal(0, 0.1, shape)
    elif last == "running_var" or len(shape) == 1:
        values = generator.uniform(0.5, 1.5, shape)
    else:
        values = generator.normal(0, math.sqrt(2 / math.prod(shape[1:])), shape)
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


def relative_error(found: torch.Tensor, expected: np.ndarray) -> float:
    return float(np.abs(found.numpy() - expected).max() / np.abs(expected).max())
