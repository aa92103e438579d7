"""Coordinate Attention as one operator for CUDA, alone or with the projection behind it; and where that pays.

torch.ops.coordserve.coordatt_cuda and coordatt_projected_cuda are three Triton kernels each (coordatt_triton.py), which
export and compile see through; on a CPU the reference.
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.library import triton_op, wrap_triton
from torch.nn import functional as F

from models.inference import Pointwise
from models.networks.coordatt import CoordAtt
from models.networks.layers import Residual

try:
    from models.networks.coordatt_triton import coordatt as kernels
    from models.networks.coordatt_triton import coordatt_projected as projected_kernels
except ImportError:  # no Triton: the references alone
    kernels = projected_kernels = None  # type: ignore[assignment]

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


@triton_op("coordserve::coordatt_projected_cuda", mutates_args={})
def projected(
    x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, weight: Tensor, bias: Tensor, shortcut: Tensor | None
) -> Tensor:
    return projected_kernels(x, w1, b1, w2, b2, weight, bias, shortcut, wrap_triton)


@projected.register_kernel("cpu")
def projected_reference(
    x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, weight: Tensor, bias: Tensor, shortcut: Tensor | None
) -> Tensor:
    """What `reference` makes of x through a 1x1 convolution (weight [D, C], bias [D]): [N, D, H, W], channels_last.

    shortcut [N, D, H, W]: added where there is one.
    """
    y = F.linear(reference(x, w1, b1, w2, b2).permute(0, 2, 3, 1), weight, bias)
    if shortcut is not None:
        y = y + shortcut.permute(0, 2, 3, 1)
    return y.contiguous().permute(0, 3, 1, 2)


@projected.register_fake
def _(
    x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, weight: Tensor, bias: Tensor, shortcut: Tensor | None
) -> Tensor:
    images, _, height, width = x.shape
    return x.new_empty((images, height, width, weight.shape[0])).permute(0, 3, 1, 2)


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
        return torch.ops.coordserve.coordatt_cuda(x, *self.weights)

    @property
    def weights(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As the operators take them."""
        return self.w1, self.b1, self.w2, self.b2


class Projected(nn.Module):
    """A Residual of which CoordAtt, the 1x1 convolution behind it and, if nothing is between, the shortcut are one."""

    def __init__(self, block: Residual) -> None:
        super().__init__()
        layers = [layer for layer in block.conv if not isinstance(layer, nn.Identity)]
        at = [isinstance(layer, CoordAtt) for layer in layers].index(True)
        attention, projection = layers[at : at + 2]
        assert isinstance(attention, CoordAtt)
        assert isinstance(projection, Pointwise)
        assert isinstance(projection.activation, nn.Identity)
        self.before, self.after = nn.Sequential(*layers[:at]), nn.Sequential(*layers[at + 2 :])
        self.attention, self.projection, self.shortcut = FusedCoordAtt(attention), projection, block.shortcut

    def forward(self, x: Tensor) -> Tensor:
        """As Residual.forward."""
        added = x if self.shortcut and not self.after else None
        y = torch.ops.coordserve.coordatt_projected_cuda(
            self.before(x), *self.attention.weights, self.projection.weight, self.projection.bias, added
        )
        y = self.after(y)
        return x + y if self.shortcut and added is None else y


def ways(block: Residual) -> dict[str, nn.Module]:
    """A block with a CoordAtt as it is, with that fused, and with that and the projection behind it fused."""
    fused_block = copy.deepcopy(block)
    for name, layer in fused_block.conv.named_children():
        if isinstance(layer, CoordAtt):
            setattr(fused_block.conv, name, FusedCoordAtt(layer))
    return {"inductor": block, "fused": fused_block, "projected": Projected(block)}


def fuse_where_faster(network: nn.Module, images: Tensor, seconds: Seconds) -> dict[str, dict[str, float]]:
    """Turn, in place, every block that has a CoordAtt into the fastest of its `ways`, each compiled by Inductor.

    Whole blocks, because Inductor computes what stands around attention and projection along with them.

    network: as models.inference.for_inference leaves it. images: what network(images) takes, on the device, at the
    batch size that matters. seconds(call): what a call takes.
    Returns seconds of every way by the block's name. Blocks of one shape are measured once.
    """
    found: dict[str, dict[str, float]] = {}
    known: dict[tuple[object, ...], dict[str, float]] = {}
    for name, block, x in _blocks(network, images):
        choices = ways(block)
        shape = (x.shape, block.stride, block.shortcut, *(parameter.shape for parameter in block.parameters()))
        if shape not in known:
            known[shape] = {way: _compiled_seconds(choice, x, seconds) for way, choice in choices.items()}
        found[name] = known[shape]
        network.set_submodule(name, choices[min(found[name], key=found[name].__getitem__)])
    return found


def _blocks(network: nn.Module, images: Tensor) -> list[tuple[str, Residual, Tensor]]:
    """The blocks that have a CoordAtt, and what comes in there."""
    blocks = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, Residual) and any(isinstance(layer, CoordAtt) for layer in module.conv)
    }
    inputs: dict[nn.Module, Tensor] = {}
    hooks = [
        block.register_forward_pre_hook(lambda block, arguments: inputs.update({block: arguments[0]}))
        for block in blocks.values()
    ]
    with torch.inference_mode():
        network(images)
    for hook in hooks:
        hook.remove()
    return [(name, block, inputs[block]) for name, block in blocks.items()]


def _compiled_seconds(block: nn.Module, x: Tensor, seconds: Seconds) -> float:
    torch._dynamo.reset()  # it counts what was compiled before against a limit
    compiled = torch.compile(block, fullgraph=True, dynamic=False, options={"max_autotune": True})  # as it is served
    with torch.inference_mode():
        return seconds(lambda: compiled(x))


def replayed_seconds(call: Callable[[], object]) -> float:
    """Of a call that is captured and replayed as a CUDA graph, as it is served."""
    from triton.testing import do_bench_cudagraph

    return float(do_bench_cudagraph(call)) / 1000
