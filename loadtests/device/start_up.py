"""Seconds from `coordserve serve` to ready: compiled, with the package in the cache, and eagerly without."""

import tempfile
import time
from pathlib import Path
from typing import Any

from loadtests.running import RunningService


def run(model: Path, cache: Path, **settings: Any) -> dict[str, float]:
    found = {"compiled": _seconds(model, cache, **settings)}
    with tempfile.TemporaryDirectory() as empty:
        found["eager"] = _seconds(model, Path(empty, "cache"), compile="off", **settings)
    return found


def _seconds(model: Path, cache: Path, **settings: Any) -> float:
    with RunningService(model=model, cache_dir=cache, **settings) as service:
        return round(time.monotonic() - service.started, 2)
