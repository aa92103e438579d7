"""The fixed records that a worker and the engine exchange; pixels and scores stay in the arena.

Both ends use this file and nothing else, so the wire format is stated once.
"""

import socket
import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

from service.explanations import BEST, Method

# Of RFC 9218, section 4.1: 0 is the most urgent. What is less urgent than the default is background work.
DEFAULT_URGENCY, LEAST_URGENCY = 3, 7


class Command(IntEnum):
    """What a worker asks of the engine."""

    PREDICT = 0  # the slot's pixels are written: classify them
    CANCEL = 1  # nobody waits for the slot any more: drop it if it has not been computed
    EXPLAIN = 2  # the same as PREDICT, and write over the pixels where the network looked
    DECODE = 3  # in place of pixels there is a JPEG (jpegs.py): decode and classify it


class Status(IntEnum):
    """What became of a slot. With the reply the slot is the worker's again, whatever the status."""

    OK = 0
    EXPIRED = 1  # the deadline passed before it was computed
    CANCELLED = 2
    FAILED = 3  # the network raised; the engine's log has the traceback
    NOT_FINITE = 4  # the network returned NaN or infinity
    UNDECODED = 5  # the device cannot decode the JPEG, or decodes none: its pixels are needed


class Order(NamedTuple):
    """Worker to engine. `sent` and `deadline` are CLOCK_MONOTONIC seconds, which all processes share."""

    slot: int
    command: int
    urgency: int
    """0 to 7, as in RFC 9218"""
    sent: float
    deadline: float
    method: int = Method.COORDATT
    """of explanations"""
    target: int = BEST
    """the class to be explained"""


class Reply(NamedTuple):
    """Engine to worker. `queue_us`: order sent to batch start; `infer_us`: the batch's computation."""

    slot: int
    status: int
    batch_size: int
    queue_us: int
    infer_us: int


ORDER = struct.Struct("=IHHddHH")
REPLY = struct.Struct("=IHHII")
RECEIVE_BYTES = 1 << 16


class Line:
    """One end of a doorbell: sends coalesced records without blocking, yields the records that came."""

    def __init__(self, sock: socket.socket, incoming: struct.Struct) -> None:
        sock.setblocking(False)
        self.socket = sock
        self._incoming = incoming
        self._partial = b""
        self._unsent = b""

    def fileno(self) -> int:
        return self.socket.fileno()

    def send(self, records: bytes) -> bool:
        """Send whole records. False if some had to be kept: call again with b"" when writable.

        Raises OSError (BrokenPipeError, ConnectionResetError) if the other end is gone.
        """
        data = self._unsent + records if self._unsent else records
        try:
            sent = self.socket.send(data, socket.MSG_NOSIGNAL) if data else 0
        except BlockingIOError:
            sent = 0
        self._unsent = data[sent:]
        return not self._unsent

    def receive(self) -> Iterator[tuple[int, ...]] | None:
        """The records that have come, unpacked; None once the other end is gone, or this one is closed."""
        try:
            data = self.socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return iter(())
        except OSError:
            return None
        if not data:
            return None
        data = self._partial + data
        whole = len(data) - len(data) % self._incoming.size
        self._partial = data[whole:]
        return self._incoming.iter_unpack(data[:whole])

    def close(self) -> None:
        self.socket.close()
