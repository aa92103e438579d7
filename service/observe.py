"""Around every request: its id, its count, its duration, and its line in the log."""

import asyncio
import logging
import random
import re
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.metrics import WorkerMetrics
from service.slots import ServiceStatus

REQUEST_ID_HEADER = b"x-request-id"
log = logging.getLogger(__name__)

# What a client may choose as an id: harmless in headers and logs.
REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
# A traceparent of version 00 (W3C Trace Context, section 3.2).
TRACEPARENT = re.compile(rb"00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
UNMATCHED_ROUTE = "unmatched"


class Observe:
    """ASGI middleware: puts `request_id` into the scope and X-Request-ID on the answer, counts it and logs a share.

    The client's own X-Request-ID is kept if it is 1 to 128 characters of REQUEST_ID.
    """

    def __init__(self, app: ASGIApp, metrics: WorkerMetrics, status: ServiceStatus, logged: float) -> None:
        """logged: the share of requests, 0 to 1, that leave a line; unless it is 0, every 5xx does"""
        self._app, self._metrics, self._status, self._logged = app, metrics, status, logged

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = _request_id(scope)
        scope["request_id"] = request_id.decode()
        code = 499  # as nginx says: the client went away before an answer

        async def send_with_id(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
                message["headers"].append((REQUEST_ID_HEADER, request_id))
                if self._status.draining:  # so that the client's next request finds another instance
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except asyncio.CancelledError:
            pass  # by its connection, which is gone (service/connection.py): there is nobody to answer
        finally:
            route = getattr(scope.get("route"), "path", UNMATCHED_ROUTE)
            seconds = time.perf_counter() - started
            self._metrics.answered(route, code, seconds)
            if self._logged and (code >= 500 or random.random() < self._logged):  # nosec B311 # a sample, no secret
                _log_line(scope, request_id, route, code, seconds)


def _log_line(scope: Scope, request_id: bytes, route: str, code: int, seconds: float) -> None:
    # The path as it was sent: decoded, it could hold a line break and forge another line.
    path = scope.get("raw_path", b"").decode("latin-1")
    client = scope.get("client")
    fields = {
        "request_id": request_id.decode(),
        "trace_id": scope.get("trace_id") or _trace_id(scope),
        "client": client[0] if client else None,
        "method": scope["method"],
        "path": path,
        "route": route,
        "status": code,
        "seconds": round(seconds, 6),
    }
    log.info("%s %s %d %.1f ms", scope["method"], path, code, seconds * 1e3, extra={"fields": fields})


def _trace_id(scope: Scope) -> str | None:
    """Of the client's trace, where this service traces nothing."""
    for name, value in scope["headers"]:
        if name == b"traceparent" and (found := TRACEPARENT.fullmatch(value)):
            return found[1].decode()
    return None


def _request_id(scope: Scope) -> bytes:
    for name, value in scope["headers"]:
        if name == REQUEST_ID_HEADER and REQUEST_ID.fullmatch(value):
            return value
    return new_request_id()


def new_request_id() -> bytes:
    return b"%032x" % random.getrandbits(128)  # nosec B311 # a name, no secret, and cheaper than one
