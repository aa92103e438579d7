"""`make loadtest`: the service under a shape of load, judged by its objectives, as a page and an exit code."""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from http.client import HTTPException
from pathlib import Path
from typing import Any

import psutil

from loadtests import machine
from loadtests.arguments import count, positive
from loadtests.report import page
from loadtests.running import RunningService, free_port
from loadtests.shapes import SHAPES
from loadtests.slo import SloError, read
from service.settings import Settings, available_cores

FOLDER = Path(__file__).parent
PACKAGES = ("coordserve", "locust", "torch", "fastapi", "uvicorn", "pillow", "simplejpeg")
STOP_SECONDS = 12  # longer than the locustfile waits for an answer


def main() -> int:
    """0: the objectives hold; 1: one does not; 2: there was no run."""
    options = _options()
    signal.signal(signal.SIGTERM, _interrupt)  # so that what was started is stopped
    try:
        return run(options)
    except KeyboardInterrupt:
        print("loadtest: interrupted; there is no page", file=sys.stderr)
        return 2


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def run(options: argparse.Namespace) -> int:
    """As main."""
    shape = SHAPES[options.shape]
    try:
        read(options.slo)
    except SloError as error:
        print(f"loadtest: {error}", file=sys.stderr)
        return 2
    if not os.access(options.out.resolve().parent, os.W_OK) or options.out.is_dir():
        print(f"loadtest: {options.out} cannot be written; name another --out", file=sys.stderr)
        return 2
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url, settings = options.url.rstrip("/"), {}
        if not url:
            service = stack.enter_context(own_service())
            url, settings = service.url, {**Settings().model_dump(), "port": service.port}
        try:
            model = card(url)
        except (OSError, ValueError, HTTPException) as error:
            print(f"loadtest: {url} does not answer: {error}", file=sys.stderr)
            return 2
        except (LookupError, TypeError, AttributeError):
            print(f"loadtest: what answers at {url} is not coordserve", file=sys.stderr)
            return 2
        started, record = datetime.now(UTC), folder / "record.json"
        seconds = options.seconds or shape.seconds
        print(f"{options.shape}: {shape.what}, {seconds} s against {url}", file=sys.stderr)
        command = locust(url, options, seconds, record)
        code = subprocess.run(command, cwd=FOLDER.parent, stdin=subprocess.DEVNULL).returncode
        if not record.exists():
            print("loadtest: locust did not get to run; see above", file=sys.stderr)
            return 2
        about = {
            "Run": {"when": f"{started:%Y-%m-%d %H:%M} UTC", "address": url, "locust's processes": options.processes},
            "This machine": this_machine(),
            "Versions here": machine.versions(*PACKAGES),
            "Model": model,
        }
        if settings:
            about["Settings of the service"] = settings
        options.out.write_text(page(json.loads(record.read_text()), about))
    print(f"see {options.out}", file=sys.stderr)
    return code


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtests.loadtest", description=__doc__)
    parser.add_argument(
        "--shape",
        choices=SHAPES,
        default="steady",
        help="; ".join(f"{name}: {one.what}" for name, one in SHAPES.items()),
    )
    parser.add_argument("--seconds", type=count, help="how long (default: as the shape has it)")
    parser.add_argument("--users", type=count, default=8, help="at once, each 0.1 s between requests")
    parser.add_argument("--rate", type=positive, default=50.0, help="requests/s of the shape poisson")
    parser.add_argument("--processes", type=count, default=1, help="of locust; each keeps one core busy at most")
    parser.add_argument(
        "--url", default="", help="of a service that runs, its key in COORDSERVE_API_KEY (default: start one)"
    )
    parser.add_argument("--slo", type=Path, default=FOLDER / "slo.toml", help="the file of objectives")
    parser.add_argument("--out", type=Path, default=Path("loadtest.html"), help="the page")
    return parser.parse_args()


@contextlib.contextmanager
def own_service() -> Iterator[RunningService]:
    """With the settings of the environment, on a free port, and compiled before it is measured."""
    print("starting the service; it compiles its network first, once", file=sys.stderr)
    with RunningService() as service:
        if Settings().compile == "aot":
            service.wait_compiled()
        yield service


def locust(url: str, options: argparse.Namespace, seconds: int, record: Path) -> list[str]:
    """Its command."""
    command = [sys.executable, "-m", "locust", "--headless", "--only-summary", "--loglevel", "WARNING", "--host", url]
    command += ["--locustfile", str(FOLDER / "locustfile.py"), "--stop-timeout", str(STOP_SECONDS)]
    command += ["--shape", options.shape, "--users", str(options.users), "--rate", str(options.rate)]
    command += ["--run-time", f"{seconds}s", "--slo", str(options.slo.resolve()), "--record", str(record)]
    if options.processes > 1:
        port = str(free_port())
        command += ["--processes", str(options.processes), "--master-bind-host", "127.0.0.1"]
        command += ["--master-bind-port", port, "--master-port", port]
    return command


def this_machine() -> dict[str, Any]:
    return {
        "processor": machine.cpu(),
        "cores": available_cores(),
        "memory": f"{psutil.virtual_memory().total / 2**30:.1f} GiB",
        "system": " ".join(os.uname()[0:3:2]),
    }


def card(url: str) -> dict[str, Any]:
    """What the service says of its model, but for what is long."""
    with urllib.request.urlopen(f"{url}/v1/models", timeout=10) as answer:
        found = json.load(answer)["models"][0]
    return {name: value for name, value in found.items() if name != "preprocessing"}


if __name__ == "__main__":
    sys.exit(main())
