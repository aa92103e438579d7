"""The whole way: pictures drawn here, a network trained on them, measured, and served."""

from pathlib import Path

import httpx
import numpy as np
import pytest

from loadtests.running import RunningService
from models.config import BUNDLED_MODEL
from tests.conftest import encode
from tests.models.training.shapes import LABELS, draw, draw_set
from tests.service.test_cli import coordserve


@pytest.mark.slow
def test_a_folder_of_pictures_becomes_a_service_that_tells_them_apart(tmp_path: Path):
    shapes = draw_set(tmp_path / "shapes", per_class=40)
    (shapes / "circle" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    others = draw_set(tmp_path / "others", per_class=10, seed=1)
    out = tmp_path / "model"

    flags = {"data": shapes, "out": out, "init": BUNDLED_MODEL, "epochs": 20, "batch-size": 16, "learning-rate": 0.003}
    trained = coordserve("train", *(part for name, value in flags.items() for part in (f"--{name}", value)))
    measured = coordserve("evaluate", out, "--data", others)

    assert trained.returncode == 0, trained.stderr
    assert "can be read: 1\n" in trained.stdout
    assert measured.returncode == 0, measured.stderr
    accuracy = float(measured.stdout.removeprefix("top-1 ").partition("%")[0])
    assert accuracy >= 80, measured.stdout

    generator = np.random.default_rng(2)
    with RunningService(model=out, workers=1, compile="off") as service, httpx.Client(base_url=service.url) as client:
        assert client.get("/v1/models/model").json()["labels"] == list(LABELS)
        right = 0
        for label in LABELS * 5:
            picture = encode(np.asarray(draw(label, generator)))
            answer = client.post("/v1/predict", content=picture, headers={"Content-Type": "image/png"})
            right += answer.json()["predictions"][0][0]["label"] == label
    assert right >= 11  # of 15
