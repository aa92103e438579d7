"""LitServe on the same device, with the service's own decoder and compiled network, where it is installed."""

import importlib.util
import sys
import tempfile
from pathlib import Path
from typing import Any

from loadtests.compare import servers
from loadtests.compare.settings import Setting
from loadtests.device.load import closed_loop
from loadtests.device.serving import CONNECTIONS, PROCESSES
from loadtests.pictures import photo

MAX_BATCH = 64


def run(model: Path, package: Path, seconds: float) -> dict[str, Any]:
    """Its answers/s with 37 kB JPEGs, or why there are none."""
    if importlib.util.find_spec("litserve") is None:
        return {"left_out": "litserve is not installed in this environment (pip install litserve)"}
    picture = photo(500, 375, 85)
    setting = Setting("device", "", "imagenet", (500, 375, 85), decoder="ours", max_batch=MAX_BATCH, tolerance=1.0)
    with (
        tempfile.TemporaryDirectory() as folder,
        servers.peer("litserve", Path(sys.executable), setting, model, package, picture, Path(folder)) as server,
    ):
        request = server.request(picture)
        closed_loop(server.port, request, CONNECTIONS, seconds / 4, PROCESSES)  # warm
        return closed_loop(server.port, request, CONNECTIONS, seconds, PROCESSES)
