"""A client's connection: uvicorn's, with the limits and the end that uvicorn leaves to others.

A head must come whole, soon, and not be too large; an answer must be taken; and with the client goes its request.
"""

import asyncio
from http import HTTPStatus
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service import problems
from service.problems import Problem

HEAD_BYTES = 65_536  # a request line and its headers; browsers and proxies send some kilobytes
HEAD_SECONDS = 10.0  # from a head's first byte to its last
KEEP_ALIVE_SECONDS = 65  # above the 60 s of common proxies, so that they and not we close an idle connection
WRITE_SECONDS = 30.0  # how long a client may take nothing of an answer


class Answers:
    """A transport that writes the head of an answer with the first of its body: one call to the kernel, not two."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""
        self.is_closing = transport.is_closing

    def write(self, data: bytes) -> None:
        if data.startswith(b"HTTP/1.1 ") and not data.startswith(b"HTTP/1.1 100"):  # what follows 100 waits for it
            self.flush()
            self._head = data
        else:
            self._transport.write(self._head + data)
            self._head = b""

    def flush(self) -> None:
        """For a head that no body follows."""
        if self._head:
            self.write(b"")

    def close(self) -> None:
        self.flush()
        self._transport.close()


class Connection(HttpToolsProtocol):
    """One connection in the event loop of a worker.

    408 for a slow head (RFC 9110, section 15.5.9), 431 for a large one (RFC 6585, section 5), 400 for no HTTP at all.
    A client that closes its side, or only its half (RFC 9112, section 9.6), is taken to be gone: the task of its
    request is cancelled, which gives back its slots.
    """

    _task: asyncio.Task[None] | None = None
    _in_head = False
    _head_bytes = 0
    _head_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None
    _ending = False

    # uvicorn leaves a connection that never says anything open for ever.
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._answers = Answers(transport)
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for timer in (self.timeout_keep_alive_task, self._head_timer, self._write_timer):
            if timer:
                timer.cancel()
        if self._task and not self._task.done():
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._in_head or self.transport.is_closing():
            return
        self._head_bytes += len(data)
        if self._head_bytes > HEAD_BYTES:
            self._refuse(problems.head_too_large(HEAD_BYTES))
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self._refuse, problems.head_too_slow(HEAD_SECONDS))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._head_timer:
            self._head_timer.cancel()
            self._head_timer = None
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        self.app = self.config.loaded_app if size <= HEAD_BYTES else _refuse_head
        super().on_headers_complete()
        self.cycle.transport = self._answers  # type: ignore[assignment]
        if self._ending:
            self.cycle.keep_alive = False

    def on_response_complete(self) -> None:
        self._answers.flush()
        super().on_response_complete()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._task = self.loop.create_task(cycle.run_asgi(app))
        self._task.add_done_callback(self.tasks.discard)
        self.tasks.add(self._task)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_timer = self.loop.call_later(WRITE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_timer:
            self._write_timer.cancel()

    def timeout_keep_alive_handler(self) -> None:
        if self.transport.get_write_buffer_size():  # the last answer was not taken: close() would wait for that
            self.transport.abort()
        else:
            super().timeout_keep_alive_handler()

    def shutdown(self) -> None:
        """Close once what has begun is answered, also where only the first bytes of a request are here."""
        self._ending = True
        if not self._in_head:
            super().shutdown()

    def send_400_response(self, msg: str) -> None:
        self._refuse(problems.not_http(msg))

    def _refuse(self, problem: Problem) -> None:
        """Answer what never became a request, and close."""
        if self.cycle is None or self.cycle.response_complete:  # else it would stand within another answer
            body = problem.json()
            head = [
                f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}",
                f"content-type: {problems.MEDIA_TYPE}",
                f"content-length: {len(body)}",
                "x-content-type-options: nosniff",
                "connection: close",
            ]
            self.transport.write("\r\n".join([*head, "", ""]).encode() + body)
        self.transport.close()


async def _refuse_head(scope: Scope, receive: Receive, send: Send) -> None:
    problem = problems.head_too_large(HEAD_BYTES)
    response = Response(problem.json(), problem.status, {"Connection": "close"}, media_type=problems.MEDIA_TYPE)
    await response(scope, receive, send)
