"""A worker's share of the arena: slots for the images of a request, and their way to an engine and back.

A slot is the worker's, until it is submitted; then it is one engine's, until its reply. Only then is it
free again, also when nobody waits for the answer any more. So no one ever writes where another reads.
"""

import asyncio
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.images import Picture
from service import jpegs, problems
from service.arena import Arena
from service.doorbell import DEFAULT_URGENCY, ORDER, REPLY, Command, Line, Reply, Status
from service.explanations import BEST, Explanation, Method, unpack
from service.problems import Problem

BACKGROUND_SHARE = 0.75  # of the slots, at most, for background work: the rest is free for what is more urgent

Question = tuple[Method, int]
"""How to explain an image, and the class to be explained"""
NO_QUESTION: Question = (Method.COORDATT, BEST)

EngineState = Literal["away", "recovering", "ready"]
"""Recovering: it is being replaced, and will be back soon for all we know"""


@dataclass
class ServiceStatus:
    """What the supervisor has told this worker of the whole service."""

    ready: bool = False
    recovering: bool = False  # none answers, but one is being replaced, soon: requests may wait for it
    reason: str = "starting"
    failed: bool = False  # no engine can be kept alive: only a restart of the whole service may help
    draining: bool = False
    engines: list[EngineState] = field(default_factory=list)
    engine_restarts: int = 0
    card: dict[str, Any] = field(default_factory=dict)
    capacity: dict[str, float] = field(default_factory=dict)
    """images/s of all engines together, by batch size"""


class SlotPool:
    """The slots of one worker and its lines to the engines. Lives in one event loop."""

    def __init__(
        self,
        arena: Arena,
        first: int,
        count: int,
        status: ServiceStatus,
        dropped: Callable[[str, int], None],
        engines: int = 1,
    ) -> None:
        """dropped(reason, n) is told of images that were given up before they were computed, and why."""
        self._arena, self._status, self._dropped = arena, status, dropped
        self._free = list(range(first, first + count))
        arena.used[first : first + count] = 0
        self.count = count
        self._kept = count - round(BACKGROUND_SHARE * count)  # from background work
        self._engines = [EngineLine(self) for _ in range(engines)]
        self._turns = list(range(engines))  # of the engines: who was chosen last comes last

    def connect(self, sock: socket.socket, engine: int = 0) -> None:
        """Use a new line to an engine. What a former one in its place still owed has failed."""
        self._engines[engine].connect(sock)

    def check_hope(self) -> None:
        """The status has changed: what waits for an engine that will not come has failed."""
        for engine, state in zip(self._engines, self._status.engines, strict=True):
            if not engine.connected and state == "away":
                engine.fail(self._status.reason or "the engine was lost")

    def check_room(self, count: int, urgency: int) -> None:
        """Raises Problem: 503 if there is no engine and none to come, 429 if fewer than `count` slots are free.

        Background work leaves some slots to what is more urgent.
        """
        if not (self._status.ready or self._status.recovering):
            raise problems.not_ready(self._status.reason)
        kept = self._kept if urgency > DEFAULT_URGENCY else 0
        if count > len(self._free) - kept:
            self._dropped("shed", count)
            raise problems.queue_full()

    @property
    def jpegs_as_they_are(self) -> bool:
        """Whether the engine decodes JPEGs."""
        return self._status.card.get("decode") == "gpu"

    def take(self, count: int, urgency: int) -> "Ticket":
        """Slots for `count` images. Raises Problem as check_room does."""
        self.check_room(count, urgency)
        slots = [self._free.pop() for _ in range(count)]
        self._arena.used[slots] = 1
        return Ticket(self, self._arena, slots, urgency)

    def submit(self, ticket: "Ticket", slots: Iterable[int], deadline: float, question: Question | None) -> float:
        """Order the slots, now or once there is an engine; when that was, of time.monotonic()."""
        now = time.monotonic()
        command = Command.EXPLAIN if question else Command.PREDICT
        for slot in slots:
            engine = self._engines[0] if len(self._engines) == 1 else self._least_busy()
            engine.owed[slot] = ticket
            what = Command.DECODE if slot in ticket.jpegs else command
            engine.order(ORDER.pack(slot, what, ticket.urgency, now, deadline, *(question or NO_QUESTION)))
        return now

    def _least_busy(self) -> "EngineLine":
        """Of the engines that answer the one that owes this worker least; of equals whose turn it is."""
        states = self._status.engines
        able = (
            [index for index in self._turns if states[index] == "ready" and self._engines[index].connected]
            or [index for index in self._turns if states[index] != "away"]
            or self._turns
        )
        chosen = min(able, key=lambda index: len(self._engines[index].owed))
        self._turns.remove(chosen)
        self._turns.append(chosen)
        return self._engines[chosen]

    def give_back(self, slots: Iterable[int]) -> None:
        """The owner needs them no more; those that an engine still has come back with its reply."""
        for slot in slots:
            for engine in self._engines:
                if slot in engine.owed:
                    engine.order(ORDER.pack(slot, Command.CANCEL, 0, 0.0, 0.0, *NO_QUESTION))
                    break
            else:
                self.release(slot)

    def given_up(self, ticket: "Ticket", images: int) -> None:
        """Nobody waits any more for so many images of the ticket, which were not computed."""
        if ticket.given_up and images:
            self._dropped(ticket.given_up, images)

    def release(self, slot: int) -> None:
        """Neither the owner nor an engine needs the slot."""
        self._arena.used[slot] = 0
        self._free.append(slot)


class EngineLine:
    """A worker's line to one engine, and the images that this one owes it."""

    def __init__(self, pool: SlotPool) -> None:
        self._pool = pool
        self._line: Line | None = None
        self._orders: list[bytes] = []
        self.owed: dict[int, Ticket] = {}
        """by slot, which is the engine's"""

    @property
    def connected(self) -> bool:
        return self._line is not None

    def connect(self, sock: socket.socket) -> None:
        """Use a new line. What the former engine still owed has failed."""
        self.disconnect()
        self._line = Line(sock, REPLY)
        asyncio.get_running_loop().add_reader(sock, self._on_replies)
        if self._orders:  # that came when there was no line
            self._ring()

    def disconnect(self) -> None:
        """The engine is gone. What it held has failed: one of these images may be what it died of."""
        if self._line is None:
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._line.socket)
        loop.remove_writer(self._line.socket)
        self._line.close()
        self._line = None
        self.fail("the engine was lost while it held the image")

    def fail(self, reason: str) -> None:
        """Nothing of what is owed will come."""
        self._orders.clear()
        owed, self.owed = self.owed, {}
        for slot, ticket in owed.items():
            ticket.fail(slot, problems.not_ready(reason))

    def order(self, order: bytes) -> None:
        """Send one record of doorbell.ORDER, now or once there is a line."""
        if not self._orders:  # one write for all that this turn of the loop brings
            asyncio.get_running_loop().call_soon(self._ring)
        self._orders.append(order)

    def _ring(self) -> None:
        if self._line is None:
            return
        records = b"".join(self._orders)
        self._orders.clear()
        loop = asyncio.get_running_loop()
        try:
            if self._line.send(records):
                loop.remove_writer(self._line.socket)
            else:
                loop.add_writer(self._line.socket, self._ring)
        except OSError:
            self.disconnect()

    def _on_replies(self) -> None:
        replies = self._line.receive() if self._line else None
        if replies is None:
            self.disconnect()
            return
        for record in replies:
            ticket = self.owed.pop(record[0])
            if ticket.closed:
                self._pool.release(record[0])
                self._pool.given_up(ticket, record[1] == Status.CANCELLED)
            else:
                ticket.reply(Reply(*record))


_GIVEN_UP: dict[type[BaseException], str] = {TimeoutError: "deadline", asyncio.CancelledError: "disconnect"}


class Ticket:
    """The slots of one request, from before decoding until its answer is written. A context manager."""

    def __init__(self, pool: SlotPool, arena: Arena, slots: list[int], urgency: int) -> None:
        self._pool, self._arena = pool, arena
        self.slots, self.urgency = slots, urgency
        self.closed = False
        self.given_up: str | None = None
        """why it was closed before its answer: deadline or disconnect"""
        self.sent = 0.0
        """time.monotonic() of the order"""
        self.jpegs: set[int] = set()
        """the slots that have JPEGs in place of pixels, until they are sent"""
        self._expected = 0
        self._replies: dict[int, Reply]
        self._done: asyncio.Future[None]

    def __enter__(self) -> "Ticket":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(kind)

    def close(self, error: type[BaseException] | None = None) -> None:
        """The slots are needed no more; of which class the error was that ended it before its answer."""
        self.closed = True
        if error is not None:
            self.given_up = _GIVEN_UP.get(error)
        if not self._expected:
            self._pool.given_up(self, len(self.slots))
        self._pool.give_back(self.slots)

    def pixels(self, index: int) -> NDArray[np.uint8]:
        """Where to write image `index` of the request: uint8 [size, size, 3]."""
        return self._arena.pixels[self.slots[index]]

    def pack(self, index: int, picture: Picture) -> bool:
        """Write image `index` as it is, for the device to decode; False if that can only be done here."""
        packed = jpegs.pack(picture, self.pixels(index))
        if packed:
            self.jpegs.add(self.slots[index])
        return packed

    def scores(self, index: int) -> NDArray[np.float32]:
        """Scores float32 [classes] of image `index`, once `infer` has returned; valid until the ticket closes."""
        return self._arena.scores[self.slots[index]]

    def explanation(self, index: int) -> Explanation:
        """Where the network looked in image `index`, once `infer` has returned for a question."""
        return unpack(self._arena.pixels[self.slots[index]])

    async def infer(self, indices: list[int], deadline: float, question: Question | None = None) -> list[Reply]:
        """Have the images computed whose pixels are written, or which are packed; their replies, in order.

        An image whose reply is UNDECODED is to be written as pixels. With a question they are explained, too, and
        their pixels are no more. After `deadline` (of time.monotonic()) they are not begun. Raises Problem: 504 if
        they were not, 503 if the engine is lost, 500 if the network fails.
        """
        slots = [self.slots[index] for index in indices]
        self._expected = len(slots)
        self._replies = {}
        self._done = asyncio.get_running_loop().create_future()
        self.sent = self._pool.submit(self, slots, deadline, question)
        self.jpegs.clear()
        await self._done
        return [self._replies[slot] for slot in slots]

    def reply(self, reply: Reply) -> None:
        self._replies[reply.slot] = reply
        if not self._done.done():
            if reply.status != Status.OK and reply.status != Status.UNDECODED:
                self._done.set_exception(self._problem(Status(reply.status)))
            elif len(self._replies) == self._expected:
                self._done.set_result(None)

    def fail(self, slot: int, problem: Problem) -> None:
        """The engine is gone, and with it its hold on the slot."""
        if self.closed:
            self._pool.give_back([slot])
        elif not self._done.done():
            self._done.set_exception(problem)

    def _problem(self, status: Status) -> Problem:
        if status is Status.EXPIRED:
            return problems.deadline_exceeded()
        if status is Status.NOT_FINITE:
            return problems.inference_failed("its scores are not finite numbers")
        return problems.inference_failed("the engine's log has the reason")
