"""The image, built and run as a restricted pod would run it: `make test-image`, as root with podman.

IMAGE names one that is built already. BUILD_OPTIONS goes to `podman build`: on a closed network a secret with pip's
configuration and `--build-arg torch_index=`.
"""

import json
import os
import shlex
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtests.running import wait_until
from service import __version__
from tests.conftest import DIGITS

pytestmark = pytest.mark.image

ROOT = Path(__file__).parents[2]
WRITABLE = ["--tmpfs", "/tmp:rw,exec,mode=1777", "--tmpfs", "/var/cache/coordserve:rw,exec,mode=1777"]
RESTRICTED = ["--read-only", "--cap-drop=all", "--security-opt=no-new-privileges", *WRITABLE]


def podman(*arguments: str) -> str:
    done = subprocess.run(["podman", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def image() -> str:
    if shutil.which("podman") is None:
        pytest.skip("there is no podman (Debian: apt-get install podman buildah)")
    if name := os.environ.get("IMAGE"):
        return name
    name = "localhost/coordserve:test"
    options = shlex.split(os.environ.get("BUILD_OPTIONS", ""))
    # Docker's format, as the other has no HEALTHCHECK.
    podman("build", "--format=docker", f"--build-arg=version={__version__}", *options, f"--tag={name}", str(ROOT))
    return name


class Container:
    def __init__(self, image: str, user: str, *options: str) -> None:
        self.id = podman("run", "-d", *RESTRICTED, f"--user={user}", "-p=127.0.0.1::8000", *options, image)

    @property
    def url(self) -> str:
        return f"http://{podman('port', self.id, '8000')}"

    def run(self, *command: str) -> str:
        return podman("exec", self.id, *command)

    def answers(self, path: str) -> dict | None:
        try:
            with urllib.request.urlopen(self.url + path, timeout=5) as answer:
                return json.load(answer)
        except OSError:
            return None

    def predict(self) -> str:
        body = (DIGITS / "dejavu-sans-7.png").read_bytes()
        request = urllib.request.Request(f"{self.url}/v1/predict", body, {"Content-Type": "image/png"})
        return json.load(urllib.request.urlopen(request, timeout=30))["predictions"][0][0]["label"]

    def stop(self) -> int:
        """SIGTERM, then the exit code; 137 if it had to be killed."""
        podman("stop", "--time=60", self.id)
        return int(podman("inspect", "--format={{.State.ExitCode}}", self.id))

    def remove(self) -> None:
        subprocess.run(["podman", "rm", "--force", self.id], capture_output=True)


@pytest.fixture(scope="module", params=["10001:0", "54321:0"], ids=["its user", "any user of group 0"])
def container(image: str, request: pytest.FixtureRequest) -> Iterator[Container]:
    running = Container(image, request.param)
    try:
        wait_until(lambda: running.answers("/readyz"), 120, "the container is ready")
        yield running
    finally:
        running.remove()


def test_it_predicts(container):
    assert container.predict() == "seven"


def test_it_compiles_with_what_is_in_it(container):
    wait_until(lambda: (container.answers("/readyz") or {}).get("form") == "aot", 300, "the compiled network serves")

    assert container.predict() == "seven"


def test_its_healthcheck_succeeds(container):
    podman("healthcheck", "run", container.id)


def test_dumb_init_is_process_1_and_nobody_is_root(container):
    assert container.run("cat", "/proc/1/comm") == "dumb-init"
    assert set(container.run("sh", "-c", "stat -c %u /proc/[0-9]* 2>/dev/null || true").split()) == {
        container.run("id", "-u")
    }


def test_what_is_written_is_where_it_may_be(container):
    done = subprocess.run(["podman", "exec", container.id, "touch", "/opt/coordserve/file"], capture_output=True)

    assert done.returncode != 0
    assert container.run("sh", "-c", "touch $HOME/file /tmp/file && echo written") == "written"


def test_sigterm_ends_it_with_0(image):
    running = Container(image, "10001:0")
    try:
        wait_until(lambda: running.answers("/readyz"), 120, "the container is ready")
        assert running.stop() == 0
    finally:
        running.remove()


def test_sigterm_before_it_is_ready_ends_it_as_well(image):
    running = Container(image, "10001:0")
    try:
        started = time.monotonic()
        assert running.stop() in (0, 143)  # 143: before the handler was there
        assert time.monotonic() - started < 55, "it was killed, not stopped"
    finally:
        running.remove()


def test_no_cache_and_no_secret_stays_in_it(image):
    left = podman(
        "run", "--rm", "--user=0", "--entrypoint=sh", image, "-c",
        "ls -A /root/.cache /var/lib/apt/lists /etc/pip.conf /opt/pip /opt/source /tmp 2>/dev/null || true",
    )  # fmt: skip

    assert [line for line in left.splitlines() if line and not line.endswith(":")] == []


def test_its_labels_say_what_it_is(image):
    labels = json.loads(podman("inspect", "--format={{json .Config.Labels}}", image))

    assert labels["org.opencontainers.image.title"] == "coordserve"
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert labels["org.opencontainers.image.version"] == __version__
