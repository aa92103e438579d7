"""`python -m loadtests.loadtest` against a real service, and against servers that get something wrong."""

import os
import re
import subprocess
import sys
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import psutil
import pytest

from loadtests.questions import CORPUS, NUMBERS
from loadtests.running import RunningService
from tests.conftest import ROOT
from tests.loadtests.between import Forward, Sent, between

pytestmark = pytest.mark.slow

# Whatever the machine is busy with.
PATIENT = "p50_ms = 60000\np99_ms = 60000\nerror_rate = 0\nrefusal_rate = 0\nrequests_per_second = 0.1\n"
ZERO, *OTHERS = ((CORPUS / f"{name}.png").read_bytes() for name in NUMBERS)


@dataclass(frozen=True)
class Ran:
    code: int
    text: str
    page: Path

    @property
    def html(self) -> str:
        return self.page.read_text()


def run(folder: Path, url: str, *options: str, slo: str = PATIENT, seconds: int = 2) -> Ran:
    (folder / "slo.toml").write_text(slo)
    out = folder / "page.html"
    command = [sys.executable, "-m", "loadtests.loadtest", "--url", url, "--seconds", str(seconds), "--out", str(out)]
    done = subprocess.run(
        [*command, "--slo", str(folder / "slo.toml"), *options], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    return Ran(done.returncode, done.stdout + done.stderr, out)


def row(html: str, name: str) -> list[str]:
    """The cells of the first row of a table whose first cell says so."""
    found = re.search(rf"<tr[^>]*><td>{re.escape(name)}</td>(.*?)</tr>", html)
    assert found, f"no row {name!r}"
    return re.findall("<td>(.*?)</td>", found[1])


@pytest.fixture(scope="module")
def steady(service: RunningService, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    return run(tmp_path_factory.mktemp("steady"), service.url)


def test_a_run_that_holds_passes(steady):
    assert steady.code == 0, steady.text
    assert "steady: passed" in steady.text


def test_the_page_has_what_was_measured_and_on_what(steady):
    html = steady.html

    assert row(html, "error rate") == ["at most 0 %", "0 %", "held"]
    assert row(html, "predict small.jpg")[1] == "0"
    for chart in ("latency of predictions", "stages of a request", "batches", "images"):
        assert re.search(rf'aria-label="[^"]*{chart}".*?<polyline', html), chart
    for fact in ("processor", "cores", "locust", "torch", "weights_sha256", "network"):
        assert f"<th>{fact}</th>" in html


@pytest.mark.browser
def test_the_page_opens_without_complaint_and_asks_nobody(steady, chromium):
    page = chromium.new_page()
    complaints, asked = [], []
    page.on("console", lambda line: complaints.append(line.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))

    page.goto(steady.page.as_uri())

    assert page.locator("h1").inner_text().split() == ["steady", "passed"]
    assert page.locator("figure").count() == 6
    assert complaints == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


def test_an_objective_that_does_not_hold_is_exit_code_1(service, tmp_path):
    ran = run(tmp_path, service.url, slo="requests_per_second = 1000000")

    assert ran.code == 1
    assert "BROKEN requests_per_second" in ran.text
    assert row(ran.html, "requests per second")[-1] == "broken"


def test_steps_end_with_the_one_that_breaks_and_the_best_counts(service, tmp_path):
    users: set[int] = set()

    def answer(path: str, body: bytes, forward: Forward) -> Sent:
        users.add(threading.get_ident())  # one for each connection, and each user has one
        return forward(body) if len(users) < 3 else Sent(500, {}, b"too many for me")

    with between(service.url, answer) as url:
        ran = run(tmp_path, url, "--shape", "step-to-breaking-point", "--users", "1", seconds=16)

    assert ran.code == 0, ran.text
    assert [row(ran.html, users)[-1] for users in ("1", "2", "4")] == ["held", "held", "broken"]
    assert row(ran.html, "error rate") == ["at most 0 %", "0 %", "held"]


def test_arrivals_come_to_several_processes_and_wait_for_no_answer(service, tmp_path):
    """No answer leaves before twenty requests are there; of two users that wait for theirs, two would be."""
    there, enough = 0, threading.Event()
    lock = threading.Lock()

    def answer(path: str, body: bytes, forward: Forward) -> Sent:
        nonlocal there
        with lock:
            there += 1
            if there == 20:
                enough.set()
        enough.wait(8)
        return forward(body) if enough.is_set() else Sent(500, {}, b"nobody else came")

    with between(service.url, answer) as url:
        ran = run(tmp_path, url, "--shape", "poisson", "--rate", "20", "--processes", "2", seconds=4)

    assert ran.code == 0, ran.text
    assert "poisson: passed" in ran.text


def test_an_answer_about_another_picture_is_a_failure(service, tmp_path):
    def answer(path: str, body: bytes, forward: Forward) -> Sent:
        return forward(ZERO if body in OTHERS else body)

    with between(service.url, answer) as url:
        ran = run(tmp_path, url)

    assert ran.code == 1
    assert "BROKEN error_rate" in ran.text
    assert re.search(r"<td>\w+.png is taken for zero</td>", ran.html)


def test_a_refusal_is_no_failure_but_is_counted(service, tmp_path):
    def answer(path: str, body: bytes, forward: Forward) -> Sent:
        return forward(body) if body not in OTHERS else Sent(429, {"Retry-After": "1"}, b"{}")

    with between(service.url, answer) as url:
        ran = run(tmp_path, url)

    assert ran.code == 1
    assert "held error_rate" in ran.text
    assert "BROKEN refusal_rate" in ran.text
    assert row(ran.html, "predict digit.png (refused)")[1] == "0"


def test_a_service_that_is_not_there(tmp_path):
    ran = run(tmp_path, "http://127.0.0.1:1")

    assert ran.code == 2
    assert "http://127.0.0.1:1 does not answer" in ran.text
    assert not ran.page.exists()


def test_objectives_that_cannot_be_used(service, tmp_path):
    ran = run(tmp_path, service.url, slo="p98 = 1")

    assert ran.code == 2
    assert "no objective 'p98'" in ran.text


def test_an_open_loop_that_cannot_send_so_much_has_failed(service, tmp_path):
    """Else what it measured would pass for what a service does under that load."""
    ran = run(tmp_path, service.url, "--shape", "poisson", "--rate", "100000", slo="p99_ms = 60000")

    assert ran.code == 1
    assert "BROKEN requests_sent" in ran.text
    assert row(ran.html, "requests sent")[-1] == "broken"


@pytest.mark.parametrize(
    "options",
    [("--seconds", "0"), ("--users", "-3"), ("--rate", "0"), ("--processes", "0"), ("--out", "/no/such/folder")],
)
def test_what_cannot_be_is_said_before_anything_starts(tmp_path, options):
    ran = run(tmp_path, "http://127.0.0.1:1", *options)

    assert ran.code == 2
    assert options[1] in ran.text
    assert "does not answer" not in ran.text


def test_a_server_that_is_another(tmp_path):
    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

    with HTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        ran = run(tmp_path, f"http://127.0.0.1:{server.server_port}")
        server.shutdown()

    assert ran.code == 2
    assert "is not coordserve" in ran.text


def test_sigterm_leaves_nothing_running(compiled_cache, tmp_path):
    environment = {**os.environ, "COORDSERVE_CACHE_DIR": str(compiled_cache)}
    command = [sys.executable, "-m", "loadtests.loadtest", "--seconds", "60", "--out", str(tmp_path / "page.html")]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as loadtest:
        assert loadtest.stderr
        next(line for line in loadtest.stderr if line.startswith("steady:"))
        started = psutil.Process(loadtest.pid).children(recursive=True)

        loadtest.terminate()
        told = loadtest.stderr.read()

    assert loadtest.returncode == 2
    assert "interrupted" in told
    assert len(started) >= 4  # the supervisor, an engine, workers
    assert psutil.wait_procs(started, 30)[1] == []
