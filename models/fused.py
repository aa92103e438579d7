"""Coordinate Attention in compiled packages for CPUs: one operator in C++ (coordatt.cpp), compiled into the package.

Inductor makes six kernels of a block, which read the activations from memory three times.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.networks.coordatt import CoordAtt

SOURCE = Path(__file__).with_name("coordatt.cpp")
LANES = 16  # the channels that it takes at a time
TENSORS = 7  # that the operator takes


@torch.library.custom_op("coordserve::coordatt", mutates_args=())
def coordatt(
    x: Tensor,
    squeeze: Tensor,
    squeeze_bias: Tensor,
    rows: Tensor,
    rows_bias: Tensor,
    columns: Tensor,
    columns_bias: Tensor,
) -> Tensor:
    """CoordAtt of x [N, H, W, C]: its shape and dtype; weights float32 [m, C], biases [m] and [C]."""
    raise NotImplementedError("only compiled packages for CPUs have this operator")


@coordatt.register_fake
def _(x: Tensor, *weights: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


class FusedCoordAtt(nn.Module):
    """A CoordAtt whose batch norm is folded; computed in float32, whatever x is."""

    def __init__(self, block: CoordAtt) -> None:
        super().__init__()
        squeeze, rows, columns = (conv.weight.flatten(1) for conv in (block.conv1, block.conv_h, block.conv_w))
        biases = block.conv1.bias, block.conv_h.bias, block.conv_w.bias
        for index, values in enumerate((squeeze, rows.t(), columns.t(), *biases)):
            assert values is not None
            self.register_buffer(f"values{index}", values.detach().float().contiguous())

    def forward(self, x: Tensor) -> Tensor:
        """x [N, C, H, W] to the same, in channels_last memory."""
        squeeze, rows, columns, squeeze_bias, rows_bias, columns_bias = self.buffers()
        x = x.permute(0, 2, 3, 1).contiguous()
        x = coordatt(x, squeeze, squeeze_bias, rows, rows_bias, columns, columns_bias)
        return x.permute(0, 3, 1, 2)


def fuse(module: nn.Module) -> None:
    """Put the operator, in place, where there is a CoordAtt of channels that it takes; to compile, not to run."""
    for name, child in list(module.named_children()):
        if isinstance(child, CoordAtt) and child.conv1.in_channels % LANES == 0:
            setattr(module, name, FusedCoordAtt(child))
        fuse(child)


def inductor_configs() -> dict[str, Any]:
    """What makes AOTInductor call the operator by its C name, with the source where it expects a declaration."""
    types = ", ".join(["AtenTensorHandle"] * TENSORS)
    declaration = f"AOTITorchError aoti_torch_cpu_coordatt({types}, AtenTensorHandle*)"
    shim = f'{declaration};\n}}\n{SOURCE.read_text()}\nextern "C" {{'
    return {"aot_inductor.custom_ops_to_c_shims": {torch.ops.coordserve.coordatt.default: [shim]}}
