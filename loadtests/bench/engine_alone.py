"""The engine process without workers: images/s over its own doorbell, beside the same package in a bare loop."""

import itertools
import select
import socket
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from loadtests.bench.turns import in_turns, rate, ratio, spread
from loadtests.running import wait_until
from models import compile as compiler
from models.compile import Target
from models.config import read_config
from service import control, process
from service.arena import Arena
from service.doorbell import DEFAULT_URGENCY, ORDER, REPLY, Command, Line, Order, Status
from service.settings import Settings

SLOTS = 256


class EngineAlone:
    """An engine process and this process in the part of supervisor and worker; a context manager."""

    def __init__(self, settings: Settings, metrics_dir: str) -> None:
        config = read_config(settings.model)
        shape = (SLOTS, config.preprocessing.input_size, config.num_classes)
        self.arena = Arena.create(*shape)
        self.arena.pixels[:] = np.random.default_rng(0).integers(0, 256, self.arena.pixels.shape, dtype=np.uint8)
        self._process, self._channel = process.start("service.engine", {"PROMETHEUS_MULTIPROC_DIR": metrics_dir})
        start = {"settings": settings.model_dump(mode="json"), "arena": shape, "former": {}, "engine": None}
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
        orders = [Order(slot, Command.PREDICT, DEFAULT_URGENCY, now, now + 60) for slot in slots]
        self._line.send(b"".join(ORDER.pack(*order) for order in orders))

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
        ways = {"engine": partial(engine.rate, seconds), "bare_loop": partial(rate, run, images, seconds)}
        in_turns(ways, 1)  # warm
        found = in_turns(ways, rounds)
    return {
        "network": model.name,
        "dtype": card["dtype"],
        "threads": card["threads"],
        "batch": card["batch_cap"],
        "images_per_second_by_batch": card["images_per_second"],
        **{f"{name}_images_per_second": spread(rates, 1) for name, rates in found.items()},
        "engine_over_bare_loop": ratio(found["engine"], found["bare_loop"]),
    }
