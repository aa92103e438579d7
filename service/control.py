"""Messages between the supervisor and a child process: JSON with file descriptors, over a socketpair.

A child inherits one descriptor, its end of this channel; settings, arena, listener and doorbells
all arrive through it. The end of the channel is the end of the other process.
"""

import json
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

MAX_MESSAGE_BYTES = 65536
MAX_FDS = 253  # SCM_MAX_FD of Linux


@dataclass
class Message:
    kind: str
    fields: dict[str, Any]
    fds: list[int] = field(default_factory=list)


def pair() -> tuple[socket.socket, socket.socket]:
    """Both ends of a new channel. SEQPACKET keeps messages apart."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(channel: socket.socket, kind: str, fds: Sequence[int] = (), **fields: Any) -> bool:
    """Send one message; False if the other process is gone, which its watcher hears of separately."""
    payload = json.dumps({"kind": kind, **fields}).encode()
    try:
        socket.send_fds(channel, [payload], fds)
    except (BrokenPipeError, ConnectionResetError):
        return False
    return True


def receive(channel: socket.socket) -> Message | None:
    """The next message, or None once the other process is gone. Blocks unless the channel does not."""
    try:
        payload, fds, _, _ = socket.recv_fds(channel, MAX_MESSAGE_BYTES, MAX_FDS)
    except ConnectionResetError:
        # Linux says once that the other process ended with messages unread; what it sent itself can be read after that.
        payload, fds, _, _ = socket.recv_fds(channel, MAX_MESSAGE_BYTES, MAX_FDS)
    if not payload:
        return None
    fields = json.loads(payload)
    for fd in fds:
        os.set_inheritable(fd, False)
    return Message(fields.pop("kind"), fields, fds)
