"""wrk, the load generator in closed loop: what it is told, and what it says."""

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

CONNECTIONS = 64
PATIENCE = 30  # seconds; an answer that takes longer is an error
SCRIPT = """
local file = io.open("%s", "rb")
wrk.method, wrk.body = "POST", file:read("*all")
wrk.headers["Content-Type"] = "%s"
"""
MILLISECONDS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 60e3}


@dataclass(frozen=True)
class Run:
    """What came back within the time."""

    requests: int
    errors: int
    """answers other than 2xx and 3xx, connections that failed, answers that came too late"""
    requests_per_second: float
    """without those that were answered by an error"""
    p50_ms: float
    p99_ms: float


def is_there(command: str) -> bool:
    """Whether wrk is installed; says so where it is not."""
    if shutil.which("wrk"):
        return True
    print(f"{command}: needs wrk, the load generator (Debian: apt-get install wrk)", file=sys.stderr)
    return False


def script(folder: Path, body: bytes, content_type: str) -> Path:
    """The request that wrk is to send, written to files in `folder`."""
    sent, lua = folder / "body", folder / "post.lua"
    sent.write_bytes(body)
    lua.write_text(SCRIPT % (sent, content_type))
    return lua


def run(url: str, script: Path, seconds: float) -> Run:
    """Load `url` with CONNECTIONS connections, each sending its next request after the answer to the one before."""
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{max(1, round(seconds))}s", f"--timeout={PATIENCE}s", "--latency"]
    return read(subprocess.run([*command, "-s", str(script), url], capture_output=True, text=True).stdout)


def read(text: str) -> Run:
    """What wrk printed; nothing at all where nobody listens."""
    requests = int(_found(r"(\d+) requests in", text) or 0)
    refused = int(_found(r"Non-2xx or 3xx responses: (\d+)", text) or 0)
    broken = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    rate = float(_found(r"Requests/sec:\s+([\d.]+)", text) or 0)
    return Run(
        requests=requests,
        errors=refused + (sum(map(int, broken.groups())) if broken else requests == 0),
        requests_per_second=rate * (1 - refused / max(requests, 1)),
        p50_ms=_latency(50, text),
        p99_ms=_latency(99, text),
    )


def _latency(percentile: int, text: str) -> float:
    found = re.search(rf"\b{percentile}%\s+([\d.]+)(us|ms|s|m)\b", text)
    return float(found[1]) * MILLISECONDS[found[2]] if found and float(found[1]) else float("nan")


def _found(pattern: str, text: str) -> str | None:
    match = re.search(pattern, text)
    return match[1] if match else None
