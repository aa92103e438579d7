"""JPEGs that workers pass on as they came, to a device that decodes them: the answers are those of workers that do."""

import select
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from loadtests.bench.engine_alone import EngineAlone
from loadtests.running import RunningService
from service.doorbell import DEFAULT_URGENCY, ORDER, Command, Status
from service.settings import Settings
from service.slots import NO_QUESTION
from tests.conftest import DIGITS, encode
from tests.models.test_images import smooth
from tests.service.faulty_device import service_on
from tests.service.test_bad_input import a_seven, a_seven_on_its_side, png_header
from tests.service.test_jpeg_decoder import without_quantisation

SEVEN = (DIGITS / "dejavu-sans-7.jpg").read_bytes()


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that says how the device fails; beside it lies the one that says what it decoded."""
    return tmp_path_factory.mktemp("device") / "fault"


@pytest.fixture(scope="module")
def decoding(control: Path, compiled_cache: Path) -> Iterator[RunningService]:
    """A service whose device decodes JPEGs; shared by the tests of this module."""
    with service_on(control, compiled_cache, decoder=True, decode="gpu", max_pixels=300_000) as running:
        yield running


@pytest.fixture(scope="module")
def service(compiled_cache: Path) -> Iterator[RunningService]:
    """The same, whose workers decode."""
    with RunningService(workers=1, cache_dir=compiled_cache, max_pixels=300_000) as running:
        yield running


def ask(service: RunningService, content: bytes, kind: str = "image/jpeg", path: str = "/v1/predict") -> httpx.Response:
    return httpx.post(service.url + path, content=content, headers={"Content-Type": kind}, timeout=30)


def decoded(control: Path) -> int:
    """How many JPEGs the device was asked to decode so far."""
    return sum(map(int, control.with_name("fault.decoded").read_text().split()))


def told(answer: httpx.Response) -> Any:
    """The status, and the best class or the problem of each image: what is the same however they were decoded."""
    body = answer.json()
    return answer.status_code, [
        {**image, "request_id": ""} if isinstance(image, dict) else image[0]["label"]
        for image in body.get("predictions", [body])
    ]


def test_the_card_says_where_jpegs_are_decoded(decoding: RunningService, service: RunningService):
    assert decoding.card()["decode"] == "gpu"
    assert service.card()["decode"] == "cpu"


def test_answers_are_those_of_a_service_whose_workers_decode(
    decoding: RunningService, service: RunningService, control: Path
):
    before, pictures = decoded(control), [file.read_bytes() for file in sorted(DIGITS.glob("*.jpg"))]

    with ThreadPoolExecutor(10) as threads:
        found = list(threads.map(lambda picture: ask(decoding, picture), pictures))

    for answer, picture in zip(found, pictures, strict=True):
        ranking, expected = (
            {entry["label"]: entry["score"] for entry in each.json()["predictions"][0]}
            for each in (answer, ask(service, picture))
        )
        both = ranking.keys() & expected.keys()
        assert next(iter(ranking)) == next(iter(expected))
        assert [ranking[label] for label in both] == pytest.approx([expected[label] for label in both], abs=0.03)
    assert decoded(control) == before + len(pictures)


BROKEN = without_quantisation(SEVEN)
ODD = {
    "jpeg": SEVEN,
    "grey": a_seven("L", "JPEG", quality=90),
    "on its side": a_seven_on_its_side(),
    "progressive": a_seven(image_format="JPEG", quality=90, progressive=True),
    "cmyk": a_seven("CMYK", "JPEG", quality=90),
    "png": a_seven(),
    "webp": a_seven(image_format="WEBP"),
    "larger than a slot": encode(smooth(500, 500), "JPEG", quality=95),
    "broken": BROKEN,
    "cut off": SEVEN[:-100],
    "without its end": SEVEN[:-2],
    "only a header": SEVEN[:300],
    "too many pixels": encode(smooth(600, 600), "JPEG", quality=10),
    "a header of too many": png_header(20_000, 20_000),
    "no picture": b"hello",
    "empty": b"",
}


@pytest.mark.parametrize("name", ODD)
def test_every_picture_has_the_answer_that_it_has_without(decoding: RunningService, service: RunningService, name: str):
    assert told(ask(decoding, ODD[name])) == told(ask(service, ODD[name]))


def test_one_request_may_hold_all_of_them(decoding: RunningService, service: RunningService):
    parts = [("image", ("picture", content)) for content in ODD.values() if content]
    found, expected = (httpx.post(f"{each.url}/v1/predict", files=parts, timeout=30) for each in (decoding, service))

    assert told(found) == told(expected)
    assert found.json()["predictions"][0][0]["label"] == "seven"
    assert found.json()["predictions"][list(ODD).index("broken")]["status"] == 400


def test_broken_ones_never_hurt_their_neighbours(decoding: RunningService, control: Path):
    before, pictures = decoded(control), [SEVEN, BROKEN] * 40

    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(lambda picture: ask(decoding, picture), pictures))

    assert {answer.json()["predictions"][0][0]["label"] for answer in answers[::2]} == {"seven"}
    assert {answer.status_code for answer in answers[1::2]} == {400}
    assert decoded(control) == before + len(pictures)
    metrics = decoding.get("/metrics")[1]
    assert b"coordserve_inflight_images 0.0" in metrics
    assert b"coordserve_slots_used 0.0" in metrics


def test_a_decoder_that_fails_leaves_its_jpegs_to_workers(decoding: RunningService, control: Path):
    before = decoded(control)
    control.write_text("decoder")
    try:
        answer = ask(decoding, SEVEN)
    finally:
        control.unlink()

    assert answer.json()["predictions"][0][0]["label"] == "seven"
    assert decoded(control) == before + 1
    assert decoding.logged("the device's decoder failed on 1 JPEGs")
    assert len(decoding.children("service.engine")) == 1


def test_an_explanation_is_of_pixels(decoding: RunningService, control: Path):
    before = decoded(control)

    assert ask(decoding, SEVEN, path="/v1/explain").status_code == 200
    assert decoded(control) == before


def test_a_deadline_holds_for_what_the_device_is_to_decode(decoding: RunningService):
    headers = {"Content-Type": "image/jpeg", "X-Request-Timeout": "1e-9"}

    assert httpx.post(f"{decoding.url}/v1/predict", content=SEVEN, headers=headers).status_code == 504


def test_a_gpu_that_is_asked_to_decode_and_missing_ends_the_start():
    service = RunningService(workers=1, decode="gpu", device="cpu")

    with pytest.raises(RuntimeError, match="decoding on the GPU needs one"), service:
        pass


def test_an_engine_without_a_decoder_asks_for_pixels(tmp_path: Path):
    """As when it takes over what was sent to one that had a decoder."""
    with EngineAlone(Settings(compile="off", decode="auto", device="cpu", max_batch=1), str(tmp_path)) as engine:
        engine._line.send(ORDER.pack(3, Command.DECODE, DEFAULT_URGENCY, time.monotonic(), 1e9, *NO_QUESTION))
        select.select([engine._line], [], [])
        [(slot, status, *_)] = engine._line.receive() or ()

    assert (slot, status) == (3, Status.UNDECODED)
