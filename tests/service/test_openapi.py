"""The OpenAPI document, as tools use it: examples that work, a generated client, schemathesis, and /docs."""

import base64
import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from loadtests.running import RunningService
from tests.conftest import DIGITS

SEVEN = DIGITS / "dejavu-sans-7.png"
BIN = Path(sys.executable).parent
MAX_EXAMPLES = 40
RAW_TYPES = ("image/jpeg", "image/png", "image/webp")


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("secret") / "keys"
    file.write_text("a-key\n")
    return file


@pytest.fixture(scope="module")
def locked(compiled_cache: Path, keys_file: Path) -> Iterator[RunningService]:
    """The service with keys, so that the document has everything in it."""
    with RunningService(workers=2, cache_dir=compiled_cache, api_keys_file=keys_file, protect_metrics=True) as running:
        yield running


@pytest.fixture(scope="module")
def document(locked: RunningService) -> dict[str, Any]:
    return json.loads(locked.get("/openapi.json")[1])


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def test_every_route_is_in_it_under_a_name_of_its_own(document: dict[str, Any], locked: RunningService):
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(set(names)) == len(names) == 16
    for path in ("/v1/predict", "/v1/explain", "/v1/models", "/v1/models/{name}", "/healthz", "/readyz", "/metrics"):
        assert path in document["paths"]
    assert {"/v2", "/v2/models/{name}/infer", "/v2/models/{name}/versions/{version}/infer"} <= document["paths"].keys()


def test_every_answer_that_was_ever_given_is_in_it(document: dict[str, Any]):
    for path, method, operation in operations(document):
        if method == "post":
            expected = {"200", "400", "401", "500", "503", "504"}
            expected |= {"404"} if path.startswith("/v2") else {"408", "413", "415", "422", "429"}
            assert operation["responses"].keys() == expected, path
        for response in operation["responses"].values():
            assert "X-Request-ID" in response["headers"]
        assert operation["summary"]
        assert operation["tags"]


def test_its_examples_are_what_its_schemas_say(document: dict[str, Any]):
    validator = pytest.importorskip("jsonschema_rs").Draft202012Validator
    checked = 0
    for path, _, operation in operations(document):
        bodies = [*operation["responses"].values(), operation.get("requestBody", {"content": {}})]
        for content in (content for body in bodies for content in body.get("content", {}).values()):
            if "example" in content and "schema" in content:
                schema = {**content["schema"], "components": document["components"]}
                assert validator(schema).is_valid(content["example"]), (path, content["example"])
                checked += 1
    assert checked > 20


def test_the_examples_of_requests_are_answered_as_the_examples_of_answers(
    document: dict[str, Any], locked: RunningService
):
    for path, method, operation in operations(document):
        if method != "post":
            continue
        example = operation["requestBody"]["content"]["application/json"]["example"]
        answer = httpx.post(
            locked.url + path.format(name="digits", version="1"), json=example, headers={"X-API-Key": "a-key"}
        )
        assert answer.status_code == 200, answer.text
        promised = operation["responses"]["200"]["content"]["application/json"]["example"]
        assert answer.json().keys() == promised.keys()
        assert "seven" in answer.text


@pytest.mark.slow
def test_a_generated_client_makes_predictions(
    document: dict[str, Any], locked: RunningService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "openapi.json").write_text(json.dumps(document))
    # It knows one type for bytes; the service looks at the bytes themselves.
    overrides = dict.fromkeys(RAW_TYPES, "application/octet-stream")
    (tmp_path / "config.json").write_text(json.dumps({"content_type_overrides": overrides, "post_hooks": []}))
    subprocess.run(
        [
            *(BIN / "openapi-python-client", "generate", "--fail-on-warning"),
            *("--path", tmp_path / "openapi.json", "--config", tmp_path / "config.json"),
            *("--output-path", tmp_path / "generated"),
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    monkeypatch.syspath_prepend(tmp_path / "generated")
    generated = importlib.import_module("coordserve_client")
    types = importlib.import_module("coordserve_client.types")
    models = importlib.import_module("coordserve_client.models")
    predict = importlib.import_module("coordserve_client.api.predicting.predict").sync
    infer = importlib.import_module("coordserve_client.api.open_inference_protocol_v_2.v2_infer").sync
    client = generated.AuthenticatedClient(base_url=locked.url, token="a-key")
    text = base64.b64encode(SEVEN.read_bytes()).decode()

    with SEVEN.open("rb") as file:
        raw = predict(client=client, body=types.File(payload=file), top_k=3)
    as_json = predict(client=client, body=models.JsonImages(images=[text, text]), x_request_timeout=20.0)
    with SEVEN.open("rb") as file:
        form = predict(client=client, body=models.Form(image=[types.File(payload=file, file_name="7.png")]))
    refused = predict(client=client, body=models.JsonImages(images=["not base64"]))
    example = document["paths"]["/v2/models/{name}/infer"]["post"]["requestBody"]["content"]["application/json"]
    inferred = infer("digits", client=client, body=models.InferRequest.from_dict(example["example"]))
    unknown = predict(client=generated.Client(base_url=locked.url), body=models.JsonImages(images=[text]))

    assert raw.predictions[0][0].label == "seven"
    assert len(raw.predictions[0]) == 3
    assert [image[0].label for image in as_json.predictions] == ["seven", "seven"]
    assert form.predictions[0][0].label == "seven"
    assert isinstance(refused, models.ProblemDetails)
    assert (refused.status, refused.type_) == (400, "urn:coordserve:problem:malformed-request")
    assert inferred.outputs[0].data[0].endswith(":7:seven")
    assert unknown.status == 401


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_schemathesis_finds_nothing(locked: RunningService, tmp_path: Path, seed: int):
    found = subprocess.run(
        [
            *(BIN / "schemathesis", "--config-file", Path(__file__).with_name("schemathesis.toml")),
            *("run", f"{locked.url}/openapi.json", "--no-color"),
            *("--max-examples", str(MAX_EXAMPLES), "--seed", str(seed)),
        ],
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )

    assert found.returncode == 0, found.stdout
    assert "16 selected / 16 total" in found.stdout
    assert "Stateful" in found.stdout


@pytest.mark.browser
def test_docs_take_a_picture_and_nothing_from_elsewhere(opened_docs: Any):
    page, asked = opened_docs
    operation = page.locator("#operations-Predicting-predict")
    operation.get_by_role("button", name="post /v1/predict", exact=False).first.click()
    operation.get_by_role("button", name="Try it out").click()
    operation.locator("input[type=file]").set_input_files(SEVEN)

    operation.get_by_role("button", name="Execute").click()

    answer = operation.locator(".live-responses-table .response .microlight, .live-responses-table .response code")
    answer.first.wait_for()
    assert "seven" in answer.first.inner_text()
    assert all(url.startswith(("http://127.0.0.1:", "data:", "blob:")) for url in asked)


@pytest.fixture
def opened_docs(service: RunningService, chromium: Any) -> Iterator[Any]:
    page = chromium.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{service.url}/docs")
    yield page, asked
    page.close()
