"""How long it takes from `coordserve serve` to an answer, and Python to import torch."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from loadtests.bench.turns import in_turns, spread
from loadtests.pictures import photo
from loadtests.running import RunningService

FIRST = "to_first_answer_with_an_empty_cache"
IMPORT = "to_import_torch"
COMPILED = "to_first_compiled_answer_with_a_warm_cache"


def run(cache: Path, *, short: bool = False) -> dict[str, Any]:
    """Seconds, of the bundled network; `cache` has its package."""
    ways = {
        IMPORT: _import_torch,
        FIRST: partial(_seconds, None, lambda service: True),
        COMPILED: partial(_seconds, cache, lambda service: service.card()["form"] == "aot"),
    }
    found = in_turns(ways, 1 if short else 5)
    beyond = [compiled - imported for compiled, imported in zip(found[COMPILED], found[IMPORT], strict=True)]
    return {name: spread(seconds) for name, seconds in {**found, "beyond_import_torch": beyond}.items()}


def _import_torch() -> float:
    """Of a Python that does nothing else."""
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    return time.monotonic() - started


def _seconds(cache: Path | None, until: Callable[[RunningService], bool]) -> float:
    """From the start to the first 200, for which `until` must hold."""
    picture = photo(224, 224, 75)
    with tempfile.TemporaryDirectory() as empty, RunningService(cache_dir=cache or empty) as service:
        answer = httpx.post(f"{service.url}/v1/predict", content=picture, headers={"Content-Type": "image/jpeg"})
        seconds = time.monotonic() - service.started
        assert answer.status_code == 200, answer.text
        assert until(service)
    return seconds
