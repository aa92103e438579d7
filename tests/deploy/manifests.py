"""What kubectl makes of deploy/, for the tests that look at it."""

import functools
import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
OLDEST_KUBECTL = 27  # its kustomize is the first 5; Debian's 1.20 knows no components at all

OVERLAYS = [path.name for path in sorted((DEPLOY / "overlays").iterdir())]
COMPONENTS = [path.name for path in sorted((DEPLOY / "components").iterdir())]
# All that can be built: overlays, KServe, and each component by itself upon the base.
TARGETS = [*(f"overlays/{name}" for name in OVERLAYS), "kserve", *(f"components/{name}" for name in COMPONENTS)]

Resource = dict[str, Any]


@functools.cache
def built(target: str) -> list[Resource]:
    """The resources of a target, as `kubectl apply -k` would send them. Skips the test without a kubectl."""
    _need_kubectl()
    folder = DEPLOY / target
    if not target.startswith("components/"):
        return _kustomize(folder)
    with tempfile.TemporaryDirectory() as scratch:
        up = {path: os.path.relpath(path, os.path.realpath(scratch)) for path in (DEPLOY / "base", folder)}
        kustomization = {"resources": [up[DEPLOY / "base"]], "components": [up[folder]]}
        (Path(scratch) / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        return _kustomize(Path(scratch))


def of_kind(resources: list[Resource], kind: str) -> list[Resource]:
    return [resource for resource in resources if resource["kind"] == kind]


def one(resources: list[Resource], kind: str, name: str = "coordserve") -> Resource:
    [found] = [resource for resource in of_kind(resources, kind) if resource["metadata"]["name"] == name]
    return found


def pod_specs(resources: list[Resource]) -> dict[str, Resource]:
    """Every pod that a target starts, by kind and name; KServe's are in its own two kinds."""
    found = {}
    for resource in resources:
        spec, name = resource.get("spec", {}), f"{resource['kind']}/{resource['metadata']['name']}"
        if "template" in spec:
            found[name] = spec["template"]["spec"]
        elif resource["kind"] == "ServingRuntime":
            found[name] = spec
    return found


def settings(resources: list[Resource]) -> dict[str, str]:
    """The service's settings in a target."""
    [data] = [
        resource["data"]
        for resource in of_kind(resources, "ConfigMap")
        if resource["metadata"]["name"].startswith("coordserve-settings")
    ]
    return data


def _kustomize(folder: Path) -> list[Resource]:
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr, done.stderr
    return [resource for resource in yaml.safe_load_all(done.stdout) if resource]


@functools.cache
def _kubectl_minor() -> int:
    if shutil.which("kubectl") is None:
        return 0
    done = subprocess.run(["kubectl", "version", "--client", "--output=json"], capture_output=True, text=True)
    found = re.search(r"\d+", json.loads(done.stdout)["clientVersion"]["minor"])
    return int(found[0]) if found else 0


def _need_kubectl() -> None:
    if _kubectl_minor() < OLDEST_KUBECTL:
        pytest.skip(f"there is no kubectl of version 1.{OLDEST_KUBECTL} or newer", allow_module_level=True)
