"""How long one core takes from an encoded picture to the network's pixels, beside Pillow."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from loadtests.bench.turns import in_turns, ratio, spread
from loadtests.networks import IMAGENET
from loadtests.pictures import photo, with_pillow
from models.config import BUNDLED_MODEL, Preprocessing, read_config
from models.images import Picture

SMALL, MEDIUM = "JPEG 224x224", "JPEG 500x375"
PICTURES = {
    SMALL: (224, 224, 75, "JPEG"),
    MEDIUM: (500, 375, 85, "JPEG"),
    "JPEG 4000x3000": (4000, 3000, 75, "JPEG"),
    "PNG 500x375": (500, 375, 0, "PNG"),
    "WebP 500x375": (500, 375, 85, "WEBP"),
}


def encoded(name: str) -> bytes:
    """One of PICTURES."""
    return photo(*PICTURES[name])


def run(*, short: bool = False) -> list[dict[str, Any]]:
    """Every picture for a network at 224, and the smallest for the bundled one."""
    bundled = read_config(BUNDLED_MODEL).preprocessing
    asked = [(SMALL, bundled), *((name, IMAGENET) for name in PICTURES)]
    return [compare(name, preprocessing, *((1, 0.05) if short else (7, 0.3))) for name, preprocessing in asked]


def compare(name: str, preprocessing: Preprocessing, rounds: int, seconds: float) -> dict[str, Any]:
    """Milliseconds of CPU a picture, as a worker does it and as Pillow does."""
    data = encoded(name)
    ways = {
        "worker": partial(milliseconds, lambda: Picture(data).pixels(preprocessing), seconds),
        "pillow": partial(milliseconds, lambda: with_pillow(data, preprocessing), seconds),
    }
    found = in_turns(ways, rounds)
    return {
        "picture": name,
        "bytes": len(data),
        "network_pixels": preprocessing.input_size,
        "worker_ms": spread(found["worker"], 4),
        "pillow_ms": spread(found["pillow"], 4),
        "pillow_over_worker": ratio(found["pillow"], found["worker"]),
    }


def milliseconds(work: Callable[[], object], seconds: float) -> float:
    """Of this thread's CPU, a call; about `seconds` of calls."""
    work()
    calls, started = 0, time.thread_time()
    while (now := time.thread_time()) < started + seconds:
        work()
        calls += 1
    return 1000 * (now - started) / calls
