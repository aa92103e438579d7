"""What the CPU of this machine can do."""

from pathlib import Path


def flags() -> set[str]:
    """Its instruction sets as Linux names them, on x86 (`flags`) and Arm (`Features`)."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return set(value.split())
    return set()


def vector_lanes() -> int:
    """How many floats the registers hold that GCC makes good code for, of AVX-512 or AVX2; 0 if it has neither."""
    found = flags()
    if {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= found:
        return 16
    return 8 if {"avx2", "fma"} <= found else 0
