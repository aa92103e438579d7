"""Spans at a real OTLP receiver, and what becomes of them where there is none."""

import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from loadtests.running import RunningService, wait_until
from tests.conftest import DIGITS, encode, noise

service_pb = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")

PNG = (DIGITS / "dejavu-sans-7.png").read_bytes()
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
UNSAMPLED = {"traceparent": f"00-{TRACE}-{PARENT}-00"}
ERROR = 2  # of a span's status


class Collector:
    """Receives OTLP over HTTP on a loopback port, as an OpenTelemetry collector does."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.services: set[str] = set()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                request = service_pb.ExportTraceServiceRequest.FromString(body)
                for resource in request.resource_spans:
                    collector.services |= {
                        one.value.string_value for one in resource.resource.attributes if one.key == "service.name"
                    }
                    for scope in resource.scope_spans:
                        collector.spans += scope.spans
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.environment = environment(f"http://127.0.0.1:{self._server.server_port}")

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def named(self, name: str) -> list[Any]:
        return [span for span in self.spans if span.name == name]


def environment(endpoint: str, **more: str) -> dict[str, str]:
    return {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_BSP_SCHEDULE_DELAY": "100", **more}


def attributes(span: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    found = Collector()
    yield found
    found.close()


@pytest.fixture(scope="module")
def traced(collector: Collector, compiled_cache: Path) -> Iterator[RunningService]:
    with RunningService(
        workers=1, cache_dir=compiled_cache, tracing=True, access_log=1, environment=collector.environment
    ) as service:
        yield service


@pytest.fixture(autouse=True)
def _nothing_received_yet(request: pytest.FixtureRequest) -> None:
    if "collector" in request.fixturenames:
        request.getfixturevalue("collector").spans.clear()


def ask(service: RunningService, content: bytes = PNG, path: str = "/v1/predict", **headers: str) -> httpx.Response:
    return httpx.post(f"{service.url}{path}", content=content, headers={"Content-Type": "image/png", **headers})


def whole(collector: Collector, requests: int = 1) -> list[Any]:
    """The requests' own spans, once all that belongs to them has come."""
    wait_until(
        lambda: (
            len([span for span in collector.spans if span.kind == 2]) == requests
            and len(collector.named("infer")) == requests
            and {link.span_id for span in collector.named("infer") for link in span.links}
            == {span.span_id for span in collector.named("batch")}
        ),
        20,
        "the spans are there",
    )
    return [span for span in collector.spans if span.kind == 2]


def test_a_request_goes_on_with_the_trace_of_its_client(traced: RunningService, collector: Collector):
    before = time.time_ns()
    answer = ask(traced, **SAMPLED, **{"X-Request-ID": "mine", "User-Agent": "me"})
    after = time.time_ns()

    [request] = whole(collector)
    assert answer.status_code == 200
    assert request.name == "POST /v1/predict"
    assert (request.trace_id.hex(), request.parent_span_id.hex()) == (TRACE, PARENT)
    assert attributes(request) == {
        "http.request.method": "POST",
        "url.path": "/v1/predict",
        "url.scheme": "http",
        "http.route": "/v1/predict",
        "http.response.status_code": 200,
        "client.address": "127.0.0.1",
        "user_agent.original": "me",
        "coordserve.request_id": "mine",
    }
    [decode], [queue], [infer] = (collector.named(name) for name in ("decode", "queue", "infer"))
    for stage in (decode, queue, infer):
        assert (stage.trace_id, stage.parent_span_id) == (request.trace_id, request.span_id)
    # One clock for all of it; microseconds are rounded once for each stage.
    times = [before, request.start_time_unix_nano]
    for stage in (decode, queue, infer):
        times += [stage.start_time_unix_nano, stage.end_time_unix_nano]
    times += [request.end_time_unix_nano]
    assert times[-2] <= after + 1_000_000  # the request itself ends behind its answer
    for earlier, later in itertools.pairwise(times):
        assert earlier <= later + 1_000_000
    timing = answer.json()["timing"]
    took = infer.end_time_unix_nano - infer.start_time_unix_nano
    assert took == pytest.approx(timing["infer_ms"] * 1e6, abs=2000)
    assert collector.services == {"coordserve"}


def test_a_batch_and_its_requests_are_linked_both_ways(traced: RunningService, collector: Collector):
    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(lambda _: ask(traced), range(64)))
    assert {answer.status_code for answer in answers} == {200}

    requests = {span.span_id: span for span in whole(collector, 64)}
    infers, batches = collector.named("infer"), {span.span_id: span for span in collector.named("batch")}

    linked = [link.span_id for batch in batches.values() for link in batch.links]
    assert sorted(linked) == sorted(requests)
    assert {len(batch.links) for batch in batches.values()} != {1}
    for infer in infers:
        [back] = infer.links
        batch = batches[back.span_id]
        assert infer.parent_span_id in {link.span_id for link in batch.links}
        sizes = {attributes(span)["coordserve.batch_size"] for span in (batch, infer)}
        assert sizes == {len(batch.links)}
        for bound in ("start_time_unix_nano", "end_time_unix_nano"):
            assert abs(getattr(batch, bound) - getattr(infer, bound)) < 1_000_000


def test_explanations_and_the_protocols_requests_are_traced_alike(traced: RunningService, collector: Collector):
    ask(traced, path="/v1/explain")
    ask(traced, path="/v2/models/digits/infer", **{"Inference-Header-Content-Length": "0"})

    names = {span.name for span in whole(collector, 2)}

    assert names == {"POST /v1/explain", "POST /v2/models/{name}/infer"}
    assert len(collector.named("batch")) == 2


def test_a_request_of_several_images_names_each_batch_once(traced: RunningService, collector: Collector):
    files = [("image", encode(noise(seed))) for seed in range(10)] + [("image", b"no picture")]
    assert httpx.post(f"{traced.url}/v1/predict", files=files).status_code == 200

    whole(collector)
    [batch] = collector.named("batch")
    assert len(batch.links) == 1
    assert attributes(batch)["coordserve.batch_size"] == 10


def test_a_request_that_its_client_does_not_sample_leaves_no_span(traced: RunningService, collector: Collector):
    ask(traced, **UNSAMPLED)
    ask(traced, **SAMPLED)  # in the slot that the first one had

    assert {span.trace_id.hex() for span in whole(collector)} == {TRACE}
    ask(traced, **UNSAMPLED)
    ask(traced)
    [_, second] = whole(collector, 2)
    assert second.trace_id.hex() != TRACE


def test_bad_requests_say_in_their_span_how_they_went(traced: RunningService, collector: Collector):
    assert ask(traced, b"\x89PNG\r\n\x1a\n").status_code == 400
    assert ask(traced, path="/no/such/route").status_code == 404
    assert httpx.request("PROPFIND", f"{traced.url}/healthz?x").status_code == 405
    assert httpx.request("PROPFIND", f"{traced.url}/v1/predict").status_code == 405

    wait_until(lambda: len([span for span in collector.spans if span.kind == 2]) == 3, 20, "the spans are there")
    found = {span.name: attributes(span)["http.response.status_code"] for span in collector.spans if span.kind == 2}
    assert found == {"POST /v1/predict": 400, "POST": 404, "_OTHER /v1/predict": 405}
    [decode] = collector.named("decode")
    assert decode.status.code == ERROR


def test_a_failed_request_is_an_error_and_so_is_its_batch(collector: Collector, not_a_number: Path):
    with RunningService(
        model=not_a_number, workers=1, compile="off", tracing=True, environment=collector.environment
    ) as service:
        assert ask(service).status_code == 500
        wait_until(lambda: collector.named("batch") and collector.named("POST /v1/predict"), 20, "the spans are there")

    [request], [batch] = collector.named("POST /v1/predict"), collector.named("batch")
    assert (request.status.code, attributes(request)["error.type"]) == (ERROR, "500")
    assert (batch.status.code, batch.status.message) == (ERROR, "1 images: NOT_FINITE")


def test_probes_and_scrapes_leave_no_span(traced: RunningService, collector: Collector):
    for path in ("/healthz", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"):
        httpx.get(f"{traced.url}{path}")
    ask(traced)

    assert [span.name for span in whole(collector)] == ["POST /v1/predict"]


def test_what_is_not_yet_sent_goes_out_when_the_service_stops(collector: Collector, compiled_cache: Path):
    late = {**collector.environment, "OTEL_BSP_SCHEDULE_DELAY": "600000", "OTEL_SERVICE_NAME": "digits-eu"}
    with RunningService(workers=1, cache_dir=compiled_cache, tracing=True, environment=late) as service:
        ask(service)
        assert not collector.spans
        assert service.stop() == 0

    assert sorted(span.name for span in collector.spans) == ["POST /v1/predict", "batch", "decode", "infer", "queue"]
    assert "digits-eu" in collector.services


def test_a_collector_that_is_away_keeps_nobody(compiled_cache: Path):
    nowhere = environment("http://127.0.0.1:9")
    with RunningService(workers=1, cache_dir=compiled_cache, tracing=True, environment=nowhere) as service:
        for _ in range(20):
            assert ask(service).status_code == 200
        assert service.stop() == 0

    assert not [line for line in service.log if "did not stop" in line["message"]]


def test_a_line_of_the_log_has_its_trace(traced: RunningService, collector: Collector):
    ask(traced, **SAMPLED, **{"X-Request-ID": "with a trace".replace(" ", "-")})

    line = wait_until(
        lambda: next((line for line in traced.log if line.get("request_id") == "with-a-trace"), None), 10, "the line"
    )
    assert line["trace_id"] == TRACE


@pytest.mark.parametrize(
    ("given", "logged"),
    [
        (f"00-{TRACE}-{PARENT}-01", TRACE),
        (f"00-{'0' * 32}-{PARENT}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE.upper()}-{PARENT}-01", None),
        (f"00-{TRACE}-{PARENT}-01 forged", None),
        ("", None),
    ],
)
def test_without_tracing_a_line_has_the_clients_trace(untraced: RunningService, given: str, logged: str | None):
    before = len(untraced.log)
    ask(untraced, traceparent=given)

    [line] = wait_until(lambda: [line for line in untraced.log[before:] if "route" in line], 10, "the line")
    assert line["trace_id"] == logged


@pytest.fixture(scope="module")
def untraced(compiled_cache: Path) -> Iterator[RunningService]:
    with RunningService(workers=1, cache_dir=compiled_cache, access_log=1) as service:
        yield service


def test_without_tracing_no_process_loads_anything_of_it(untraced: RunningService):
    ask(untraced)
    for process in psutil.Process(untraced.process.pid).children(recursive=True):
        maps = {mapped.path for mapped in process.memory_maps()}
        assert not [path for path in maps if "protobuf" in path]
    code = "import sys, service.engine, service.worker; print('opentelemetry.sdk' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_a_missing_extra_is_said(tmp_path: Path):
    (tmp_path / "opentelemetry.py").write_text("raise ImportError('No module named opentelemetry')")
    code = "from service.cli import main; raise SystemExit(main(['serve', '--port', '0', '--tracing']))"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {code}"],
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == 1
    assert "pip install 'coordserve[otel]'" in done.stderr.splitlines()[-1]
