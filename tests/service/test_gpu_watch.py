"""What is seen of GPUs and of MIG slices, by a management library that a test dictates to."""

import importlib.util
import json
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from loadtests.running import RunningService, wait_until
from service import gpu_watch
from service.gpu_watch import Watch

FAKE = Path(__file__).parent / "fake_nvml"
BOARD = {
    "uuid": "GPU-1",
    "name": "NVIDIA H100 80GB HBM3",
    "used": 20_000,
    "total": 80_000,
    "busy": 90,
    "clock": 1980,
    "xids": [],
}
SLICES = [
    {"uuid": f"MIG-{index}", "name": "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "used": 1_000, "total": 10_000}
    for index in range(2)
]


class Seen:
    """Stands for GpuMetrics."""

    def __init__(self) -> None:
        self.gpus: dict[str, dict[str, Any]] = {}
        self.counted: dict[str, int] = {}

    def seen(self, gpu: str, name: str, **values: float) -> None:
        self.gpus[gpu] = {"name": name, **values}

    def errors(self, gpu: str, count: int) -> None:
        self.counted[gpu] = self.counted.get(gpu, 0) + count


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that says what there is."""
    file = tmp_path / "gpus.json"
    monkeypatch.setenv("FAKE_NVML", str(file))
    return file


@pytest.fixture
def nvml(state: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("fake_pynvml", FAKE / "pynvml.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def there_are(state: Path, *boards: dict[str, Any]) -> None:
    aside = state.with_suffix(".new")
    aside.write_text(json.dumps({"boards": boards}))
    aside.replace(state)


def test_a_gpu_is_seen(state: Path, nvml: ModuleType):
    there_are(state, BOARD)
    seen = Seen()

    Watch(nvml, seen).look()

    assert seen.gpus == {
        "GPU-1": {
            "name": "NVIDIA H100 80GB HBM3",
            "up": True,
            "used": 20_000,
            "total": 80_000,
            "utilisation": 0.9,
            "clock": 1.98e9,
        }
    }
    assert seen.counted == {"GPU-1": 0}


def test_slices_are_named_by_themselves_and_have_no_utilisation(state: Path, nvml: ModuleType):
    there_are(state, {**BOARD, "mig": 1, "slices": SLICES, "xids": [13]})
    seen = Seen()

    Watch(nvml, seen).look()

    assert list(seen.gpus) == ["MIG-0", "MIG-1"]
    assert (seen.gpus["MIG-0"]["name"], seen.gpus["MIG-0"]["total"]) == (SLICES[0]["name"], 10_000)
    assert seen.gpus["MIG-0"]["clock"] == 1.98e9  # of the board
    assert str(seen.gpus["MIG-0"]["utilisation"]) == "nan"
    assert seen.counted == {"MIG-0": 1, "MIG-1": 1}


def test_a_board_that_could_be_cut_up_and_is_not_is_one_gpu(state: Path, nvml: ModuleType):
    there_are(state, {**BOARD, "mig": 0, "slices": []})
    seen = Seen()

    Watch(nvml, seen).look()

    assert list(seen.gpus) == ["GPU-1"]


def test_a_gpu_that_falls_off_is_down_and_the_others_are_seen(state: Path, nvml: ModuleType):
    other = {**BOARD, "uuid": "GPU-2"}
    there_are(state, BOARD, other)
    seen = Seen()
    watch = Watch(nvml, seen)
    there_are(state, {**BOARD, "lost": True, "xids": [79]}, other)

    watch.look()

    assert (seen.gpus["GPU-1"]["up"], seen.gpus["GPU-2"]["up"]) == (False, True)
    assert str(seen.gpus["GPU-1"]["used"]) == "nan"
    assert seen.counted == {"GPU-1": 1, "GPU-2": 0}


def test_each_error_is_counted_once_and_logged(state: Path, nvml: ModuleType, caplog: pytest.LogCaptureFixture):
    there_are(state, {**BOARD, "xids": [31]})
    seen = Seen()
    watch = Watch(nvml, seen)

    watch.look()
    watch.look()
    there_are(state, {**BOARD, "xids": [31, 43, 43]})
    watch.look()

    assert seen.counted == {"GPU-1": 3}
    assert "XID 31 on NVIDIA H100 80GB HBM3, GPU-1" in caplog.text


def test_it_is_not_started_where_no_gpu_is_wanted_or_the_library_is_missing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert gpu_watch.wanted("auto")
    assert not gpu_watch.wanted("cpu")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not gpu_watch.wanted("cuda")


def service_that_sees(state: Path, cache: Path) -> RunningService:
    return RunningService(workers=1, cache_dir=cache, environment={**os.environ, "PYTHONPATH": str(FAKE)})


def test_the_metrics_outlive_engine_and_watch(state: Path, compiled_cache: Path):
    there_are(state, {**BOARD, "xids": [31]})
    used = b'coordserve_gpu_memory_used_bytes{gpu="GPU-1",name="NVIDIA H100 80GB HBM3"} 20000.0'
    errors = b'coordserve_gpu_xid_errors_total{gpu="GPU-1"} 1.0'
    with service_that_sees(state, compiled_cache) as service:
        wait_until(lambda: errors in service.get("/metrics")[1], 20, "the error is counted")
        assert used in service.get("/metrics")[1]

        (watch,) = service.children("service.gpu_watch")
        (engine,) = service.children("service.engine")
        there_are(state, BOARD)
        engine.kill()
        watch.kill()

        wait_until(lambda: service.children("service.gpu_watch") not in ([], [watch]), 20, "it is watched again")
        wait_until(lambda: service.get("/readyz")[0] == 200, 60, "it is ready")
        assert errors in service.get("/metrics")[1]
        assert service.stop() == 0


def test_without_a_driver_the_watch_ends_and_nothing_else(state: Path, compiled_cache: Path):
    with service_that_sees(state, compiled_cache) as service:
        wait_until(lambda: service.logged("no figures of GPUs"), 20, "the watch says so")
        wait_until(lambda: not service.children("service.gpu_watch"), 20, "it ends")

        assert service.get("/readyz")[0] == 200
        assert b"coordserve_gpu" not in service.get("/metrics")[1]
