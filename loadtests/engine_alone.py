"""The engine process without workers: images/s over its own doorbell, beside the same package in a bare loop."""

import itertools
import select
import socket
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from loadtests.running import wait_until
from models import compile as compiler
from models.compile import Target
from models.config import read_config
from service import control, process
from service.arena import Arena
from service.doorbell import ORDER, REPLY, Command, Line, Status
from service.settings import Settings, available_cores

SLOTS = 256


class EngineAlone:
    """An engine process and this process in the part of supervisor and worker; a context manager."""

    def __init__(self, settings: Settings, metrics_dir: str) -> None:
        config = read_config(settings.model)
        shape = (SLOTS, config.preprocessing.input_size, config.num_classes)
        self.arena = Arena.create(*shape)
        self.arena.pixels[:] = np.random.default_rng(0).integers(0, 256, self.arena.pixels.shape, dtype=np.uint8)
        self._process, self._channel = process.start("service.engine", {"PROMETHEUS_MULTIPROC_DIR": metrics_dir})
        start = {"settings": settings.model_dump(mode="json"), "arena": shape, "former": {}}
        control.send(self._channel, "start", [self.arena.fd], **start)
        ours, theirs = socket.socketpair()
        control.send(self._channel, "connect", [theirs.fileno()], worker=0)
        theirs.close()
        self._line = Line(ours, REPLY)

    def __enter__(self) -> "EngineAlone":
        def status() -> Any:
            message = control.receive(self._channel)
            assert message, "the engine ended"
            return message.fields["card"] if message.kind == "status" and message.fields["ready"] else None

        self.card = wait_until(status, 300, "the engine is ready")
        return self

    def __exit__(self, *_: object) -> None:
        control.send(self._channel, "stop")
        self._process.wait(30)

    def rate(self, seconds: float) -> float:
        """Images/s of about `seconds` while twice the batch cap is always waiting."""
        slots = itertools.cycle(range(SLOTS))
        self._order([next(slots) for _ in range(min(SLOTS, 2 * self.card["batch_cap"]))])
        done, owed = 0, min(SLOTS, 2 * self.card["batch_cap"])
        started = time.perf_counter()
        while time.perf_counter() < started + seconds:
            replies = self._replies()
            done += len(replies)
            self._order(replies)
        while owed:
            replies = self._replies()
            done += len(replies)
            owed -= len(replies)
        return done / (time.perf_counter() - started)

    def _order(self, slots: list[int]) -> None:
        now = time.monotonic()
        self._line.send(b"".join(ORDER.pack(slot, Command.PREDICT, now, now + 60) for slot in slots))

    def _replies(self) -> list[int]:
        select.select([self._line], [], [])
        replies = list(self._line.receive() or ())
        assert all(reply[1] == Status.OK for reply in replies)
        return [reply[0] for reply in replies]


def compare(model: Path, cache: Path, metrics_dir: str, rounds: int, seconds: float) -> dict[str, Any]:
    """Images/s of the engine process and of a bare loop over the same package and batch size, in turns."""
    settings = Settings(model=model, cache_dir=cache)
    with EngineAlone(settings, metrics_dir) as engine:
        card = engine.card
        target = Target(card["device"], card["dtype"], card["threads"])
        run = compiler.load_package(compiler.package_path(cache, model, target), target)
        images = torch.from_numpy(engine.arena.pixels[: card["batch_cap"]].copy())

        def bare() -> float:
            done, started = 0, time.perf_counter()
            with torch.inference_mode():
                while (now := time.perf_counter()) < started + seconds:
                    run(images)
                    done += len(images)
            return done / (now - started)

        engine.rate(seconds / 2), bare()
        pairs = [(engine.rate(seconds), bare()) for _ in range(rounds)]
    return {
        "network": model.name,
        "dtype": card["dtype"],
        "threads": card["threads"],
        "cores": available_cores(),
        "batch": card["batch_cap"],
        "images_per_second_by_batch": card["images_per_second"],
        "engine_images_per_second": round(median(engine for engine, _ in pairs), 1),
        "bare_loop_images_per_second": round(median(loop for _, loop in pairs), 1),
        "ratio": {
            "median": round(median(engine / loop for engine, loop in pairs), 3),
            "all": [round(engine / loop, 3) for engine, loop in pairs],
        },
    }
