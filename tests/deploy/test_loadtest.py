"""What the pods of the load test run is complete, needs no more than their image has, and decides."""

import ast
import base64
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from loadtests.questions import NUMBERS
from loadtests.running import free_port
from tests.deploy.manifests import built, of_kind, one
from tests.loadtests.between import Forward, Sent, between

TARGET = "components/loadtest"
# kubectl apply keeps the object in an annotation, and all annotations together may have so many bytes.
MOST_BYTES = 256 * 1024
# What locustio/locust installs, beside Python itself.
IN_THE_IMAGE = {"locust", "gevent"}


def config_map(name: str) -> dict[str, Any]:
    [found] = [one for one in of_kind(built(TARGET), "ConfigMap") if one["metadata"]["name"].startswith(name)]
    return found


def files(name: str) -> dict[str, bytes]:
    found = config_map(name)
    texts = {key: text.encode() for key, text in found.get("data", {}).items()}
    return texts | {key: base64.b64decode(text) for key, text in found.get("binaryData", {}).items()}


def modules(source: bytes) -> set[str]:
    """What a module imports."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


def test_the_image_has_all_that_is_imported():
    sources = {name: source for name, source in files("loadtest-code").items() if name.endswith(".py")}
    wanted = set().union(*(modules(source) for source in sources.values()))

    assert {name for name in wanted if name.partition(".")[0] not in IN_THE_IMAGE | sys.stdlib_module_names} == {
        f"loadtests.{name.removesuffix('.py')}" for name in sources if name not in ("__init__.py", "locustfile.py")
    }


@pytest.mark.parametrize("name", ["loadtest-code", "loadtest-corpus"])
def test_kubectl_can_apply_it(name):
    assert sum(4 * len(content) / 3 for content in files(name).values()) < MOST_BYTES


def test_the_digits_are_there_whose_class_is_known():
    assert {f"{name}.png" for name in NUMBERS} <= files("loadtest-corpus").keys()


@pytest.mark.slow
def test_the_pods_wait_for_the_service_and_get_right_answers_and_the_job_succeeds(service, tmp_path):
    refused = []

    def not_yet(forward: Forward) -> Sent:
        if len(refused) == 3:
            return forward(None)
        refused.append(503)
        return Sent(503, {"Retry-After": "1"}, b"not yet")

    for name, folder in (("loadtest-code", "loadtests"), ("loadtest-corpus", "corpus")):
        (tmp_path / folder).mkdir()
        for file, content in files(name).items():
            (tmp_path / folder / file).write_bytes(content)
    (tmp_path / "loadtests" / "slo.toml").write_text("error_rate = 0\nrequests_per_second = 0.1\n")
    deployment = one(built(TARGET), "Deployment", "loadtest-workers")
    job = one(built(TARGET), "Job", "loadtest-master")
    port = str(free_port())

    with between(service.url, lambda path, body, forward: forward(body), get=not_yet) as url:
        workers = [
            started(deployment, tmp_path, url, "--master-host=127.0.0.1", f"--master-port={port}")
            for _ in range(deployment["spec"]["replicas"])
        ]
        master = started(job, tmp_path, url, f"--master-bind-port={port}", "--run-time=3s", "--users=4")
        text, _ = master.communicate(timeout=120)
        for worker in workers:
            worker.communicate(timeout=60)

    assert len(refused) == 3
    assert "steady: passed" in text, text
    assert master.returncode == 0, text


def started(resource: dict[str, Any], root: Path, url: str, *instead: str) -> subprocess.Popen[str]:
    """The container of a pod, as a process whose / is `root`; `instead` are arguments that win."""
    [container] = resource["spec"]["template"]["spec"]["containers"]
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {"/loadtests", "/corpus"} <= mounts
    arguments = [
        argument.replace("=/", f"={root}/").replace("http://coordserve", url) for argument in container["args"]
    ]
    [path] = [variable["value"] for variable in container["env"] if variable["name"] == "PYTHONPATH"]
    return subprocess.Popen(
        [sys.executable, "-m", "locust", *arguments, *instead],
        cwd=root / "corpus",  # not /, so that it is PYTHONPATH that counts
        env={**os.environ, "PYTHONPATH": f"{root}{path}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
