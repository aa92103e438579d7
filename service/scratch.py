"""The folder of one running service under the temporary directory: files of metrics, and what others leave there.

It is nobody else's: PyTorch compiles by way of a folder in the temporary directory whose name everybody can know.

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
    """Made anew for each service; `metrics`, `engine` and `compiler` are folders in it, in `engine` one an engine."""

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
        self.metrics, self.engine, self.compiler = (self._path / name for name in ("metrics", "engine", "compiler"))
        self.metrics.mkdir()

    def cleared(self, folder: Path) -> dict[str, str]:
        """The environment of a process whose temporary directory is to be this folder, emptied.

        PyTorch unpacks a package for every engine, and a compiler that is killed leaves all it had.
        """
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        return {"TMPDIR": str(folder)}

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
