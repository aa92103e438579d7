"""The answers are right.

A thousand pictures, from smooth to noisy, through the compiled network as it is served, against the eager float32
network. Scores differ as a part of the highest of their image.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from loadtests.bench import compiled, imagenet_sized
from loadtests.chaos.finding import Finding
from models import compile as compiler
from models import cost, directory
from models.config import BUNDLED_MODEL
from models.inference import for_inference
from service.settings import available_cores

# Measured on these pictures, and room for another CPU: see docs/decisions.md.
WORST = {"float32": 1e-4, "bfloat16": 0.15}
AGREEMENT = {"float32": 1.0, "bfloat16": 0.97}
BATCH = 8


def run(long: bool, cache: Path) -> list[Finding]:
    findings = [_agreement("bundled network", BUNDLED_MODEL, 1000, cache)]
    if long:
        with tempfile.TemporaryDirectory() as folder:
            model = imagenet_sized(Path(folder))
            compiled(model, cache)
            findings.append(_agreement("MobileNetV2+CA 1.0 at 224, random weights", model, 1000, cache))
    return findings


def pictures(count: int, size: int) -> NDArray[np.uint8]:
    """uint8 [count, size, size, 3]: blots of every coarseness, with more and less grain."""
    generator = np.random.default_rng(0)
    found = np.empty((count, size, size, 3), np.uint8)
    for index in range(count):
        coarse = int(generator.integers(2, size // 2))
        blots = Image.fromarray(generator.integers(0, 256, (coarse, coarse, 3), dtype=np.uint8))
        smooth = np.asarray(blots.resize((size, size), Image.Resampling.BICUBIC)).astype(float)
        grain = generator.normal(0, generator.uniform(0, 30), smooth.shape)
        found[index] = (smooth + grain).clip(0, 255)
    return found


def _agreement(name: str, model: Path, count: int, cache: Path) -> Finding:
    config, network = directory.load(model)
    work = cost.multiply_adds(network, config.preprocessing.input_size)
    target = compiler.choose_target("cpu", "auto", available_cores(), work)
    served = compiler.load_package(compiler.package_path(cache, model, target), target)
    eager = for_inference(network, config)
    images = torch.from_numpy(pictures(count, config.preprocessing.input_size))
    worst, same = 0.0, 0
    with torch.inference_mode():
        for batch in images.split(BATCH):
            expected, found = eager(batch), served(batch)
            highest = expected.max(dim=1, keepdim=True).values
            worst = max(worst, float(((found - expected).abs() / highest).max()))
            same += int((found.argmax(dim=1) == expected.argmax(dim=1)).sum())
    return Finding(
        f"{name}, {target.dtype}: top-1 agreement and worst difference over {count:,} pictures",
        f"at least {AGREEMENT[target.dtype]:.0%}, at most {WORST[target.dtype]:g}",
        f"{same / count:.1%}, {worst:.2g}",
        same / count >= AGREEMENT[target.dtype] and worst <= WORST[target.dtype],
    )
