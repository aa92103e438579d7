"""Computes coordatt_triton's kernels on a CPU: `python -m tests.models.interpret_kernels IN OUT`.

IN: arguments of coordatt_triton.coordatt by name, OUT: what it returns; both by torch.save.

Triton's interpreter needs a process of its own: TRITON_INTERPRET is read when Triton is first imported, by whomever.
"""

import os
import sys

os.environ["TRITON_INTERPRET"] = "1"

import torch

from models.networks import coordatt_triton

if __name__ == "__main__":
    cases = torch.load(sys.argv[1])
    torch.save({name: coordatt_triton.coordatt(*case) for name, case in cases.items()}, sys.argv[2])
