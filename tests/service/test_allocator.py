"""Memory of all threads comes from one arena, and what small pictures need stays."""

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

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of other C libraries nothing is asked")


@glibc
@pytest.mark.parametrize(("before", "several"), [("", True), ("use_one_arena()", False)])
def test_threads_share_an_arena(before: str, several: bool):
    program = PROGRAM.format(before=before)

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert "Arena 0" in done.stderr
    assert ("Arena 1" in done.stderr) == several


TAKEN_AND_FREED = """
import resource
from service.allocator import keep_free_memory
{before}
for _ in range(2):
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(100):
        several = [b"x" * 500_000 for _ in range(4)]
        del several
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults)
"""


@glibc
@pytest.mark.parametrize(("before", "kept"), [("", False), ("keep_free_memory()", True)])
def test_memory_of_small_pictures_is_not_given_back_after_each(before: str, kept: bool):
    program = TAKEN_AND_FREED.format(before=before)

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert (int(done.stdout) < 1000) == kept
