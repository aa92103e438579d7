"""A service whose device fails on demand, and which is not patient."""

import os
from pathlib import Path

from loadtests.running import RunningService


def service_on(
    fault: Path,
    cache: Path,
    overlapped: bool = False,
    decoder: bool = False,
    gpus: Path | None = None,
    **settings: object,
) -> RunningService:
    """One worker, and an engine whose device fails as the file `fault` says: see sitecustomize.py beside this file.

    With a decoder its batches overlap, and it decodes JPEGs if `decode` is gpu.
    gpus: the file of tests.service.fake_nvml, whose GPUs have an engine each, which computes on the CPU.
    """
    folders = [Path(__file__).parent, Path(__file__).parents[3]]
    if gpus:
        folders.append(Path(__file__).parents[1] / "fake_nvml")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders)), "FAULT_FILE": str(fault)}
    if overlapped or decoder:
        environment["FAULT_OVERLAPPED"] = "1"
    if gpus:
        environment["FAKE_NVML"] = str(gpus)
        environment.pop("CUDA_VISIBLE_DEVICES", None)
        settings["device"] = "cuda"
    if decoder:
        environment["FAULT_DECODER"] = "1"
    return RunningService(workers=1, cache_dir=cache, environment=environment, **settings)
