"""What compiled packages for CPUs have beside Inductor's kernels: whole blocks as operators in C++, compiled into them.

Inductor makes six kernels of a Coordinate Attention, which read the activations from memory three times, and an
operator of each convolution, for which oneDNN takes 20 us to prepare. All of them write what the next one reads.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.inference import Pointwise
from models.networks.coordatt import CoordAtt
from models.networks.layers import InvertedResidual

FOLDER = Path(__file__).parent
LANES = 16  # the channels that the operators take at a time
ACTIVATIONS = nn.ReLU6, nn.ReLU, nn.SiLU  # in the order of the source
KERNELS = 3, 5
SCALARS = {torch.float32: "float", torch.bfloat16: "uint16_t"}
SOURCES = "coordatt.cpp", "inverted_residual.cpp"


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


@torch.library.custom_op("coordserve::inverted_residual", mutates_args=())
def inverted_residual(
    x: Tensor,
    expand: Tensor,
    expand_bias: Tensor,
    depthwise: Tensor,
    depthwise_bias: Tensor,
    project: Tensor,
    project_bias: Tensor,
    squeeze: Tensor,
    squeeze_bias: Tensor,
    rows: Tensor,
    rows_bias: Tensor,
    columns: Tensor,
    columns_bias: Tensor,
    stride: int,
    activation: int,
    out_channels: int,
    shortcut: bool,
) -> Tensor:
    """The block of x [N, H, W, C]: [N, H / stride, W / stride, out_channels], likewise in memory.

    expand and project are `panels` of x's dtype; all else is float32: depthwise [kernel, kernel, hidden], and the
    weights of `coordatt`. Without an expansion, expand is empty; without attention, squeeze and what follows.
    """
    raise NotImplementedError("only compiled packages for CPUs have this operator")


@inverted_residual.register_fake
def _(x: Tensor, *rest: Any) -> Tensor:
    stride, _, out_channels, _ = rest[-4:]
    images, height, width, _ = x.shape
    return x.new_empty((images, (height - 1) // stride + 1, (width - 1) // stride + 1, out_channels))


class FusedCoordAtt(nn.Module):
    """A CoordAtt whose batch norm is folded; computed in float32, whatever x is."""

    def __init__(self, block: CoordAtt) -> None:
        super().__init__()
        for index, values in enumerate(_attention(block, block.conv1.in_channels)):
            self.register_buffer(f"values{index}", values)

    def forward(self, x: Tensor) -> Tensor:
        """x [N, C, H, W] to the same, in channels_last memory."""
        return coordatt(x.permute(0, 2, 3, 1).contiguous(), *self.buffers()).permute(0, 3, 1, 2)


class FusedInvertedResidual(nn.Module):
    """An InvertedResidual whose batch norms are folded, with Coordinate Attention or none."""

    def __init__(
        self,
        expand: Pointwise | None,
        depthwise: nn.Conv2d,
        activation: int,
        attention: CoordAtt | None,
        project: Pointwise,
        shortcut: bool,
    ) -> None:
        super().__init__()
        assert depthwise.bias is not None
        channels = -depthwise.out_channels % LANES  # with those of nothing behind them
        hidden = depthwise.out_channels + channels
        weights = (
            *_product(expand, hidden),
            F.pad(depthwise.weight.detach().float().permute(2, 3, 0, 1).squeeze(3), (0, channels)).contiguous(),
            F.pad(depthwise.bias.detach().float(), (0, channels)),
            *_product(project, -(-project.weight.shape[0] // LANES) * LANES, channels),
            *_attention(attention, hidden),
        )
        for index, values in enumerate(weights):
            self.register_buffer(f"values{index}", values)
        self.stride, self.activation, self.shortcut = depthwise.stride[0], activation, shortcut
        self.out_channels = project.weight.shape[0]

    def forward(self, x: Tensor) -> Tensor:
        """x [N, C, H, W] to [N, out, H / stride, W / stride], in channels_last memory."""
        x = x.permute(0, 2, 3, 1).contiguous()
        rest = self.stride, self.activation, self.out_channels, self.shortcut
        return inverted_residual(x, *self.buffers(), *rest).permute(0, 3, 1, 2)


def panels(weight: Tensor) -> Tensor:
    """A matrix [out, in] of which the operator reads LANES outputs at a time, as many numbers as in all of them.

    float32: [out / LANES, in, LANES]; 16-bit: pairs of inputs, [out / LANES, in / 2, LANES, 2].
    """
    out, channels = weight.shape
    pair = 1 if weight.dtype == torch.float32 else 2
    return weight.view(out // LANES, LANES, channels // pair, pair).permute(0, 2, 1, 3).contiguous()


def _product(conv: Pointwise | None, out: int, more_inputs: int = 0) -> tuple[Tensor, Tensor]:
    if conv is None:
        return torch.empty(0), torch.empty(0)
    assert conv.bias is not None
    rows = out - len(conv.bias)
    weight = F.pad(conv.weight.detach(), (0, more_inputs, 0, rows))
    return panels(weight), F.pad(conv.bias.detach().float(), (0, rows))


def _attention(block: CoordAtt | None, channels: int) -> list[Tensor]:
    """In the order of `coordatt`, for so many channels, those that the block lacks being weighted with 0."""
    if block is None:
        return [torch.empty(0) for _ in range(6)]
    found = []
    for conv, dimension in ((block.conv1, 1), (block.conv_h, 0), (block.conv_w, 0)):
        assert conv.bias is not None
        weight, bias = conv.weight.detach().float().flatten(1), conv.bias.detach().float()
        more = channels - weight.shape[dimension]
        if dimension == 0:
            weight, bias = weight.t(), F.pad(bias, (0, more))
        found += [F.pad(weight, (0, more)).contiguous(), bias]
    return found


def fuse(module: nn.Module) -> None:
    """Put the operators, in place, where there are blocks that they take; to compile, not to run."""
    for name, child in list(module.named_children()):
        if isinstance(child, InvertedResidual) and (fused := _inverted_residual(child)):
            setattr(module, name, fused)
        elif isinstance(child, CoordAtt) and child.conv1.in_channels % LANES == 0:
            setattr(module, name, FusedCoordAtt(child))
        else:
            fuse(child)


def _inverted_residual(block: InvertedResidual) -> FusedInvertedResidual | None:
    """None if there is something in it that the operator does not know."""
    layers = [layer for layer in block.conv if not isinstance(layer, nn.Identity)]
    first = layers[0]
    expand = first if isinstance(first, Pointwise) else None
    attention: CoordAtt | None
    match layers[1:] if expand else layers:
        case [nn.Conv2d() as depthwise, activation, Pointwise() as project]:
            attention = None
        case [nn.Conv2d() as depthwise, activation, CoordAtt() as attention, Pointwise() as project]:
            pass
        case _:
            return None
    kind = type(activation)
    known = kind in ACTIVATIONS and depthwise.kernel_size[0] in KERNELS
    if not known or (expand and type(expand.activation) is not kind):
        return None
    return FusedInvertedResidual(expand, depthwise, ACTIVATIONS.index(kind), attention, project, block.shortcut)


def inductor_configs(dtype: torch.dtype) -> dict[str, Any]:
    """What makes AOTInductor call the operators by their C names, with their sources where it expects declarations."""
    coordatt_types = ["AtenTensorHandle"] * 7
    residual_types = ["AtenTensorHandle"] * 13 + ["int64_t"] * 3 + ["int32_t"]
    declarations = [
        f"AOTITorchError aoti_torch_cpu_{name}({', '.join(types)}, AtenTensorHandle*)"
        for name, types in (("coordatt", coordatt_types), ("inverted_residual", residual_types))
    ]
    sources = "\n".join((FOLDER / name).read_text() for name in SOURCES)
    defined = f'{declarations[1]};\n}}\ntypedef {SCALARS[dtype]} Scalar;\n{sources}\nextern "C" {{'
    return {
        "aot_inductor.custom_ops_to_c_shims": {
            torch.ops.coordserve.coordatt.default: declarations[:1],
            torch.ops.coordserve.inverted_residual.default: [defined],
        }
    }
