"""The GPUs, and MIG slices of such, that this container sees, by NVIDIA's management library and CUDA_VISIBLE_DEVICES.

As a program it prints their names: the library may never return from a GPU that is lost, and then it is only this
process that hangs.
"""

import contextlib
import importlib
import importlib.util
import re
import subprocess  # nosec B404 # our own interpreter, no shell
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

VARIABLE = "CUDA_VISIBLE_DEVICES"
# What CUDA understands of it: a number, or a name, that may be the beginning of one. At anything else it stops.
ENTRY = re.compile(r"\d+|(GPU|MIG)-\S+")
PATIENCE_SECONDS = 30.0


@dataclass
class Gpu:
    """A GPU, or a MIG slice of one; `board` is the handle of the whole, which alone has clocks and errors."""

    uuid: str
    """as CUDA_VISIBLE_DEVICES takes it: GPU-…, of a slice MIG-…"""
    name: str
    handle: Any
    board: Any


def visible(environment: Mapping[str, str]) -> list[str]:
    """Of each GPU what CUDA_VISIBLE_DEVICES must be to leave that one alone; [] if nobody knows of any.

    Those that the variable leaves already, else all that the driver names. Raises subprocess.TimeoutExpired.
    """
    if VARIABLE in environment:
        return list(takewhile(ENTRY.fullmatch, (entry.strip() for entry in environment[VARIABLE].split(","))))
    done = subprocess.run(  # nosec B603 # nothing in it comes from a client
        [sys.executable, "-P", "-m", "service.gpus"],
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    return done.stdout.split()


def boards(nvml: Any) -> list[Any]:
    """Handles of those GPUs that answer. Raises nvml.NVMLError where there is no driver."""
    nvml.nvmlInit()
    found = [ask(nvml, nvml.nvmlDeviceGetHandleByIndex, index) for index in range(nvml.nvmlDeviceGetCount())]
    return [board for board in found if board is not None]


def of_board(nvml: Any, board: Any) -> list[Gpu]:
    """The board itself, or with MIG the slices of it that are ours."""
    handles = [board]
    if (ask(nvml, nvml.nvmlDeviceGetMigMode, board) or [0])[0] == nvml.NVML_DEVICE_MIG_ENABLE:
        places = range(nvml.nvmlDeviceGetMaxMigDeviceCount(board))
        handles = [ask(nvml, nvml.nvmlDeviceGetMigDeviceHandleByIndex, board, place) for place in places]
    named = [(handle, ask(nvml, nvml.nvmlDeviceGetUUID, handle)) for handle in handles if handle is not None]
    return [Gpu(uuid, nvml.nvmlDeviceGetName(handle), handle, board) for handle, uuid in named if uuid is not None]


def ask(nvml: Any, question: Callable[..., Any], *about: Any) -> Any:
    """None where there is no answer: not supported, not found, nothing new, or lost."""
    with contextlib.suppress(nvml.NVMLError):
        return question(*about)
    return None


def main() -> int:
    if importlib.util.find_spec("pynvml") is not None:
        nvml = importlib.import_module("pynvml")
        with contextlib.suppress(nvml.NVMLError):
            print(*(gpu.uuid for board in boards(nvml) for gpu in of_board(nvml, board)), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
