"""Keys for predicting, and pages of other origins."""

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from loadtests.running import RunningService, wait_until
from tests.conftest import DIGITS
from tests.service.test_cli import coordserve

PNG = (DIGITS / "dejavu-sans-7.png").read_bytes()
INFER = "/v2/models/digits/infer"
ORIGIN = "https://pages.example"


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("secret") / "keys"
    file.write_text("\ufeffmarked-key\n# of the shop\nshop-key\n\n  lab-key  \n")
    return file


@pytest.fixture(scope="module")
def client(keys_file: Path, compiled_cache: Path) -> Iterator[httpx.Client]:
    with (
        RunningService(
            workers=1, cache_dir=compiled_cache, api_keys_file=keys_file, protect_metrics=True, cors_origins=ORIGIN
        ) as running,
        httpx.Client(base_url=running.url) as client,
    ):
        yield client


def predict(client: httpx.Client, **headers: str) -> httpx.Response:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.post("/v1/predict", content=PNG, headers={"Content-Type": "image/png", **sent})


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer shop-key"},
        {"Authorization": "bearer lab-key"},
        {"Authorization": "Bearer\tshop-key"},
        {"X_API_Key": "shop-key"},
        {"X_API_Key": "marked-key"},
        {"X_API_Key": "wrong", "Authorization": "Bearer shop-key"},
        {"X_API_Key": "", "Authorization": "Bearer shop-key"},
        {"X_API_Key": "shop-key", "Authorization": "Bearer wrong"},
    ],
)
def test_a_key_opens_predicting(client: httpx.Client, headers: dict[str, str]):
    assert predict(client, **headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Basic shop-key"},
        {"Authorization": "Bearer"},
        {"X_API_Key": ""},
        {"X_API_Key": "# of the shop"},
        {"X_API_Key": "wrong", "Authorization": "Bearer wrong"},
    ],
)
def test_no_key_or_another_one_is_401(client: httpx.Client, headers: dict[str, str]):
    answer = predict(client, **headers)

    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert answer.json()["type"] == "urn:coordserve:problem:unauthorized"
    assert "shop-key" not in answer.text


def test_the_protocol_v2_needs_a_key_and_says_so_in_its_own_words(client: httpx.Client):
    header = {"Inference-Header-Content-Length": "0"}

    refused = client.post(INFER, content=PNG, headers=header)
    accepted = client.post(INFER, content=PNG, headers={**header, "X-API-Key": "lab-key"})

    assert refused.status_code == 401
    assert list(refused.json()) == ["error"]
    assert accepted.status_code == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/v2/health/live", "/v1/models", "/openapi.json"])
def test_health_and_descriptions_stay_open(client: httpx.Client, path: str):
    assert client.get(path).status_code == 200


def test_openapi_states_how_to_send_a_key(client: httpx.Client):
    described = client.get("/openapi.json").json()

    kinds = {scheme["type"]: scheme for scheme in described["components"]["securitySchemes"].values()}
    assert kinds["apiKey"]["name"].lower() == "x-api-key"
    assert kinds["http"]["scheme"] == "bearer"
    for path in ("/v1/predict", "/v2/models/{name}/infer"):
        assert len(described["paths"][path]["post"]["security"]) == 2


def test_metrics_need_a_key_where_it_is_set(client: httpx.Client):
    assert client.get("/metrics").status_code == 401
    assert client.get("/metrics", headers={"X-API-Key": "shop-key"}).status_code == 200


def test_a_replaced_file_is_read_again_and_a_lost_one_changes_nothing(client: httpx.Client, keys_file: Path):
    new = keys_file.with_name("new")
    new.write_text("shop-key\nfresh-key\n")
    os.replace(new, keys_file)

    wait_until(lambda: predict(client, X_API_Key="fresh-key").status_code == 200, 10, "the new key is known")
    assert predict(client, X_API_Key="lab-key").status_code == 401

    keys_file.unlink()
    with pytest.raises(TimeoutError):
        wait_until(lambda: predict(client, X_API_Key="fresh-key").status_code != 200, 2, "the last keys are lost")


def test_a_worker_that_finds_no_file_of_keys_lets_nobody_in_until_there_is_one(tmp_path: Path, compiled_cache: Path):
    file = tmp_path / "keys"
    file.write_text("shop-key\n")
    with RunningService(workers=1, cache_dir=compiled_cache, api_keys_file=file) as service:
        file.unlink()
        [worker] = service.children("service.worker")
        worker.kill()
        wait_until(lambda: service.children("service.worker") not in ([], [worker]), 30, "another worker")
        with httpx.Client(base_url=service.url) as client:
            assert predict(client, X_API_Key="shop-key").status_code == 401
            assert client.get("/healthz").status_code == 200
            file.write_text("shop-key\n")

            wait_until(lambda: predict(client, X_API_Key="shop-key").status_code == 200, 10, "the key is known again")


def test_pages_of_the_origin_may_ask_and_others_may_not(client: httpx.Client):
    preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key"}

    allowed = client.options("/v1/predict", headers={"Origin": ORIGIN, **preflight})
    assert allowed.headers["x-request-id"]
    refused = client.options("/v1/predict", headers={"Origin": "https://other.example", **preflight})
    answer = predict(client, Origin=ORIGIN, X_API_Key="shop-key")

    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == ORIGIN
    assert refused.status_code == 400
    assert "access-control-allow-origin" not in refused.headers
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert "X-Request-ID" in answer.headers["access-control-expose-headers"]


def test_without_the_setting_no_origin_is_named(service: RunningService):
    with httpx.Client(base_url=service.url) as client:
        assert "access-control-allow-origin" not in predict(client, Origin=ORIGIN).headers


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot read the API keys"),
        ("\n# none\n", "has no API key"),
        ("# für alle\nschlüssel\n", "line 2 of"),
    ],
)
def test_a_file_without_keys_keeps_the_service_from_starting(tmp_path: Path, content: str | None, words: str):
    file = tmp_path / "keys"
    if content is not None:
        file.write_text(content)

    done = coordserve("serve", "--port", "0", "--api-keys-file", file)

    assert done.returncode == 1
    assert words in done.stderr
