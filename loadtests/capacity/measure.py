"""Measures one pod on this machine: `coordserve serve` as it is, asked by one connection and then by many.

A lone request tells what each step takes while nothing else runs; many, what is paid for each of them and what once for
all that come together. How many are answered then tells how much longer everything takes while all cores are busy:
`crowded` is chosen so that the simulation answers as many.
"""

import random
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import psutil
import uvloop

from loadtests.capacity.pod import NotMeasuredError, Pod
from loadtests.capacity.serving import closed_loop
from loadtests.client import Answer, Client, for_seconds, hurry, post
from loadtests.machine import conditions
from loadtests.pictures import photo
from loadtests.running import RunningService
from models.config import read_config
from service.settings import Settings, available_cores

PICTURE = photo(224, 224, 75)
REQUEST = post("/v1/predict", PICTURE, Content_Type="image/jpeg")
LONE_SECONDS, BUSY_SECONDS = 5.0, 5.0
CONNECTIONS = 64
TURNS = 2  # of a worker for a lone request: one when it comes, one when its reply does
SIMULATED = 4000  # requests of the closed loop, when `crowded` is looked for
WARM_SECONDS = 0.5
ATTEMPTS = 10  # at as many connections as are wanted
STEPS = 10
CLOSE, FAR = 0.02, 0.1  # of the measured capacity
LEAST_CROWDED, MOST_CROWDED = 0.3, 4.0


@dataclass
class Loaded:
    """What a load did, and the seconds of CPU that it took."""

    answers: list[Answer]
    seconds: float
    workers_cpu: float
    client_cpu: float


class Bench:
    """A running service and connections to it, to each worker the same number."""

    def __init__(self, service: RunningService, connections: int, seed: int = 0) -> None:
        self._service, self._connections = service, connections
        self._workers = service.children("service.worker")
        self._client = Client("127.0.0.1", service.port, random.Random(seed))

    async def connect(self) -> None:
        """Which worker takes one is the kernel's whim: open more until each has enough, then close what is over."""
        wanted = max(1, self._connections // len(self._workers))
        for _ in range(ATTEMPTS):
            ours = set(await self._client.open(self._connections))
            await self._client.closed_loop(REQUEST, len(ours), for_seconds(WARM_SECONDS))  # now all are taken
            theirs = [ours & peers(worker) for worker in self._workers]
            if self._connections < len(self._workers) or min(map(len, theirs)) >= wanted:
                break
        else:
            raise NotMeasuredError(
                f"a worker takes no connections: of {len(ours)} they have {[len(one) for one in theirs]}"
            )
        self._client.close({port for ports in theirs for port in sorted(ports)[wanted:]})

    async def open_loop(self, times: list[float]) -> Loaded:
        return await self._loaded(lambda: self._client.open_loop(REQUEST, times))

    async def closed_loop(self, seconds: float) -> Loaded:
        return await self._loaded(lambda: self._client.closed_loop(REQUEST, self._connections, for_seconds(seconds)))

    async def _loaded(self, load: Callable[[], Awaitable[list[Answer]]]) -> Loaded:
        before, client, started = self._workers_cpu(), time.process_time(), time.monotonic()
        answers = await load()
        seconds = time.monotonic() - started
        return Loaded(answers, seconds, self._workers_cpu() - before, time.process_time() - client)

    def _workers_cpu(self) -> float:
        return sum(sum(worker.cpu_times()[:2]) for worker in self._workers)


def peers(worker: psutil.Process) -> set[int]:
    """The ports of whom it serves."""
    return {one.raddr.port for one in worker.net_connections("tcp") if one.raddr}


def good(answers: list[Answer]) -> list[Answer]:
    """Those with 200. Raises NotMeasuredError if there are others than 200 and 429."""
    if odd := {answer.status for answer in answers} - {200, 429}:
        raise NotMeasuredError(f"answers with {odd}: nothing is measured on a service that fails")
    return [answer for answer in answers if answer.status == 200]


def timing(answers: list[Answer], name: str) -> float:
    """The median of a field of `timing`."""
    found = (answer.body.split(f'"{name}":'.encode())[1] for answer in answers)
    return median(float(rest.replace(b"}", b",").split(b",")[0]) for rest in found)


@contextmanager
def started(model: Path, cache: Path) -> Iterator[tuple[RunningService, float]]:
    """The service, ready and compiled, and after how many seconds it was."""
    with RunningService(model=model, cache_dir=cache, wait_for_compile=True) as service:
        yield service, time.monotonic() - service.started


def pod(model: Path, cache: Path | None = None) -> Pod:
    """The pod that a model makes of this machine; with an empty cache the compilation is timed, too."""
    with tempfile.TemporaryDirectory() as folder:
        cache = cache or Path(folder)
        with started(model, cache) as (_, first):
            pass
        with started(model, cache) as (service, again):
            found = uvloop.run(_measured(service, model))
    return fitted(replace(found, start_seconds=again, compile_seconds=max(0.0, first - again)))


async def _measured(service: RunningService, model: Path) -> Pod:
    card, settings = service.card(), Settings(model=model)
    lone, busy = Bench(service, 1), Bench(service, CONNECTIONS)
    with hurry():
        await lone.connect()
        few = await lone.closed_loop(LONE_SECONDS)
        await busy.connect()
        many = await busy.closed_loop(BUSY_SECONDS)
    answers = good(few.answers)
    curve = {int(size): rate for size, rate in card["images_per_second"].items()}
    decode, infer = timing(answers, "decode_ms") / 1e3, timing(answers, "infer_ms") / 1e3
    client, work = few.client_cpu / len(answers), few.workers_cpu / len(answers)
    busy_client = min(client, many.client_cpu / len(many.answers))
    busy_work = min(work, many.workers_cpu / len(many.answers))
    lone_seconds = median(answer.seconds for answer in answers)
    return Pod(
        model=read_config(model).name,
        device=card["device"],
        cores=available_cores(),
        workers=settings.workers,
        queue_images=settings.queue_images,
        batch_cap=card["batch_cap"],
        threads=card["threads"],
        images_per_second=curve,
        decode_seconds=decode,
        request_seconds=max(0.0, busy_work - decode),
        turn_seconds=(work - max(busy_work, decode)) / TURNS,
        batch_seconds=max(0.0, infer - 1 / curve[1]),
        wire_seconds=max(0.0, lone_seconds - max(work, decode) - max(infer, 1 / curve[1]) - client),
        client_seconds=busy_client,
        client_turn_seconds=client - busy_client,
        connections=CONNECTIONS,
        capacity=len(good(many.answers)) / many.seconds,
        measured={**conditions("torch"), "image_bytes": len(PICTURE), "lone_seconds": lone_seconds},
    )


def fitted(found: Pod) -> Pod:
    """`crowded` by bisection: the longer work takes, the fewer answers there are. Raises NotMeasuredError."""

    def too_many(crowded: float) -> float:
        """By which part the simulation answers more."""
        simulated = closed_loop(replace(found, crowded=crowded), found.connections, SIMULATED)
        return simulated.rate / found.capacity - 1

    if abs(too_many(1.0)) <= CLOSE:  # as where a device sets the pace, and not the cores
        return found
    low, high = LEAST_CROWDED, MOST_CROWDED
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if too_many(middle) > 0 else (low, middle)
    crowded = round((low + high) / 2, 3)
    if abs(too_many(crowded)) > FAR:
        raise NotMeasuredError(
            f"{found.capacity:.0f} images/s do not go with what a lone request takes: "
            "was the machine busy with other work?"
        )
    return replace(found, crowded=crowded)
