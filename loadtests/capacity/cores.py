"""Cores that processes take turns on, as the kernel hands them out: in slices of some milliseconds.

A process that has nothing to do gives its core up at once; one that wants a core while all are taken waits for the end
of somebody's slice. The threads of one batch wait for one another in the end.
"""

from collections import deque
from collections.abc import Generator, Hashable
from dataclasses import dataclass
from typing import Any

import simpy

Process = Generator[simpy.Event, Any, None]
"""What SimPy runs"""

# A tick of Linux at 250 Hz, as most distributions have it: earlier nobody is interrupted.
SLICE_SECONDS = 0.004
ROUNDING = 1e-9  # seconds of work that are none


@dataclass(eq=False)
class _Work:
    done: simpy.Event
    unfinished: int
    """threads"""
    process: Hashable


@dataclass(eq=False)
class _Thread:
    work: _Work
    left: float
    slice_left: float = SLICE_SECONDS
    since: float = 0.0
    """when it was given its core"""
    slowed: float = 1.0
    turn: int = 0


class Cores:
    """`run` work on them; the load generator, which goes first, takes one away while it has something to do."""

    def __init__(self, env: simpy.Environment, cores: int, crowded: float = 1.0) -> None:
        """crowded: how many times as long work takes while others keep the other cores busy."""
        self._env, self._cores, self._crowded = env, cores, crowded
        self._ready: deque[_Thread] = deque()
        self._running: list[_Thread] = []
        self._kept: dict[Hashable, float] = {}
        """by process that may go on at this very moment, what is left of its slice"""
        self._client_until = 0.0
        self._client = False
        self.used = 0.0
        """seconds of cores, without the load generator's"""

    def run(self, process: Hashable, seconds: float, threads: int = 1) -> simpy.Event:
        """An event: so much work of a process is done; seconds as on so many threads while nothing else runs."""
        work = _Work(self._env.event(), threads, process)
        if seconds <= ROUNDING:
            return work.done.succeed()
        found = [_Thread(work, seconds) for _ in range(threads)]
        if process in self._kept:
            found[0].slice_left = self._kept.pop(process)
            self._start(found.pop(0))
        self._ready.extend(found)
        self._dispatch()
        return work.done

    def client(self, seconds: float, turn: float) -> float:
        """The load generator has so much more to do, and `turn` if it was idle; seconds until it has done all."""
        now = self._env.now
        self._client_until = max(now, self._client_until) + seconds + (0.0 if self._client else turn)
        if not self._client:
            self._client = True
            if self._running and self._busy() > self._cores:
                self._stop(self._running[-1])
            self._wait_for_client()
        return self._client_until - now

    def _wait_for_client(self) -> None:
        self._env.timeout(self._client_until - self._env.now).callbacks.append(lambda _: self._on_client())

    def _on_client(self) -> None:
        if self._client_until > self._env.now + ROUNDING:  # it was given more
            self._wait_for_client()
            return
        self._client = False
        self._dispatch()

    def _busy(self) -> int:
        return len(self._running) + len(self._kept) + self._client

    def _dispatch(self) -> None:
        while self._ready and self._busy() < self._cores:
            self._start(self._ready.popleft())

    def _start(self, thread: _Thread) -> None:
        others = min(1.0, self._busy() / max(1, self._cores - 1))
        thread.slowed = 1 + (self._crowded - 1) * others
        thread.since = self._env.now
        thread.turn += 1
        self._running.append(thread)
        turn, seconds = thread.turn, min(thread.left * thread.slowed, thread.slice_left)
        self._env.timeout(seconds).callbacks.append(lambda _: self._on_time(thread, turn))

    def _stop(self, thread: _Thread) -> None:
        """Interrupt it; it goes on first."""
        self._leave(thread)
        thread.turn += 1
        self._ready.appendleft(thread)

    def _leave(self, thread: _Thread) -> None:
        self._running.remove(thread)
        passed = self._env.now - thread.since
        self.used += passed
        thread.left -= passed / thread.slowed
        thread.slice_left -= passed

    def _on_time(self, thread: _Thread, turn: int) -> None:
        if thread.turn != turn:  # it was interrupted
            return
        self._leave(thread)
        if thread.left > ROUNDING:
            thread.slice_left = SLICE_SECONDS
            self._ready.append(thread)
        else:
            self._finish(thread)
        self._dispatch()

    def _finish(self, thread: _Thread) -> None:
        work = thread.work
        work.unfinished -= 1
        if work.unfinished:
            return
        work.done.succeed()
        if thread.slice_left > ROUNDING:  # whoever waits for the event may want to go on
            self._kept[work.process] = thread.slice_left
            self._env.timeout(0).callbacks.append(lambda _: self._give_up(work.process))

    def _give_up(self, process: Hashable) -> None:
        if self._kept.pop(process, None) is not None:
            self._dispatch()
