"""What tests share: drawn pictures, compiled packages kept inside the clone, and a service that runs."""

import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from loadtests.running import RunningService
from models.config import BUNDLED_MODEL

ROOT = Path(__file__).parent.parent
DIGITS = Path(__file__).parent / "data" / "digits"


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a developer's COORDSERVE_… variables reach a test, nor the folder that Inductor sets when it compiles."""
    ours = ("COORDSERVE_", "TORCHINDUCTOR_CACHE_DIR")
    for name in [name for name in os.environ if name.startswith(ours)]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def cache() -> Path:
    """Compiled packages, made once in a clone: a second run of the tests finds them."""
    directory = ROOT / ".cache" / "packages"
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    return directory


@pytest.fixture(scope="session")
def compiled_cache(cache: Path) -> Path:
    """The cache with the bundled model's package in it."""
    from models.compile import choose_target, compile_package

    compile_package(cache, BUNDLED_MODEL, choose_target("cpu", "auto", cores=1, multiply_adds=0))
    return cache


@pytest.fixture(scope="module")
def service(compiled_cache: Path) -> Iterator[RunningService]:
    """The bundled model behind two workers, compiled; shared by the tests of a module."""
    with RunningService(workers=2, cache_dir=compiled_cache) as running:
        yield running


@pytest.fixture(scope="session")
def not_a_number(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose every score is NaN."""
    import torch

    from models import directory

    config, network = directory.load(BUNDLED_MODEL)
    network.state_dict()["classifier.1.bias"].fill_(torch.nan)
    model = tmp_path_factory.mktemp("model") / "not-a-number"
    directory.save(model, config, network)
    return model


@pytest.fixture
def fault(tmp_path: Path) -> Path:
    """The file that says how the device of tests.service.faulty_device fails."""
    return tmp_path / "fault"


@pytest.fixture(scope="module")  # while Playwright is there its event loop runs, and no other can in this thread
def chromium() -> Iterator[Any]:
    """A real browser, driven by Playwright."""
    playwright = pytest.importorskip("playwright.sync_api")
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("there is no Chromium (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path)
        yield browser
        browser.close()


def encode(pixels: np.ndarray, image_format: str = "PNG", **options: object) -> bytes:
    """Pixels of any mode that Pillow knows as the bytes of a file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, image_format, **options)
    return file.getvalue()


def noise(seed: int, height: int = 32, width: int = 32) -> np.ndarray:
    """A picture like no other: uint8 [height, width, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
