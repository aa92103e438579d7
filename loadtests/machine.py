"""On what something was measured."""

import importlib.metadata
import os
import platform
import re
from datetime import date
from pathlib import Path
from typing import Any

from service.settings import available_cores


def cpu() -> str:
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return found.group(1) if found else platform.processor()


def conditions(*distributions: str) -> dict[str, Any]:
    """Day, machine, how much else it had to do in the last minute, and the versions of what is installed."""
    return {
        "date": date.today().isoformat(),
        "machine": {"cpu": cpu(), "cores": available_cores(), "kernel": platform.release()},
        "load_average_before": round(os.getloadavg()[0], 2),
        "versions": {"Python": platform.python_version(), **_versions(distributions)},
    }


def _versions(distributions: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for name in distributions:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
