"""Batches on their way through a GPU: one is copied in while another computes and a third is read back.

A device takes all orders for a batch at once and carries them out in its own time, each kind in turn. So the host holds
no state of its own but who flies in which lane; how far a batch has come, the device is asked.
"""

import math
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

LANES = 3  # places on the device for a batch's pixels and scores: one for each stage
# Batches that are not computed yet, at most: one computes, one is copied. A third would only wait there, past
# whatever is more urgent and comes later.
AHEAD = 2
# Far beyond what a batch takes, and what the supervisor gives a process that is silent.
HANG_SECONDS = 10.0

Ticket = TypeVar("Ticket")
Decoded = Mapping[int, Any]
"""Pixels uint8 [S, S, 3] that are on the device already, by slot"""
NONE_DECODED: Decoded = {}


class Stage(IntEnum):
    """What a batch is in, in this order."""

    COPY = 0
    COMPUTE = 1
    READ = 2


class Times(NamedTuple):
    """Seconds that a batch takes in each stage, alone on the device."""

    copy: float
    compute: float
    read: float


class DeviceHangs(Exception):
    """A batch has been in one stage for so long that it will not leave it."""


class Device(Protocol):
    """What a pipeline asks of a device. Orders return at once; any call may raise what went wrong before it."""

    def prepare(self, images: int) -> None:
        """Make ready for batches of so many images; afterwards nothing is allocated or compiled for them."""

    def copy_in(self, lane: int, slots: Sequence[int], decoded: Decoded) -> None:
        """Order: pixels of the slots into the lane, in this order; of those in `decoded` the pixels there."""

    def launch(self, lane: int, images: int) -> None:
        """Order: once they are there, compute the lane's scores at a batch size that is prepared."""

    def copy_out(self, lane: int, images: int) -> None:
        """Order: once they are computed, so many scores into the host's memory."""

    def done(self, lane: int, stage: Stage) -> bool:
        """Whether the last order of this kind was carried out."""

    def scores(self, lane: int, images: int) -> NDArray[np.float32]:
        """Scores [images, classes] that were read back; the next batch in the lane overwrites them."""

    def seconds(self, lane: int) -> Times:
        """How long the last batch in the lane took, once it is read back."""


@dataclass
class Flight(Generic[Ticket]):
    """A batch on its way."""

    ticket: Ticket
    lane: int
    images: int
    since: float
    lands: float
    """expected; both CLOCK_MONOTONIC seconds"""


class Pipeline(Generic[Ticket]):
    """The batches in flight on one device; they land in the order in which they were submitted."""

    def __init__(self, device: Device) -> None:
        self.times: dict[int, Times] = {}
        """by prepared batch size; the caller fills it"""
        self._device = device
        self._flights: deque[Flight[Ticket]] = deque()
        self._free = list(range(LANES))
        self._busy_until = 0.0
        self._last_landing = 0.0

    def __len__(self) -> int:
        return len(self._flights)

    def free_in(self, now: float, size: int, full: bool) -> float:
        """Seconds until a batch of `size` should be submitted; inf: once another has landed, or has been computed.

        A full batch gains nothing by waiting. Any other may still grow until the device is about to have nothing to do.
        """
        if not self._free or self._uncomputed() >= AHEAD:
            return math.inf
        if full or not self._flights:
            return 0.0
        return max(0.0, self._busy_until - self.times[size].copy - now)

    def lands_in(self, now: float) -> float:
        """Seconds until a batch is expected to land; inf when nothing flies."""
        return max(0.0, self._flights[0].lands - now) if self._flights else math.inf

    def submit(
        self, slots: Sequence[int], size: int, ticket: Ticket, now: float, decoded: Decoded = NONE_DECODED
    ) -> None:
        """Send the images of the slots on their way, computed at batch size `size`; a lane must be free.

        If it raises for want of memory the batch is not on its way, and a smaller one may be.
        """
        lane = self._free[-1]
        self._device.copy_in(lane, slots, decoded)
        self._device.launch(lane, size)
        self._device.copy_out(lane, len(slots))
        self._free.pop()
        times = self.times.get(size, Times(0.0, 0.0, 0.0))
        self._busy_until = max(now + times.copy, self._busy_until) + times.compute
        self._flights.append(Flight(ticket, lane, len(slots), now, self._busy_until + times.read))

    def landed(self, now: float) -> Iterator[tuple[Ticket, NDArray[np.float32]]]:
        """The batches that have come back, each with its scores, which are overwritten once the next is asked for.

        Raises DeviceHangs, and whatever the device says has gone wrong; then all that flies is lost.
        """
        while self._flights:
            flight = self._flights[0]
            if not self._device.done(flight.lane, Stage.READ):
                since = max(flight.since, self._last_landing)
                if now - since > HANG_SECONDS:
                    raise DeviceHangs(
                        f"a batch of {flight.images} images has been in stage {self._stage(flight).name} "
                        f"for {now - since:.0f} s"
                    )
                return
            yield flight.ticket, self._device.scores(flight.lane, flight.images)
            self._flights.popleft()
            self._free.append(flight.lane)
            self._last_landing = now
            if not self._flights:
                self._busy_until = now

    def alone(self, slots: Sequence[int], size: int) -> Times:
        """How long a batch takes when no other flies; waits for it."""
        self.submit(slots, size, None, time.monotonic())  # type: ignore[arg-type]
        lane = self._flights[0].lane
        while self._flights:
            for _ in self.landed(time.monotonic()):
                pass
        return self._device.seconds(lane)

    def stages(self) -> list[Stage]:
        """What each batch in flight is in, oldest first."""
        return [self._stage(flight) for flight in self._flights]

    def _stage(self, flight: Flight[Ticket]) -> Stage:
        return next((stage for stage in Stage if not self._device.done(flight.lane, stage)), Stage.READ)

    def _uncomputed(self) -> int:
        return sum(not self._device.done(flight.lane, Stage.COMPUTE) for flight in self._flights)
