"""The folder of one running service under the temporary directory: files of metrics, and what its engine unpacks.

It is locked while the service runs, so that the next one can tell what a killed one left behind, and removes it.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

PREFIX = "coordserve-run-"


class Scratch:
    """Made anew for each service; `metrics` and `engine` are folders in it."""

    def __init__(self) -> None:
        """Raises OSError."""
        for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
            with contextlib.suppress(OSError):  # held, or another user's
                os.close(_lock(left))
                shutil.rmtree(left)
        while True:
            self._path = Path(tempfile.mkdtemp(prefix=PREFIX))
            with contextlib.suppress(FileNotFoundError, BlockingIOError):  # taken for left before it was locked
                self._held = _lock(self._path)
                break
        self.metrics, self.engine = self._path / "metrics", self._path / "engine"
        self.metrics.mkdir()

    def clear_engine(self) -> None:
        """PyTorch unpacks a package for every engine, and leaves that to others."""
        shutil.rmtree(self.engine, ignore_errors=True)
        self.engine.mkdir(exist_ok=True)

    def remove(self) -> None:
        shutil.rmtree(self._path, ignore_errors=True)
        os.close(self._held)


def _lock(directory: Path) -> int:
    """A descriptor that holds the directory as long as it is open; flock(2). Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)  # anybody may have put it there
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
