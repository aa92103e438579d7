"""How many images a second the engine computes, beside every other way to run the same network, and alone."""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from loadtests import networks
from loadtests.bench import engine_alone
from loadtests.bench.rivals import COMPILING, RIVALS, LeftOut, Make, Subject
from loadtests.bench.turns import in_turns, rate, ratio, spread
from models import compile as compiler
from models.compile import PackageRefused

BATCHES = 1, 8, 32
# What compiles for half a minute for each of them does so only for the dtype that is served, at one batch size.
COMPILED_BATCH = 8
DTYPES = "float32", "bfloat16"


@patch.dict(os.environ)  # torch leaves the folder of its caches there, and the services that come next inherit it
def run(models: list[Path], cache: Path, *, short: bool = False, rivals: Mapping[str, Make] = RIVALS) -> dict[str, Any]:
    """Every network, dtype and batch size; in short only the dtype that is served, at one batch size."""
    ways = []
    with tempfile.TemporaryDirectory() as scratch:
        for model in models:
            served = networks.target(model)
            native = DTYPES if compiler.has_native_bfloat16(served.device) else DTYPES[:1]
            for dtype in (served.dtype,) if short else native:
                subject = Subject(model, networks.compiled(model, cache, dtype), cache, Path(scratch))
                for batch in (COMPILED_BATCH,) if short else BATCHES:
                    compiles = (dtype, batch) == (served.dtype, COMPILED_BATCH)
                    asked = {name: make for name, make in rivals.items() if compiles or make not in COMPILING}
                    ways.append(compare(subject, batch, asked, *((1, 0.1) if short else (7, 0.5))))
        turns = (2, 0.3) if short else (10, 1.0)
        alone = [engine_alone.compare(model, cache, tempfile.mkdtemp(dir=scratch), *turns) for model in models]
    return {"ways": ways, "alone": alone}


def compare(subject: Subject, batch: int, rivals: Mapping[str, Make], rounds: int, seconds: float) -> dict[str, Any]:
    """Images/s of each way that agrees with eager float32, in turns, and how much faster the package is."""
    torch.set_num_threads(subject.target.threads)
    images = subject.images(batch)
    with torch.inference_mode():
        scores = subject.served(torch.float32)(images)
    ways, left_out = {}, {}
    for name, make in rivals.items():
        try:
            run = make(subject, images)
            compiler.refuse_disagreement(partial(_first, run), images, scores, subject.target.dtype)
        except (LeftOut, PackageRefused) as reason:
            left_out[name] = str(reason)
        else:
            ways[name] = partial(rate, run, images, seconds)
    found = in_turns(ways, rounds)
    return {
        "network": subject.model.name,
        **asdict(subject.target),
        "batch": batch,
        "images_per_second": {name: spread(rates, 1) for name, rates in found.items()},
        "aot_over": {name: ratio(found["aot"], rates) for name, rates in found.items() if name != "aot"},
        "left_out": left_out,
    }


def _first(run: compiler.Run, images: torch.Tensor) -> torch.Tensor:
    return run(images)[: len(images)]
