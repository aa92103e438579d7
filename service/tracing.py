"""OpenTelemetry spans: a request with its decode, queue and infer; a batch, linked with its requests.

Imported only where tracing is on: it needs the extra `otel`. Where spans go and which are kept is told by the usual
variables, OTEL_EXPORTER_OTLP_ENDPOINT and OTEL_TRACES_SAMPLER among them. The ids of a request's span lie in
its slots (`Arena.spans`) on their way to the engine, which leaves those of the batch there.
"""

import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager

import numpy as np
from opentelemetry import propagate, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, StatusCode, TraceFlags
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import __version__
from service.arena import Arena
from service.doorbell import Reply, Status

FLUSH_SECONDS = 2.0  # of a process that stops: a collector that is away must not keep it
UNTRACED = {"/healthz", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"}
METHODS = {"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"}  # any other is "_OTHER"
READINGS, READING_SECONDS = 10, 50e-6
TRACE_ID_BYTES, SPAN_ID_BYTES = 16, 8
NOT_KEPT = bytes(TRACE_ID_BYTES + SPAN_ID_BYTES)


class Tracing:
    """The spans of one process, on their way to the collector."""

    def __init__(self, process: str, arena: Arena, sampler: Sampler | None = None) -> None:
        """process: which one this is; sampler: in place of the one that OTEL_TRACES_SAMPLER names"""
        ours = {"service.name": "coordserve", "service.version": __version__, "coordserve.process": process}
        resource = Resource.create(ours).merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(sampler, resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("coordserve", __version__)
        self._arena = arena

    def close(self) -> None:
        """Send what is left, for at most FLUSH_SECONDS."""
        flushing = threading.Thread(target=self._provider.shutdown, daemon=True)
        flushing.start()
        flushing.join(FLUSH_SECONDS)

    def _write(self, slots: list[int], span: Span) -> None:
        context = span.get_span_context()
        ids = context.trace_id.to_bytes(TRACE_ID_BYTES) + context.span_id.to_bytes(SPAN_ID_BYTES)
        self._arena.spans[slots] = np.frombuffer(ids if context.trace_flags.sampled else NOT_KEPT, np.uint8)

    def _links(self, slots: list[int]) -> list[Link]:
        """To the spans in these slots that are kept."""
        found = {self._arena.spans[slot].tobytes() for slot in slots} - {NOT_KEPT}
        return [
            Link(
                SpanContext(
                    int.from_bytes(ids[:TRACE_ID_BYTES]),
                    int.from_bytes(ids[TRACE_ID_BYTES:]),
                    is_remote=True,
                    trace_flags=TraceFlags(TraceFlags.SAMPLED),
                )
            )
            for ids in found
        ]


class RequestSpans(Tracing):
    """The spans of a worker."""

    def around(self, app: ASGIApp) -> ASGIApp:
        """A span for every request but probes and scrapes, as https://opentelemetry.io/docs/specs/semconv/http asks.

        It goes on with the trace of the headers (https://www.w3.org/TR/trace-context); scope["trace_id"] names it.
        """

        async def traced(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http" or scope["path"] in UNTRACED:
                await app(scope, receive, send)
                return
            headers = Headers(scope=scope)
            method = scope["method"] if scope["method"] in METHODS else "_OTHER"
            attributes = {
                "http.request.method": method,
                "url.path": scope["path"],
                "url.scheme": scope["scheme"],
                "client.address": scope["client"][0] if scope["client"] else "",
                "user_agent.original": headers.get("user-agent", ""),
            }
            with self._tracer.start_as_current_span(
                method, propagate.extract(headers), SpanKind.SERVER, attributes
            ) as span:
                scope["trace_id"] = trace.format_trace_id(span.get_span_context().trace_id)

                async def send_and_note(message: Message) -> None:
                    if message["type"] == "http.response.start":
                        span.set_attribute("http.response.status_code", message["status"])
                        if message["status"] >= 500:
                            span.set_status(StatusCode.ERROR)
                            span.set_attribute("error.type", str(message["status"]))
                    await send(message)

                try:
                    await app(scope, receive, send_and_note)
                finally:
                    span.set_attribute("coordserve.request_id", scope["request_id"])
                    if route := getattr(scope.get("route"), "path", None):
                        span.update_name(f"{method} {route}")
                        span.set_attribute("http.route", route)

        return traced

    def decode(self) -> AbstractContextManager[Span]:
        """The span of decoding the images of the current request."""
        return self._tracer.start_as_current_span("decode", record_exception=False)

    def ordered(self, slots: list[int]) -> None:
        """The images in these slots, of the current request, are about to go to the engine."""
        self._write(slots, trace.get_current_span())

    def answered(self, sent: float, replies: Sequence[Reply]) -> None:
        """The images of the current request, `sent` at that time.monotonic(), were computed."""
        ordered = _wall_clock(sent)
        for reply in {reply._replace(slot=0): reply for reply in replies}.values():  # one of each batch
            started = ordered + reply.queue_us * 1000
            self._tracer.start_span("queue", start_time=ordered).end(started)
            self._tracer.start_span(
                "infer",
                attributes={"coordserve.batch_size": reply.batch_size},
                links=self._links([reply.slot]),
                start_time=started,
            ).end(started + reply.infer_us * 1000)


class BatchSpans(Tracing):
    """The spans of an engine: kept where one of their requests is."""

    def __init__(self, process: str, arena: Arena) -> None:
        super().__init__(process, arena, ALWAYS_ON)

    def batch(self, slots: list[int], statuses: Sequence[Status], since: float, seconds: float) -> None:
        """The images in these slots were computed from that time.monotonic() on."""
        if not (links := self._links(slots)):
            return
        started = _wall_clock(since)
        attributes = {"coordserve.batch_size": len(slots)}
        span = self._tracer.start_span("batch", attributes=attributes, links=links, start_time=started)
        if failed := [status.name for status in statuses if status is not Status.OK]:
            span.set_status(StatusCode.ERROR, f"{len(failed)} images: {failed[0]}")
        self._write(slots, span)
        span.end(started + round(seconds * 1e9))


def _wall_clock(moment: float) -> int:
    """The time.time_ns() of a time.monotonic()."""
    for _ in range(READINGS):  # another thread may take over between two readings of the clocks
        before = time.monotonic()
        wall = time.time_ns()
        if time.monotonic() - before < READING_SECONDS:
            break
    return wall - round((before - moment) * 1e9)
