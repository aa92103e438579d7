"""Who decodes next: pictures in order of urgency, some milliseconds of them in one turn of the event loop.

Between two turns the loop takes new requests, refuses what it has no room for, answers probes and rings the engine. So
none of these waits for all the pictures that came before it, however many did.
"""

import asyncio
import heapq
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count

from models.images import Pixels
from service.doorbell import DEFAULT_URGENCY

# Longer turns make the loop deaf for longer; shorter ones ring the engine for fewer images at a time, which costs.
TURN_SECONDS = 0.008
# Up to here (about 2 ms of decoding) handing a picture to a thread costs more than it saves the event loop.
INLINE_PIXELS = 400_000
THREADS = 2

Work = Callable[[], Pixels]


class DecodingTurns:
    """The decoding of one worker. Lives in one event loop."""

    def __init__(self) -> None:
        self._until = 0.0  # of this turn; 0 before its first picture
        self._waiting: list[tuple[int, int, asyncio.Future[Pixels], Work]] = []  # a heap
        self._arrivals = count()
        self._threads = ThreadPoolExecutor(THREADS, "decode")
        self._background = asyncio.Semaphore(THREADS - 1)  # one thread is never taken by large background pictures

    async def decoded(self, work: Work, pixels: int, urgency: int) -> Pixels:
        """What `work` returns or raises, once it is its turn; pixels: how large the picture is."""
        if pixels > INLINE_PIXELS:
            return await self._in_a_thread(work, urgency)
        loop = asyncio.get_running_loop()
        if not self._until:
            self._begin(loop)
        if not self._waiting and urgency <= DEFAULT_URGENCY and time.perf_counter() < self._until:
            return work()
        turn = loop.create_future()
        heapq.heappush(self._waiting, (urgency, next(self._arrivals), turn, work))
        return await turn

    async def _in_a_thread(self, work: Work, urgency: int) -> Pixels:
        loop = asyncio.get_running_loop()
        if urgency <= DEFAULT_URGENCY:
            return await loop.run_in_executor(self._threads, work)
        async with self._background:
            return await loop.run_in_executor(self._threads, work)

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        self._until = time.perf_counter() + TURN_SECONDS
        loop.call_soon(self._next_turn, loop)

    def _next_turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self._until = 0.0
        if not self._waiting:
            return
        self._begin(loop)
        while self._waiting and time.perf_counter() < self._until:
            urgency, _, turn, work = heapq.heappop(self._waiting)
            if turn.done():  # whoever asked has gone
                continue
            try:
                turn.set_result(work())
            except Exception as error:
                turn.set_exception(error)
            if urgency > DEFAULT_URGENCY:  # one a turn: something more urgent may be in a socket by now
                break
