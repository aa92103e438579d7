"""Load in closed loop from several processes, of which one alone would be what is measured.

`python -m loadtests.device.load PORT CONNECTIONS SECONDS < REQUEST` is one of them.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import mean
from typing import Any

import uvloop

from loadtests.client import Client, hurry, percentile

PATIENCE = 30.0
ROOT = Path(__file__).parents[2]


def closed_loop(port: int, request: bytes, connections: int, seconds: float, processes: int) -> dict[str, Any]:
    """Answers a second, how long they took, and how many were no 200."""
    command = [sys.executable, "-m", "loadtests.device.load", str(port), str(connections // processes), str(seconds)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    clients = [subprocess.Popen(command, cwd=ROOT, **pipes) for _ in range(processes)]
    for client in clients:
        assert client.stdin
        client.stdin.write(request)
        client.stdin.close()
    found = []
    for client in clients:
        assert client.stdout
        found += json.loads(client.stdout.read())
        client.wait()
    times = [1000 * took for took, status in found if status == 200]
    return {
        "requests_per_second": round(len(times) / seconds, 1),
        "mean_ms": round(mean(times), 3) if times else None,
        "p50_ms": round(percentile(times, 50), 3) if times else None,
        "p99_ms": round(percentile(times, 99), 3) if times else None,
        "errors": sum(status != 200 for _, status in found),
    }


async def _load(port: int, request: bytes, connections: int, seconds: float) -> list[tuple[float, int]]:
    """Seconds and status of every answer."""
    client = Client("127.0.0.1", port)
    until = time.monotonic() + seconds
    answers = await client.closed_loop(request, connections, lambda: time.monotonic() < until, PATIENCE)
    return [(answer.seconds, answer.status) for answer in answers]


if __name__ == "__main__":
    port, connections, seconds = sys.argv[1:]
    with hurry():
        found = uvloop.run(_load(int(port), sys.stdin.buffer.read(), int(connections), float(seconds)))
    json.dump(found, sys.stdout)
