"""One pod, image by image: workers in turns of requests, replies and decoding, and an engine that takes what waits.

The rules are the service's own: service/turns.py, service/slots.py, service/batcher.py, service/engine.py. Left out are
deadlines, explanations, urgency, requests of several images, and clients that hang up.
"""

import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import simpy

from loadtests.capacity.cores import Cores, Process
from loadtests.capacity.pod import Pod
from service.turns import LONGEST_TURN, SHORTEST_TURN

WARM_UP = 0.1  # of the requests: their pod was empty, they do not count


@dataclass(eq=False)
class _Request:
    due: float
    worker: "_Worker"
    counts: bool
    answered: Callable[[], None] | None = None


@dataclass
class Served:
    """What became of the requests after the warm-up, and of the pod meanwhile."""

    latencies: list[float] = field(default_factory=list)
    """seconds of those answered"""
    refused: int = 0
    seconds: float = 0.0
    cores_used: float = 0.0
    """mean"""
    waiting: float = 0.0
    """mean of coordserve_queue_images + coordserve_inflight_images"""
    waiting_squared: float = 0.0
    """mean of its square"""

    @property
    def rate(self) -> float:
        """Images answered a second."""
        return len(self.latencies) / self.seconds


def open_loop(pod: Pod, times: Iterable[float], seed: int = 0) -> Served:
    """Requests that come at `times` (seconds), each to any of the workers."""
    return _Simulation(pod, seed).open_loop(list(times))


def closed_loop(pod: Pod, connections: int, requests: int, seed: int = 0) -> Served:
    """So many requests in all over connections that each send the next one after an answer."""
    return _Simulation(pod, seed).closed_loop(connections, requests)


class _Simulation:
    def __init__(self, pod: Pod, seed: int) -> None:
        self.pod, self.env, self.served = pod, simpy.Environment(), Served()
        # On a GPU one core is the engine's, which feeds the device and does not decode.
        cores = pod.cores if pod.device == "cpu" else max(1, pod.cores - 1)
        self.cores = Cores(self.env, cores, pod.crowded)
        self.engine = _Engine(self)
        slots = max(1, pod.queue_images // pod.workers)
        self._workers = [_Worker(self, slots) for _ in range(pod.workers)]
        self._random = random.Random(seed)
        self._started = self._used = 0.0

    def open_loop(self, times: list[float]) -> Served:
        first = int(WARM_UP * len(times))

        def arrivals() -> Process:
            for index, due in enumerate(times):
                yield self.env.timeout(max(0.0, due - self.env.now))
                if index == first:
                    self._start_counting()
                self._send(_Request(self.env.now, self._random.choice(self._workers), index >= first))
            self._stop_counting()

        self.env.process(arrivals())
        self.env.run()
        return self.served

    def closed_loop(self, connections: int, requests: int) -> Served:
        sent, first = 0, int(WARM_UP * requests)

        def send(worker: _Worker) -> None:
            nonlocal sent
            if sent == first:
                self._start_counting()
            elif sent == requests:
                self._stop_counting()
            if sent < requests:
                self._send(_Request(self.env.now, worker, sent >= first, lambda: send(worker)))
            sent += 1

        for index in range(connections):
            send(self._workers[index % len(self._workers)])
        self.env.run()
        return self.served

    def _send(self, request: _Request) -> None:
        if self.pod.client_seconds:
            delay = self.cores.client(self.pod.client_seconds, self.pod.client_turn_seconds)
            self.env.timeout(delay).callbacks.append(lambda _: request.worker.receive(request))
        else:
            request.worker.receive(request)

    def answer(self, request: _Request, refused: bool = False) -> None:
        if request.counts and refused:
            self.served.refused += 1
        elif request.counts:
            self.served.latencies.append(self.env.now - request.due + self.pod.wire_seconds)
        if request.answered:
            request.answered()

    def _start_counting(self) -> None:
        self._started, self._used = self.env.now, self.cores.used
        self.engine.forget()

    def _stop_counting(self) -> None:
        """When the last request has come: what is after it is no longer this load."""
        self.served.seconds = self.env.now - self._started
        self.served.cores_used = (self.cores.used - self._used) / self.served.seconds
        self.engine.note()
        self.served.waiting = self.engine.area / self.served.seconds
        self.served.waiting_squared = self.engine.square_area / self.served.seconds


class _Sleeper:
    """A process that sleeps until there is something for it."""

    def __init__(self, env: simpy.Environment) -> None:
        self._env = env
        self._asleep: simpy.Event | None = None

    def sleep(self) -> simpy.Event:
        self._asleep = self._env.event()
        return self._asleep

    def wake(self) -> None:
        if self._asleep:
            self._asleep.succeed()
            self._asleep = None


class _Worker(_Sleeper):
    """An event loop: in each turn what has come, then some milliseconds of decoding, then the engine's bell."""

    def __init__(self, simulation: _Simulation, slots: int) -> None:
        super().__init__(simulation.env)
        self._simulation, self._free = simulation, slots
        self._requests: list[_Request] = []
        self._replies: list[_Request] = []
        self._decoding: deque[_Request] = deque()
        simulation.env.process(self._turns())

    def receive(self, request: _Request) -> None:
        self._requests.append(request)
        self.wake()

    def reply(self, requests: list[_Request]) -> None:
        self._replies += requests
        self.wake()

    def _turns(self) -> Process:
        simulation, env = self._simulation, self._simulation.env
        pod, cores = simulation.pod, simulation.cores
        ended = 0.0
        while True:
            if not (self._requests or self._replies or self._decoding):
                yield self.sleep()
            yield cores.run(self, pod.turn_seconds)
            replies, self._replies = self._replies, []
            for request in replies:
                yield cores.run(self, pod.request_seconds / 2)
                self._free += 1
                simulation.answer(request)
            requests, self._requests = self._requests, []
            if requests:
                yield cores.run(self, len(requests) * pod.request_seconds / 2)
            for request in requests:
                if self._free:
                    self._free -= 1
                    self._decoding.append(request)
                else:
                    simulation.answer(request, refused=True)
            until = env.now + min(max(env.now - ended, SHORTEST_TURN), LONGEST_TURN)
            decoded: list[_Request] = []
            while self._decoding and (env.now < until or not decoded):
                yield cores.run(self, pod.decode_seconds)
                decoded.append(self._decoding.popleft())
            ended = env.now
            if decoded:
                simulation.engine.ring(decoded)


class _Engine(_Sleeper):
    """Takes what waits, up to the cap, whenever the device is free; and its two gauges, as it sets them."""

    def __init__(self, simulation: _Simulation) -> None:
        super().__init__(simulation.env)
        self._simulation = simulation
        self._waiting: deque[_Request] = deque()
        self._gauge, self._since = 0, 0.0
        self.area = self.square_area = 0.0
        simulation.env.process(self._batches())

    def ring(self, requests: list[_Request]) -> None:
        self._waiting.extend(requests)
        self.wake()

    def forget(self) -> None:
        self._since, self.area, self.square_area = self._env.now, 0.0, 0.0

    def note(self) -> None:
        passed, self._since = self._env.now - self._since, self._env.now
        self.area += passed * self._gauge
        self.square_area += passed * self._gauge**2

    def _batches(self) -> Process:
        pod, cores = self._simulation.pod, self._simulation.cores
        while True:
            if not self._waiting:
                yield self.sleep()
            batch = [self._waiting.popleft() for _ in range(min(pod.batch_cap, len(self._waiting)))]
            left = len(self._waiting)
            self._set(left + len(batch))
            seconds = pod.batch_time(len(batch))
            yield cores.run(self, seconds, pod.threads) if pod.device == "cpu" else self._env.timeout(seconds)
            self._set(left)  # the bells rung meanwhile are heard at the next cut
            by_worker: dict[_Worker, list[_Request]] = {}
            for request in batch:
                by_worker.setdefault(request.worker, []).append(request)
            for worker, requests in by_worker.items():
                worker.reply(requests)

    def _set(self, gauge: int) -> None:
        self.note()
        self._gauge = gauge
