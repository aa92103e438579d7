"""On what something was measured."""

import importlib.metadata
import os
import platform
import re
from datetime import date
from pathlib import Path
from typing import Any

from service.settings import available_cores

SENTENCE = """{date}: {cores} cores of {cpu}, Linux {kernel}, {versions};
load average before it {load_average_before:g}."""


def cpu() -> str:
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return found.group(1) if found else platform.processor()


def versions(*distributions: str) -> dict[str, str]:
    """Of Python, and of those that are installed."""
    found = {"Python": platform.python_version()}
    for name in distributions:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def conditions(*distributions: str) -> dict[str, Any]:
    """Day, machine, how much else it had to do in the last minute, and versions."""
    return {
        "date": date.today().isoformat(),
        "cpu": cpu(),
        "cores": available_cores(),
        "kernel": platform.release(),
        "load_average_before": round(os.getloadavg()[0], 2),
        "versions": versions("coordserve", *distributions),
    }


def sentence(found: dict[str, Any]) -> str:
    """Conditions, for a page."""
    return SENTENCE.format(**{**found, "versions": ", ".join(" ".join(one) for one in found["versions"].items())})
