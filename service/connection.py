"""A client's connection: uvicorn's, with the limits and the end that uvicorn leaves to others.

A head must come whole, soon, and not be too large; an answer must be taken; and with the client goes its request.
"""

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import httptools
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service import problems
from service.observe import UNMATCHED_ROUTE, new_request_id
from service.problems import Problem

HEAD_BYTES = 65_536  # a request line and its headers; browsers and proxies send some kilobytes
HEAD_SECONDS = 10.0  # from a head's first byte to its last
KEEP_ALIVE_SECONDS = 65  # above the 60 s of common proxies, so that they and not we close an idle connection
WRITE_SECONDS = 30.0  # how long a client may take nothing of an answer
# What may still come of a body that nobody needs any more, as its answer was early: clients send on for a while, and
# would not see the answer on a connection that is reset.
DRAIN_BYTES, DRAIN_SECONDS = 2**26, 10.0
LINGER_SECONDS = 2.0  # for the last answer of a connection to be read, for the same reason

Count = Callable[[str, int, float], None]
"""WorkerMetrics.answered: route, status, seconds"""


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

    408 for a slow head (RFC 9110, section 15.5.9), 431 for a large one (RFC 6585, section 5), 400 for what is no HTTP
    or has not one Host (RFC 9112, section 3.2), 501 for transfer codings but chunked (section 6.1): after the answers
    to what came before, and the last on this connection. Offers to speak another protocol are passed over (RFC 9110,
    section 7.8). A client that closes its side, or only its half (RFC 9112, section 9.6), is taken to be gone: the
    task of its request is cancelled, which gives back its slots.
    """

    _task: asyncio.Task[None] | None = None
    _running: Any = None  # the cycle of the task
    _in_head = _in_body = False
    _head_began = False
    _head_bytes = _drained = 0
    _head_timer: asyncio.TimerHandle | None = None
    _body_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None
    _last_words: Problem | None = None  # for what came last; what follows is not read
    _ending = False

    def __init__(self, *arguments: Any, count: Count, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._count = count

    # uvicorn leaves a connection that never says anything open for ever.
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._answers = Answers(transport)
        self._stay()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for timer in (self.timeout_keep_alive_task, self._head_timer, self._body_timer, self._write_timer):
            if timer:
                timer.cancel()
        if self._task and not self._task.done():
            self._task.cancel()

    # -- what comes ----------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._last_words:
            return
        self._unset_keepalive_if_required()
        self._head_began = False
        try:
            self._read(data)
        except httptools.HttpParserError:
            self._refuse(problems.not_http("Invalid HTTP request received."))
        if self._in_head and not self._last_words:
            self._watch_head(len(data))

    def _read(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            if self.parser.get_method() == b"CONNECT":
                raise httptools.HttpParserError from offer
            # The parser takes what follows for the other protocol. So the same head is read again, without the offer.
            lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
            lines += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
            self.parser = httptools.HttpRequestParser(self)
            self._read(b"\r\n".join([*lines, b"", data[offer.args[0] :]]))

    def _watch_head(self, received: int) -> None:
        # Of what came with the head's beginning, most may be a body before it: there its whole lines are counted.
        self._head_bytes += self._head_size() if self._head_began else received
        if self._head_bytes > HEAD_BYTES:
            self._refuse(problems.head_too_large(HEAD_BYTES))
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self._refuse, problems.head_too_slow(HEAD_SECONDS))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._unset_keepalive_if_required()
        self._in_head = self._head_began = True
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():  # and is read again
            return
        self._in_head, self._in_body, self._drained = False, True, 0
        if self._head_timer:
            self._head_timer.cancel()
            self._head_timer = None
        problem = self._complaint()
        self.app = self._refusing(problem) if problem else self.config.loaded_app
        super().on_headers_complete()
        self.cycle.transport = self._answers  # type: ignore[assignment]
        if self._ending:
            self.cycle.keep_alive = False
            self._hurry_body()

    def _complaint(self) -> Problem | None:
        """What is wrong with a whole head."""
        hosts = 0
        for name, value in self.headers:
            if name == b"host":
                hosts += 1
            elif name == b"transfer-encoding" and value.strip().lower() != b"chunked":
                return problems.unknown_coding(problems.shortened(value.decode("latin-1")))
        if self._head_size() > HEAD_BYTES:
            self.url = b"/"  # what is longer has no path for the parser
            return problems.head_too_large(HEAD_BYTES)
        if hosts != 1 and (hosts or self.parser.get_http_version() == "1.1"):
            return problems.not_http("one Host header is needed")
        return None

    def _head_size(self) -> int:
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        if self.cycle.response_complete:
            self._drained += len(body)
            if self._drained > DRAIN_BYTES:
                self.transport.close()

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._in_body = False
        if self._body_timer:
            self._body_timer.cancel()
            self._body_timer = None
        if self.cycle.response_complete:
            self._stay()
        super().on_message_complete()

    # -- what is answered ----------------------------------------------------------------------

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._running = cycle
        self._task = self.loop.create_task(cycle.run_asgi(app))
        self._task.add_done_callback(self.tasks.discard)
        self.tasks.add(self._task)

    def on_response_complete(self) -> None:
        self._answers.flush()
        super().on_response_complete()
        if self.transport.is_closing() or not self._running.response_complete:
            return
        if self._last_words:
            self._say(self._last_words)
        elif self._in_body:
            self._body_timer = self.loop.call_later(DRAIN_SECONDS, self.transport.close)

    def _refuse(self, problem: Problem) -> None:
        """Answer what cannot be read, once what came before it is answered, and close."""
        if self.transport.is_closing():
            return
        self._last_words = problem
        if self._in_body and self.cycle is not self._running:
            self.pipeline.popleft()
        elif self._in_body and self.cycle.response_started:  # this request has its answer
            self.transport.close()
        elif self._in_body:  # the app has seen its beginning
            self.cycle.disconnected = True
            self._task.cancel()  # type: ignore[union-attr]
            self._say(problem)
            return
        if self._running is None or self._running.response_complete:
            self._say(problem)

    def _say(self, problem: Problem) -> None:
        if self.transport.is_closing():
            return
        self._count(UNMATCHED_ROUTE, problem.status, 0.0)
        request_id = new_request_id()
        body = problem.json(request_id.decode())
        head = [
            f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}",
            f"content-type: {problems.MEDIA_TYPE}",
            f"content-length: {len(body)}",
            "x-content-type-options: nosniff",
            f"x-request-id: {request_id.decode()}",
            "connection: close",
        ]
        self.transport.write("\r\n".join([*head, "", ""]).encode() + body)
        self.transport.write_eof()
        if self._body_timer:
            self._body_timer.cancel()
        self._body_timer = self.loop.call_later(LINGER_SECONDS, self.transport.close)

    def _refusing(self, problem: Problem) -> ASGIApp:
        """An app that answers a request whose head is whole and wrong."""

        async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
            self._count(UNMATCHED_ROUTE, problem.status, 0.0)
            request_id = new_request_id().decode()
            headers = {"Connection": "close", "X-Request-ID": request_id}
            response = Response(problem.json(request_id), problem.status, headers, media_type=problems.MEDIA_TYPE)
            await response(scope, receive, send)

        return refuse

    # -- how long it stays ---------------------------------------------------------------------

    def _stay(self) -> None:
        """Wait for another request."""
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

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
        if self._in_body:
            self._hurry_body()
        if not self._in_head:
            super().shutdown()

    def _hurry_body(self) -> None:
        """The service ends, and waits no longer for a body than for a head."""
        if not self._body_timer:
            self._body_timer = self.loop.call_later(HEAD_SECONDS, self._refuse, problems.body_too_slow())
