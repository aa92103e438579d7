"""Makes the device of an engine fail as the file named by FAULT_FILE says, as long as it is there.

Python imports this at its start where the folder is in PYTHONPATH. `sticky`: what PyTorch raises after a CUDA error,
for every batch; `memory N`: batches of more than N images do not fit; `slow S`: a batch takes S seconds; `hang`: it
never comes back. With FAULT_OVERLAPPED the device is one whose batches overlap, as a GPU's do.

Where GPUs are made up, their engines compute on the CPU, and each looks for a file of its own first, with the name of
its GPU for a suffix.

With FAULT_DECODER, too, it has a decoder for JPEGs: libjpeg-turbo, which refuses what is broken. The file named like
FAULT_FILE with `.decoded` has a line for each of its calls, with the number of JPEGs; `decoder` makes it raise.

The service loses patience sooner than others do, so that no test waits for it longer than it must.
"""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

if "service.engine" in sys.orig_argv:
    import numpy as np
    import simplejpeg
    import torch

    from models import compile
    from service import jpeg_decoder, overlapped, pipeline
    from service.arena import Arena
    from service.forms import Form, Images, Scores
    from service.jpegs import Jpeg
    from tests.service.fake_device import FakeDevice

    compute = Form._compute

    def fault() -> list[str]:
        file = Path(os.environ["FAULT_FILE"])
        own = file.with_suffix(f".{os.environ.get('CUDA_VISIBLE_DEVICES')}")
        file = own if own.exists() else file
        return file.read_text().split() if file.exists() else [""]

    def fail(images: int) -> None:
        kind, *limit = fault()
        if kind == "sticky":
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
        if kind == "memory" and images > int(limit[0]):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        if kind == "slow":
            time.sleep(float(limit[0]))

    def failing(self: Form, images: Images) -> Scores:
        fail(len(images))
        return compute(self, images)

    class FaultyDevice(FakeDevice):
        def prepare(self, images: int) -> None:
            fail(images)
            super().prepare(images)

        def launch(self, lane: int, images: int) -> None:
            fail(images if fault()[0] == "memory" else 0)
            super().launch(lane, images)

        def done(self, lane: int, stage: pipeline.Stage) -> bool:
            return fault()[0] != "hang" and super().done(lane, stage)

    def placed(form: Form, package: Path, arena: Arena, images: int) -> Form:
        device = FaultyDevice(arena, lambda pixels: compute(form, np.ascontiguousarray(pixels)))
        return overlapped.Overlapped(form.name, form.run, form.target, device=device, slots=len(arena.pixels))

    def library(device: str) -> jpeg_decoder.Read:
        def read(jpegs: Sequence[Jpeg]) -> list[torch.Tensor | None]:
            with Path(os.environ["FAULT_FILE"] + ".decoded").open("a") as file:
                file.write(f"{len(jpegs)}\n")
            if fault()[0] == "decoder":
                raise RuntimeError("the decoder fails")
            return [decoded(jpeg) for jpeg in jpegs]

        return read

    def decoded(jpeg: Jpeg) -> torch.Tensor | None:
        try:
            return torch.from_numpy(simplejpeg.decode_jpeg(jpeg.data, "RGB"))
        except ValueError:
            return None

    Form._compute = failing
    if "FAKE_NVML" in os.environ:
        choose_target = compile.choose_target
        compile.choose_target = lambda device, *rest: choose_target("cpu", *rest)
    if "FAULT_OVERLAPPED" in os.environ:
        pipeline.HANG_SECONDS = 1.0
        overlapped.placed = placed
    if "FAULT_DECODER" in os.environ:
        jpeg_decoder.library = library

elif "service.worker" in sys.orig_argv:
    from service import connection

    connection.HEAD_SECONDS = connection.DRAIN_SECONDS = 3.0

elif "serve" in sys.orig_argv:
    from service import supervisor

    supervisor.STUCK_SECONDS = 5.0
    supervisor.FIRST_BACKOFF_SECONDS = 0.1
    supervisor.HOPELESS_CRASHES = 3
