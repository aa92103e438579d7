"""The Open Inference Protocol v2, spoken by Triton's own client to a running service."""

import base64
import json
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from loadtests.running import RunningService
from models.config import BUNDLED_MODEL, read_config
from tests.conftest import DIGITS, encode, noise

MODEL = "digits"
INFER = f"/v2/models/{MODEL}/infer"
HEADER = "Inference-Header-Content-Length"
LABELS = read_config(BUNDLED_MODEL).labels


@pytest.fixture(scope="module")
def triton(service: RunningService) -> Iterator[InferenceServerClient]:
    client = InferenceServerClient(service.url.removeprefix("http://"), concurrency=8)
    yield client
    client.close()


@pytest.fixture(scope="module")
def http(service: RunningService) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url) as client:
        yield client


def png(digit: int) -> bytes:
    return (DIGITS / f"dejavu-sans-{digit}.png").read_bytes()


def encoded(*pictures: bytes, binary: bool = True) -> InferInput:
    found = InferInput("image", [len(pictures)], "BYTES")
    elements = pictures if binary else [base64.b64encode(picture) for picture in pictures]
    return found.set_data_from_numpy(np.array(elements, dtype=np.object_), binary_data=binary)


def raw(pixels: np.ndarray, binary: bool = True) -> InferInput:
    return InferInput("image", list(pixels.shape), "UINT8").set_data_from_numpy(pixels, binary_data=binary)


def v1_scores(http: httpx.Client, picture: bytes) -> dict[int, float]:
    answer = http.post("/v1/predict?top_k=10", content=picture, headers={"Content-Type": "image/png"}).json()
    return {one["index"]: one["score"] for one in answer["predictions"][0]}


# -- what the client asks before it infers -------------------------------------------------------


def test_health_and_metadata(triton: InferenceServerClient):
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready(MODEL)
    assert triton.is_model_ready(MODEL, "1")
    assert not triton.is_model_ready("other")
    server = triton.get_server_metadata()
    assert server["name"] == "coordserve"
    assert {"binary_tensor_data", "classification", "schedule_policy"} <= set(server["extensions"])
    assert triton.get_model_metadata(MODEL) == {
        "name": "digits",
        "versions": ["1"],
        "platform": "pytorch",
        "inputs": [{"name": "image", "datatype": "BYTES", "shape": [-1]}],
        "outputs": [
            {"name": "scores", "datatype": "FP32", "shape": [-1, 10]},
            {"name": "attention", "datatype": "FP32", "shape": [-1, 32, 32]},
        ],
    }


@pytest.mark.parametrize("path", ["/v2", "/v2/"])
def test_server_metadata_with_and_without_a_slash(http: httpx.Client, path: str):
    assert http.get(path).json()["name"] == "coordserve"


# -- inputs and outputs --------------------------------------------------------------------------


@pytest.mark.parametrize("binary_input", [True, False])
@pytest.mark.parametrize("binary_output", [True, False])
def test_encoded_pictures(triton: InferenceServerClient, http: httpx.Client, binary_input: bool, binary_output: bool):
    outputs = [InferRequestedOutput("scores", binary_data=binary_output)]

    result = triton.infer(MODEL, [encoded(png(7), png(3), binary=binary_input)], outputs=outputs, request_id="mine")

    scores = result.as_numpy("scores")
    assert scores.shape == (2, 10)
    assert scores.dtype == np.float32
    assert scores.argmax(axis=1).tolist() == [7, 3]
    assert scores[0] == pytest.approx([v1_scores(http, png(7))[index] for index in range(10)], rel=1e-4, abs=1e-6)
    assert result.get_response()["id"] == "mine"
    assert result.get_response()["model_name"] == MODEL


@pytest.mark.parametrize("binary", [True, False])
def test_raw_pixels_of_any_size(triton: InferenceServerClient, http: httpx.Client, binary: bool):
    pixels = np.asarray(Image.open(DIGITS / "dejavu-sans-5.png").convert("RGB").resize((40, 56)))

    scores = triton.infer(MODEL, [raw(np.stack([pixels, pixels]), binary)]).as_numpy("scores")

    expected = v1_scores(http, encode(pixels))
    assert scores.shape == (2, 10)
    assert scores[1] == pytest.approx([expected[index] for index in range(10)], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("binary", [True, False])
def test_classification(triton: InferenceServerClient, binary: bool):
    outputs = [InferRequestedOutput("scores", binary_data=binary, class_count=3)]

    found = triton.infer(MODEL, [encoded(png(7), png(3))], outputs=outputs).as_numpy("scores")

    assert found.shape == (2, 3)
    for row, digit in zip(found, (7, 3), strict=True):
        rows = [(text.decode() if isinstance(text, bytes) else text).split(":") for text in row]
        assert rows[0][1:] == [str(digit), LABELS[digit]]
        values = [float(value) for value, _, _ in rows]
        assert values == sorted(values, reverse=True)


def test_more_classes_than_there_are(triton: InferenceServerClient):
    outputs = [InferRequestedOutput("scores", class_count=99)]

    assert triton.infer(MODEL, [encoded(png(1))], outputs=outputs).as_numpy("scores").shape == (1, 10)


@pytest.mark.parametrize("binary", [True, False])
def test_attention_only_when_asked_for(triton: InferenceServerClient, http: httpx.Client, binary: bool):
    outputs = [InferRequestedOutput(name, binary_data=binary) for name in ("attention", "scores")]

    result = triton.infer(MODEL, [encoded(png(7), png(3))], outputs=outputs)

    attention = result.as_numpy("attention")
    assert attention.shape == (2, 32, 32)
    assert (attention.min(), attention.max()) == (0, 1)
    assert result.as_numpy("scores").argmax(axis=1).tolist() == [7, 3]
    answer = http.post("/v1/explain", content=png(3), headers={"Content-Type": "image/png"}).json()
    np.testing.assert_allclose(attention[1], answer["explanations"][0]["map"], atol=2e-3)
    assert triton.infer(MODEL, [encoded(png(7))]).as_numpy("attention") is None


def test_a_raw_request(http: httpx.Client):
    answer = http.post(INFER, content=png(4), headers={HEADER: "0"})

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/octet-stream"
    length = int(answer.headers[HEADER])
    described = json.loads(answer.content[:length])
    assert described["outputs"] == [
        {"name": "scores", "datatype": "FP32", "shape": [1, 10], "parameters": {"binary_data_size": 40}}
    ]
    assert np.frombuffer(answer.content[length:], "<f4").argmax() == 4


def test_all_outputs_binary_by_a_parameter_of_the_request(http: httpx.Client):
    answer = http.post(INFER, json={**request_json(png(2)), "parameters": {"binary_data_output": True}})

    length = int(answer.headers[HEADER])
    assert np.frombuffer(answer.content[length:], "<f4").argmax() == 2


def test_json_without_outputs_gives_all_of_them(http: httpx.Client):
    answer = http.post(INFER, json=request_json(png(2)))

    assert answer.headers["content-type"] == "application/json"
    assert HEADER not in answer.headers
    (output,) = answer.json()["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("scores", "FP32", [1, 10])
    assert "id" not in answer.json()


def test_nested_and_flat_data_are_the_same(http: httpx.Client):
    pixels = noise(1, 8, 9)
    shape = [1, 8, 9, 3]

    answers = [
        http.post(INFER, json={"inputs": [{"name": "image", "datatype": "UINT8", "shape": shape, "data": data}]}).json()
        for data in ([pixels.tolist()], pixels.ravel().tolist())
    ]

    assert answers[0] == answers[1]


def test_many_at_once_get_their_own_answers(triton: InferenceServerClient):
    pictures = [png(index % 10) for index in range(64)]

    pending = [
        triton.async_infer(MODEL, [encoded(picture)], request_id=str(index)) for index, picture in enumerate(pictures)
    ]
    results = [request.get_result() for request in pending]

    alone = [triton.infer(MODEL, [encoded(png(digit))]).as_numpy("scores")[0] for digit in range(10)]
    for index, result in enumerate(results):
        assert result.get_response()["id"] == str(index)
        assert result.as_numpy("scores")[0] == pytest.approx(alone[index % 10], abs=1e-4)


def test_concurrent_connections(service: RunningService):
    def ask(index: int) -> int:
        with httpx.Client(base_url=service.url) as client:
            answer = client.post(INFER, content=png(index % 10), headers={HEADER: "0"})
            return int(np.frombuffer(answer.content[int(answer.headers[HEADER]) :], "<f4").argmax())

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(64)))

    right = sum(answer == index % 10 for index, answer in enumerate(answers))
    assert right >= 57  # the bundled network may misread one digit of this font


def test_a_timeout_in_microseconds(triton: InferenceServerClient):
    with pytest.raises(InferenceServerException) as refusal:
        triton.infer(MODEL, [encoded(png(1))], timeout=1)

    assert "no answer before the deadline" in refusal.value.message()


def test_a_priority_is_accepted(triton: InferenceServerClient):
    assert triton.infer(MODEL, [encoded(png(1))], priority=2, timeout=10_000_000).as_numpy("scores").shape == (1, 10)


# -- errors --------------------------------------------------------------------------------------


def request_json(picture: bytes, **changes: object) -> dict:
    found = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(picture).decode()]}
    return {"inputs": [{**found, **changes}]}


def without(found: dict, *names: str) -> dict:
    return {name: value for name, value in found.items() if name not in names}


IMAGE = request_json(b"\x89PNG")["inputs"][0]
BAD_JSON = {
    "no JSON": b"{",
    "no object": b"[]",
    "nested beyond reason": b'{"inputs":' + b"[" * 100_000,
    "no inputs": {},
    "inputs no list": {"inputs": {}},
    "inputs empty": {"inputs": []},
    "inputs no objects": {"inputs": [1]},
    "two inputs": {"inputs": [IMAGE, IMAGE]},
    "another input": {"inputs": [{**IMAGE, "name": "picture"}]},
    "no name": {"inputs": [without(IMAGE, "name")]},
    "no datatype": {"inputs": [without(IMAGE, "datatype")]},
    "no shape": {"inputs": [without(IMAGE, "shape")]},
    "no data": {"inputs": [without(IMAGE, "data")]},
    "unknown datatype": {"inputs": [{**IMAGE, "datatype": "STRING"}]},
    "another datatype": {"inputs": [{**IMAGE, "datatype": "FP32"}]},
    "FP16 in JSON": {"inputs": [{**IMAGE, "datatype": "FP16"}]},
    "shape of another count": {"inputs": [{**IMAGE, "shape": [2]}]},
    "shape of more dimensions": {"inputs": [{**IMAGE, "shape": [1, 1]}]},
    "negative shape": {"inputs": [{**IMAGE, "shape": [-1]}]},
    "shape of text": {"inputs": [{**IMAGE, "shape": ["1"]}]},
    "no images": {"inputs": [{**IMAGE, "shape": [0], "data": []}]},
    "no base64": {"inputs": [{**IMAGE, "data": ["?"]}]},
    "number for text": {"inputs": [{**IMAGE, "data": [1]}]},
    "data no list": {"inputs": [{**IMAGE, "data": "abc"}]},
    "no picture": {"inputs": [{**IMAGE, "data": [base64.b64encode(b"hello").decode()]}]},
    "broken picture": {"inputs": [IMAGE]},
    "two sources of data": {"inputs": [{**IMAGE, "parameters": {"binary_data_size": 4}}]},
    "binary size without header": {"inputs": [{**without(IMAGE, "data"), "parameters": {"binary_data_size": 4}}]},
    "parameters no object": {"inputs": [IMAGE], "parameters": 1},
    "id no string": {"inputs": [IMAGE], "id": 1},
    "unknown output": {"inputs": [IMAGE], "outputs": [{"name": "logits"}]},
    "output without a name": {"inputs": [IMAGE], "outputs": [{}]},
    "classes of attention": {
        "inputs": [IMAGE],
        "outputs": [{"name": "attention", "parameters": {"classification": 2}}],
    },
    "no classes": {"inputs": [IMAGE], "outputs": [{"name": "scores", "parameters": {"classification": 0}}]},
    "classes of text": {"inputs": [IMAGE], "outputs": [{"name": "scores", "parameters": {"classification": "2"}}]},
    "ragged pixels": {"inputs": [{**IMAGE, "datatype": "UINT8", "shape": [1, 1, 1, 3], "data": [[0], [0, 0]]}]},
    "pixels of text": {"inputs": [{**IMAGE, "datatype": "UINT8", "shape": [1, 1, 1, 3], "data": "abc"}]},
    "timeout beyond all time": {"inputs": [IMAGE], "parameters": {"timeout": 10**400}},
    "negative timeout": {"inputs": [IMAGE], "parameters": {"timeout": -1}},
    "negative priority": {"inputs": [IMAGE], "parameters": {"priority": -1}},
    "colour beyond a byte": {"inputs": [{**IMAGE, "datatype": "UINT8", "shape": [1, 1, 1, 3], "data": [0, 0, 256]}]},
    "fraction of a colour": {"inputs": [{**IMAGE, "datatype": "UINT8", "shape": [1, 1, 1, 3], "data": [0, 0, 0.5]}]},
    "pixels of another shape": {"inputs": [{**IMAGE, "datatype": "UINT8", "shape": [1, 1, 1, 4], "data": [0] * 4}]},
    "too few pixels": {"inputs": [{**IMAGE, "datatype": "UINT8", "shape": [1, 2, 1, 3], "data": [0] * 3}]},
    "too many images": {"inputs": [{**IMAGE, "shape": [65], "data": IMAGE["data"] * 65}]},
}


@pytest.mark.parametrize("body", BAD_JSON.values(), ids=BAD_JSON)
def test_what_the_protocol_does_not_allow_is_400_with_its_own_error_object(http: httpx.Client, body: bytes | dict):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()

    answer = http.post(INFER, content=content, headers={"Content-Type": "application/json"})

    assert answer.status_code == 400, answer.text
    assert list(answer.json()) == ["error"]
    assert answer.json()["error"]
    assert answer.headers["content-type"] == "application/json"


def binary_body(size: int, tensor: bytes, **changes: object) -> tuple[bytes, int]:
    found = {**without(IMAGE, "data"), "parameters": {"binary_data_size": size}, **changes}
    head = json.dumps({"inputs": [found]}).encode()
    return head + tensor, len(head)


ELEMENT = struct.pack("<I", 4) + b"\x89PNG"
BAD_BINARY = {
    "too few bytes": (binary_body(9, ELEMENT), "only 8 bytes are left"),
    "bytes left over": (binary_body(8, ELEMENT + b"!"), "1 bytes are left over"),
    "element beyond the tensor": (
        binary_body(8, struct.pack("<I", 5) + b"\x89PNG"),
        "has length 5, and 4 bytes are left",
    ),
    "end within a length": (binary_body(2, b"\4\0"), "within the length"),
    "fewer elements than the shape says": (binary_body(8, ELEMENT, shape=[2]), "and 1 elements"),
    "negative size": (binary_body(-1, b""), "binary_data_size -1"),
    "pixels of another size": (
        binary_body(4, b"\0" * 4, datatype="UINT8", shape=[1, 1, 1, 3]),
        "has 3 bytes, and binary_data_size is 4",
    ),
    "data beside a binary tensor": (binary_body(8, ELEMENT, data=["AAAA"]), "either data or"),
    "no JSON within the header's length": ((b"{}" + ELEMENT, 1), "not JSON"),
}


@pytest.mark.parametrize(("body", "words"), BAD_BINARY.values(), ids=BAD_BINARY)
def test_broken_binary_tensors_are_400(http: httpx.Client, body: tuple[bytes, int], words: str):
    content, length = body

    answer = http.post(INFER, content=content, headers={HEADER: str(length)})

    assert answer.status_code == 400
    assert words in answer.json()["error"]


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("-1", "must be the length"),
        ("999", "has only"),
        ("x", "must be the length"),
        ("9" * 5000, "must be the length"),
    ],
)
def test_a_wrong_header_is_400(http: httpx.Client, header: str, words: str):
    answer = http.post(INFER, content=b"{}", headers={HEADER: header})

    assert answer.status_code == 400
    assert words in answer.json()["error"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/models/other", 404),
        ("GET", "/v2/models/digits/versions/2", 404),
        ("GET", "/v2/models/other/ready", 404),
        ("POST", "/v2/models/other/infer", 404),
        ("POST", "/v2/models/digits/versions/7/infer", 404),
        ("GET", "/v2/nothing", 404),
        ("GET", INFER, 405),
    ],
)
def test_unknown_things_have_the_protocols_error_object(http: httpx.Client, method: str, path: str, status: int):
    answer = http.request(method, path)

    assert answer.status_code == status
    assert list(answer.json()) == ["error"]


@pytest.mark.parametrize("of", ["inputs", "outputs"])
def test_shared_memory_is_refused_in_words(http: httpx.Client, of: str):
    there = {"parameters": {"shared_memory_region": "mine", "shared_memory_byte_size": 40}}
    found = {**request_json(png(1)), "outputs": [{"name": "scores"}]}

    answer = http.post(INFER, json={**found, of: [{**found[of][0], **there}]})

    assert answer.status_code == 400
    assert "shared memory is not supported" in answer.json()["error"]


def test_an_empty_body_is_400(http: httpx.Client):
    answer = http.post(INFER)

    assert answer.status_code == 400
    assert answer.json() == {"error": "the body is empty; send the bytes of an image, or JSON that holds one"}


def test_a_compressed_body_is_refused(triton: InferenceServerClient):
    with pytest.raises(InferenceServerException, match="without Content-Encoding"):
        triton.infer(MODEL, [encoded(png(1))], request_compression_algorithm="gzip")


def test_errors_reach_the_client_as_its_own_exception(triton: InferenceServerClient):
    with pytest.raises(InferenceServerException) as refusal:
        triton.infer(MODEL, [encoded(b"no picture")])

    assert refusal.value.status() == "400"
    assert "not a JPEG, PNG or WebP image" in refusal.value.message()


def test_a_full_queue_is_503_with_retry_after(compiled_cache: Path):
    with (
        RunningService(workers=1, queue_images=1, cache_dir=compiled_cache) as small,
        httpx.Client(base_url=small.url) as client,
    ):
        answer = client.post(INFER, json=request_json(png(1), shape=[2], data=[base64.b64encode(png(1)).decode()] * 2))
        assert answer.status_code == 400  # two images never fit

        def ask(_: int) -> httpx.Response:
            return client.post(INFER, content=png(1), headers={HEADER: "0"})

        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(ask, range(200)))
    refused = [answer for answer in answers if answer.status_code == 503]
    assert {answer.status_code for answer in answers} == {200, 503}
    assert all(answer.headers["retry-after"] == "1" and list(answer.json()) == ["error"] for answer in refused)
