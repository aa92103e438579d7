"""The engine's queue: what waits, by urgency and then arrival, and which of it goes into the next batch.

One thread owns it, so there is no lock; a batch is cut when the device is free, so there is no delay
unless one was asked for.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from service.doorbell import DEFAULT_URGENCY, LEAST_URGENCY, Line
from service.explanations import BEST, Method


@dataclass(slots=True, eq=False)
class Entry:
    """One image: where it came from, its slot, and when it was sent and expires (CLOCK_MONOTONIC seconds)."""

    line: Line
    slot: int
    sent: float
    deadline: float
    urgency: int = DEFAULT_URGENCY
    method: int = Method.COORDATT
    target: int = BEST
    jpeg: bool = False
    """in its slot there is a JPEG in place of pixels"""


class BatchQueue:
    """The most urgent first, of these whichever came first; what is cancelled or expired never reaches the device."""

    def __init__(self) -> None:
        self._waiting: list[OrderedDict[int, Entry]] = [OrderedDict() for _ in range(LEAST_URGENCY + 1)]
        """by urgency, each by slot in order of arrival"""

    def __len__(self) -> int:
        return sum(map(len, self._waiting))

    def push(self, entry: Entry) -> None:
        self._waiting[entry.urgency][entry.slot] = entry

    def cancel(self, slot: int) -> Entry | None:
        """Forget the entry of `slot`; None if it is not waiting (computed, or never was)."""
        for waiting in self._waiting:
            if entry := waiting.pop(slot, None):
                return entry
        return None

    def disconnect(self, line: Line) -> int:
        """Forget all that came over `line`; returns how many."""
        gone = [slot for waiting in self._waiting for slot, entry in waiting.items() if entry.line is line]
        for slot in gone:
            self.cancel(slot)
        return len(gone)

    def wait(self, now: float, cap: int, max_delay: float) -> float | None:
        """Seconds until a batch is due: 0 when it is, None when nothing waits."""
        oldest = min((next(iter(waiting.values())).sent for waiting in self._waiting if waiting), default=None)
        if oldest is None:
            return None
        return 0.0 if len(self) >= cap else max(0.0, oldest + max_delay - now)

    def cut(self, now: float, cap: int, background_cap: Callable[[int], int]) -> tuple[list[Entry], list[Entry]]:
        """Take the next batch, at most `cap` entries, and those met on the way whose deadline has passed.

        background_cap(n): up to what size background work may join n other images.
        """
        batch: list[Entry] = []
        expired: list[Entry] = []
        limit = cap
        for urgency, waiting in enumerate(self._waiting):
            if urgency == DEFAULT_URGENCY + 1:
                limit = min(cap, background_cap(len(batch)))
            while waiting and len(batch) < limit:
                _, entry = waiting.popitem(last=False)
                (batch if entry.deadline > now else expired).append(entry)
        return batch, expired
