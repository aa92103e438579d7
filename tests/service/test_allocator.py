"""Memory of all threads comes from one arena."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, threading
from service.allocator import use_one_arena
{before}
threads = [threading.Thread(target=lambda: bytearray(50_000)) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
ctypes.CDLL(None).malloc_stats()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of other C libraries nothing is asked")
@pytest.mark.parametrize(("before", "several"), [("", True), ("use_one_arena()", False)])
def test_threads_share_an_arena(before: str, several: bool):
    program = PROGRAM.format(before=before)

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert "Arena 0" in done.stderr
    assert ("Arena 1" in done.stderr) == several
