"""What compiled packages for CPUs compute their network with: operators in C++ (kernels/), compiled into the package.

Inductor makes six kernels of a Coordinate Attention, which read the activations from memory three times, and a call of
oneDNN, which takes 20 us to prepare, of each convolution. Here a block is one operator, and takes a picture at a time.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models import cpu
from models.inference import Classifier, Pointwise
from models.networks.convnet import ConvNet
from models.networks.coordatt import CoordAtt
from models.networks.layers import InvertedResidual

KERNELS = Path(__file__).parent / "kernels"
SOURCES = tuple(
    KERNELS / name
    for name in ("vectors.h", "product.h", "coordatt.cpp", "inverted_residual.cpp", "stem.cpp", "head.cpp")
)
LANES = cpu.vector_lanes()  # the channels that the operators take at a time; 0 on CPUs that they are not written for
ACTIVATIONS = nn.Identity, nn.ReLU6, nn.ReLU, nn.SiLU  # in the order of vectors.h
KERNEL_SIZES = 3, 5  # of depthwise convolutions
SCALARS = {torch.float32: "float", torch.bfloat16: "uint16_t"}


def _only_compiled() -> Tensor:
    raise NotImplementedError("only compiled packages for CPUs have this operator")


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
    """CoordAtt of x [N, H, W, C]: its shape and dtype; weights are `panels` of [m, C], [C, m], [C, m], float32."""
    return _only_compiled()


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
    return _only_compiled()


@torch.library.custom_op("coordserve::stem", mutates_args=())
def stem(
    images: Tensor,
    mean: Tensor,
    scale: Tensor,
    weight: Tensor,
    bias: Tensor,
    stride: int,
    activation: int,
    out_channels: int,
) -> Tensor:
    """A 3x3 convolution of (images - mean) * scale, of uint8 [N, H, W, 3]: [N, H / stride, W / stride, out_channels].

    weight: `panels` of [out_channels, 3 * taps], by row, column and colour; in each row taps, 9 or, of 16 bits, 10, the
    last of them 0. The result has its dtype.
    """
    return _only_compiled()


@torch.library.custom_op("coordserve::head", mutates_args=())
def head(x: Tensor, weight: Tensor, bias: Tensor, activation: int, out_channels: int) -> Tensor:
    """The mean over space, [N, out_channels], of a 1x1 convolution of x [N, H, W, C]; weight: `panels`."""
    return _only_compiled()


@coordatt.register_fake
def _(x: Tensor, *_: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@inverted_residual.register_fake
def _(x: Tensor, *rest: Any) -> Tensor:
    stride, _, out_channels, _ = rest[-4:]
    return x.new_empty((*_strided(x, stride), out_channels))


@stem.register_fake
def _(images: Tensor, *rest: Any) -> Tensor:
    weight, _, stride, _, out_channels = rest[-5:]
    return weight.new_empty((*_strided(images, stride), out_channels))


@head.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, activation: int, out_channels: int) -> Tensor:
    return x.new_empty((x.shape[0], out_channels))


def _strided(x: Tensor, stride: int) -> tuple[int, int, int]:
    images, height, width, _ = x.shape
    return images, (height - 1) // stride + 1, (width - 1) // stride + 1


class Fused(nn.Module):
    """A module whose weights are in the form that an operator takes, in its order."""

    def __init__(self, *weights: Tensor) -> None:
        super().__init__()
        for index, values in enumerate(weights):
            self.register_buffer(f"values{index}", values)


class FusedCoordAtt(Fused):
    """A CoordAtt whose batch norm is folded; computed in float32, whatever x is."""

    def __init__(self, block: CoordAtt) -> None:
        super().__init__(*_attention(block, block.conv1.in_channels))

    def forward(self, x: Tensor) -> Tensor:
        """x [N, C, H, W] to the same, in channels_last memory."""
        return coordatt(x.permute(0, 2, 3, 1).contiguous(), *self.buffers()).permute(0, 3, 1, 2)


class FusedInvertedResidual(Fused):
    """An InvertedResidual whose batch norms are folded, with Coordinate Attention or none."""

    def __init__(
        self,
        expand: Pointwise | None,
        depthwise: nn.Conv2d,
        activation: nn.Module,
        attention: CoordAtt | None,
        project: Pointwise,
        shortcut: bool,
    ) -> None:
        assert depthwise.bias is not None
        more = -depthwise.out_channels % LANES  # channels with nothing behind them
        hidden = depthwise.out_channels + more
        super().__init__(
            *(_product(expand.weight, expand.bias, hidden) if expand else _empty(2)),
            F.pad(depthwise.weight.detach().float().permute(2, 3, 0, 1).squeeze(3), (0, more)).contiguous(),
            F.pad(depthwise.bias.detach().float(), (0, more)),
            *_product(F.pad(project.weight, (0, more)), project.bias),
            *(_attention(attention, hidden) if attention else _empty(6)),
        )
        out_channels = project.weight.shape[0]
        self.rest = depthwise.stride[0], ACTIVATIONS.index(type(activation)), out_channels, shortcut

    def forward(self, x: Tensor) -> Tensor:
        """x [N, C, H, W] to [N, out, H / stride, W / stride], in channels_last memory."""
        x = x.permute(0, 2, 3, 1).contiguous()
        return inverted_residual(x, *self.buffers(), *self.rest).permute(0, 3, 1, 2)


class FusedStem(Fused):
    """The normalisation of a classifier and the first layer of its network."""

    def __init__(self, classifier: Classifier, conv: nn.Conv2d, activation: nn.Module) -> None:
        weight = conv.weight.permute(0, 2, 3, 1).flatten(2)  # output, row, column and colour
        if weight.dtype != torch.float32:
            weight = F.pad(weight, (0, 1))
        mean, std = classifier.mean.flatten(), classifier.std.flatten()
        super().__init__(mean, 1 / std, *_product(weight.flatten(1), conv.bias))
        self.rest = conv.stride[0], ACTIVATIONS.index(type(activation)), conv.out_channels

    def forward(self, images: Tensor) -> Tensor:
        """Images uint8 [N, H, W, 3] to [N, out, H / stride, W / stride], in channels_last memory."""
        return stem(images.contiguous(), *self.buffers(), *self.rest).permute(0, 3, 1, 2)


class FusedHead(Fused):
    """The last 1x1 convolution and the mean over space."""

    def __init__(self, conv: Pointwise) -> None:
        super().__init__(*_product(conv.weight, conv.bias))
        self.rest = ACTIVATIONS.index(type(conv.activation)), conv.weight.shape[0]

    def forward(self, x: Tensor) -> Tensor:
        """x [N, C, H, W] to [N, out]."""
        return head(x.permute(0, 2, 3, 1).contiguous(), *self.buffers(), *self.rest)


class FusedClassifier(nn.Module):
    """A Classifier, the first layer, the last and blocks that they take being operators; to compile, not to run."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        network = classifier.network
        assert isinstance(network, ConvNet)
        fuse(network)
        conv, activation = _layers(network.features[0])
        assert isinstance(conv, nn.Conv2d)
        self.stem = FusedStem(classifier, conv, activation)
        self.blocks = network.features[1:]
        head = _layers(network.conv)
        self.head = FusedHead(head[0]) if head and isinstance(head[0], Pointwise) else None
        self.classifier = network.classifier

    def forward(self, images: Tensor) -> Tensor:
        """As Classifier.forward."""
        x = self.blocks(self.stem(images))
        x = self.head(x) if self.head else x.mean(dim=(2, 3))
        return self.classifier(x).float().softmax(dim=1)


def knows(dtype: torch.dtype) -> bool:
    """Whether there are operators for activations of that dtype, on the CPU of this machine."""
    return LANES > 0 and dtype in SCALARS


def fuse(module: nn.Module) -> None:
    """Put the operators, in place, where there are blocks that they take."""
    for name, child in list(module.named_children()):
        if isinstance(child, InvertedResidual) and (fused := _inverted_residual(child)):
            setattr(module, name, fused)
        elif isinstance(child, CoordAtt) and child.conv1.in_channels % LANES == 0:
            setattr(module, name, FusedCoordAtt(child))
        else:
            fuse(child)


def panels(weight: Tensor) -> Tensor:
    """A matrix [out, in], out a multiple of LANES, as a product reads it: LANES outputs at a time.

    float32: [out / LANES, in, LANES]; 16-bit: pairs of inputs, [out / LANES, in / 2, LANES, 2].
    """
    out, channels = weight.shape
    pair = 1 if weight.dtype == torch.float32 else 2
    return weight.view(out // LANES, LANES, channels // pair, pair).permute(0, 2, 1, 3).contiguous()


def _product(weight: Tensor, bias: Tensor | None, out: int = 0) -> tuple[Tensor, Tensor]:
    """The weight [out, in] and the bias of a product, with zeros up to a multiple of LANES, and to `out`."""
    assert bias is not None
    more = max(out, -(-len(bias) // LANES) * LANES) - len(bias)
    return panels(F.pad(weight.detach(), (0, 0, 0, more))), F.pad(bias.detach().float(), (0, more))


def _attention(block: CoordAtt, channels: int) -> list[Tensor]:
    """The weights that `coordatt` takes; of so many channels, those that the block lacks being weighted with 0."""
    squeeze, rows, columns = (
        (conv.weight.float().flatten(1), conv.bias) for conv in (block.conv1, block.conv_h, block.conv_w)
    )
    squeezed = F.pad(squeeze[0], (0, channels - block.conv1.in_channels)), squeeze[1]
    return [*_product(*squeezed), *_product(*rows, channels), *_product(*columns, channels)]


def _empty(count: int) -> list[Tensor]:
    return [torch.empty(0) for _ in range(count)]


def _layers(module: nn.Module) -> list[nn.Module]:
    """What is in it and does something."""
    return [layer for layer in module.children() if not isinstance(layer, nn.Identity)]


def _inverted_residual(block: InvertedResidual) -> FusedInvertedResidual | None:
    """None if there is something in it that the operator does not know."""
    layers = _layers(block.conv)
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
    known = type(activation) in ACTIVATIONS and depthwise.kernel_size[0] in KERNEL_SIZES
    if not known or (expand and type(expand.activation) is not type(activation)):
        return None
    return FusedInvertedResidual(expand, depthwise, activation, attention, project, block.shortcut)


def inductor_configs(dtype: torch.dtype) -> dict[str, Any]:
    """What makes AOTInductor call the operators by their C names, with their sources where it expects declarations.

    dtype: of the activations, and of the weights of large products.
    """
    parameters = {"Tensor": "AtenTensorHandle", "SymInt": "int64_t", "int": "int64_t", "bool": "int32_t"}
    shims: dict[Any, list[str]] = {}
    for operator in (coordatt, inverted_residual, stem, head):
        schema = operator._opoverload._schema
        types = [parameters[str(argument.type)] for argument in schema.arguments]
        name = schema.name.removeprefix("coordserve::")
        shims[operator._opoverload] = [f"AOTITorchError aoti_torch_cpu_{name}({', '.join(types)}, AtenTensorHandle*)"]
    sources = "\n".join(source.read_text() for source in SOURCES)
    defined = f"#define LANES {LANES}L\ntypedef {SCALARS[dtype]} Scalar;"
    shims[head._opoverload][0] += f';\n}}\n{defined}\n{sources}\nextern "C" {{'
    return {"aot_inductor.custom_ops_to_c_shims": shims}
