"""The supervisor: starts the engines and the workers, replaces what dies or hangs, stops all in order.

One loop acts on everything: signals, messages and ends of children arrive as readable descriptors.
"""

import importlib
import logging
import os
import resource
import selectors
import signal
import socket
import subprocess  # nosec B404 # for the type of a child
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from models.config import read_config
from service import api_keys, control, gpu_watch, gpus, process
from service.api_keys import ApiKeysError
from service.arena import Arena
from service.control import Message
from service.metrics import DIRECTORY_VARIABLE
from service.scratch import Scratch
from service.settings import Settings
from service.slots import EngineState

log = logging.getLogger(__name__)

TICK_SECONDS = 0.25
# A child that has been heard of and then is silent for so long hangs: its heart beats every 0.5 s.
STUCK_SECONDS = 10.0
STOP_SECONDS = 5.0  # what a child may take to stop once its work is done
FIRST_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 0.5, 30.0
# A child that has worked for so long has not died of its start: the next one need not wait.
STEADY_SECONDS = 5.0
# So many ends of every engine before it was steady, and liveness fails.
HOPELESS_CRASHES = 5
BACKLOG = 2048  # connections that wait in the kernel while workers are busy or being replaced


class StartError(Exception):
    """The service cannot start; the message says what to do."""


@dataclass(eq=False)
class Place:
    """A place for a child process: who is in it now, and how often its occupants have died early."""

    role: str
    start: Callable[["Place"], None]
    process: subprocess.Popen[bytes] | None = None
    channel: socket.socket | None = None
    pidfd: int = -1
    last_heard: float | None = None
    works_since: float | None = None
    crashes: int = 0
    restart_at: float | None = None
    held_by: Counter["Place"] = field(default_factory=Counter)
    """of a worker: engines that may still write into its slots, with how many lines"""


@dataclass(eq=False)
class EnginePlace(Place):
    """A place for an engine."""

    index: int = 0
    device: str | None = None
    """what CUDA_VISIBLE_DEVICES is to be; None leaves it alone"""
    state: EngineState = "away"
    reason: str = "starting"
    failed: bool = False
    card: dict[str, Any] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        return {} if self.device is None else {gpus.VARIABLE: self.device}


@dataclass
class Status:
    """What every worker is told; the fields of slots.ServiceStatus."""

    ready: bool = False
    recovering: bool = False
    reason: str = "starting"
    failed: bool = False
    draining: bool = False
    engines: list[EngineState] = field(default_factory=list)
    engine_restarts: int = 0
    card: dict[str, Any] = field(default_factory=dict)
    capacity: dict[str, float] = field(default_factory=dict)


class Supervisor:
    """Runs the service of `settings` until a signal ends it."""

    def __init__(self, settings: Settings) -> None:
        """Check what can be checked without torch. Raises StartError, ModelDirectoryError."""
        config = read_config(settings.model)
        if settings.api_keys_file:
            try:
                api_keys.read(settings.api_keys_file)
            except ApiKeysError as error:
                raise StartError(str(error)) from error
        if settings.tracing:
            try:
                importlib.import_module("service.tracing")
            except ImportError as error:
                raise StartError(f"tracing needs the extra otel (pip install 'coordserve[otel]'): {error}") from error
        self._settings, self._model = settings, config.name
        self._listener = _listen(settings.host, settings.port)
        self._arena_shape = (
            settings.slots_per_worker * settings.workers,
            config.preprocessing.input_size,
            config.num_classes,
        )
        self._arena = Arena.create(*self._arena_shape)
        self._scratch = Scratch()
        self._engines = self._places(devices_of(settings))
        self._status = Status(engines=[engine.state for engine in self._engines])
        self._workers = [Place(f"worker {index}", self._start_worker) for index in range(settings.workers)]
        self._compiler = Place("compiler", lambda place: None)
        self._asked: dict[Place, dict[str, Any]] = {}
        """engines that wait for a package, and which"""
        self._compiling: dict[str, Any] = {}
        self._gpu_watch = Place("gpu watch", lambda place: self._occupy(place, "service.gpu_watch", {}))
        self._announced = self._stopping = False
        self._fatal: str | None = None
        self._selector = selectors.DefaultSelector()

    def run(self) -> None:
        """Serve until SIGTERM, SIGINT or SIGHUP; returns once every accepted request is answered. Raises StartError."""
        self._started = time.monotonic()
        _allow_many_connections()
        stopping = self._catch_signals()
        try:
            for place in (*self._engines, *self._workers):
                place.start(place)
            if gpu_watch.wanted(self._settings.device):
                self._gpu_watch.start(self._gpu_watch)
            while not stopping and self._fatal is None:
                self._turn()
            self._stop(stopping)
        finally:
            for place in (*self._workers, self._compiler, self._gpu_watch, *self._engines):
                if place.process:
                    os.killpg(place.process.pid, signal.SIGKILL)
                    place.process.wait()
            self._scratch.remove()
        if self._fatal is not None:
            raise StartError(self._fatal)

    # -- the loop ------------------------------------------------------------------------------

    def _turn(self) -> None:
        for key, _ in self._selector.select(TICK_SECONDS):
            key.data()
        now = time.monotonic()
        for place in (*self._engines, *self._workers, self._gpu_watch):
            if place.process and place.last_heard is not None and now - place.last_heard > STUCK_SECONDS:
                if isinstance(place, EnginePlace):
                    self._lose(place)
                log.error("%s has been silent for %.0f s: killing it", place.role, STUCK_SECONDS)
                place.last_heard = None
                os.killpg(place.process.pid, signal.SIGKILL)
            if place.restart_at is not None and now >= place.restart_at and not self._is_held(place):
                place.restart_at = None
                place.start(place)
            if place.crashes and place.works_since is not None and now - place.works_since > STEADY_SECONDS:
                place.crashes = 0
                if isinstance(place, EnginePlace):
                    place.failed = False
                    self._tell()

    def _catch_signals(self) -> list[int]:
        """The signals that have come, filled by the loop."""
        came: list[int] = []
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        self._wakeup = (reader, writer)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup
                signal.signal(number, lambda *_: None)
        self._selector.register(reader, selectors.EVENT_READ, lambda: came.extend(reader.recv(64)))
        return came

    def _stop(self, signals: list[int]) -> None:
        """Unready, serve on, refuse new connections, answer what was accepted, end."""
        self._tell(draining=True)
        grace = self._settings.shutdown_grace if signals == [signal.SIGTERM] and self._announced else 0.0
        log.info("stopping: serving on for %g s, then answering what was accepted", grace)
        until = time.monotonic() + grace
        while signals == [signal.SIGTERM] and time.monotonic() < until:  # another signal: somebody is in a hurry
            self._turn()
        self._stopping = True
        if not self._announced:  # nobody has asked what has never been ready
            self._kill_beginners()
        self._end([self._compiler], STOP_SECONDS)
        self._listener.close()
        for worker in self._workers:
            worker.restart_at = None
            if worker.channel:
                control.send(worker.channel, "stop")
        self._turn_until_gone(self._workers, self._settings.request_timeout + STOP_SECONDS)
        self._end([self._gpu_watch], STOP_SECONDS)
        for engine in self._engines:
            engine.restart_at = None
        self._kill_beginners()  # nobody waits for them any more
        self._end(self._engines, STOP_SECONDS)

    def _kill_beginners(self) -> None:
        """Those that are not far enough to hear that they should stop."""
        for place in (*self._engines, *self._workers):
            if place.process and place.works_since is None:
                os.killpg(place.process.pid, signal.SIGKILL)

    def _end(self, places: Sequence[Place], seconds: float) -> None:
        for place in places:
            if place.channel and place.process:
                control.send(place.channel, "stop")
                if place is self._compiler:
                    place.process.terminate()
        self._turn_until_gone(places, seconds)

    def _turn_until_gone(self, places: Sequence[Place], seconds: float) -> None:
        limit = time.monotonic() + seconds
        while any(place.process for place in places) and time.monotonic() < limit:
            self._turn()
        for place in places:
            if place.process:
                log.error("%s did not stop within %.0f s: killing it", place.role, seconds)

    # -- children ------------------------------------------------------------------------------

    def _places(self, devices: list[str | None]) -> list[EnginePlace]:
        if devices == [None]:
            return [EnginePlace("engine", self._start_engine)]
        log.info("%d engines, on %s", len(devices), ", ".join(map(str, devices)))
        return [
            EnginePlace(f"engine {index} on {device}", self._start_engine, index=index, device=device)
            for index, device in enumerate(devices)
        ]

    def _start_engine(self, place: Place) -> None:
        assert isinstance(place, EnginePlace)
        environment = self._scratch.cleared(self._scratch.engine / str(place.index)) | place.environment()
        number = place.index if len(self._engines) > 1 else None
        self._occupy(place, "service.engine", environment, former=place.card, engine=number)
        for worker in self._workers:
            self._connect(place, worker)

    def _start_worker(self, place: Place) -> None:
        index = self._workers.index(place)
        engines = len(self._engines)
        self._occupy(place, "service.worker", {}, fds=[self._listener.fileno()], worker=index, engines=engines)
        for engine in self._engines:
            self._connect(engine, place)
        self._send(place, "status", **vars(self._status))

    def _occupy(
        self, place: Place, module: str, environment: dict[str, str], fds: list[int] | None = None, **fields: Any
    ) -> None:
        """Start a process in a place, with the arena and the settings."""
        place.process, place.channel = process.start(
            module, {DIRECTORY_VARIABLE: str(self._scratch.metrics), **environment}
        )
        place.channel.setblocking(False)
        place.last_heard = place.works_since = None
        place.pidfd = os.pidfd_open(place.process.pid)
        self._selector.register(place.channel, selectors.EVENT_READ, lambda: self._on_message(place))
        self._selector.register(place.pidfd, selectors.EVENT_READ, lambda: self._on_end(place))
        self._send(
            place,
            "start",
            fds=[self._arena.fd, *(fds or [])],
            settings=self._settings.model_dump(mode="json"),
            arena=self._arena_shape,
            **fields,
        )

    def _connect(self, engine: EnginePlace, worker: Place) -> None:
        """Lay a doorbell line between an engine and a worker, if both are there."""
        if not (engine.channel and worker.channel):
            return
        numbers = {"engine": engine.index, "worker": self._workers.index(worker)}
        ends = socket.socketpair()
        for place, end in zip((engine, worker), ends, strict=True):
            self._send(place, "connect", fds=[end.fileno()], **numbers)
            end.close()
        worker.held_by[engine] += 1

    def _is_held(self, worker: Place) -> bool:
        """Whether an engine may still write into the slots of the worker that was here.

        Its successor could order the same slots from another engine. One that has never been ready has written nothing.
        """
        return any(engine.works_since is not None and worker.held_by[engine] > 0 for engine in self._engines)

    def _send(self, place: Place, kind: str, fds: list[int] | None = None, **fields: Any) -> None:
        if place.channel:
            control.send(place.channel, kind, fds or [], **fields)

    def _tell(self, **changes: Any) -> None:
        """Change the status, by what is known of the engines, too, and tell every worker."""
        engines = self._engines
        states = [engine.state for engine in engines]
        # One that is lost says what it was, as long as there is no other to say.
        cards = [engine.card for engine in engines if engine.state == "ready"] or [engines[0].card]
        capacity: Counter[str] = Counter()
        for card in cards:
            capacity.update(card.get("images_per_second", {}))
        vars(self._status).update(
            ready="ready" in states,
            recovering="recovering" in states,
            reason=", ".join(dict.fromkeys(engine.reason for engine in engines if engine.reason)),
            failed=all(engine.failed for engine in engines),
            engines=states,
            card=min(cards, key=lambda card: card.get("form") != "eager"),
            capacity=capacity,
            **changes,
        )
        for worker in self._workers:
            self._send(worker, "status", **vars(self._status))

    def _lose(self, engine: EnginePlace) -> None:
        """The engine answers no more."""
        engine.state = "recovering" if self._announced and engine.crashes == 0 else "away"
        engine.reason = "replacing the engine"
        self._tell()

    def _on_message(self, place: Place) -> None:
        assert place.channel
        try:
            message = control.receive(place.channel)
        except BlockingIOError:
            return
        if message is None:
            self._selector.unregister(place.channel)
            place.channel.close()
            place.channel = None
            return
        place.last_heard = time.monotonic()
        if place in self._workers and place.works_since is None:
            place.works_since = place.last_heard
        getattr(self, f"_on_{message.kind}")(place, message)
        self._announce()

    def _on_alive(self, place: Place, message: Message) -> None:
        """A heartbeat: having been heard is all."""

    def _on_status(self, place: EnginePlace, message: Message) -> None:
        if message.fields["ready"]:
            place.works_since = place.works_since or time.monotonic()
        else:  # it has said what keeps it: compiling at start-up leaves no time for heartbeats
            place.last_heard = None
        place.state = "ready" if message.fields["ready"] else "away"
        place.reason, place.card = message.fields["reason"], message.fields["card"]
        self._tell()

    def _on_released(self, place: EnginePlace, message: Message) -> None:
        """The engine writes no more into the slots of a worker that is gone."""
        self._workers[message.fields["worker"]].held_by[place] -= 1

    def _on_fatal(self, place: Place, message: Message) -> None:
        self._fatal = message.fields["message"]

    def _on_compile(self, place: EnginePlace, message: Message) -> None:
        """The engine has no compiled package for this target."""
        self._asked[place] = message.fields
        self._compile()

    def _compile(self) -> None:
        """Start the compiler for whoever has asked first, if it does not run."""
        if not self._asked or self._compiler.process or self._stopping:
            return
        engine, self._compiling = next(iter(self._asked.items()))
        assert isinstance(engine, EnginePlace)
        log.info("compiling the network in the background")
        environment = self._scratch.cleared(self._scratch.compiler) | engine.environment()
        self._occupy(self._compiler, "service.compiler", environment, target=self._compiling["target"])

    def _on_compiled(self, place: Place, message: Message) -> None:
        """The compiler has finished: the engines that wait for this package may take it."""
        self._compiled(message.fields["error"])

    def _compiled(self, error: str | None) -> None:
        for engine in [engine for engine, asked in self._asked.items() if asked == self._compiling]:
            self._send(engine, "compiled", error=error)
            del self._asked[engine]

    def _on_end(self, place: Place) -> None:
        assert place.process
        code = place.process.wait()
        place.process = None
        self._selector.unregister(place.pidfd)
        os.close(place.pidfd)
        while place.channel:  # what it had said before it ended
            self._on_message(place)
        if place is self._compiler:
            if code != 0 and not self._stopping:
                self._compiled(f"the compiler ended with code {code}; see its log above")
            self._compile()
            return
        for worker in self._workers:
            del worker.held_by[place]
        if self._stopping or self._fatal is not None or (place is self._gpu_watch and code == 0):
            return
        delay = 0.0 if place.crashes == 0 else min(FIRST_BACKOFF_SECONDS * 2**place.crashes, MAX_BACKOFF_SECONDS)
        place.restart_at = time.monotonic() + delay
        log.error("%s ended with code %d: replacing it in %.1f s", place.role, code, delay)
        if isinstance(place, EnginePlace):
            place.failed = place.failed or place.crashes + 1 >= HOPELESS_CRASHES
            self._status.engine_restarts += 1
            self._lose(place)
        place.crashes += 1

    def _announce(self) -> None:
        """Say once that the service answers."""
        if self._announced or not self._status.ready or any(worker.last_heard is None for worker in self._workers):
            return
        self._announced = True
        host, port = self._listener.getsockname()[:2]
        log.info(
            "ready after %.1f s: model %s on http://%s:%d",
            time.monotonic() - self._started,
            self._model,
            f"[{host}]" if ":" in host else host,
            port,
            extra={"fields": {"event": "ready", "host": host, "port": port}},
        )


def devices_of(settings: Settings) -> list[str | None]:
    """For each engine what CUDA_VISIBLE_DEVICES is to be; None leaves it alone: one engine takes the first device.

    Raises StartError.
    """
    if settings.device != "cuda" or settings.devices == 1:
        return [None]
    try:
        found = gpus.visible(os.environ)
    except subprocess.TimeoutExpired as error:
        raise StartError(
            f"NVIDIA's management library does not answer: is a GPU lost? Name those to use with {gpus.VARIABLE}"
        ) from error
    wanted = max(1, len(found)) if settings.devices == "auto" else settings.devices
    if wanted > len(found) and wanted > 1:
        raise StartError(f"{wanted} GPUs are asked for with --devices or COORDSERVE_DEVICES, and {len(found)} found")
    return [None] if wanted == 1 else list(found[:wanted])


def _allow_many_connections() -> None:
    """As many open files as the administrator lets us have: the usual 1,024 are for programs with select()."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        raise StartError(
            f"cannot listen on {host}:{port}: {getattr(error, 'strerror', None) or error}; "
            "name another with --host and --port"
        ) from error
