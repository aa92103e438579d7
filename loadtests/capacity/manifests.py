"""The rules that deploy/ gives the autoscalers, so that plan and deployment agree."""

from pathlib import Path
from typing import Any

import yaml

from loadtests.capacity.autoscalers import DOWN, UP, Direction, Hpa, Keda, Policy

DEPLOY = Path(__file__).parents[2] / "deploy"
SCALED_OBJECT = DEPLOY / "components/autoscaling-keda/scaledobject.yaml"
HORIZONTAL_POD_AUTOSCALER = DEPLOY / "components/autoscaling-hpa/horizontalpodautoscaler.yaml"
POD_MONITOR = DEPLOY / "components/monitoring/podmonitor.yaml"


def keda(path: Path = SCALED_OBJECT) -> Keda:
    """A ScaledObject with one Prometheus trigger."""
    spec = _spec(path)
    (trigger,) = spec["triggers"]
    fallback = spec.get("fallback", {})
    least = spec.get("minReplicaCount", 0)
    behavior = spec.get("advanced", {}).get("horizontalPodAutoscalerConfig", {}).get("behavior", {})
    return Keda(
        threshold=float(trigger["metadata"]["threshold"]),
        hpa=_hpa(max(1, least), spec.get("maxReplicaCount", 100), behavior),
        failure_threshold=fallback.get("failureThreshold", 0),
        fallback_replicas=fallback.get("replicas"),
        fallback_behavior=fallback.get("behavior", "static"),
        polling=float(spec.get("pollingInterval", 30)),
        cooldown=float(spec.get("cooldownPeriod", 300)),
        to_zero=least == 0,
    )


def hpa(path: Path = HORIZONTAL_POD_AUTOSCALER) -> tuple[Hpa, float]:
    """A HorizontalPodAutoscaler by CPU, and its target as a part of the requested CPU."""
    spec = _spec(path)
    (metric,) = spec["metrics"]
    target = metric["resource"]["target"]["averageUtilization"] / 100
    return _hpa(spec.get("minReplicas", 1), spec["maxReplicas"], spec.get("behavior", {})), target


def scrape_seconds(path: Path = POD_MONITOR) -> float:
    """How often Prometheus reads each pod's metrics."""
    (endpoint,) = _spec(path)["podMetricsEndpoints"]
    return float(endpoint["interval"].removesuffix("s"))


def _hpa(least: int, most: int, behavior: dict[str, Any]) -> Hpa:
    return Hpa(
        least, most, _direction(behavior.get("scaleUp", {}), UP), _direction(behavior.get("scaleDown", {}), DOWN)
    )


def _direction(rules: dict[str, Any], default: Direction) -> Direction:
    """What is not named has Kubernetes' default."""
    policies = tuple(Policy(one["type"], one["value"], one["periodSeconds"]) for one in rules.get("policies", []))
    return Direction(
        rules.get("stabilizationWindowSeconds", default.window),
        policies or default.policies,
        rules.get("selectPolicy", "Max"),
    )


def _spec(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())["spec"]
