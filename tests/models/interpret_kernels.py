"""Computes coordatt_triton's kernels on a CPU: `python -m tests.models.interpret_kernels IN OUT`.

IN: by name, the name of a function of coordatt_triton and its arguments; OUT: what they return; both by torch.save.

Triton's interpreter needs a process of its own: TRITON_INTERPRET is read when Triton is first imported, by whomever.
"""

import os
import sys

os.environ["TRITON_INTERPRET"] = "1"

import torch

from models.networks import coordatt_triton

if __name__ == "__main__":
    cases = torch.load(sys.argv[1])
    found = {name: getattr(coordatt_triton, function)(*case) for name, (function, case) in cases.items()}
    torch.save(found, sys.argv[2])
