"""The background compiler: builds one package at low priority, beside a service that already answers."""

import logging
import os
import signal
import sys
import warnings
from pathlib import Path
from types import FrameType

from models.compile import PackageRefused, Target, compile_package
from service import control, logs, process
from service.settings import Settings

log = logging.getLogger(__name__)

# About a tenth of a core against busy workers: it yields to them, and still ends.
NICENESS = 10


def main() -> int:
    channel = process.channel_of_child()
    process.die_with(os.getppid(), signal.SIGTERM)
    signal.signal(signal.SIGTERM, _stop)
    os.nice(NICENESS)
    start = control.receive(channel)
    if start is None:
        return 1
    settings = Settings(**start.fields["settings"])
    logs.configure(settings.log_format, settings.log_level, "compiler")
    warnings.simplefilter("ignore")
    error = None
    try:
        compile_package(Path(settings.cache_dir), settings.model, Target(**start.fields["target"]))
    except PackageRefused as refusal:
        error = str(refusal)
    except SystemExit:
        os.killpg(0, signal.SIGKILL)  # with it the C++ compiler that it had started
    except Exception as defect:
        log.exception("compiling failed")
        error = f"{type(defect).__name__}: {defect}".splitlines()[0]
    control.send(channel, "compiled", error=error)
    return 0


def _stop(number: int, frame: FrameType | None) -> None:
    raise SystemExit(1)


if __name__ == "__main__":
    sys.exit(main())
