"""Every target builds, and Kubernetes knows every field of it."""

from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.deploy.manifests import TARGETS, built

OLDEST, NEWEST = "1.32", kubernetes_validate.latest_version().rpartition(".")[0]
# Of what others define, the part that we use, and nothing else allowed: kubernetes-validate does not know them.
CUSTOM = yaml.safe_load((Path(__file__).parent / "custom_resources.yaml").read_text())


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("target", TARGETS)
def test_kubernetes_knows_every_field(target, version):
    own = [resource for resource in built(target) if resource["kind"] not in CUSTOM]

    assert own or target == "kserve"
    for resource in own:
        assert kubernetes_validate.validate(resource, version, strict=True) == version


def test_a_misspelt_field_would_be_seen():
    resources = [resource for resource in built("overlays/local") if resource["kind"] == "Service"]
    resources[0] = {**resources[0], "spec": {**resources[0]["spec"], "selektor": {}}}

    with pytest.raises(kubernetes_validate.ValidationError, match="selektor"):
        kubernetes_validate.validate(resources[0], OLDEST, strict=True)


@pytest.mark.parametrize("target", TARGETS)
def test_custom_resources_have_the_fields_that_their_makers_define(target):
    for resource in built(target):
        if resource["kind"] in CUSTOM:
            jsonschema.validate(resource, {**CUSTOM[resource["kind"]], "$defs": CUSTOM["$defs"]})


def test_each_custom_kind_is_used_somewhere():
    used = {resource["kind"] for target in TARGETS for resource in built(target)}

    assert set(CUSTOM) - {"$defs"} <= used
