"""Coordinate Attention as one operator, torch.ops.coordserve.coordatt_cuda, for CUDA; and where it pays to use it.

On CUDA it is three Triton kernels (coordatt_triton.py), which export and compile see through; on a CPU the reference.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.library import triton_op, wrap_triton
from torch.nn import functional as F

from models.networks.coordatt import CoordAtt

try:
    from models.networks.coordatt_triton import coordatt as kernels
except ImportError:  # no Triton: the reference alone
    kernels = None  # type: ignore[assignment]

Seconds = Callable[[Callable[[], object]], float]


@triton_op("coordserve::coordatt_cuda", mutates_args={})
def fused(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    return kernels(x, w1, b1, w2, b2, wrap_triton)


@fused.register_kernel("cpu")
def reference(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    """x [N, C, H, W] with every row and column weighted by its gate, in channels_last memory.

    w1 [m, C], b1 [m]: the first 1x1 convolution, batch norm folded into it. w2 [2, C, m], b2 [2, C]: the second ones,
    of rows and of columns.
    """
    height, width = x.shape[2:]
    x = x.permute(0, 2, 3, 1)
    y = F.hardswish(F.linear(torch.cat([x.mean(dim=2), x.mean(dim=1)], dim=1), w1, b1))
    rows, columns = y.split([height, width], dim=1)
    a_h = F.linear(rows, w2[0], b2[0]).sigmoid().unsqueeze(2)
    a_w = F.linear(columns, w2[1], b2[1]).sigmoid().unsqueeze(1)
    return (x * a_w * a_h).contiguous().permute(0, 3, 1, 2)


@fused.register_fake
def _(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    images, channels, height, width = x.shape
    return x.new_empty((images, height, width, channels)).permute(0, 3, 1, 2)


class FusedCoordAtt(nn.Module):
    """A CoordAtt, whose batch norm has been folded, by that operator."""

    def __init__(self, block: CoordAtt) -> None:
        super().__init__()
        assert isinstance(block.bn1, nn.Identity), "fold the batch norm first"
        assert block.conv1.bias is not None
        second = block.conv_h, block.conv_w
        self.w1 = nn.Parameter(block.conv1.weight.detach().flatten(1).contiguous(), requires_grad=False)
        self.b1 = nn.Parameter(block.conv1.bias.detach(), requires_grad=False)
        weights = torch.stack([conv.weight.detach().flatten(1) for conv in second])
        self.w2 = nn.Parameter(weights.contiguous(), requires_grad=False)
        biases = torch.stack([conv.bias.detach() for conv in second if conv.bias is not None])
        self.b2 = nn.Parameter(biases, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """As CoordAtt.forward."""
        return torch.ops.coordserve.coordatt_cuda(x, self.w1, self.b1, self.w2, self.b2)


def fuse_where_faster(network: nn.Module, images: Tensor, seconds: Seconds) -> dict[str, tuple[float, float]]:
    """Turn, in place, every CoordAtt into a FusedCoordAtt where that is faster than what Inductor makes of the block.

    images: what network(images) takes, on the device, at the batch size that matters. seconds(call): what a call takes.
    Returns seconds of both, plain and fused, by the block's name. Blocks of one shape are measured once.
    """
    shapes: dict[str, Tensor] = {}

    def note(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, inputs: shapes.update({name: inputs[0]})

    blocks = {name: module for name, module in network.named_modules() if isinstance(module, CoordAtt)}
    hooks = [block.register_forward_pre_hook(note(name)) for name, block in blocks.items()]
    with torch.inference_mode():
        network(images)
    for hook in hooks:
        hook.remove()

    found: dict[str, tuple[float, float]] = {}
    known: dict[tuple[int, ...], tuple[float, float]] = {}
    for name, block in blocks.items():
        x, fused_block = shapes.pop(name), FusedCoordAtt(block)
        shape = (*x.shape, block.conv1.out_channels)
        if shape not in known:
            known[shape] = _compare(block, fused_block, x, seconds)
        found[name] = plain, fused_ = known[shape]
        if fused_ < plain:
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, fused_block)
    return found


def _compare(plain: nn.Module, fused_block: nn.Module, x: Tensor, seconds: Seconds) -> tuple[float, float]:
    torch._dynamo.reset()  # it counts what was compiled before against a limit
    with torch.inference_mode():
        compiled = torch.compile(plain, fullgraph=True, dynamic=False)
        return seconds(lambda: compiled(x)), seconds(lambda: fused_block(x))


def replayed_seconds(call: Callable[[], object]) -> float:
    """Of a call that is captured and replayed as a CUDA graph, as it is served."""
    from triton.testing import do_bench_cudagraph

    return float(do_bench_cudagraph(call)) / 1000
