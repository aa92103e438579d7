"""What docs/security.md claims, shown on a running service."""

import base64
import os
import pickle
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from loadtests.running import RunningService, wait_until
from tests.conftest import DIGITS, ROOT
from tests.service import unpickling
from tests.service.sandbox import USER, SandboxedService, sandboxed

SEVEN = (DIGITS / "dejavu-sans-7.png").read_bytes()
PNG = {"Content-Type": "image/png"}


def label(service: RunningService) -> str:
    answer = httpx.post(f"{service.url}/v1/predict", content=SEVEN, headers=PNG, timeout=60)
    return answer.json()["predictions"][0][0]["label"]


def exchanged(service: RunningService, request: bytes) -> bytes:
    """All that comes back over a connection of its own."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def get(target: bytes, *headers: bytes) -> bytes:
    return b"\r\n".join([b"GET " + target + b" HTTP/1.1", b"Host: a", b"Connection: close", *headers, b"", b""])


# -- the least it needs ------------------------------------------------------------------------


@pytest.fixture
def writable(tmp_path: Path) -> tuple[Path, Path]:
    """A cache directory and a temporary directory, empty and nobody else's."""
    folders = tmp_path / "cache", tmp_path / "temporary"
    for folder in folders:
        folder.mkdir(mode=0o700)
    return folders


def test_the_sandbox_of_these_tests_holds(writable: tuple[Path, Path]):
    """Or the tests below would show nothing."""
    code = f"""
import os, pwd, sys
for folder in sys.argv[1:]:
    try:
        open(os.path.join(folder, "written"), "w").close()
        print(folder)
    except OSError:
        pass
assert os.getuid() == {USER}
try:
    pwd.getpwuid({USER})
except KeyError:
    print("nobody")
"""
    folders = ["/", "/tmp", "/var/tmp", "/dev", "/dev/shm", os.path.expanduser("~"), str(ROOT), *map(str, writable)]

    done = subprocess.run(
        sandboxed([sys.executable, "-c", code, *folders], *writable), capture_output=True, text=True, check=True
    )

    assert done.stdout.split() == [*map(str, writable), "nobody"]


def test_a_user_without_a_name_serves_compiled_from_a_read_only_root(compiled_cache: Path, writable: tuple[Path, Path]):
    cache, temporary = writable
    shutil.copytree(compiled_cache, cache, dirs_exist_ok=True)
    cache.chmod(0o700)

    with SandboxedService(cache, temporary) as service:
        assert service.card()["form"] == "aot"
        assert label(service) == "seven"
        assert service.supervisor().uids().real == os.getuid()  # which is USER inside
        assert list(temporary.iterdir())  # so that it is the one that is used
        assert service.stop() == 0

    assert list(temporary.iterdir()) == []


@pytest.mark.slow
def test_a_user_without_a_name_compiles_on_a_read_only_root(writable: tuple[Path, Path]):
    cache, temporary = writable
    with SandboxedService(cache, temporary) as service:
        assert label(service) == "seven"
        service.wait_compiled()
        assert label(service) == "seven"
        assert service.stop() == 0

    assert len(list(cache.iterdir())) == 1
    assert list(temporary.iterdir()) == []


# -- what clients send is data -----------------------------------------------------------------


@pytest.fixture(scope="module")
def watched(compiled_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningService, Path]]:
    report = tmp_path_factory.mktemp("unpickling") / "report"
    with RunningService(workers=1, cache_dir=compiled_cache, environment=unpickling.environment(report)) as service:
        yield service, report


class Program:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self._mark),)


def test_no_process_that_serves_unpickles_anything(watched: tuple[RunningService, Path], tmp_path: Path):
    service, report = watched
    program = pickle.dumps(Program(tmp_path / "mark"))
    encoded = base64.b64encode(program).decode()
    bodies = [({"Content-Type": kind}, program) for kind in ("image/png", "application/octet-stream")]
    answers = [httpx.post(f"{service.url}/v1/predict", content=body, headers=head) for head, body in bodies]
    answers += [
        httpx.post(f"{service.url}/v1/predict", json={"images": [encoded]}),
        httpx.post(f"{service.url}/v1/predict", files={"image": ("a.pkl", program)}),
        httpx.post(f"{service.url}/v1/explain", content=program, headers=PNG),
        httpx.post(
            f"{service.url}/v2/models/digits/infer",
            content=program,
            headers={"Inference-Header-Content-Length": "0"},
        ),
    ]
    explained = httpx.post(f"{service.url}/v1/explain", content=SEVEN, headers=PNG, timeout=60)

    assert label(service) == "seven"
    assert explained.status_code == 200
    assert service.card()["form"] == "aot"
    assert {400, 415} >= {answer.status_code for answer in answers}
    lines = report.read_text().splitlines()
    for module in ("service.engine", "service.worker", "serve"):
        assert any("watched" in line and module in line.split() for line in lines)
    assert [line for line in lines if "unpickled" in line] == []
    assert not (tmp_path / "mark").exists()


def test_unpickling_would_have_been_seen(tmp_path: Path):
    report = tmp_path / "report"
    code = f"import pickle; pickle.loads({pickle.dumps(Program(tmp_path / 'mark'))!r})"

    subprocess.run([sys.executable, "-c", code], env=unpickling.environment(report), check=True)

    assert (tmp_path / "mark").exists()
    assert re.search(r"unpickled \w+ mkdir$", report.read_text(), re.MULTILINE)


def test_no_address_that_a_client_names_is_visited(service: RunningService):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/x.png"
        listener.settimeout(0)
        uris = [address, "file:///etc/passwd", f"data:image/png,{address}", f"data:image/svg+xml;base64,{address}"]
        for uri in uris:
            alone = httpx.post(f"{service.url}/v1/predict", json={"images": [uri]})
            assert alone.status_code == 400
            among = httpx.post(
                f"{service.url}/v1/predict", json={"images": [base64.b64encode(SEVEN).decode(), uri]}
            ).json()["predictions"]
            assert among[0][0]["label"] == "seven"
            assert among[1]["status"] == 400
        svg = f'<svg xmlns:x="http://www.w3.org/1999/xlink"><image x:href="{address}"/></svg>'.encode()
        for content in (address.encode(), svg):
            for path in ("/v1/predict", "/v1/explain"):
                assert httpx.post(f"{service.url}{path}", content=content, headers=PNG).status_code in (400, 415)
        tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [address]}
        asked = httpx.post(f"{service.url}/v2/models/digits/infer", json={"inputs": [tensor]})
        assert asked.status_code == 400

        with pytest.raises(BlockingIOError):
            listener.accept()
        with socket.create_connection(listener.getsockname()):  # a visit would have been seen
            listener.accept()[0].close()


# -- what comes back, and what is logged -------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/page/page.js", "/page/examples", "/docs", "/openapi.json", "/v1/models"])
def test_no_answer_may_be_taken_for_another_type(service: RunningService, path: str):
    assert httpx.get(f"{service.url}{path}").headers.get_list("x-content-type-options") == ["nosniff"]


def test_nor_may_a_prediction_or_an_error(service: RunningService):
    for content in (SEVEN, b"<script>", b""):
        answer = httpx.post(f"{service.url}/v1/predict", content=content, headers=PNG)
        assert answer.headers.get_list("x-content-type-options") == ["nosniff"]
    assert b"x-content-type-options: nosniff" in exchanged(service, b"<script>\r\n\r\n")


HOSTILE = [
    get(b"/a%0d%0a%1b[31m%e2%80%a8%c2%85<script>"),
    get(b"/v1/models/%0d%0aX-Evil:%20yes%e2%80%a8<script>"),
    get(b"/page/%0d%0aX-Evil:%20yes"),
    get(b"/a\x1b[31m\xe2\x80\xa8\x85\x9b2J"),
    get(b"/healthz", b"X-Request-ID: a\x85b\xe2\x80\xa8<script>", b"User-Agent: \x9b31m\xe2\x80\xa8X-Evil: yes"),
    get(b"/healthz", b"X-Request-ID: a\rX-Evil: yes"),
    get(b"/healthz", b"X-Request-ID: a\n\tX-Evil: yes"),
    get(b"/healthz", b"X-Request-ID: a\x1b[31m"),
    get(b"/healthz", b"traceparent: 00-\x9b31m-\xe2\x80\xa8-01", b"X-Request-Timeout: \x85"),
    get(b"/healthz", b"Origin: http://<script>", b"Cookie: a=X-Evil"),
]


@pytest.mark.parametrize("request_", HOSTILE)
def test_nothing_that_a_client_sends_comes_back_as_markup_or_as_a_header(service: RunningService, request_: bytes):
    head, _, body = exchanged(service, request_).partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 ")
    assert b"evil" not in head.lower()
    assert b"<script>" not in head
    assert (head + body).replace(b"\r\n", b"").decode("ascii").isprintable()
    assert b"<script>" not in body or b"content-type: application/problem+json" in head


@pytest.mark.parametrize("path", [b"/docs/", b"/v1/models/", b"/v2/health/live/", b"//evil.example/%2e%2e"])
def test_nobody_is_sent_to_a_host_that_a_client_names(service: RunningService, path: bytes):
    answer = exchanged(service, get(path).replace(b"Host: a", b"Host: evil.example"))

    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b"location" not in answer.lower()


class ConsoleService(RunningService):
    """One that logs for people."""

    @property
    def port(self) -> int:
        ready = (re.search(r" ready after .* on http://127\.0\.0\.1:(\d+)$", line["message"]) for line in self.log)
        return next((int(found[1]) for found in ready if found), 0)


@pytest.mark.parametrize(("kind", "log_format"), [(ConsoleService, "console"), (RunningService, "json")])
def test_a_request_leaves_one_line_that_steers_no_terminal_and_what_is_none_leaves_none(
    compiled_cache: Path, kind: type[RunningService], log_format: str
):
    with kind(workers=1, cache_dir=compiled_cache, access_log=1, log_format=log_format) as service:
        before = len(service.log)
        answers = [exchanged(service, request) for request in HOSTILE]
        requests = sum(b"not-http" not in answer for answer in answers)
        httpx.get(f"{service.url}/last")
        wait_until(lambda: service.logged("/last"), 10, "the last request is logged")
        lines = [line["message"] for line in service.log[before:]]

    assert 0 < requests < len(HOSTILE)
    assert len(lines) == requests + 1
    for line in lines:
        assert line.isprintable()
        assert re.search(r"GET /\S* \d{3} [\d.]+ ms$", line)
