"""Cores that several processes share: each that wants to run has its part of them, and work takes the longer for it.

The kernel hands out slices of a few milliseconds in turn; here they are infinitely short. The threads of one batch wait
for one another, so that it goes on as fast as the slowest of them.
"""

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import simpy

Process = Generator[simpy.Event, Any, None]
"""What SimPy runs"""

ROUNDING = 1e-9  # seconds of work that are none


@dataclass(eq=False)
class _Work:
    done: simpy.Event
    left: float
    threads: int
    rate: float = 0.0
    """of its seconds in each"""


class Cores:
    """`run` work on them; the load generator, which goes first, takes one away while it has something to do."""

    def __init__(self, env: simpy.Environment, cores: int, crowded: float = 1.0) -> None:
        """crowded: how many times as long work takes while others keep the other cores busy."""
        self._env, self._cores, self._crowded = env, cores, crowded
        self._works: list[_Work] = []
        self._client = 0.0  # seconds that the load generator still has to run
        self._since = 0.0
        self._plan = 0
        self._busy = 0
        self.used = 0.0
        """seconds of cores, without the load generator's"""

    def run(self, seconds: float, threads: int = 1) -> simpy.Event:
        """An event: so much work is done; seconds as it takes on so many threads while nothing else runs."""
        work = _Work(self._env.event(), seconds, threads)
        if seconds <= ROUNDING:
            return work.done.succeed()
        self._advance()
        self._works.append(work)
        self._schedule()
        return work.done

    def client(self, seconds: float, turn: float) -> float:
        """The load generator has so much more to do, and `turn` if it was idle; seconds until it has done all."""
        self._advance()
        self._client += seconds + (0.0 if self._client > ROUNDING else turn)
        self._schedule()
        return self._client

    def _share(self, threads: int) -> float:
        """Of a core, for each of the threads that run."""
        cores = self._cores - (self._client > ROUNDING)
        if threads <= cores:
            return 1.0
        if len(self._works) < threads and cores:  # some wait for one another
            return 1 / -(-threads // cores)
        return cores / threads

    def _slowed(self, others: int) -> float:
        """By so many threads of others that run, too."""
        return 1 + (self._crowded - 1) * min(1.0, others / max(1, self._cores - 1))

    def _advance(self) -> None:
        passed, self._since = self._env.now - self._since, self._env.now
        for work in self._works:
            work.left -= passed * work.rate
        self._client = max(0.0, self._client - passed)
        self.used += passed * self._busy

    def _schedule(self) -> None:
        """What runs has changed: how fast each goes on, and when the next change is due."""
        self._plan += 1
        client = self._client > ROUNDING
        threads = sum(work.threads for work in self._works)
        share = self._share(threads)
        self._busy = min(threads, self._cores - client)
        next_end = self._client if client else math.inf
        for work in self._works:
            work.rate = share / self._slowed(threads + client - work.threads)
            if work.rate:
                next_end = min(next_end, work.left / work.rate)
        if next_end < math.inf:
            plan = self._plan
            self._env.timeout(max(0.0, next_end)).callbacks.append(lambda _: self._on_time(plan))

    def _on_time(self, plan: int) -> None:
        if plan != self._plan:  # something came between
            return
        self._advance()
        for work in [work for work in self._works if work.left <= ROUNDING]:
            self._works.remove(work)
            work.done.succeed()
        self._schedule()
