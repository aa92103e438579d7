"""Says whether any process of a service unpickles."""

import os
from pathlib import Path


def environment(report: Path) -> dict[str, str]:
    """For a program whose every Python process is to write into `report`: see sitecustomize.py beside this file."""
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "UNPICKLING_FILE": str(report)}
