"""Where the network looked, over HTTP: maps as JSON, an overlay as PNG, and predictions that do not wait for them."""

import io
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from loadtests.running import RunningService
from models import directory
from models.config import BUNDLED_MODEL, ModelConfig, Network, read_config
from models.networks import create
from service.explanations import Block, Explanation, pack, unpack
from tests.conftest import DIGITS, encode
from tests.service.test_cli import coordserve

PNG = (DIGITS / "dejavu-sans-7.png").read_bytes()
LABELS = read_config(BUNDLED_MODEL).labels


@pytest.fixture(scope="module")
def client(service: RunningService) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=60) as client:
        yield client


def explain(client: httpx.Client, query: str = "", picture: bytes = PNG, **headers: str) -> httpx.Response:
    return client.post(f"/v1/explain{query}", content=picture, headers={"Content-Type": "image/png", **headers})


def placed(left: int, top: int) -> bytes:
    """A seven in a corner of a white canvas 96 pixels square."""
    glyph = Image.open(DIGITS / "dejavu-sans-7.png").convert("RGB").resize((60, 60)).crop((8, 8, 52, 52))
    canvas = Image.new("RGB", (96, 96), "white")
    canvas.paste(glyph, (left, top))
    return encode(np.asarray(canvas))


def test_maps_of_every_block_and_of_the_image(client: httpx.Client):
    answer = explain(client)

    assert answer.status_code == 200
    (one,) = answer.json()["explanations"]
    assert one["method"] == "coordatt"
    assert (one["target"]["index"], one["target"]["label"]) == (7, "seven")
    found = np.array(one["map"])
    assert found.shape == (32, 32)
    assert (found.min(), found.max()) == (0, 1)
    assert len(one["blocks"]) == 16
    first = one["blocks"][0]
    assert first["name"] == "features.2"
    assert (len(first["a_h"]), len(first["a_w"]), np.array(first["map"]).shape) == (8, 8, (8, 8))
    assert all(0 < value < 1 for block in one["blocks"] for value in block["a_h"] + block["a_w"])


def test_the_score_is_that_of_the_prediction(client: httpx.Client):
    predicted = client.post("/v1/predict", content=PNG, headers={"Content-Type": "image/png"}).json()

    score = explain(client).json()["explanations"][0]["target"]["score"]

    assert score == pytest.approx(predicted["predictions"][0][0]["score"], abs=1e-3)


@pytest.mark.parametrize(("left", "top"), [(2, 2), (50, 2), (2, 50), (50, 50)])
def test_the_map_follows_the_object(client: httpx.Client, left: int, top: int):
    found = np.array(explain(client, picture=placed(left, top)).json()["explanations"][0]["map"])

    row, column = divmod(int(found.argmax()), 32)
    assert (row < 16, column < 16) == (top < 48, left < 48)


def test_a_target_asks_for_grad_cam(client: httpx.Client):
    (alone,) = explain(client, "?target=three").json()["explanations"]
    (named,) = explain(client, "?method=gradcam&target=three").json()["explanations"]

    assert alone["map"] == named["map"]


@pytest.mark.parametrize("target", ["three", "3"])
def test_grad_cam_of_a_class_by_label_or_index(client: httpx.Client, target: str):
    one, other = (
        explain(client, f"?method=gradcam{more}").json()["explanations"][0] for more in ("", f"&target={target}")
    )

    assert one["target"]["index"] == 7
    assert other["target"]["label"] == "three"
    assert one["blocks"] == other["blocks"] == []
    assert one["map"] != other["map"]


def test_an_overlay(client: httpx.Client):
    answer = explain(client, Accept="image/png")

    assert answer.headers["content-type"] == "image/png"
    image = Image.open(io.BytesIO(answer.content))
    assert image.size == (224, 224)
    looked = np.array(explain(client).json()["explanations"][0]["map"])
    light = np.asarray(image.convert("L").resize((32, 32))).astype(float)
    assert light[looked > 0.8].mean() > light[looked < 0.2].mean()


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("image/png;q=0, */*", "application/json"),
        ("image/png;q=0.5, application/json", "application/json"),
        ("image/png, application/json", "application/json"),
        ("*/*", "application/json"),
        ("text/html", "application/json"),
        ("image/*", "image/png"),
        ("image/png, */*", "image/png"),
        ("IMAGE/PNG; q=0.9, application/json; q=0.8", "image/png"),
    ],
)
def test_the_form_that_is_liked_better(client: httpx.Client, accept: str, kind: str):
    assert explain(client, Accept=accept).headers["content-type"] == kind


def test_several_images_each_have_their_own_and_a_bad_one_fails_alone(client: httpx.Client):
    files = [("image", ("a.png", PNG)), ("image", ("b.png", b"broken")), ("image", ("c.png", placed(2, 2)))]

    first, second, third = client.post("/v1/explain", files=files).json()["explanations"]

    assert first["target"]["label"] == "seven"
    assert second["status"] == 415
    assert first["map"] != third["map"]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("?method=saliency", "one of coordatt, gradcam"),
        ("?target=eleven", "a label, or an index from 0 to 9"),
        ("?method=coordatt&target=2", "the same for every class"),
        ("?target=10", "a label, or an index from 0 to 9"),
        ("?target=-1", "a label, or an index from 0 to 9"),
    ],
)
def test_what_cannot_be_asked_is_422(client: httpx.Client, query: str, words: str):
    answer = explain(client, query)

    assert answer.status_code == 422
    assert words in answer.json()["detail"]


def test_several_images_as_one_png_are_422(client: httpx.Client):
    files = [("image", ("a.png", PNG))] * 2

    answer = client.post("/v1/explain", files=files, headers={"Accept": "image/png"})

    assert answer.status_code == 422


def test_a_bad_picture_is_refused_as_for_predicting(client: httpx.Client):
    assert explain(client, picture=b"hello").status_code == 415
    assert explain(client, picture=b"").status_code == 400


def test_predictions_go_before_explanations(client: httpx.Client, service: RunningService):
    """While 40 explanations wait, a prediction is answered before most of them."""
    files = [("image", ("a.png", PNG))] * 40
    done = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=service.url, timeout=60) as other:
            other.post("/v1/explain", files=files)
        done.set()

    thread = threading.Thread(target=ask)
    thread.start()
    answered = 0
    while not done.is_set():
        assert client.post("/v1/predict", content=PNG, headers={"Content-Type": "image/png"}).status_code == 200
        answered += not done.is_set()
    thread.join()

    assert answered >= 2


def test_a_network_without_coordinate_attention_has_grad_cam(tmp_path: Path):
    bundled = read_config(BUNDLED_MODEL)
    network = Network(family="mobilenetv2", attention="se", width=0.1)
    config = ModelConfig(name="se", network=network, preprocessing=bundled.preprocessing, labels=LABELS)
    directory.save(tmp_path / "se", config, create(network, 10))

    with (
        RunningService(model=tmp_path / "se", workers=1, compile="off") as running,
        httpx.Client(base_url=running.url) as other,
    ):
        usual, refused = explain(other), explain(other, "?method=coordatt")

    assert usual.json()["explanations"][0]["method"] == "gradcam"
    assert refused.status_code == 422
    assert "ask for method=gradcam" in refused.json()["detail"]


def test_the_command_writes_the_same_overlay(client: httpx.Client, tmp_path: Path):
    done = coordserve("explain", DIGITS / "dejavu-sans-7.png", "--out", tmp_path / "looked.png")

    assert done.returncode == 0, done.stderr
    assert ": seven 0." in done.stdout
    ours, theirs = (
        np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
        for png in ((tmp_path / "looked.png").read_bytes(), explain(client, Accept="image/png").content)
    )
    assert np.abs(ours - theirs).max() <= 2


def test_the_command_reads_stdin(tmp_path: Path):
    command = [Path(sys.executable).with_name("coordserve"), "explain", "-", "--out", tmp_path / "looked.png"]

    done = subprocess.run(command, input=PNG, capture_output=True)

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"-: seven 0.")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.png"], "No such file"),
        ([DIGITS / "dejavu-sans-7.png", "--target", "eleven"], "target is 'eleven'"),
        ([Path(__file__)], "not a JPEG, PNG or WebP image"),
    ],
)
def test_a_wrong_call_of_the_command_is_said_in_a_line(tmp_path: Path, arguments: list, words: str):
    done = coordserve("explain", *arguments, "--out", tmp_path / "x.png")

    assert done.returncode == 1
    assert words in done.stderr
    assert not (tmp_path / "x.png").exists()


def test_what_is_packed_is_unpacked():
    generator = np.random.default_rng(0)

    def values(*shape: int) -> np.ndarray:
        return generator.random(shape, np.float32)

    blocks = [Block(2, values(8), values(6), values(8, 6)), Block(17, values(1), values(1), values(1, 1))]
    pixels = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    found = generator.integers(0, 256, (32, 32), dtype=np.uint8)

    pack(Explanation(found, blocks), pixels)
    again = unpack(pixels)

    assert np.array_equal(again.map, found)
    for one, other in zip(blocks, again.blocks, strict=True):
        assert one.feature == other.feature
        np.testing.assert_allclose(one.map, other.map, atol=1e-3)
        np.testing.assert_allclose(one.a_w, other.a_w, atol=1e-3)


def test_what_does_not_fit_is_refused_before_anything_is_written():
    pixels = np.zeros((8, 8, 3), np.uint8)
    block = Block(2, np.zeros(8, np.float32), np.zeros(8, np.float32), np.zeros((8, 8), np.float32))

    with pytest.raises(ValueError, match="does not fit"):
        pack(Explanation(np.ones((8, 8), np.uint8), [block] * 4), pixels)

    assert pixels.max() == 0


@pytest.mark.parametrize("family", ["mobilenetv2", "mobilenext", "efficientnet_b0"])
@pytest.mark.parametrize("size", [32, 224])
def test_the_maps_of_every_family_fit_into_the_pixels(family: str, size: int, tmp_path: Path):
    from service.explainer import Explainer
    from service.explanations import BEST, Method

    bundled = read_config(BUNDLED_MODEL)
    network = Network(family=family, attention="ca", width=0.1)
    preprocessing = bundled.preprocessing.model_copy(update={"input_size": size, "resize_size": size})
    config = ModelConfig(name="m", network=network, preprocessing=preprocessing, labels=LABELS)
    directory.save(tmp_path, config, create(network, 10))
    pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)

    scores, explanation = Explainer(tmp_path, "cpu").explain(pixels, Method.COORDATT, BEST)
    pack(explanation, pixels)

    assert scores.shape == (10,)
    assert len(unpack(pixels).blocks) == (15 if family == "mobilenext" else 16)
