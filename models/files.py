"""Files that appear whole or not at all."""

import os
from pathlib import Path


def write(path: Path, data: bytes) -> None:
    """Write `data` beside `path`, wait until it is on the disk, and rename; on any failure what was there stays."""
    unfinished = path.with_name(f".{path.name}.part")
    try:
        with unfinished.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
