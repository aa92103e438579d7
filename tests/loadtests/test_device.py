"""The measurements of a GPU as far as they go without one, and what becomes of their figures."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from loadtests.device import checks, compute, decoding, floor, page, run, serving
from loadtests.device.subject import Subject
from models import cost, directory
from models.compile import Target
from models.config import BUNDLED_MODEL, read_config
from models.inference import Classifier, for_inference
from models.networks import create
from service import cli, jpeg_decoder
from service.arena import Arena
from service.forms import Form
from service.overlapped import Overlapped
from tests.service.fake_device import FakeDevice
from tests.service.test_jpeg_decoder import by_libjpeg

SLOTS = 16


@pytest.fixture
def classifier() -> Classifier:
    config, network = directory.load(BUNDLED_MODEL)
    return for_inference(network, config)


@pytest.fixture
def device(classifier: Classifier) -> FakeDevice:
    form = Form("eager", classifier, Target("cpu", "float32", 1))
    return FakeDevice(Arena.create(SLOTS, 32, 10), lambda pixels: form._compute(np.ascontiguousarray(pixels)))


def overlapped(device: FakeDevice, largest: int) -> Overlapped:
    form = Overlapped("eager", lambda images: images, Target("cpu", "float32", 1), device=device, slots=SLOTS)
    return compute.measured(form, largest)


def test_without_a_gpu_it_says_so_and_exits_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    if torch.cuda.is_available():
        pytest.skip("there is one")

    assert cli.main(["bench", "device", "--out", str(tmp_path / "out")]) == 2

    assert "no CUDA device: nothing was measured" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_every_batch_size_agrees_with_eager_float32(device: FakeDevice, classifier: Classifier):
    with torch.inference_mode():
        found = checks.agreement(overlapped(device, 4), device._arena, classifier, [1, 2, 3, 4])

    assert [(row["batch"], row["wrong"]) for row in found] == [(1, []), (2, []), (3, []), (4, [])]
    assert max(row["worst"] for row in found) < 1e-4


def test_an_output_that_is_not_written_is_found(device: FakeDevice, classifier: Classifier):
    form, right = overlapped(device, 4), device._run

    def leaves_one_out(pixels: np.ndarray) -> np.ndarray:
        scores = right(pixels)
        scores[2:3] = device._scores[:, 2:3].max()  # NaN, as it was spoilt
        return scores

    device._run = leaves_one_out
    with torch.inference_mode():
        found = checks.agreement(form, device._arena, classifier, [2, 4], spoil=lambda: device._scores.fill(np.nan))

    assert [bool(row["wrong"]) for row in found] == [False, True]
    assert "not written" in found[1]["wrong"][0]


def test_a_batch_size_that_computes_something_else_is_found(device: FakeDevice, classifier: Classifier):
    form, right = overlapped(device, 2), device._run
    device._run = lambda pixels: np.roll(right(pixels), 1, axis=1)

    with torch.inference_mode():
        [row] = checks.agreement(form, device._arena, classifier, [2])

    assert "of the highest score away" in row["wrong"][0]


def test_all_that_is_submitted_is_counted_once_it_is_back(device: FakeDevice):
    rows = list(compute.rows(overlapped(device, 2), 0.05))

    assert [row["batch"] for row in rows] == [1, 2]
    assert rows[0]["images_per_second"] > 0
    assert rows[0]["compute_ms"] == 10.0
    assert len(device.prepared) == 2


def test_a_floor_counts_every_product_of_the_network():
    config = read_config(BUNDLED_MODEL)
    network = create(config.network.model_copy(update={"attention": "none"}), 10).eval()
    products = cost.multiply_adds(network, 32)
    images = torch.zeros(3, 32, 32, 3, dtype=torch.uint8)

    found, inputs = floor.layers(for_inference(network, config), images)

    assert sum(layer.operations for layer in found) == 3 * 2 * products
    assert set(inputs) == {layer.name for layer in found}


def test_a_floor_counts_what_attention_reads_twice(classifier: Classifier):
    found, inputs = floor.layers(classifier, torch.zeros(2, 32, 32, 3, dtype=torch.uint8))

    block = next(layer for layer in found if layer.kind == "CoordAtt")
    assert block.bytes > 3 * inputs[block.name].nbytes
    assert floor.seconds(block, bandwidth=1.0, rate=1e30) == block.bytes
    assert floor.seconds(block, bandwidth=1e30, rate=1.0) == block.operations


def test_what_fails_or_finds_no_time_does_not_keep_the_others(capsys: pytest.CaptureFixture[str]):
    def fails(going: object) -> object:
        raise ValueError("no such kernel")

    later = time.monotonic() + 100
    answers = run.ask({"first": fails, "second": lambda going: going()}, later)
    late = run.ask({"third": fails}, time.monotonic() - 1)

    assert answers == {"first": {"failed": "ValueError: no such kernel"}, "second": True}
    assert late == {"third": {"left_out": "there was no time for it"}}


def test_serving_is_measured_with_every_kind_of_request(compiled_cache: Path):
    rows = serving.run(BUNDLED_MODEL, compiled_cache, 1.0, workers=(1,))

    assert [row["sent"] for row in rows] == ["raw tensor", "JPEG 9 kB", "JPEG 37 kB"]
    assert [row["errors"] for row in rows] == [0, 0, 0]
    assert all(row["requests_per_second"] > 50 and row["infer_ms"] > 0 and row["http_ms"] > 0 for row in rows)


def test_jpegs_are_decoded_both_ways(compiled_cache: Path, monkeypatch: pytest.MonkeyPatch):
    """With the CPU in the GPU's place, and what starts services left out."""

    def served(*_: object, jpegs_only: bool, decode: str, device: str) -> list[dict[str, object]]:
        return [{"sent": "JPEG 9 kB", "jpegs_only": jpegs_only}]

    monkeypatch.setattr(serving, "run", served)
    monkeypatch.setattr(jpeg_decoder, "library", lambda device: by_libjpeg)

    found = decoding.run(BUNDLED_MODEL, compiled_cache, 1.0, (1,), device="cpu")

    assert found["serving"] == [{"decode": way, "sent": "JPEG 9 kB", "jpegs_only": True} for way in ("cpu", "gpu")]
    assert min(found["jpegs_per_second"].values()) > 0


def test_without_the_library_it_is_said_to_be_missing(compiled_cache: Path, monkeypatch: pytest.MonkeyPatch):
    def missing(device: str) -> jpeg_decoder.Read:
        raise ImportError("No module named 'nvidia'")

    monkeypatch.setattr(jpeg_decoder, "nvimagecodec", missing)

    assert "extra nvjpeg" in decoding.run(BUNDLED_MODEL, compiled_cache, 1.0, (1,))["left_out"]


@pytest.fixture
def report() -> dict[str, Any]:
    """Made-up figures in the shape of measured ones."""
    row = {"mode": "aot", "dtype": "bfloat16", "copy_ms": 0.1, "compute_ms": 1.0, "read_ms": 0.01}
    served = dict.fromkeys(("mean_ms", "p50_ms", "p99_ms", "decode_ms", "queue_ms", "infer_ms", "http_ms"), 1.5)
    layer = {"name": "features.1", "kind": "Conv2d", "bytes": 1, "operations": 1, "floor_ms": 0.1, "eager_ms": 0.3}
    return {
        **dict.fromkeys(("device", "capability", "cuda", "torch", "cores", "date", "seconds"), "made up"),
        "checks": {"batches": [{"batch": 1, "worst": 0.01, "wrong": []}], "allocations_once_warm": 0},
        "compute": [{**row, "batch": batch, "images_per_second": 1000.0 * batch} for batch in (1, 2)],
        "floor": {
            "batch": 64,
            "dtype": "bfloat16",
            "copy_gb_per_second": 1.0,
            "product_tflops": 2.0,
            "floor_ms": 0.1,
            "layers": [layer],
        },
        "attention": {
            "images_per_second": {"with_64": 75.0, "without_64": 100.0},
            "cost": {"64": 0.25},
            "blocks_ms": {"features.1": {"inductor": 0.3, "fused": 0.2, "projected": 0.1625}},
        },
        "serving": [{"sent": "raw tensor", "workers": 1, "requests_per_second": 12345.6, "errors": 0, **served}],
        "decoding": {
            "jpegs_per_second": {"device": 9876.0, "worker": 1000.0},
            "serving": [
                {"decode": way, "sent": "JPEG 9 kB", "workers": 1, "requests_per_second": rate, "errors": 0, **served}
                for way, rate in (("cpu", 900.0), ("gpu", 4567.8))
            ],
        },
        "start_up": {"compiled": 5.0, "eager": 4.0},
        "litserve": {"left_out": "litserve is not installed"},
        "jit": {"failed": "RuntimeError: no time"},
    }


def test_the_table_has_every_figure_and_says_what_there_is_not(report: dict[str, Any]):
    text = page.table(report)

    assert "25.0% less than without" in text
    assert "0.1625" in text
    assert "raw tensor" in text
    assert "12,346" in text
    assert "9,876 on the device, 1,000 in a worker" in text
    assert "4,568" in text
    assert "left out: litserve is not installed" in text
    assert "WRONG: jit: RuntimeError: no time" in text
    assert "all checks passed" not in text


def test_a_report_is_written_and_says_by_its_exit_code_whether_all_is_well(
    report: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert run.written(tmp_path / "bad", report) == 1
    del report["jit"]
    assert run.written(tmp_path / "good", report) == 0

    assert json.loads((tmp_path / "good" / "device.json").read_text()) == report
    assert (tmp_path / "good" / "device.txt").read_text().endswith("all checks passed\n")
    assert capsys.readouterr().out.endswith("all checks passed\n")
    assert {file.name for file in (tmp_path / "good").glob("*.png")} == {"images.png", "serving.png"}


def test_allocations_and_disagreement_are_wrong(report: dict[str, Any]):
    report["checks"] = {
        "batches": [{"batch": 8, "worst": 1.0, "wrong": ["more than 0.25 of the highest score away"]}],
        "allocations_once_warm": 3,
    }
    del report["jit"]

    assert page.wrong(report) == [
        "batch 8: more than 0.25 of the highest score away",
        "3 allocations after warm-up",
    ]


def test_every_question_can_be_asked(compiled_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With a CPU in the GPU's place, the bundled network in place of both, and nothing that takes long."""

    class Device(FakeDevice):
        lanes = ()

    def placed(form: Form, package: Path, arena: Arena, images: int) -> Overlapped:
        device = Device(arena, lambda pixels: form._compute(np.ascontiguousarray(pixels)))
        return Overlapped(form.name, form.run, form.target, device=device, slots=len(arena.pixels))

    def seconds(call: Callable[[], object]) -> float:
        started = time.perf_counter()
        call()
        return time.perf_counter() - started

    made_up: dict[str, Callable[..., Any]] = {
        "loadtests.device.subject.pin": lambda arena: None,
        "service.overlapped.placed": placed,
        "service.cuda_device.allocations": lambda: 0,
        "models.networks.coordatt_fused.replayed_seconds": seconds,
        "models.networks.coordatt_fused.fuse_where_faster": lambda *_: {
            "features.1": {"inductor": 3e-4, "fused": 2e-4, "projected": 1e-4}
        },
        "loadtests.device.serving.run": lambda *_, **settings: [],
        "loadtests.device.decoding.run": lambda *_, **settings: {"left_out": "asked elsewhere"},
        "loadtests.device.start_up.run": lambda *_, **settings: {"eager": 1.0},
        "loadtests.device.litserve.run": lambda *_: {"left_out": "asked elsewhere"},
        "models.compile.jit": lambda classifier, cache, device: classifier,
        "torch.Tensor.cuda": lambda tensor: tensor,
        "torch.cuda.empty_cache": lambda: None,
        "torch.cuda.synchronize": lambda: None,
    }
    for name, stand_in in made_up.items():
        monkeypatch.setattr(name, stand_in)
    monkeypatch.setattr("loadtests.device.subject.LARGEST", 64)
    monkeypatch.setattr(floor, "COPIED_BYTES", 1 << 20)
    monkeypatch.setattr(floor, "PRODUCT", 64)
    subject = Subject(BUNDLED_MODEL, BUNDLED_MODEL, compiled_cache, Target("cpu", "float32", 1))

    report = run.ask(run.questions(subject), time.monotonic() + 300)

    heading = dict.fromkeys(("device", "capability", "cuda", "torch", "cores", "date", "seconds"), "a CPU")
    assert page.wrong(report) == []
    assert run.written(tmp_path, {**heading, **report}) == 0
    assert {row["dtype"] for row in report["compute"]} == {"float32", "float16"}
    assert report["floor"]["floor_ms"] > 0


@pytest.mark.cuda
@pytest.mark.slow
def test_everything_is_measured_on_a_gpu(tmp_path: Path):
    assert run.run(tmp_path) == 0

    measured = json.loads((tmp_path / "device.json").read_text())
    assert measured["seconds"] < run.BUDGET_SECONDS + 120  # what had begun is finished
    assert not [name for name, answer in measured.items() if isinstance(answer, dict) and "failed" in answer]
