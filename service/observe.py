"""Around every request: its id, its count and its duration."""

import os
import re
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.metrics import WorkerMetrics

REQUEST_ID_HEADER = b"x-request-id"
# What a client may choose as an id: harmless in headers and logs.
REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
UNMATCHED_ROUTE = "unmatched"


class Observe:
    """ASGI middleware: puts `request_id` into the scope and X-Request-ID on the answer, and counts it.

    The client's own X-Request-ID is kept if it is 1 to 128 characters of REQUEST_ID.
    """

    def __init__(self, app: ASGIApp, metrics: WorkerMetrics) -> None:
        self._app, self._metrics = app, metrics

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
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            route = getattr(scope.get("route"), "path", UNMATCHED_ROUTE)
            self._metrics.answered(route, code, time.perf_counter() - started)


def _request_id(scope: Scope) -> bytes:
    for name, value in scope["headers"]:
        if name == REQUEST_ID_HEADER and REQUEST_ID.fullmatch(value):
            return value
    return os.urandom(16).hex().encode()
