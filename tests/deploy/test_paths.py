"""What probes, Prometheus and ways in ask for is what the running service answers."""

import json
from typing import Any

import pytest

from tests.deploy.manifests import built, of_kind, one

PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
INSIDE = {"/healthz", "/readyz"}  # what nobody outside the cluster has to ask


def let_in() -> dict[str, str]:
    """The paths of the HTTPRoute and how they match; the Ingress has the same (test_agreement.py)."""
    [rule] = one(built("components/gateway"), "HTTPRoute")["spec"]["rules"]
    return {match["path"]["value"]: match["path"]["type"] for match in rule["matches"]}


def matches(path: str) -> bool:
    return any(
        path == value or (kind == "PathPrefix" and path.startswith(f"{value}/")) for value, kind in let_in().items()
    )


def container(target: str) -> dict[str, Any]:
    if target == "kserve":
        return of_kind(built(target), "ServingRuntime")[0]["spec"]["containers"][0]
    return one(built(target), "Deployment")["spec"]["template"]["spec"]["containers"][0]


@pytest.mark.parametrize("target", ["overlays/local", "kserve"])
def test_probes_ask_what_a_service_that_is_well_answers_with_200(service, target):
    paths = [container(target)[probe]["httpGet"]["path"] for probe in PROBES]

    assert [service.get(path)[0] for path in paths] == [200, 200, 200]


def test_prometheus_scrapes_what_there_is(service):
    [monitor] = of_kind(built("components/monitoring"), "PodMonitor")
    [endpoint] = monitor["spec"]["podMetricsEndpoints"]
    status, text = service.get(endpoint["path"])

    assert status == 200
    assert b"coordserve_engine_up 1.0" in text


def test_every_route_is_let_in_but_the_probes(service):
    routes = json.loads(service.get("/openapi.json")[1])["paths"]

    assert {route for route in routes if not matches(route)} == INSIDE


@pytest.mark.parametrize("path", ["/", "/page/page.js", "/docs", "/static-offline-docs/swagger-ui.css"])
def test_pages_and_what_they_load_are_let_in(service, path):
    assert service.get(path)[0] == 200
    assert matches(path)
