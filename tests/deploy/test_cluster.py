"""The overlay `local` in a real cluster, under load, while pods go and come: `make test-cluster`.

KUBECONFIG names the cluster; its nodes have the image already, under the name in IMAGE (coordserve:dev). Everything
happens in a namespace of its own, which is removed. Two replicas: with one, what takes it away takes the service away.
"""

import json
import os
import secrets
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from loadtests.running import wait_until
from tests.deploy.manifests import built

pytestmark = pytest.mark.cluster

IMAGE = os.environ.get("IMAGE", "coordserve:dev")
READY_SECONDS = 600  # the startupProbe's budget
LOAD = (Path(__file__).parent / "load_from_a_pod.py").read_text()
ROLLOUT = ("rollout", "status", "deployment/coordserve", f"--timeout={READY_SECONDS}s")


class Cluster:
    """kubectl in a namespace."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace

    def __call__(self, *arguments: str, stdin: str | None = None) -> str:
        command = ["kubectl", "--namespace", self.namespace, *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
        return done.stdout

    def get(self, *what: str) -> Any:
        return json.loads(self("get", *what, "--output=json"))

    def apply(self, *resources: dict[str, Any]) -> None:
        self("apply", "--filename=-", stdin=yaml.safe_dump_all(resources))

    def pods(self) -> list[str]:
        """The names of the service's pods that are ready and not on their way out."""
        return [
            pod["metadata"]["name"]
            for pod in self.get("pods", "--selector=app.kubernetes.io/name=coordserve")["items"]
            if "deletionTimestamp" not in pod["metadata"]
            and any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", []))
        ]

    def logged(self, text: str) -> bool:
        """Whether a pod of the service has said it lately; those that have not begun have nothing to say."""
        selector = "--selector=app.kubernetes.io/name=coordserve"
        for pod in self("get", "pods", selector, "--output=name").split():
            command = ["kubectl", "--namespace", self.namespace, "logs", pod, "--tail=20"]
            if text in subprocess.run(command, capture_output=True, text=True).stdout:
                return True
        return False

    def evict(self, pod: str) -> bool:
        """Ask for a pod to go, as `kubectl drain` does; False if the disruption budget refuses."""
        eviction = {
            "apiVersion": disruption_api(),
            "kind": "Eviction",
            "metadata": {"name": pod, "namespace": self.namespace},
        }
        path = f"/api/v1/namespaces/{self.namespace}/pods/{pod}/eviction"
        done = subprocess.run(
            ["kubectl", "create", "--raw", path, "--filename=-"],
            input=json.dumps(eviction),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0 or "disruption budget" in done.stderr, done.stderr
        return done.returncode == 0

    @contextmanager
    def load(self) -> Iterator[dict[str, Any]]:
        """Predictions through the Service from a pod; afterwards what became of them."""
        address = self.get("service", "coordserve")["spec"]["clusterIP"]  # not every cluster has DNS
        self.apply(load_pod(address))
        self("wait", "pod/load", "--for=condition=Ready", "--timeout=120s")
        wait_until(lambda: "started" in self("logs", "load"), 60, "the load has begun")
        found: dict[str, Any] = {}
        try:
            yield found
            self("exec", "load", "--", "touch", "/tmp/stop")
            ended = ("Succeeded", "Failed")
            wait_until(lambda: self.get("pod", "load")["status"]["phase"] in ended, 60, "the load has ended")
            found.update(json.loads(self("logs", "load", "--tail=1")))
        finally:
            self("delete", "pod", "load", "--grace-period=0", "--force", "--ignore-not-found")


def disruption_api() -> str:
    versions = subprocess.run(["kubectl", "api-versions"], capture_output=True, text=True, check=True).stdout.split()
    return "policy/v1" if "policy/v1" in versions else "policy/v1beta1"


def load_pod(address: str) -> dict[str, Any]:
    container = {
        "name": "load",
        "image": IMAGE,
        "imagePullPolicy": "Never",
        "command": ["python", "-c", LOAD],
        "env": [{"name": "SERVICE", "value": address}],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
    }
    spec = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "load"}, "spec": spec}


def overlay() -> list[dict[str, Any]]:
    """The overlay `local` with two replicas of IMAGE, in the words of an old cluster if it is one."""
    resources = json.loads(json.dumps(built("overlays/local")))  # a copy: what is built is shared
    for resource in resources:
        if resource["kind"] == "Deployment":
            resource["spec"]["replicas"] = 2
            resource["spec"]["template"]["spec"]["containers"][0]["image"] = IMAGE
        if resource["kind"] == "PodDisruptionBudget" and disruption_api() != "policy/v1":
            resource["apiVersion"] = disruption_api()
            del resource["spec"]["unhealthyPodEvictionPolicy"]
    return resources


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    if "KUBECONFIG" not in os.environ:
        pytest.skip("KUBECONFIG names no cluster")
    namespace = f"coordserve-test-{secrets.token_hex(3)}"
    restricted = {"pod-security.kubernetes.io/enforce": "restricted"}
    kubectl = Cluster(namespace)
    kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": restricted}})
    try:
        # The token controller may be slower than we are.
        wait_until(lambda: kubectl.get("serviceaccounts")["items"], 60, "the namespace has its account")
        kubectl.apply(*overlay())
        kubectl(*ROLLOUT)
        yield kubectl
    finally:
        kubectl("delete", "namespace", namespace, "--wait=false")


@pytest.fixture(autouse=True)
def two_replicas(cluster: Cluster) -> None:
    """Whatever the test before has done, two pods are ready."""
    wait_until(lambda: len(cluster.pods()) == 2, READY_SECONDS, "two pods are ready")


def assert_nothing_was_lost(found: dict[str, Any]) -> None:
    print(f"{found['answered']} answered, {found['failed']} failed")  # for docs/deployment.md, with -rP
    assert found["answered"] > 100
    assert found["failed"] == 0, found["failures"]


def gone(cluster: Cluster, *names: str) -> Callable[[], bool]:
    """Whether two ready pods have none of these names."""
    return lambda: len(pods := cluster.pods()) == 2 and not set(names) & set(pods)


def test_it_predicts_through_the_service(cluster):
    with cluster.load() as found:
        pass

    assert found["failed"] == 0, found["failures"]
    assert found["answered"] > 0


def test_pods_are_compiled_before_they_are_ready(cluster):
    for pod in cluster.pods():
        script = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8000/readyz').read().decode())"
        assert json.loads(cluster("exec", pod, "--", "python", "-c", script)) == {"ready": True, "form": "aot"}


def test_services_reach_no_pod_as_settings(cluster):
    for pod in cluster.pods():
        assert "COORDSERVE_SERVICE_HOST" not in cluster("exec", pod, "--", "env")


def test_a_deleted_pod_loses_no_request(cluster):
    [first, _] = cluster.pods()
    with cluster.load() as found:
        cluster("delete", "pod", first)
        wait_until(gone(cluster, first), READY_SECONDS, "another pod is ready")

    assert_nothing_was_lost(found)


def test_a_killed_pod_is_replaced(cluster):
    """What it held is lost, and nothing after."""
    [first, _] = cluster.pods()
    cluster("delete", "pod", first, "--grace-period=0", "--force")
    wait_until(gone(cluster, first), READY_SECONDS, "another pod is ready")

    with cluster.load() as found:
        pass
    assert found["failed"] == 0, found["failures"]


def test_a_new_version_and_the_way_back_lose_no_request(cluster):
    before = cluster.pods()
    with cluster.load() as found:
        cluster("set", "env", "deployment/coordserve", "COORDSERVE_LOG_LEVEL=debug")
        cluster(*ROLLOUT)
        wait_until(gone(cluster, *before), READY_SECONDS, "the new version's pods are ready")
        cluster("rollout", "undo", "deployment/coordserve")
        cluster(*ROLLOUT)

    assert_nothing_was_lost(found)
    container = cluster.get("deployment", "coordserve")["spec"]["template"]["spec"]["containers"][0]
    assert "env" not in container


def test_a_version_that_cannot_start_gets_no_request(cluster):
    before = cluster.pods()
    with cluster.load() as found:
        cluster("set", "env", "deployment/coordserve", "COORDSERVE_MODEL=/nowhere")
        wait_until(
            lambda: cluster.logged("/nowhere"),
            120,
            "the new version says what it lacks",
        )
        assert set(cluster.pods()) == set(before)
        cluster("rollout", "undo", "deployment/coordserve")
        cluster(*ROLLOUT)

    assert_nothing_was_lost(found)


def test_the_budget_lets_pods_go_one_at_a_time_and_loses_no_request(cluster):
    [first, second] = cluster.pods()
    with cluster.load() as found:
        assert cluster.evict(first)
        assert not cluster.evict(second)
        wait_until(gone(cluster, first), READY_SECONDS, "another pod is ready")
        assert wait_until(lambda: cluster.evict(second), 60, "the second may go")
        wait_until(gone(cluster, first, second), READY_SECONDS, "both are replaced")

    assert_nothing_was_lost(found)
