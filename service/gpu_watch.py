"""The process that watches the GPUs by NVIDIA's management library: memory, utilisation, clocks, XID errors.

Apart from the engine, so that what it saw outlives that one; apart from the supervisor, because the library may never
return from a GPU that is lost. It needs the extra `gpu`.
"""

import contextlib
import importlib
import importlib.util
import logging
import math
import select
import sys
from collections.abc import Callable
from typing import Any

from service import control, gpus, logs, process
from service.gpus import Gpu
from service.metrics import GpuMetrics, name_process
from service.settings import Settings

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 1.0


def wanted(device: str) -> bool:
    """Whether there is a point in starting this process."""
    return device != "cpu" and importlib.util.find_spec("pynvml") is not None


class Watch:
    """The GPUs that this container sees, by `nvml`, the module pynvml."""

    def __init__(self, nvml: Any, metrics: GpuMetrics) -> None:
        """Raises nvml.NVMLError where there is no driver."""
        self._nvml, self._metrics = nvml, metrics
        self._boards = [(gpus.of_board(nvml, board), self._events(board)) for board in gpus.boards(nvml)]
        for found, _ in self._boards:
            for gpu in found:
                metrics.errors(gpu.uuid, 0)

    def look(self) -> None:
        """Bring the metrics up to date."""
        for found, events in self._boards:
            for gpu in found:
                self._look_at(gpu)
            while events is not None and (event := self._ask(self._nvml.nvmlEventSetWait_v2, events, 0)):
                for gpu in found:  # whichever slice it was, its neighbours may have been hit
                    log.error("XID %d on %s, %s: see NVIDIA's list of XID errors", event.eventData, gpu.name, gpu.uuid)
                    self._metrics.errors(gpu.uuid, 1)

    def _look_at(self, gpu: Gpu) -> None:
        nvml = self._nvml
        memory = self._ask(nvml.nvmlDeviceGetMemoryInfo, gpu.handle)
        # Of a slice there is no such figure, and that of the whole board would be its neighbours', too.
        busy = self._ask(nvml.nvmlDeviceGetUtilizationRates, gpu.board) if gpu.handle is gpu.board else None
        clock = self._ask(nvml.nvmlDeviceGetClockInfo, gpu.board, nvml.NVML_CLOCK_SM)  # MHz
        self._metrics.seen(
            gpu.uuid,
            gpu.name,
            up=memory is not None,
            used=memory.used if memory else math.nan,
            total=memory.total if memory else math.nan,
            utilisation=busy.gpu / 100 if busy else math.nan,
            clock=math.nan if clock is None else clock * 1e6,
        )

    def _events(self, board: Any) -> Any:
        """A set that hears of the board's XID errors; None where that is not supported."""
        with contextlib.suppress(self._nvml.NVMLError):
            events = self._nvml.nvmlEventSetCreate()
            self._nvml.nvmlDeviceRegisterEvents(board, self._nvml.nvmlEventTypeXidCriticalError, events)
            return events
        return None

    def _ask(self, question: Callable[..., Any], *about: Any) -> Any:
        return gpus.ask(self._nvml, question, *about)


def main() -> int:
    channel = process.channel_of_child()
    start = control.receive(channel)
    if start is None:
        return 1
    settings = Settings(**start.fields["settings"])
    logs.configure(settings.log_format, settings.log_level, "gpu watch")
    name_process("gpu-watch")
    nvml = importlib.import_module("pynvml")
    try:
        watch = Watch(nvml, GpuMetrics())
    except nvml.NVMLError as error:
        log.info("no figures of GPUs: %s", error)
        return 0
    while True:
        watch.look()
        control.send(channel, "alive")
        if select.select([channel], [], [], INTERVAL_SECONDS)[0]:
            message = control.receive(channel)
            if message is None or message.kind == "stop":
                return 0


if __name__ == "__main__":
    sys.exit(main())
