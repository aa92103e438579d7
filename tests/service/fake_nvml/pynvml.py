"""nvidia-ml-py as far as the service asks it, of GPUs that the file named by FAKE_NVML describes at the moment.

JSON: boards, each with uuid, name, used, total, busy, clock, xids; with mig 1 also slices. Those `lost` answer nothing.
"""

import json
import os
from pathlib import Path
from types import SimpleNamespace

NVML_CLOCK_SM = 1
NVML_DEVICE_MIG_ENABLE = 1
nvmlEventTypeXidCriticalError = 8
_told: dict[str, int] = {}


class NVMLError(Exception):
    pass


def _board(handle: tuple[int, int | None]) -> dict:
    board = json.loads(Path(os.environ["FAKE_NVML"]).read_text())["boards"][handle[0]]
    if board.get("lost"):
        raise NVMLError("GPU is lost")
    return board


def _device(handle: tuple[int, int | None]) -> dict:
    board = _board(handle)
    return board if handle[1] is None else board["slices"][handle[1]]


def nvmlInit() -> None:
    if not Path(os.environ["FAKE_NVML"]).exists():
        raise NVMLError("NVML Shared Library Not Found")


def nvmlDeviceGetCount() -> int:
    return len(json.loads(Path(os.environ["FAKE_NVML"]).read_text())["boards"])


def nvmlDeviceGetHandleByIndex(index: int) -> tuple[int, int | None]:
    return index, None


def nvmlDeviceGetMigMode(handle: tuple[int, int | None]) -> list[int]:
    if "mig" not in _board(handle):
        raise NVMLError("Not Supported")
    return [_board(handle)["mig"]] * 2


def nvmlDeviceGetMaxMigDeviceCount(handle: tuple[int, int | None]) -> int:
    return 7


def nvmlDeviceGetMigDeviceHandleByIndex(handle: tuple[int, int | None], index: int) -> tuple[int, int | None]:
    if index >= len(_board(handle)["slices"]):
        raise NVMLError("Not Found")
    return handle[0], index


def nvmlDeviceGetUUID(handle: tuple[int, int | None]) -> str:
    return _device(handle)["uuid"]


def nvmlDeviceGetName(handle: tuple[int, int | None]) -> str:
    return _device(handle)["name"]


def nvmlDeviceGetMemoryInfo(handle: tuple[int, int | None]) -> SimpleNamespace:
    return SimpleNamespace(used=_device(handle)["used"], total=_device(handle)["total"])


def nvmlDeviceGetUtilizationRates(handle: tuple[int, int | None]) -> SimpleNamespace:
    assert handle[1] is None
    return SimpleNamespace(gpu=_board(handle)["busy"])


def nvmlDeviceGetClockInfo(handle: tuple[int, int | None], kind: int) -> int:
    assert (handle[1], kind) == (None, NVML_CLOCK_SM)
    return _board(handle)["clock"]


def nvmlEventSetCreate() -> list:
    return []


def nvmlDeviceRegisterEvents(handle: tuple[int, int | None], kinds: int, events: list) -> None:
    assert handle[1] is None
    events.append(handle)


def nvmlEventSetWait_v2(events: list, milliseconds: int) -> SimpleNamespace:
    board = json.loads(Path(os.environ["FAKE_NVML"]).read_text())["boards"][events[0][0]]
    told = _told.get(board["uuid"], 0)
    if told == len(board["xids"]):
        raise NVMLError("Timeout")
    _told[board["uuid"]] = told + 1
    return SimpleNamespace(eventData=board["xids"][told])
