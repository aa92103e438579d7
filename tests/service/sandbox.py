"""A service as a user without a name, on a file system where hardly anything can be written."""

import shutil
import subprocess
from pathlib import Path

import psutil
import pytest

from loadtests.running import RunningService

USER = 54321  # in no /etc/passwd


def sandboxed(command: list[str], *writable: Path) -> list[str]:
    """The command with only these folders writable, as USER, without capabilities, without a home.

    Skips the test where bubblewrap is not there or may not make a user namespace.
    """
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        pytest.skip("there is no bubblewrap (Debian: apt-get install bubblewrap)")
    box = [bwrap, "--die-with-parent", "--unshare-user", "--uid", str(USER), "--gid", str(USER), "--cap-drop", "ALL"]
    box += ["--ro-bind", "/", "/", "--dev", "/dev", "--remount-ro", "/dev", "--proc", "/proc", "--unsetenv", "HOME"]
    for folder in writable:
        box += ["--bind", str(folder), str(folder)]
    tried = subprocess.run([*box, "true"], capture_output=True, text=True)
    if tried.returncode != 0:
        pytest.skip(f"bubblewrap may not do that here: {tried.stderr.strip()}")
    return [*box, *command]


class SandboxedService(RunningService):
    """A service in it; only its cache directory and its temporary directory can be written."""

    def __init__(self, cache: Path, temporary: Path, **settings: object) -> None:
        super().__init__(
            environment={"PATH": "/usr/local/bin:/usr/bin:/bin", "TMPDIR": str(temporary)},
            workers=1,
            cache_dir=cache,
            **settings,
        )
        self.command = sandboxed(self.command, cache, temporary)

    def supervisor(self) -> psutil.Process:
        """bubblewrap waits for it, and passes no signals on."""
        [inside] = [child for child in psutil.Process(self.process.pid).children() if "serve" in child.cmdline()]
        return inside

    def stop(self, seconds: float = 60) -> int:
        self.supervisor().terminate()
        self.process.wait(seconds)
        self._reader.join(5)
        return self.process.returncode
