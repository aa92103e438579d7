"""What people send by mistake or on purpose, against a running service; good requests go on beside it."""

import asyncio
import io

import httpx
import numpy as np
import pytest
from PIL import Image

from loadtests.running import RunningService
from tests.conftest import DIGITS, encode, noise
from tests.models.test_images import png_header

SEVEN = (DIGITS / "dejavu-sans-7.png").read_bytes()
MAX_BODY_BYTES = 100_000


@pytest.fixture(scope="module")
def service(compiled_cache):
    with RunningService(workers=1, cache_dir=compiled_cache, max_body_bytes=MAX_BODY_BYTES) as running:
        yield running


def post(service: RunningService, content: bytes, kind: str = "image/png", **options) -> httpx.Response:
    return httpx.post(
        f"{service.url}/v1/predict{options.pop('query', '')}",
        content=content,
        headers={"Content-Type": kind, **options.pop("headers", {})},
        timeout=30,
    )


def a_seven(mode: str = "RGB", image_format: str = "PNG", **options) -> bytes:
    """The drawn seven in another mode or format."""
    file = io.BytesIO()
    Image.open(io.BytesIO(SEVEN)).convert(mode).save(file, image_format, **options)
    return file.getvalue()


def a_seven_in_16_bits() -> bytes:
    grey = np.asarray(Image.open(io.BytesIO(SEVEN)).convert("L")).astype(np.uint16)
    return encode(grey * 257)


def a_seven_on_its_side() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    file = io.BytesIO()
    image = Image.open(io.BytesIO(SEVEN)).convert("RGB").transpose(Image.Transpose.ROTATE_90)
    image.save(file, "JPEG", exif=exif, quality=95)
    return file.getvalue()


def a_seven_of_ink_on_nothing() -> bytes:
    """Transparent where the ground is: what a drawing program exports."""
    grey = Image.open(io.BytesIO(SEVEN)).convert("L")
    image = Image.new("LA", grey.size, (0, 0))
    image.putalpha(Image.fromarray(255 - np.asarray(grey)))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        a_seven(),
        a_seven("L"),
        a_seven("P"),
        a_seven("RGBA"),
        a_seven("1"),
        a_seven(image_format="JPEG", quality=90),
        a_seven(image_format="JPEG", quality=90, progressive=True),
        a_seven("L", "JPEG", quality=90),
        a_seven("CMYK", "JPEG", quality=90),
        a_seven(image_format="WEBP"),
        a_seven_in_16_bits(),
        a_seven_on_its_side(),
        a_seven_of_ink_on_nothing(),
    ],
    ids=["RGB", "L", "P", "RGBA", "1bit", "jpeg", "progressive", "grey", "cmyk", "webp", "16bit", "exif", "alpha"],
)
def test_odd_but_good_images_have_the_right_answer(service: RunningService, content: bytes):
    answer = post(service, content)

    assert answer.status_code == 200, answer.text
    assert answer.json()["predictions"][0][0]["label"] == "seven"


def test_a_single_pixel_is_an_image(service: RunningService):
    assert post(service, encode(noise(0, 1, 1))).status_code == 200


@pytest.mark.parametrize(
    ("content", "kind", "options", "status", "type_", "words"),
    [
        (b"", "image/png", {}, 400, "malformed-request", "empty"),
        (b"hello", "application/octet-stream", {}, 415, "unsupported-image", "JPEG, PNG or WebP"),
        (encode(noise(1, 99, 99), "JPEG")[:900], "image/jpeg", {}, 400, "malformed-image", "broken JPEG"),
        (SEVEN[: len(SEVEN) // 2], "image/png", {}, 400, "malformed-image", "broken PNG"),
        (png_header(20_000, 20_000), "image/png", {}, 413, "image-too-large", "20000x20000"),
        (bytes(MAX_BODY_BYTES + 1), "image/png", {}, 413, "body-too-large", "100,000 bytes"),
        (SEVEN, "text/plain", {}, 415, "unsupported-media-type", "text/plain"),
        (SEVEN, "image/png", {"query": "?top_k=0"}, 422, "out-of-range", "top_k"),
        (SEVEN, "image/png", {"query": "?top_k=-3"}, 422, "out-of-range", "top_k"),
        (SEVEN, "image/png", {"query": "?top_k=many"}, 422, "out-of-range", "many"),
        (SEVEN, "image/png", {"query": "?top_k=%C2%B2"}, 422, "out-of-range", "top_k"),
        (SEVEN, "image/png", {"headers": {"X-Request-Timeout": "soon"}}, 422, "out-of-range", "soon"),
        (SEVEN, "image/png", {"headers": {"X-Request-Timeout": "nan"}}, 422, "out-of-range", "nan"),
        (SEVEN, "image/png", {"headers": {"X-Request-Timeout": "0"}}, 422, "out-of-range", "above 0"),
        (SEVEN, "image/png", {"headers": {"X-Request-Timeout": "1e-9"}}, 504, "deadline-exceeded", "X-Request-Timeout"),
    ],
)
def test_bad_requests_get_their_status_and_a_problem_that_says_what_to_do(
    service: RunningService, content: bytes, kind: str, options: dict, status: int, type_: str, words: str
):
    answer = post(
        service,
        content,
        kind,
        **{name: dict(value) if isinstance(value, dict) else value for name, value in options.items()},
    )

    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["type"] == f"urn:coordserve:problem:{type_}"
    assert problem["status"] == status
    assert problem["title"]
    assert words in problem["detail"]
    assert problem["request_id"] == answer.headers["x-request-id"]


def test_a_body_too_large_is_refused_while_it_comes(service: RunningService):
    def endless():
        for _ in range(1000):
            yield bytes(10_000)

    try:
        answer = httpx.post(f"{service.url}/v1/predict", content=endless(), headers={"Content-Type": "image/png"})
    except httpx.WriteError:  # the connection was closed under the sender, which HTTP/1.1 allows
        return
    assert answer.status_code == 413


def test_unknown_routes_and_methods_are_problems_too(service: RunningService):
    missing = httpx.get(f"{service.url}/v1/nothing")
    wrong = httpx.get(f"{service.url}/v1/predict")

    assert (missing.status_code, wrong.status_code) == (404, 405)
    for answer in (missing, wrong):
        assert answer.headers["content-type"] == "application/problem+json"
    assert wrong.headers["allow"] == "POST"


def test_bad_requests_never_disturb_good_ones(service: RunningService):
    bad = [b"", b"hello", SEVEN[:70], png_header(20_000, 20_000), bytes(MAX_BODY_BYTES + 1)]

    async def run() -> tuple[list[int], list[str]]:
        async with httpx.AsyncClient(base_url=service.url, timeout=30) as client:

            async def ask(content: bytes) -> httpx.Response:
                return await client.post("/v1/predict", content=content, headers={"Content-Type": "image/png"})

            answers = await asyncio.gather(*(ask(bad[index % 5] if index % 2 else SEVEN) for index in range(200)))
        return (
            [answer.status_code for answer in answers[1::2]],
            [answer.json()["predictions"][0][0]["label"] for answer in answers[::2]],
        )

    statuses, labels = asyncio.run(run())

    assert set(labels) == {"seven"}
    assert statuses == ([415, 413, 400, 413, 400] * 20) or set(statuses) == {400, 413, 415}
