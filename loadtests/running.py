"""Starts the real service as a user would, and stops it; for tests and benchmarks."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil


def wait_until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """The first true value of `condition`, asked again and again. Raises TimeoutError."""
    limit = time.monotonic() + seconds
    while True:
        if value := condition():
            return value
        if time.monotonic() > limit:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        time.sleep(0.02)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


class RunningService:
    """`coordserve serve` on a free loopback port, as a context manager that stops it with SIGTERM."""

    def __init__(self, *, environment: dict[str, str] | None = None, **settings: Any) -> None:
        """Settings by their names; True and False for switches; port 0 and no grace unless named."""
        settings = {"port": 0, "shutdown_grace": 0, **settings}
        flags = ["--log-format", "json"]
        for name, value in settings.items():
            flag = name.replace("_", "-")
            flags += (
                [f"--{flag}" if value else f"--no-{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]
            )
        self.command = [str(Path(sys.executable).with_name("coordserve")), "serve", *flags]
        self._environment = environment
        self.log: list[dict[str, Any]] = []

    def __enter__(self) -> "RunningService":
        self.started = time.monotonic()
        self.process = subprocess.Popen(self.command, stderr=subprocess.PIPE, text=True, env=self._environment)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            wait_until(lambda: self.port or self.process.poll() is not None, 300, "the service is ready")
        except BaseException:
            self.process.kill()
            raise
        if not self.port:
            raise RuntimeError(f"the service ended with {self.process.returncode}: {self.log}")
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.stop()

    @property
    def port(self) -> int:
        return next((line["port"] for line in list(self.log) if line.get("event") == "ready"), 0)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self, seconds: float = 60) -> int:
        """SIGTERM, then the exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        self._reader.join(5)
        return self.process.returncode

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body of a GET."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=10) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def card(self) -> dict[str, Any]:
        return json.loads(self.get("/v1/models")[1])["models"][0]

    def wait_compiled(self, seconds: float = 300) -> None:
        wait_until(lambda: self.card()["form"] == "aot", seconds, "the compiled network serves")

    def children(self, module: str) -> list[psutil.Process]:
        """The processes of the service that run `module`, such as service.worker."""
        found = []
        for process in psutil.Process(self.process.pid).children():
            try:
                if module in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
        return found

    def logged(self, text: str) -> bool:
        return any(text in line["message"] for line in list(self.log))

    def _read(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            try:
                self.log.append(json.loads(line))
            except json.JSONDecodeError:
                self.log.append({"message": line.rstrip(), "level": "unformatted"})
