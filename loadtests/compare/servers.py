"""Servers to compare, started, watched, paused and stopped alike: the service and its peers."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from loadtests.client import post
from loadtests.compare.environments import PEERS as PEERS_FOLDER
from loadtests.compare.settings import Setting
from loadtests.running import RunningService, free_port, wait_until

OURS = "coordserve"
ROOT = PEERS_FOLDER.parent.parent
START_SECONDS, STOP_SECONDS = 180, 30
BOUNDARY = "picture"
FORM = (
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="%s"; filename="picture.jpg"\r\n'
    "Content-Type: image/jpeg\r\n\r\n"
)


class NotStarted(Exception):
    """A peer that does not come up; the message says why."""


@dataclass(frozen=True)
class Peer:
    """How a peer is started and asked."""

    path: str
    health: str
    field: str | None = None
    """of a form; a raw body if there is none"""
    command: str = "-m loadtests.peers.{name}.server"


PEERS = {
    "fastapi": Peer("/predict", "/health"),
    "mosec": Peer("/inference", "/"),
    "litserve": Peer("/predict", "/health", field="image"),
    "bentoml": Peer(
        "/predict",
        "/healthz",
        field="images",
        command="-m bentoml serve loadtests.peers.bentoml.server:Classifier --host 127.0.0.1 --port {port}",
    ),
    "ray": Peer("/predict", "/-/healthz"),
    "torchserve": Peer("/predictions/classifier", "/ping"),
}
QUIET = {"BENTOML_DO_NOT_TRACK": "True", "RAY_USAGE_STATS_ENABLED": "0"}


@dataclass(frozen=True)
class Server:
    """A server that runs."""

    name: str
    port: int
    process: subprocess.Popen
    how: Peer
    computed: Callable[[], int]
    """how many images its network has seen"""
    seen: set[psutil.Process] = field(default_factory=set, repr=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{self.how.path}"

    def body(self, picture: bytes) -> tuple[bytes, str]:
        """What asks about a JPEG, and its content type."""
        if self.how.field is None:
            return picture, "image/jpeg"
        form = (FORM % self.how.field).encode() + picture + f"\r\n--{BOUNDARY}--\r\n".encode()
        return form, f"multipart/form-data; boundary={BOUNDARY}"

    def request(self, picture: bytes) -> bytes:
        body, content_type = self.body(picture)
        return post(self.how.path, body, Content_Type=content_type)

    def ask(self, picture: bytes) -> httpx.Response:
        body, content_type = self.body(picture)
        return httpx.post(self.url, content=body, headers={"Content-Type": content_type}, timeout=30)

    def tree(self) -> list[psutil.Process]:
        """All its processes, those included that lost their parents since it was asked before."""
        with contextlib.suppress(psutil.NoSuchProcess):
            main = psutil.Process(self.process.pid)
            self.seen.update([main, *main.children(recursive=True)])
        return [process for process in self.seen if process.is_running()]

    def cpu_seconds(self) -> float:
        """Of all its processes since they were started, those that have ended included."""
        seconds = 0.0
        for process in self.tree():
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                seconds += times.user + times.system + times.children_user + times.children_system
        return seconds

    def memory_mb(self) -> float:
        """Of all its processes; what they share is counted once."""
        total = 0
        for process in self.tree():
            with contextlib.suppress(psutil.Error):
                total += process.memory_full_info().pss
        return total / 1e6

    def idle_cores(self, seconds: float) -> float:
        """How much of a core it takes while nobody asks."""
        before = self.cpu_seconds()
        time.sleep(seconds)
        return (self.cpu_seconds() - before) / seconds

    def signal(self, number: signal.Signals) -> None:
        """To all its processes."""
        for process in self.tree():
            with contextlib.suppress(psutil.Error):
                process.send_signal(number)


@contextlib.contextmanager
def ours(model: Path, cache: Path) -> Iterator[Server]:
    """`coordserve serve` with its default settings, compiled."""
    with RunningService(model=model, cache_dir=cache, shutdown_grace=3.0) as service:
        service.wait_compiled()

        def computed() -> int:
            lines = service.get("/metrics")[1].decode().splitlines()
            return round(
                sum(float(line.split()[-1]) for line in lines if line.startswith("coordserve_batch_images_sum"))
            )

        server = Server(OURS, service.port, service.process, Peer("/v1/predict", "/healthz"), computed)
        with _ended(server):
            yield server


@contextlib.contextmanager
def peer(
    name: str, python: Path, setting: Setting, model: Path, package: Path, picture: bytes, folder: Path
) -> Iterator[Server]:
    """A peer that answers, its log in `folder`. Raises NotStarted."""
    port, counter, log = free_port(), folder / f"{name}.computed", folder / f"{name}.log"
    counter.write_bytes(b"")
    environment = {
        **os.environ,
        **QUIET,
        "PYTHONPATH": str(ROOT),
        "PATH": f"{python.parent}:{os.environ['PATH']}",
        "PEER_MODEL": str(model),
        "PEER_PACKAGE": str(package),
        "PEER_DECODER": setting.decoder,
        "PEER_MAX_BATCH": str(setting.max_batch),
        "PEER_PORT": str(port),
        "PEER_COMPUTED": str(counter),
    }
    command = [str(python), *PEERS[name].command.format(name=name, port=port).split()]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
    server = Server(name, port, process, PEERS[name], lambda: counter.stat().st_size)

    def up() -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return server.ask(picture).status_code == 200
        return process.poll() is not None

    with _ended(server):
        try:
            wait_until(up, START_SECONDS, f"{name} answers")
        except TimeoutError as error:
            raise NotStarted(f"{error}: {_last_lines(log)}") from error
        if process.poll() is not None:
            raise NotStarted(f"it ended with {process.returncode}: {_last_lines(log)}")
        yield server


@contextlib.contextmanager
def _ended(server: Server) -> Iterator[None]:
    """Afterwards none of its processes is left."""
    try:
        yield
    finally:
        server.signal(signal.SIGCONT)
        if server.process.poll() is None:
            server.process.terminate()
            psutil.wait_procs(server.tree(), STOP_SECONDS)
        server.signal(signal.SIGKILL)
        server.process.wait()


def _last_lines(log: Path) -> str:
    return " / ".join(log.read_text(errors="replace").split("\n")[-6:])
