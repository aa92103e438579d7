"""The engine's queue: what waits, in order of arrival, and which of it goes into the next batch.

One thread owns it, so there is no lock; a batch is cut when the device is free, so there is no delay
unless one was asked for.
"""

from collections import deque
from dataclasses import dataclass

from service.doorbell import Line
from service.explanations import BEST, Method


@dataclass(slots=True, eq=False)
class Entry:
    """One image: where it came from, its slot, and when it was sent and expires (CLOCK_MONOTONIC seconds)."""

    line: Line
    slot: int
    sent: float
    deadline: float
    method: int = Method.COORDATT
    target: int = BEST
    cancelled: bool = False


class BatchQueue:
    """First in, first out; what is cancelled or expired never reaches the device."""

    def __init__(self) -> None:
        self._entries: deque[Entry] = deque()
        self._by_slot: dict[int, Entry] = {}

    def __len__(self) -> int:
        return len(self._by_slot)

    def push(self, entry: Entry) -> None:
        self._by_slot[entry.slot] = entry
        self._entries.append(entry)

    def cancel(self, slot: int) -> Entry | None:
        """Forget the entry of `slot`; None if it is not waiting (computed, or never was)."""
        entry = self._by_slot.pop(slot, None)
        if entry:
            entry.cancelled = True
        return entry

    def disconnect(self, line: Line) -> int:
        """Forget all that came over `line`; returns how many."""
        gone = [slot for slot, entry in self._by_slot.items() if entry.line is line]
        for slot in gone:
            self.cancel(slot)
        return len(gone)

    def wait(self, now: float, cap: int, max_delay: float) -> float | None:
        """Seconds until a batch is due: 0 when it is, None when nothing waits."""
        while self._entries and self._entries[0].cancelled:
            self._entries.popleft()
        if not self._entries:
            return None
        if len(self) >= cap:
            return 0.0
        return max(0.0, self._entries[0].sent + max_delay - now)

    def cut(self, now: float, cap: int) -> tuple[list[Entry], list[Entry]]:
        """Take the next batch, at most `cap` entries, and those met on the way whose deadline has passed."""
        batch: list[Entry] = []
        expired: list[Entry] = []
        while self._entries and len(batch) < cap:
            entry = self._entries.popleft()
            if entry.cancelled:
                continue
            del self._by_slot[entry.slot]
            (batch if entry.deadline > now else expired).append(entry)
        return batch, expired
