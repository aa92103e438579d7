"""How the cost of an image grows with connections, workers, the size of its picture, classes, and what waits."""

import base64
import json
import os
import re
import resource
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cache as once
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import uvloop

from loadtests import networks
from loadtests.bench.turns import in_turns, spread, spreads
from loadtests.client import Answer, Client, for_seconds, hurry, percentile, post
from loadtests.pictures import photo
from loadtests.running import RunningService
from models.config import BUNDLED_MODEL

CONNECTIONS = 64
QUEUE = 4096  # of every service, instead of 512: nothing is refused
FLAT, LINEAR = 0.0, 1.0
TOLERANCE = 0.15  # of an exponent: rounds on shared cores differ by as much
PARTS = {"worker_us": "workers", "engine_us": "engine", "service_us": "both"}
SIDES = {64: 64, 224: 224, 500: 375, 1000: 750, 2000: 1500, 4000: 3000}
"""widths and heights of the pictures, up to 12 megapixels"""
CLASSES = 10, 100, 1000, 5000, 20_000
SEVERAL = 16  # images in a request, where more is to wait than there are connections
QUEUED = re.compile(rb'"queue_ms":([\d.]+)')


@dataclass(frozen=True)
class Served:
    """Settings of a service; loads with the same ones share it."""

    model: Path = BUNDLED_MODEL
    workers: int = 1
    compile: str = "aot"
    dtype: str = "auto"
    one_core: bool = False


@dataclass(frozen=True)
class Load:
    """One size of what grows, and what is asked of whom: a closed loop."""

    size: int
    served: Served
    request: bytes
    connections: int = CONNECTIONS
    images: int = 1
    """in a request"""


@dataclass(frozen=True)
class Axis:
    """What grows, and as which power of it the CPU of an image may grow at most."""

    name: str
    exponent: float
    sizes: tuple[int, ...]
    short: tuple[int, ...]
    largest: int
    """how many of the sizes are judged: below, batches are small, or what grows is lost in what does not"""
    load: Callable[[int], Load]


def axes(folder: Path) -> list[list[Axis]]:
    """All of them, together those that share services; the networks that they need are made in `folder`."""
    small = post("/v1/predict", photo(224, 224, 75), Content_Type="image/jpeg")
    network = once(partial(networks.with_classes, folder))

    def connections(count: int) -> Load:
        return Load(count, Served(), small, count)

    def workers(count: int) -> Load:
        return Load(count, Served(workers=count), small)

    def pixels(width: int) -> Load:
        picture = photo(width, SIDES[width], 75)
        request = post("/v1/predict", picture, Content_Type="image/jpeg")
        return Load(width * SIDES[width], Served(), request, connections=8)

    # On all cores large networks get other threads and another dtype than small ones, and would not compare; and each
    # would compile for half a minute.
    def classes(best: int | None, count: int) -> Load:
        request = post(f"/v1/predict?top_k={best or count}", photo(32, 32, 75), Content_Type="image/jpeg")
        return Load(count, Served(network(count), compile="off", dtype="float32", one_core=True), request)

    def queue(images: int) -> Load:  # in the engine, which is slower than the worker unless it is compiled
        body = json.dumps({"images": [base64.b64encode(photo(32, 32, 75)).decode()] * SEVERAL})
        request = post("/v1/predict", body.encode(), Content_Type="application/json")
        return Load(images, Served(compile="off"), request, images // SEVERAL, SEVERAL)

    return [
        [
            Axis("connections", FLAT, (1, 10, 100, 500, 1000, 2000), (1, 100), 4, connections),
            Axis("workers", FLAT, (1, 2, 3, 4), (1, 2), 4, workers),
            Axis("pixels of the picture", LINEAR, tuple(SIDES), (64, 1000), 3, pixels),
        ],
        [
            Axis("classes, the best 5 answered", LINEAR, CLASSES, (10, 1000), 3, partial(classes, 5)),
            Axis("classes, all answered", LINEAR, CLASSES, (10, 1000), 3, partial(classes, None)),
        ],
        [Axis("images asked for at a time", FLAT, (16, 64, 256, 1024, 4096), (16, 64), 3, queue)],
    ]


def run(cache: Path, *, short: bool = False) -> list[dict[str, Any]]:
    """Each axis: microseconds of CPU of an image by size, how they grow, and what of that is worse than expected."""
    rounds, seconds = (1, 0.2) if short else (3, 0.7)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for together in axes(Path(folder)):
            loads = [[axis.load(size) for size in (axis.short if short else axis.sizes)] for axis in together]
            with ExitStack() as running:
                services = {
                    served: running.enter_context(_service(served, cache))
                    for served in dict.fromkeys(load.served for along in loads for load in along)
                }
                for served, service in services.items():
                    if served.compile == "aot":
                        service.wait_compiled()
                with hurry():
                    for axis, along in zip(together, loads, strict=True):
                        turns = {load: partial(_cost, services[load.served], load, seconds) for load in along}
                        caps = {load: services[load.served].card()["batch_cap"] for load in along}
                        found.append(_summary(axis, in_turns(turns, rounds), caps))
    return found


def _service(served: Served, cache: Path) -> RunningService:
    """Not started yet."""
    settings = asdict(served)
    one_core = settings.pop("one_core")
    service = RunningService(cache_dir=cache, queue_images=QUEUE, **settings)
    if one_core:
        service.command[:0] = ["taskset", "--cpu-list", str(min(os.sched_getaffinity(0)))]
    return service


def _summary(axis: Axis, found: dict[Load, list[dict[str, float]]], batch_caps: dict[Load, int]) -> dict[str, Any]:
    return {
        "axis": axis.name,
        "exponent": axis.exponent,
        **judged([load.size for load in found][-axis.largest :], list(found.values())[-axis.largest :], axis.exponent),
        "judged": min(axis.largest, len(found)),
        "loads": [
            {
                "size": load.size,
                "request_bytes": len(load.request),
                "connections": load.connections,
                "images": load.images,
                **asdict(load.served),
                "model": load.served.model.name,
                "batch_cap": batch_caps[load],
                **spreads(runs, 3),
            }
            for load, runs in found.items()
        ],
    }


def judged(sizes: list[int], costs: list[list[dict[str, float]]], exponent: float) -> dict[str, Any]:
    """The power of its size as which the cost grows, fitted round by round, and what grows by more than `exponent`.

    costs: by size and round.
    """
    growth = {}
    for part in PARTS:
        rounds = np.log([[run[part] for run in runs] for runs in costs])
        growth[part] = spread([float(slope) for slope in np.polyfit(np.log(sizes), rounds, 1)[0]])
    worse = [part for part, found in growth.items() if found["median"] > exponent + TOLERANCE]
    return {"growth": growth, "worse": worse}


def _cost(service: RunningService, load: Load, seconds: float) -> dict[str, float]:
    return uvloop.run(_closed_loop(service, load, seconds))


async def _closed_loop(service: RunningService, load: Load, seconds: float) -> dict[str, float]:
    """Once every connection is open and has had an answer."""
    workers, engine = service.children("service.worker"), service.children("service.engine")
    client = Client("127.0.0.1", service.port)
    _images(await client.open_loop(load.request, [0.0] * load.connections), load)
    before = _cpu(workers), _cpu(engine)
    answers = await client.closed_loop(load.request, load.connections, for_seconds(seconds))
    after = _cpu(workers), _cpu(engine)
    images = _images(answers, load)
    worker_us, engine_us = (1e6 * (end - start) / images for start, end in zip(before, after, strict=True))
    queued = sum(float(QUEUED.search(answer.body)[1]) for answer in answers)  # type: ignore[index]
    return {
        "worker_us": worker_us,
        "engine_us": engine_us,
        "service_us": worker_us + engine_us,
        "p50_ms": percentile([1000 * answer.seconds for answer in answers], 50),
        # By Little's law, of how long each was in the engine's queue.
        "waiting": load.images * queued / 1000 / max(answer.due + answer.seconds for answer in answers),
    }


def _images(answers: list[Answer], load: Load) -> int:
    """How many were answered: all."""
    assert {answer.status for answer in answers} == {200}, answers[0]
    return len(answers) * load.images


def _cpu(processes: list[psutil.Process]) -> float:
    """Seconds."""
    return sum(sum(process.cpu_times()[:2]) for process in processes)
