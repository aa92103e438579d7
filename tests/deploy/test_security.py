"""Every pod is as restricted as Kubernetes' "restricted" pod security standard wants it, and a little more."""

from typing import Any

import pytest

from tests.deploy.manifests import TARGETS, built, of_kind, pod_specs

# What the standard lets a pod mount; the first three are what we use.
VOLUMES = {"emptyDir", "configMap", "persistentVolumeClaim", "secret", "projected", "csi", "downwardAPI", "ephemeral"}

PODS = [(target, name) for target in TARGETS for name in pod_specs(built(target))]


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod.get("initContainers", []), *pod["containers"]]


def violations(pod: dict[str, Any]) -> list[str]:
    """What https://kubernetes.io/docs/concepts/security/pod-security-standards/ (restricted) would refuse."""
    found = [key for key in ("hostNetwork", "hostPID", "hostIPC") if pod.get(key)]
    found += [f"volume {v['name']}" for v in pod.get("volumes", []) if not set(v) - {"name"} <= VOLUMES]
    of_pod = pod.get("securityContext", {})
    for container in containers(pod):
        own = container.get("securityContext", {})
        both = {**of_pod, **own}
        if both.get("runAsNonRoot") is not True or both.get("runAsUser") == 0:
            found.append("may be root")
        if both.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
            found.append("no seccomp profile")
        if own.get("allowPrivilegeEscalation") is not False or own.get("privileged"):
            found.append("may gain privileges")
        capabilities = own.get("capabilities", {})
        if "ALL" not in capabilities.get("drop", []) or set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
            found.append("capabilities")
        found += [f"host port {port['hostPort']}" for port in container.get("ports", []) if "hostPort" in port]
    return found


@pytest.mark.parametrize(("target", "name"), PODS)
def test_the_restricted_standard_holds(target, name):
    assert violations(pod_specs(built(target))[name]) == []


@pytest.mark.parametrize(("target", "name"), PODS)
def test_nothing_is_written_but_volumes_that_have_a_limit(target, name):
    pod = pod_specs(built(target))[name]

    assert all(container["securityContext"]["readOnlyRootFilesystem"] is True for container in containers(pod))
    for volume in pod["volumes"]:
        if "emptyDir" in volume:
            assert volume["emptyDir"]["sizeLimit"]
            assert volume["emptyDir"].get("medium") != "Memory"


@pytest.mark.parametrize("target", [target for target in TARGETS if target != "kserve"])
def test_no_pod_gets_a_token_or_the_addresses_of_services(target):
    for pod in pod_specs(built(target)).values():
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False


def test_no_pod_of_kserve_gets_a_token_or_the_addresses_of_services():
    [service] = of_kind(built("kserve"), "InferenceService")

    assert service["spec"]["predictor"]["automountServiceAccountToken"] is False
    assert service["spec"]["predictor"]["enableServiceLinks"] is False


@pytest.mark.parametrize(("target", "name"), PODS)
def test_every_container_asks_for_what_it_needs_and_has_a_limit_of_memory(target, name):
    for container in containers(pod_specs(built(target))[name]):
        assert set(container["resources"]["requests"]) >= {"cpu", "memory"}
        assert container["resources"]["limits"]["memory"]


@pytest.mark.parametrize("target", ["overlays/cpu", "overlays/production"])
def test_a_namespace_of_ours_refuses_anything_less(target):
    [namespace] = of_kind(built(target), "Namespace")

    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        ({"hostNetwork": True}, "hostNetwork"),
        ({"volumes": [{"name": "host", "hostPath": {"path": "/"}}]}, "volume host"),
        ({"securityContext": {}}, "may be root"),
    ],
)
def test_a_pod_that_is_less_restricted_would_be_seen(change, seen):
    [pod] = pod_specs(built("overlays/local")).values()

    assert seen in violations({**pod, **change})


def test_a_container_that_is_less_restricted_would_be_seen():
    [pod] = pod_specs(built("overlays/local")).values()
    container = {**pod["containers"][0], "securityContext": {}}

    assert violations({**pod, "containers": [container]}) == ["may gain privileges", "capabilities"]
