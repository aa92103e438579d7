"""Takes new connections, many in one turn of the event loop.

libuv takes one a turn. Turns are long when there is much to decode, and new clients would wait for seconds beside
connections that are served well.
"""

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from typing import Any

import uvicorn

log = logging.getLogger(__name__)

ACCEPTS = 64  # in one turn; other workers take the rest
# What is scarce for all of us, not wrong with the client: leave it in the kernel's queue for so long.
SCARCE, PAUSE_SECONDS = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}, 0.1


class Listener:
    """A listening socket in an event loop."""

    def __init__(self, sock: socket.socket, protocol: Callable[[], asyncio.Protocol]) -> None:
        self._socket, self._protocol = sock, protocol
        self._loop = asyncio.get_running_loop()
        self._connecting: set[asyncio.Task[Any]] = set()
        self._closed = False
        sock.setblocking(False)
        self._listen()

    def close(self) -> None:
        self._closed = True
        self._loop.remove_reader(self._socket)

    async def wait_closed(self) -> None:
        """Nothing is left to wait for."""

    def _listen(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._socket, self._accept)

    def _accept(self) -> None:
        for _ in range(ACCEPTS):
            try:
                client, _ = self._socket.accept()
            except BlockingIOError:  # another worker was faster
                return
            except ConnectionAbortedError:
                continue
            except OSError as error:
                if error.errno not in SCARCE:
                    raise
                log.error("cannot accept a connection: %s", error)
                self._loop.remove_reader(self._socket)
                self._loop.call_later(PAUSE_SECONDS, self._listen)
                return
            connecting = self._loop.create_task(self._loop.connect_accepted_socket(self._protocol, client))
            self._connecting.add(connecting)
            connecting.add_done_callback(self._connecting.discard)


class Server(uvicorn.Server):
    """uvicorn with these listeners."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        def connection() -> asyncio.Protocol:
            return self.config.http_protocol_class(  # type: ignore[call-arg]
                config=self.config, server_state=self.server_state, app_state={}
            )

        self.servers = [Listener(sock, connection) for sock in sockets or []]  # type: ignore[misc]
        self.started = True
