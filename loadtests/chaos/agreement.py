"""The answers are right.

A thousand pictures, from smooth to noisy, through the compiled network as it is served, against the eager float32
network. Scores differ as a part of the highest of their image.
"""

import tempfile
from pathlib import Path

import torch

from loadtests.chaos.finding import Finding
from loadtests.networks import compiled, imagenet_sized
from loadtests.pictures import blots
from models import compile as compiler
from models import directory
from models.config import BUNDLED_MODEL
from models.inference import for_inference

# Measured: 100 % and 4e-6 in float32, 98.1 % and 0.15 in bfloat16; asked with room for another CPU.
AGREEMENT = {"float32": 0.999, "bfloat16": 0.95}
WORST = {"float32": 1e-4, "bfloat16": 0.25}
COUNT, BATCH = 1000, 8


def run(long: bool, cache: Path) -> list[Finding]:
    findings = [_agreement("bundled network", BUNDLED_MODEL, cache, "float32")]
    if long:
        findings.append(_agreement("bundled network", BUNDLED_MODEL, cache, "bfloat16"))
        with tempfile.TemporaryDirectory() as folder:
            model = imagenet_sized(Path(folder))
            findings.append(_agreement("MobileNetV2+CA 1.0 at 224, random weights", model, cache, "float32"))
    return findings


def _agreement(name: str, model: Path, cache: Path, dtype: str) -> Finding:
    config, network = directory.load(model)
    target = compiled(model, cache, dtype)
    served = compiler.load_package(compiler.package_path(cache, model, target), target)
    eager = for_inference(network, config)
    images = torch.from_numpy(blots(COUNT, config.preprocessing.input_size))
    worst, same = 0.0, 0
    with torch.inference_mode():
        for batch in images.split(BATCH):
            expected, found = eager(batch), served(batch)
            highest = expected.max(dim=1, keepdim=True).values
            worst = max(worst, float(((found - expected).abs() / highest).max()))
            same += int((found.argmax(dim=1) == expected.argmax(dim=1)).sum())
    return Finding(
        f"{name}, {target.dtype}: top-1 agreement and worst difference over {COUNT:,} pictures",
        f"at least {AGREEMENT[target.dtype]:.1%}, at most {WORST[target.dtype]:g}",
        f"{same / COUNT:.1%}, {worst:.2g}",
        same / COUNT >= AGREEMENT[target.dtype] and worst <= WORST[target.dtype],
    )
