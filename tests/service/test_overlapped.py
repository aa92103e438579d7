"""A form on a device with lanes: what is prepared, in which order, and what does not fit."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch

from loadtests.running import RunningService
from models.compile import Target
from service.arena import Arena
from service.cuda_device import stretches
from service.overlapped import Overlapped
from tests.conftest import DIGITS
from tests.service.fake_device import FakeDevice

STAGING = np.zeros((16, 2, 2, 3), np.uint8)


def form_on(device: FakeDevice) -> Overlapped:
    return Overlapped("aot", lambda images: images, Target("cuda", "bfloat16", 1), device=device, slots=8)


@pytest.fixture
def device() -> FakeDevice:
    return FakeDevice(Arena.create(16, 2, 3), lambda pixels: np.zeros((len(pixels), 3), np.float32))


def test_the_largest_batch_is_prepared_first_and_all_are_measured(device: FakeDevice):
    form = form_on(device)

    for _ in form.measure(STAGING):
        pass

    assert device.prepared == [16, 12, 8, 6, 4, 3, 2, 1]
    assert list(form.curve) == [1, 2, 3, 4, 6, 8, 12, 16]
    assert form.curve[16] == pytest.approx(16 / 0.010)  # the slowest stage, as the others overlap with it
    assert form.cap == 16


def test_what_does_not_fit_is_left_out(device: FakeDevice):
    device.most = 4
    form = form_on(device)

    for _ in form.measure(STAGING):
        pass

    assert list(form.curve) == [1, 2, 3, 4]


def test_not_even_one_image_is_an_error(device: FakeDevice):
    device.most = 0

    with pytest.raises(MemoryError):
        list(form_on(device).measure(STAGING))


def test_known_rates_are_taken_over(device: FakeDevice):
    form = form_on(device)

    for size in (4, 1):
        form.warm_up(STAGING[:size], 100.0 * size)

    assert form.curve == {1: 100.0, 4: 400.0}
    assert set(form.pipeline.times) == {1, 4}


def test_neighbouring_slots_are_one_copy():
    assert list(stretches([3, 4, 5, 9, 11, 12])) == [(3, 3), (9, 1), (11, 2)]
    assert list(stretches([])) == []
    assert list(stretches([0, 1, 0, 1])) == [(0, 2), (0, 2)]


@pytest.mark.cuda
def test_a_cuda_device_allocates_nothing_once_it_is_warm(tmp_path: Path):
    from models import directory
    from models.config import BUNDLED_MODEL
    from models.inference import check_images, for_inference
    from service.cuda_device import CudaDevice, allocations, pin

    config, network = directory.load(BUNDLED_MODEL)
    expected = for_inference(network, config)(check_images(32))
    _, network = directory.load(BUNDLED_MODEL)
    served = for_inference(network, config, torch.float16).cuda()
    arena = Arena.create(16, 32, config.num_classes)
    arena.pixels[:] = check_images(32).numpy()
    pin(arena)
    form = Overlapped(
        "eager",
        served,
        Target("cuda", "float16", 1),
        device=CudaDevice({"eager": served}, arena, 16),
        slots=16,
    )
    for _ in form.measure(np.zeros((16, 32, 32, 3), np.uint8)):
        pass
    before = allocations()

    for first in range(16):
        slots = list(range(first, 16))
        form.submit(slots, slots, 0.0)
        while form.pipeline:
            for found, scores in form.pipeline.landed(0.0):
                assert np.abs(scores - expected[found].numpy()).max() < 0.05

    assert allocations() == before


@pytest.mark.cuda
@pytest.mark.slow
@pytest.mark.parametrize("mode", ["off", "aot"])
def test_the_service_answers_from_a_gpu(tmp_path: Path, mode: str):
    seven = (DIGITS / "dejavu-sans-7.png").read_bytes()
    settings = {"device": "cuda", "compile": mode, "wait_for_compile": True, "cache_dir": tmp_path / "cache"}

    with RunningService(workers=1, **settings) as service, ThreadPoolExecutor(16) as threads:
        headers = {"Content-Type": "image/png"}
        ask = partial(httpx.post, f"{service.url}/v1/predict", content=seven, headers=headers, timeout=60)
        answers = [answer.json() for answer in threads.map(lambda _: ask(), range(64))]
        card = service.card()

    assert {answer["predictions"][0][0]["label"] for answer in answers} == {"seven"}
    assert (card["device"], card["form"]) == ("cuda", "eager" if mode == "off" else "aot")
    assert card["dtype"] in ("bfloat16", "float16")
