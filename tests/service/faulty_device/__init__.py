"""A service whose device fails on demand, and which is not patient."""

import os
from pathlib import Path

from loadtests.running import RunningService


def service_on(fault: Path, cache: Path, **settings: object) -> RunningService:
    """One worker, and an engine whose device fails as the file `fault` says: see sitecustomize.py beside this file."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "FAULT_FILE": str(fault)}
    return RunningService(workers=1, cache_dir=cache, environment=environment, **settings)
