"""The running service, compiled, two workers, over HTTP: every body, every route, every answer its own."""

import asyncio
import base64
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from loadtests.running import RunningService, wait_until
from models import directory
from models.config import BUNDLED_MODEL
from models.images import Picture
from models.inference import for_inference
from tests.conftest import DIGITS, encode, noise

SEVEN = (DIGITS / "dejavu-sans-7.png").read_bytes()


@pytest.fixture(scope="module")
def client(service: RunningService):
    with httpx.Client(base_url=service.url, timeout=30) as client:
        yield client


def eager_scores(images: list[bytes]) -> np.ndarray:
    """What the eager float32 network says of the files: [N, classes]."""
    config, network = directory.load(BUNDLED_MODEL)
    pixels = np.stack([Picture(image).pixels(config.preprocessing) for image in images])
    with torch.inference_mode():
        return for_inference(network, config)(torch.from_numpy(pixels)).numpy()


def scores_of(prediction: list[dict[str, Any]]) -> np.ndarray:
    scores = np.zeros(10)
    for entry in prediction:
        scores[entry["index"]] = entry["score"]
    return scores


def test_a_drawn_seven_is_a_seven(client: httpx.Client):
    answer = client.post("/v1/predict", content=SEVEN, headers={"Content-Type": "image/png"})

    assert answer.status_code == 200
    body = answer.json()
    assert body["model"] == "digits"
    assert body["predictions"][0][0]["label"] == "seven"
    assert len(body["predictions"][0]) == 5
    assert body["timing"]["batch_size"] >= 1
    assert body["timing"].keys() == {"decode_ms", "queue_ms", "infer_ms", "batch_size"}


def test_every_kind_of_body_has_the_same_answer(client: httpx.Client):
    encoded = base64.b64encode(SEVEN).decode()
    answers = [
        client.post("/v1/predict", content=SEVEN, headers={"Content-Type": kind})
        for kind in ("image/png", "image/jpeg", "application/octet-stream")
    ]
    answers.append(client.post("/v1/predict", files={"image": ("7.png", SEVEN, "image/png")}))
    answers.append(client.post("/v1/predict", json={"images": [encoded]}))
    answers.append(client.post("/v1/predict", json={"images": [f"data:image/png;base64,{encoded}"]}))

    predictions = [answer.json()["predictions"] for answer in answers]

    assert [prediction[0][0]["label"] for prediction in predictions] == ["seven"] * 6
    for prediction in predictions[1:]:
        np.testing.assert_allclose(scores_of(prediction[0]), scores_of(predictions[0][0]), atol=1e-3)


def test_top_k_counts_classes_and_is_clamped_to_them(client: httpx.Client):
    for top_k, count in ((1, 1), (3, 3), (10, 10), (999, 10)):
        answer = client.post(
            "/v1/predict", params={"top_k": top_k}, content=SEVEN, headers={"Content-Type": "image/png"}
        )
        ranking = answer.json()["predictions"][0]
        assert len(ranking) == count
        assert [entry["score"] for entry in ranking] == sorted((entry["score"] for entry in ranking), reverse=True)


def test_one_bad_image_of_several_fails_alone(client: httpx.Client):
    files = [("image", SEVEN), ("image", b"not a picture"), ("image", SEVEN[:60]), ("image", SEVEN)]

    answer = client.post("/v1/predict", files=files)

    assert answer.status_code == 200
    first, second, third, fourth = answer.json()["predictions"]
    assert first[0]["label"] == fourth[0]["label"] == "seven"
    assert (second["status"], third["status"]) == (415, 400)
    assert second["request_id"] == answer.headers["x-request-id"]


def test_request_ids_are_kept_or_made(client: httpx.Client):
    kept = client.get("/healthz", headers={"X-Request-ID": "trace-1:a"})
    made = client.get("/healthz", headers={"X-Request-ID": "no\tgood"})

    assert kept.headers["x-request-id"] == "trace-1:a"
    assert len(made.headers["x-request-id"]) == 32


def test_every_answer_under_concurrency_belongs_to_its_own_image(service: RunningService):
    """Different images by the hundred, single and several a request, from 32 clients at once."""
    images = [encode(noise(seed, 20 + seed % 40, 30)) for seed in range(300)]
    images += [encode(noise(seed, 20 + seed % 40, 30), "JPEG", quality=90) for seed in range(300)]
    expected = eager_scores(images)
    # Distinct enough that a swapped answer would be seen.
    assert np.abs(expected[:, None] - expected[None]).max(axis=2).mean() > 0.05

    async def ask(client: httpx.AsyncClient, indices: list[int]) -> float:
        if len(indices) == 1:
            answer = await client.post(
                "/v1/predict?top_k=10",
                content=images[indices[0]],
                headers={"Content-Type": "application/octet-stream"},
            )
        else:
            answer = await client.post("/v1/predict?top_k=10", files=[("image", images[index]) for index in indices])
        assert answer.status_code == 200, answer.text
        found = np.stack([scores_of(prediction) for prediction in answer.json()["predictions"]])
        return float(np.abs(found - expected[indices]).max())

    async def all_at_once() -> list[float]:
        generator = np.random.default_rng(0)
        requests = [
            generator.choice(len(images), size=size, replace=False).tolist()
            for size in generator.choice([1, 1, 1, 2, 5, 9], size=800)
        ]
        gate = asyncio.Semaphore(32)
        limits = httpx.Limits(max_connections=32)
        async with httpx.AsyncClient(base_url=service.url, timeout=60, limits=limits) as client:

            async def one(indices: list[int]) -> float:
                async with gate:
                    return await ask(client, indices)

            return await asyncio.gather(*map(one, requests))

    worst = max(asyncio.run(all_at_once()))

    assert worst < 2e-3


def test_batches_form_under_concurrency(service: RunningService, client: httpx.Client):
    """With more clients than workers the engine sees several images at once."""

    def ask(_: int) -> int:
        answer = client.post("/v1/predict", content=SEVEN, headers={"Content-Type": "image/png"})
        return answer.json()["timing"]["batch_size"]

    with ThreadPoolExecutor(16) as threads:
        sizes = list(threads.map(ask, range(300)))

    assert max(sizes) > 1


def test_the_card_tells_what_is_served(client: httpx.Client):
    card = client.get("/v1/models").json()["models"][0]

    assert card == client.get("/v1/models/digits").json()
    assert card["labels"] == ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    assert card["form"] == "aot"
    assert card["compile"] == {"mode": "aot", "state": "compiled"}
    assert card["device"] == "cpu"
    assert card["parameters"] == sum(parameter.numel() for parameter in directory.load(BUNDLED_MODEL)[1].parameters())
    assert card["weights_sha256"] == directory.weights_digest(BUNDLED_MODEL)
    assert str(card["batch_cap"]) in card["images_per_second"]
    assert client.get("/v1/models/other").status_code == 404


def test_health_readiness_and_metrics(service: RunningService, client: httpx.Client):
    assert client.get("/healthz").json() == {"alive": True}
    assert client.get("/readyz").json() == {"ready": True, "form": "aot"}

    def metrics() -> dict[str, float]:
        text = client.get("/metrics").text
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if line[0] != "#"}

    predictions = 'coordserve_http_requests_total{code="200",route="/v1/predict"}'
    before = metrics()
    for _ in range(20):  # over both workers, whichever answers
        httpx.post(f"{service.url}/v1/predict", content=SEVEN, headers={"Content-Type": "image/png"})
    after = metrics()

    assert after[predictions] == before.get(predictions, 0) + 20
    assert after["coordserve_batch_images_sum"] >= before.get("coordserve_batch_images_sum", 0) + 20
    assert after["coordserve_engine_up"] == after["coordserve_compiled"] == 1
    assert after["coordserve_slots"] == 512
    assert after["coordserve_engine_restarts_total"] == 0
    for stage in ("decode", "queue", "infer"):
        assert after[f'coordserve_stage_duration_seconds_count{{stage="{stage}"}}'] >= 20
    assert [name for name in after if name.startswith("coordserve_images_per_second_capacity")]
    assert [name for name in after if name.startswith("coordserve_model_info") and 'model="digits"' in name]
    wait_until(lambda: metrics()["coordserve_slots_used"] == 0, 5, "all slots are free again")


def test_openapi_states_every_route(client: httpx.Client):
    document = client.get("/openapi.json").json()

    assert {"/v1/predict", "/v1/models", "/v1/models/{name}", "/healthz", "/readyz", "/metrics"} <= set(
        document["paths"]
    )
    predict = document["paths"]["/v1/predict"]["post"]
    assert {"image/jpeg", "multipart/form-data", "application/json"} <= set(predict["requestBody"]["content"])
    assert {"200", "400", "413", "415", "422", "429", "503", "504"} <= set(predict["responses"])


def test_log_lines_are_json(service: RunningService):
    assert service.log
    assert all(line["level"] != "unformatted" for line in service.log), json.dumps(service.log)
