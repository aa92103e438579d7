"""The layers that the families build their blocks of."""

from collections.abc import Sequence

from torch import Tensor, nn


class Block(nn.Module):
    """One of the modules in a row that a network is; what stands after it needs to know these."""

    stride: int
    out_channels: int


class ConvNorm(nn.Sequential, Block):
    """Convolution without bias, batch norm, activation."""

    def __init__(
        self, channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1, activation: type = nn.ReLU6
    ) -> None:
        super().__init__(*conv_norm(channels, out, kernel, stride, groups), activation(inplace=True))
        self.stride, self.out_channels = stride, out


class Residual(Block):
    """A Block of layers in a row, with a shortcut around them where shapes allow it."""

    conv: nn.Sequential
    shortcut: bool

    def forward(self, x: Tensor) -> Tensor:
        """x [N, channels, H, W] to [N, out, H / stride, W / stride]."""
        return x + self.conv(x) if self.shortcut else self.conv(x)


class InvertedResidual(Residual):
    """Expand 1x1, depthwise, attention, project 1x1; the shortcut where shapes allow it (MobileNetV2, section 3.3)."""

    def __init__(
        self,
        channels: int,
        out: int,
        stride: int,
        expansion: int,
        attention: Sequence[nn.Module],
        kernel: int = 3,
        activation: type = nn.ReLU6,
    ) -> None:
        super().__init__()
        hidden = channels * expansion
        expand = ConvNorm(channels, hidden, 1, activation=activation) if expansion != 1 else ()
        depthwise = ConvNorm(hidden, hidden, kernel, stride, groups=hidden, activation=activation)
        self.conv = nn.Sequential(*expand, *depthwise, *attention, *conv_norm(hidden, out, 1))
        self.shortcut = stride == 1 and channels == out
        self.stride, self.out_channels = stride, out


def conv_norm(channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> tuple[nn.Module, nn.Module]:
    """A convolution without bias that keeps the size at stride 1, and its batch norm."""
    conv = nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return conv, nn.BatchNorm2d(out)


def divisible(channels: float, by: int = 8) -> int:
    """The nearest multiple of `by` that loses at most a tenth (as in MobileNetV2's reference implementation)."""
    rounded = max(by, int(channels + by / 2) // by * by)
    return rounded + by if rounded < 0.9 * channels else rounded


def initialise(module: nn.Module) -> None:
    """He et al. (2015), by fan-out, for convolutions; small normal weights for the last layer."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, 0, 0.01)
        nn.init.zeros_(module.bias)
