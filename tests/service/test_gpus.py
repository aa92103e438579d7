"""What GPUs are called, by a management library that a test dictates to, and by CUDA_VISIBLE_DEVICES."""

import os
from pathlib import Path
from types import ModuleType

import pytest

from service import gpus
from tests.service.test_gpu_watch import BOARD, FAKE, SLICES, nvml, state, there_are

__all__ = ["nvml", "state"]  # fixtures

CUT_UP = {**BOARD, "uuid": "GPU-2", "mig": 1, "slices": SLICES}
SLICE = "MIG-71fbdd4f-1fdd-5f7b-8d1b-1bb1d5ed5a3f"


def visible() -> list[str]:
    """Where CUDA_VISIBLE_DEVICES says nothing."""
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    return gpus.visible({**environment, "PYTHONPATH": str(FAKE)})


def names(nvml: ModuleType) -> list[str]:
    return [gpu.uuid for board in gpus.boards(nvml) for gpu in gpus.of_board(nvml, board)]


def test_a_board_has_its_own_name_and_one_that_is_cut_up_those_of_its_slices(state: Path, nvml: ModuleType):
    there_are(state, {**BOARD, "mig": 0, "slices": []}, CUT_UP, {**BOARD, "uuid": "GPU-3"})

    assert names(nvml) == ["GPU-1", "MIG-0", "MIG-1", "GPU-3"]


def test_one_that_is_lost_hides_no_other(state: Path, nvml: ModuleType):
    there_are(state, {**BOARD, "lost": True}, {**BOARD, "uuid": "GPU-2"})

    assert names(nvml) == ["GPU-2"]


def test_the_driver_is_asked_in_a_process_of_its_own(state: Path):
    there_are(state, BOARD, CUT_UP)

    assert visible() == ["GPU-1", "MIG-0", "MIG-1"]


def test_without_a_driver_there_are_none(state: Path):
    assert visible() == []


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("0", ["0"]),
        ("1, 0", ["1", "0"]),
        (f"GPU-8932f937,{SLICE}", ["GPU-8932f937", SLICE]),
        ("MIG-GPU-8932f937/1/0", ["MIG-GPU-8932f937/1/0"]),
        ("2,-1,3", ["2"]),
        ("", []),
        ("NoDevFiles", []),
    ],
)
def test_cuda_visible_devices_is_read_as_cuda_does(said: str, found: list[str]):
    assert gpus.visible({"CUDA_VISIBLE_DEVICES": said}) == found
