"""What docs/security.md promises, on a running service."""

import base64
import os
import pickle
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from loadtests.running import RunningService, wait_until
from tests.conftest import DIGITS

SEVEN = (DIGITS / "dejavu-sans-7.png").read_bytes()
ROOT = Path(__file__).parent.parent.parent
NOBODY = 54321  # no user of this system


def ask(service: RunningService, **headers: str) -> httpx.Response:
    return httpx.post(f"{service.url}/v1/predict", content=SEVEN, headers={"Content-Type": "image/png", **headers})


def sandbox(writable: Path) -> list[str]:
    """What to write before a command: a user without name or rights, a root of which only `writable` can be written."""
    if not shutil.which("bwrap"):
        pytest.skip("there is no bwrap (Debian: apt-get install bubblewrap)")
    command = ["bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--bind", str(writable), str(writable)]
    command += ["--unshare-user", "--uid", str(NOBODY), "--gid", str(NOBODY), "--cap-drop", "ALL", "--"]
    tried = subprocess.run([*command, "true"], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"bwrap may not make a sandbox here: {tried.stderr.strip()}")
    return command


def test_the_sandbox_of_these_tests_is_one(tmp_path: Path):
    script = f"id -u; touch {ROOT}/x /x; touch {tmp_path}/x && echo written"
    done = subprocess.run([*sandbox(tmp_path), "sh", "-c", script], capture_output=True, text=True)

    assert done.stdout.split() == [str(NOBODY), "written"]
    assert done.stderr.count("Read-only file system") == 2


@pytest.mark.slow
def test_a_nameless_user_on_a_read_only_root_serves_compiled_and_leaves_nothing(compiled_cache: Path, tmp_path: Path):
    cache, temporary = tmp_path / "cache", tmp_path / "tmp"
    shutil.copytree(compiled_cache, cache)
    cache.chmod(0o700)
    temporary.mkdir()
    environment = {**os.environ, "TMPDIR": str(temporary), "HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"}
    with RunningService(
        sandbox=sandbox(tmp_path), workers=1, cache_dir=cache, environment=environment, wait_for_compile=True
    ) as service:
        assert service.card()["form"] == "aot"
        assert ask(service).json()["predictions"][0][0]["label"] == "seven"
        assert list(temporary.iterdir())
        assert service.stop() == 0

    assert list(temporary.iterdir()) == []


@pytest.fixture(scope="module")
def watched(compiled_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningService, Path]]:
    pickles = tmp_path_factory.mktemp("pickles") / "found"
    folder = str(Path(__file__).parent / "unpickling")
    environment = {**os.environ, "PYTHONPATH": folder, "PICKLES_FILE": str(pickles)}
    with RunningService(workers=1, cache_dir=compiled_cache, environment=environment) as service:
        service.wait_compiled()
        yield service, pickles


def test_nothing_is_unpickled_to_serve(watched: tuple[RunningService, Path]):
    service, pickles = watched
    image = {"image": SEVEN}
    assert httpx.post(f"{service.url}/v1/predict", files=image).status_code == 200
    assert httpx.post(f"{service.url}/v1/explain?method=gradcam", files=image).status_code == 200
    raw = {"Inference-Header-Content-Length": "0"}
    assert httpx.post(f"{service.url}/v2/models/digits/infer", content=SEVEN, headers=raw).status_code == 200
    evil = pickle.dumps(Path("/"))
    assert httpx.post(f"{service.url}/v1/predict", files={"image": evil}).status_code == 415

    assert not pickles.exists() or pickles.read_text() == ""


def test_the_watch_of_these_tests_sees_pickles(tmp_path: Path):
    code = "import pickle, pathlib; pickle.loads(pickle.dumps(pathlib.Path('/')))"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent / "unpickling")}
    environment["PICKLES_FILE"] = str(tmp_path / "found")
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)

    assert "pathlib" in (tmp_path / "found").read_text()


def test_no_address_that_a_client_names_is_asked(service: RunningService):
    asked = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(1)

        def accept() -> None:
            try:
                listener.accept()
                asked.set()
            except TimeoutError:
                pass

        waiting = threading.Thread(target=accept)
        waiting.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/x.png"
        pictures = [url, f"data:text/uri-list;base64,{base64.b64encode(url.encode()).decode()}", "file:///etc/passwd"]
        answer = httpx.post(f"{service.url}/v1/predict", json={"images": pictures})
        waiting.join()

    assert [prediction["status"] for prediction in answer.json()["predictions"]] == [400, 415, 400]
    assert not asked.is_set()


FORGED = "/v1/none%0d%0a2026-01-01%20INFO%20forged%1b[31m%e2%80%a8"


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_clients_cannot_forge_lines_of_the_log(compiled_cache: Path, log_format: str):
    with RunningService(workers=1, cache_dir=compiled_cache, access_log=1, log_format=log_format) as service:
        with socket.create_connection(("127.0.0.1", service.port)) as client:
            client.sendall(f"GET {FORGED} HTTP/1.1\r\nHost: x\r\n\r\n".encode("latin-1"))
            client.recv(100)
        raw = "GET /v1/\x9b31m\u2028 HTTP/1.1\r\nHost: x\r\nUser-Agent: \x85forged\r\nConnection: close\r\n\r\n"
        with socket.create_connection(("127.0.0.1", service.port)) as client:
            client.sendall(raw.encode())
            while client.recv(1000):
                pass
        ask(service)
        wait_until(lambda: any("/v1/predict" in line for line in service.raw_log), 10, "the last line is there")

    assert any("none%0d%0a" in line for line in service.raw_log)
    for line in service.raw_log:
        assert line.isprintable(), repr(line)
        assert not line.startswith("2026-01-01 INFO forged")


@pytest.mark.parametrize("path", ["/", "/v1/models", "/metrics", "/v1/none"])
def test_browsers_are_told_not_to_guess_types(service: RunningService, path: str):
    assert httpx.get(f"{service.url}{path}").headers["x-content-type-options"] == "nosniff"
