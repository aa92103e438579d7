"""A small HTTP client for load, in open loop (requests leave at their times, whatever comes back) or in closed loop.

It sends bytes that are ready and reads no more of an answer than it must: it shares its cores with the service.
"""

import asyncio
import contextlib
import gc
import math
import os
import random
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from statistics import quantiles

LOST = 0
LATE = -1
HURRY = -10
LAST_CHUNK = b"0\r\n\r\n"


@dataclass(frozen=True)
class Answer:
    """What became of one request. Seconds count from when it was due, so that waiting to be sent counts, too."""

    due: float
    """seconds from the start of the load"""
    seconds: float
    status: int
    """LOST: the connection failed before a whole answer; LATE: the client gave up waiting"""
    head: bytes = field(default=b"", repr=False)
    body: bytes = field(default=b"", repr=False)
    sent: float = 0.0
    """seconds from the start of the load; some after `due`, because timers count in milliseconds"""


def post(path: str, body: bytes, **headers: str) -> bytes:
    """A whole request; headers with _ for -."""
    lines = [f"POST {path} HTTP/1.1", "Host: load", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def poisson(rate: float, seconds: float, seed: int = 0) -> list[float]:
    """When the requests of a Poisson process are due: `rate` a second, for so long."""
    generator, times, now = random.Random(seed), [], 0.0
    while (now := now + generator.expovariate(rate)) < seconds:
        times.append(now)
    return times


def for_seconds(seconds: float) -> Callable[[], bool]:
    """Whether less than that has passed since now."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() < end


def percentile(values: Iterable[float], percent: int) -> float:
    ordered = sorted(values)
    if len(ordered) < 2:
        return ordered[0] if ordered else math.nan
    return quantiles(ordered, n=100, method="inclusive")[percent - 1]


@contextlib.contextmanager
def hurry() -> Iterator[None]:
    """Let this process run before those that it loads, where it may, and without pauses of the garbage collector (half
    a second after 80,000 answers), so that it measures them and not itself.

    Those must have been started before: they would inherit it.
    """
    usual = os.getpriority(os.PRIO_PROCESS, 0)
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, HURRY)
    gc.disable()
    yield
    gc.enable()
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, usual)


class Client:
    """Connections to one address; those that are idle are used again, the latest first, or any if there is `luck`."""

    def __init__(self, host: str, port: int, luck: random.Random | None = None) -> None:
        self._host, self._port, self._luck = host, port, luck
        self._idle: list[_Connection] = []

    async def open(self, connections: int) -> list[int]:
        """Open so many ahead; their own ports."""
        self._idle += [await self._connect() for _ in range(connections)]
        return [connection.port for connection in self._idle]

    def close(self, ports: Collection[int]) -> None:
        """Close the idle connections from these ports."""
        for connection in [one for one in self._idle if one.port in ports]:
            self._idle.remove(connection)
            connection.close()

    async def open_loop(self, request: bytes, times: list[float], patience: float | None = None) -> list[Answer]:
        """Send `request` at each of `times` (seconds from now); hang up after `patience` seconds without an answer."""
        start = time.monotonic()

        async def one(due: float) -> Answer:
            return await self.ask(request, start, due, patience)

        tasks = []
        for due in times:
            if (early := start + due - time.monotonic()) > 0:
                await asyncio.sleep(early)
            tasks.append(asyncio.create_task(one(due)))
        return list(await asyncio.gather(*tasks))

    async def closed_loop(
        self, request: bytes, connections: int, going: Callable[[], bool], patience: float | None = None
    ) -> list[Answer]:
        """As many requests at a time as `connections`, each after the answer to the one before, while `going()`."""
        start = time.monotonic()
        answers: list[Answer] = []

        async def one() -> None:
            while going():
                answers.append(await self.ask(request, start, time.monotonic() - start, patience))
                if answers[-1].status == LOST:
                    await asyncio.sleep(0.01)

        await asyncio.gather(*(one() for _ in range(connections)))
        return answers

    async def ask(self, request: bytes, start: float, due: float, patience: float | None = None) -> Answer:
        """One request, due so many seconds after `start` of time.monotonic()."""
        sent = time.monotonic() - start
        status, head, body = LOST, b"", b""
        connection = None
        try:
            async with asyncio.timeout(patience):
                connection = self._take() or await self._connect()
                head, body = await connection.ask(request)
            status = int(head[9:12])
            if not connection.closed:
                self._idle.append(connection)
        except TimeoutError:
            status = LATE
            if connection:
                connection.close()
        except OSError:
            pass
        return Answer(due, time.monotonic() - start - due, status, head, body, sent)

    def _take(self) -> "_Connection | None":
        if not self._idle:
            return None
        return self._idle.pop(self._luck.randrange(len(self._idle)) if self._luck else -1)

    async def _connect(self) -> "_Connection":
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: _Connection(self._forget), self._host, self._port)
        return connection

    def _forget(self, connection: "_Connection") -> None:
        if connection in self._idle:
            self._idle.remove(connection)


class _Connection(asyncio.Protocol):
    """One request at a time; answers have a Content-Length, as all of the service's do, or come in chunks."""

    def __init__(self, lost: Callable[["_Connection"], None]) -> None:
        self._lost = lost
        self._received = b""
        self._answer: asyncio.Future[tuple[bytes, bytes]] | None = None
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    @property
    def port(self) -> int:
        return self._transport.get_extra_info("sockname")[1]

    async def ask(self, request: bytes) -> tuple[bytes, bytes]:
        """Head and body of the answer. Raises ConnectionError."""
        if self.closed:
            raise ConnectionResetError
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)  # type: ignore[attr-defined]
        return await self._answer

    def close(self) -> None:
        self.closed = True
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0 or self._answer is None:
            return
        head = self._received[:end].lower()
        if b"transfer-encoding: chunked" in head:
            if not self._received.endswith(LAST_CHUNK):
                return
            length = len(self._received) - end - 4
        else:
            length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
        if len(self._received) < end + 4 + length:
            return
        body, self._received = self._received[end + 4 :], b""
        if b"connection: close" in head:
            self.close()
        if not self._answer.done():
            self._answer.set_result((head, body))

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._lost(self)
        if self._answer and not self._answer.done():
            self._answer.set_exception(ConnectionResetError())
