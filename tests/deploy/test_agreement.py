"""What is said in two places is the same in both: settings, ports, labels, names, budgets of time."""

import re

import pytest

from models.config import BUNDLED_MODEL, read_config
from service import __version__, supervisor
from service.cli import parser
from service.settings import Settings
from tests.deploy.manifests import COMPONENTS, OVERLAYS, TARGETS, built, of_kind, one, pod_specs, settings

OURS = [target for target in TARGETS if target != "kserve"]
PREFIX = "COORDSERVE_"


def read_settings(target: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings as the service in a pod of the target reads them."""
    for name, value in settings(built(target)).items():
        monkeypatch.setenv(name, value)
    return Settings()


def service_container(target: str) -> dict:
    return one(built(target), "Deployment")["spec"]["template"]["spec"]["containers"][0]


@pytest.mark.parametrize("target", OURS)
def test_every_key_is_a_setting_whose_value_is_read(target, monkeypatch):
    names = {name.removeprefix(PREFIX).lower() for name in settings(built(target))}

    assert names
    assert names <= set(Settings.model_fields)
    assert read_settings(target, monkeypatch).model_fields_set == names


@pytest.mark.parametrize("target", OURS)
def test_the_service_listens_where_the_container_says_for_all_and_waits_for_the_compiler(target, monkeypatch):
    read = read_settings(target, monkeypatch)

    assert [port["containerPort"] for port in service_container(target)["ports"]] == [read.port]
    assert (read.host, read.log_format, read.wait_for_compile) == ("0.0.0.0", "json", True)


@pytest.mark.parametrize("target", OURS)
def test_the_settings_are_those_of_the_pod(target):
    [source] = service_container(target)["envFrom"]
    names = [resource["metadata"]["name"] for resource in of_kind(built(target), "ConfigMap")]

    assert source["configMapRef"]["name"] in names
    assert re.fullmatch(r"coordserve-settings-[a-z0-9]{10}", source["configMapRef"]["name"])


@pytest.mark.parametrize("target", OURS)
def test_services_select_pods_and_ports_that_there_are(target):
    resources = built(target)
    templates = [resource["spec"]["template"] for resource in resources if "template" in resource.get("spec", {})]
    assert of_kind(resources, "Service")
    for service in of_kind(resources, "Service"):
        selector = service["spec"]["selector"].items()
        [template] = [each for each in templates if selector <= each["metadata"]["labels"].items()]
        ports = {port["name"] for container in template["spec"]["containers"] for port in container.get("ports", [])}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports


@pytest.mark.parametrize("target", OURS)
def test_whatever_selects_our_pods_selects_just_them(target):
    resources = built(target)
    deployment = one(resources, "Deployment")["spec"]
    ours = deployment["selector"]["matchLabels"]
    selectors = [
        one(resources, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        one(resources, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        *(
            spread["labelSelector"]["matchLabels"]
            for spread in deployment["template"]["spec"]["topologySpreadConstraints"]
        ),
        *(monitor["spec"]["selector"]["matchLabels"] for monitor in of_kind(resources, "PodMonitor")),
    ]

    assert ours.items() <= deployment["template"]["metadata"]["labels"].items()
    assert selectors == [ours] * len(selectors)
    for resource in resources:
        if "template" in resource.get("spec", {}) and resource["metadata"]["name"] != "coordserve":
            assert not ours.items() <= resource["spec"]["template"]["metadata"]["labels"].items()


@pytest.mark.parametrize("target", OURS)
def test_probes_monitors_and_policies_name_the_port_of_the_container(target):
    resources, container = built(target), service_container(target)
    [port] = [port["name"] for port in container["ports"]]
    probes = [container[probe]["httpGet"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")]
    policy = one(resources, "NetworkPolicy")["spec"]["ingress"]
    endpoints = [end for monitor in of_kind(resources, "PodMonitor") for end in monitor["spec"]["podMetricsEndpoints"]]

    assert [(probe["path"], probe["port"]) for probe in probes] == [
        ("/readyz", port),
        ("/readyz", port),
        ("/healthz", port),
    ]
    assert [named["port"] for rule in policy for named in rule["ports"]] == [port]
    assert all(end["port"] == port for end in endpoints)


@pytest.mark.parametrize(("target", "kind"), [("components/gateway", "HTTPRoute"), ("components/ingress", "Ingress")])
def test_ways_in_lead_to_the_service_and_not_to_probes(target, kind):
    port = one(built(target), "Service")["spec"]["ports"][0]
    spec = one(built(target), kind)["spec"]
    if kind == "HTTPRoute":
        [rule] = spec["rules"]
        backends = [(backend["name"], backend["port"]) for backend in rule["backendRefs"]]
        paths = {match["path"]["value"]: match["path"]["type"] for match in rule["matches"]}
        assert backends == [("coordserve", port["port"])]
    else:
        [rule] = spec["rules"]
        paths = {path["path"]: path["pathType"] for path in rule["http"]["paths"]}
        for path in rule["http"]["paths"]:
            assert path["backend"]["service"] == {"name": "coordserve", "port": {"name": port["name"]}}

    assert paths["/"] == "Exact"
    assert {"/v1", "/v2", "/page", "/docs", "/static-offline-docs", "/openapi.json", "/metrics"} == set(paths) - {"/"}


@pytest.mark.parametrize("target", OURS)
def test_a_pod_has_the_time_that_the_service_takes_to_stop(target, monkeypatch):
    read = read_settings(target, monkeypatch)
    pod = one(built(target), "Deployment")["spec"]["template"]["spec"]
    [command, seconds] = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    # Supervisor._stop: the compiler, the workers with the longest request, the engine, one after the other.
    stopping = 3 * supervisor.STOP_SECONDS + read.request_timeout

    assert command == "sleep"
    assert pod["terminationGracePeriodSeconds"] >= int(seconds) + read.shutdown_grace + stopping


@pytest.mark.parametrize("target", ["components/gateway", "components/ingress"])
def test_a_proxy_waits_longer_than_the_service_lets_a_request_take(target, monkeypatch):
    read = read_settings(target, monkeypatch)
    if target == "components/gateway":
        proxy = float(one(built(target), "HTTPRoute")["spec"]["rules"][0]["timeouts"]["request"].removesuffix("s"))
    else:
        annotations = one(built(target), "Ingress")["metadata"]["annotations"]
        proxy = float(annotations["nginx.ingress.kubernetes.io/proxy-read-timeout"])
        size = int(annotations["nginx.ingress.kubernetes.io/proxy-body-size"].removesuffix("m"))
        assert size * 2**20 > read.max_body_bytes

    assert proxy > read.request_timeout


@pytest.mark.parametrize("target", OURS)
def test_the_cache_is_a_folder_within_a_volume(target, monkeypatch):
    """Made by the service itself: the root of a volume is others' to write, and packages in it would be refused."""
    cache = read_settings(target, monkeypatch).cache_dir
    mounts = [mount["mountPath"] for mount in service_container(target)["volumeMounts"]]

    assert str(cache) not in mounts
    assert any(str(parent) in mounts for parent in cache.parents)


@pytest.mark.parametrize("target", OURS)
def test_the_service_is_limited_to_the_cores_that_it_asks_for(target):
    """It counts its cores by the limit; the local overlay asks for less, to fit beside other things."""
    resources = service_container(target)["resources"]

    assert resources["limits"]["cpu"]
    if target != "overlays/local":
        assert resources["limits"]["cpu"] == resources["requests"]["cpu"]


@pytest.mark.parametrize("target", ["components/autoscaling-keda", "components/autoscaling-hpa", "overlays/production"])
def test_an_autoscaler_alone_says_how_many_replicas(target):
    deployment, resources = one(built(target), "Deployment"), built(target)
    [scaler] = of_kind(resources, "ScaledObject") + of_kind(resources, "HorizontalPodAutoscaler")

    assert "replicas" not in deployment["spec"]
    assert scaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]


def test_keda_counts_the_images_of_the_overlay_s_own_namespace():
    scaled = one(built("overlays/production"), "ScaledObject")
    [trigger] = scaled["spec"]["triggers"]

    namespaces = set(re.findall(r'namespace="([^"]+)"', trigger["metadata"]["query"]))
    assert namespaces == {scaled["metadata"]["namespace"]}
    assert (
        scaled["spec"]["minReplicaCount"] <= scaled["spec"]["fallback"]["replicas"] <= scaled["spec"]["maxReplicaCount"]
    )


def test_keda_wants_one_largest_batch_for_each_replica(monkeypatch):
    [trigger] = one(built("overlays/production"), "ScaledObject")["spec"]["triggers"]

    assert int(trigger["metadata"]["threshold"]) == read_settings("overlays/production", monkeypatch).max_batch


def test_a_gpu_pod_insists_on_its_gpu(monkeypatch):
    limits = service_container("overlays/production")["resources"]["limits"]

    assert limits["nvidia.com/gpu"] == "1"
    assert read_settings("overlays/production", monkeypatch).device == "cuda"


def test_the_volume_of_packages_is_opened_to_the_group_only_once():
    pod = one(built("components/compile-cache"), "Deployment")["spec"]["template"]["spec"]

    assert pod["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"
    assert {"claimName": "coordserve-packages"} in [v.get("persistentVolumeClaim") for v in pod["volumes"]]


@pytest.mark.parametrize("target", ["overlays/cpu", "overlays/production", "kserve"])
def test_images_have_the_version_of_the_service(target):
    [pod] = pod_specs(built(target)).values()

    assert pod["containers"][0]["image"].rpartition(":")[2].removesuffix("-cuda") == __version__


def test_the_readme_has_a_row_for_every_overlay_and_component():
    from tests.deploy.manifests import DEPLOY

    rows = re.findall(r"^\| `([a-z-]+)` \|", (DEPLOY / "README.md").read_text(), re.MULTILINE)

    assert sorted(rows) == sorted([*OVERLAYS, *COMPONENTS])


def test_kserve_s_runtime_is_started_as_the_command_line_understands():
    [runtime] = of_kind(built("kserve"), "ServingRuntime")
    [container] = runtime["spec"]["containers"]
    options = parser().parse_args(container["args"])

    assert (options.model, int(options.port)) == ("/mnt/models", container["ports"][0]["containerPort"])
    assert {variable["name"].removeprefix(PREFIX).lower() for variable in container["env"]} <= set(
        Settings.model_fields
    )
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["port"] == container["ports"][0]["containerPort"]


def test_kserve_s_service_asks_for_the_runtime_and_has_the_model_s_name():
    [runtime] = of_kind(built("kserve"), "ServingRuntime")
    [service] = of_kind(built("kserve"), "InferenceService")
    model = service["spec"]["predictor"]["model"]

    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["modelFormat"]["name"] in [each["name"] for each in runtime["spec"]["supportedModelFormats"]]
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
    assert service["metadata"]["name"] == read_config(BUNDLED_MODEL).name
