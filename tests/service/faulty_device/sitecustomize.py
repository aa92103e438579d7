"""Makes the device of an engine fail as the file named by FAULT_FILE says, as long as it is there.

Python imports this at its start where the folder is in PYTHONPATH. `sticky`: what PyTorch raises after a CUDA error,
for every batch; `memory N`: batches of more than N images do not fit; `slow S`: a batch takes S seconds.

The service loses patience sooner than others do, so that no test waits for it longer than it must.
"""

import os
import sys
import time
from pathlib import Path

if "service.engine" in sys.orig_argv:
    import torch

    from service.forms import Form, Images, Scores

    compute = Form._compute

    def failing(self: Form, images: Images) -> Scores:
        fault = Path(os.environ["FAULT_FILE"])
        kind, *limit = fault.read_text().split() if fault.exists() else [""]
        if kind == "sticky":
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
        if kind == "memory" and len(images) > int(limit[0]):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        if kind == "slow":
            time.sleep(float(limit[0]))
        return compute(self, images)

    Form._compute = failing

elif "service.worker" in sys.orig_argv:
    from service import connection

    connection.HEAD_SECONDS = connection.DRAIN_SECONDS = 3.0

elif "serve" in sys.orig_argv:
    from service import supervisor

    supervisor.STUCK_SECONDS = 5.0
    supervisor.FIRST_BACKOFF_SECONDS = 0.1
