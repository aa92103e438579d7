"""Images/s from end to end, by what is sent and how many workers there are, and where the time of a request goes."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loadtests.client import post
from loadtests.device.load import closed_loop
from loadtests.pictures import photo
from loadtests.running import RunningService
from models.config import read_config

WORKERS = 1, 2, 4, 8, 16
CONNECTIONS = 512
PROCESSES = 4  # of the load
STAGE = re.compile(r'coordserve_stage_duration_seconds_(sum|count)\{stage="(\w+)"\} (\S+)')


def requests(model: Path) -> dict[str, bytes]:
    """What is sent: the network's own pixels, and JPEGs."""
    config = read_config(model)
    size = config.preprocessing.input_size
    pixels = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), np.uint8)
    jpegs = {"JPEG 9 kB": photo(224, 224, 75), "JPEG 37 kB": photo(500, 375, 85)}
    sent = {name: post("/v1/predict", jpeg, Content_Type="image/jpeg") for name, jpeg in jpegs.items()}
    return {"raw tensor": raw(config.name, pixels), **sent}


def raw(model: str, pixels: NDArray[np.uint8]) -> bytes:
    """A request of the Open Inference Protocol with a binary tensor, pixels uint8 [n, S, S, 3]."""
    binary = {"binary_data_size": pixels.nbytes}
    tensor = {"name": "image", "shape": list(pixels.shape), "datatype": "UINT8", "parameters": binary}
    head = json.dumps({"inputs": [tensor]}).encode()
    headers = {"Content_Type": "application/octet-stream", "Inference_Header_Content_Length": str(len(head))}
    return post(f"/v2/models/{model}/infer", head + pixels.tobytes(), **headers)


def run(
    model: Path,
    cache: Path,
    seconds: float,
    workers: tuple[int, ...] = WORKERS,
    going: Callable[[], bool] = lambda: True,
    jpegs_only: bool = False,
    **settings: Any,
) -> list[dict[str, Any]]:
    """A row for each number of workers and each kind of request; no further number once going() says so."""
    found: list[dict[str, Any]] = []
    for count in workers:
        if not going():
            break
        with RunningService(model=model, cache_dir=cache, workers=count, **settings) as service:
            service.wait_compiled()
            for sent, request in requests(model).items():
                if jpegs_only and not sent.startswith("JPEG"):
                    continue
                closed_loop(service.port, request, CONNECTIONS, seconds / 4, PROCESSES)  # warm
                before = _stages(service)
                figures = closed_loop(service.port, request, CONNECTIONS, seconds, PROCESSES)
                found.append({"sent": sent, "workers": count, **figures, **_shares(before, _stages(service), figures)})
    return found


def _stages(service: RunningService) -> dict[tuple[str, str], float]:
    """Sums and counts of the stages' seconds so far."""
    return {(kind, stage): float(value) for kind, stage, value in STAGE.findall(service.get("/metrics")[1].decode())}


def _shares(
    before: dict[tuple[str, str], float], after: dict[tuple[str, str], float], figures: dict[str, Any]
) -> dict[str, float | None]:
    """Milliseconds of a request in decoding, queue and engine, and in everything else: HTTP, both sides of it."""
    found: dict[str, float | None] = {}
    for stage in ("decode", "queue", "infer"):
        count = after["count", stage] - before["count", stage]
        spent = after["sum", stage] - before["sum", stage]
        found[f"{stage}_ms"] = round(1000 * spent / count, 3) if count else None
    known = [value for value in found.values() if value is not None]
    found["http_ms"] = round(figures["mean_ms"] - sum(known), 3) if figures["mean_ms"] else None
    return found
