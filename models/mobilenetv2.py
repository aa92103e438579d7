"""MobileNetV2 (Sandler et al., CVPR 2018), plain or with Coordinate Attention in its expanded blocks."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from models.coordatt import CoordAtt

Attention = Literal["ca", "none"]


@dataclass(frozen=True)
class Stage:
    """One row of table 2 of https://arxiv.org/abs/1801.04381."""

    expansion: int
    channels: int
    blocks: int
    stride: int


STAGES = (
    Stage(1, 16, 1, 1),
    Stage(6, 24, 2, 2),
    Stage(6, 32, 3, 2),
    Stage(6, 64, 4, 2),
    Stage(6, 96, 3, 1),
    Stage(6, 160, 3, 2),
    Stage(6, 320, 1, 1),
)
STEM_CHANNELS = 32
HEAD_CHANNELS = 1280
DROPOUT = 0.1  # the CoordAtt authors'; Sandler et al. use 0.2


class MobileNetV2(nn.Module):
    """MobileNetV2 with the layers named as in the CoordAtt authors' checkpoint.

    width scales the channels of every layer; the head's only above 1, as in the paper's section 5.
    """

    def __init__(self, num_classes: int = 1000, width: float = 1.0, attention: Attention = "ca") -> None:
        super().__init__()
        channels = divisible(STEM_CHANNELS * width)
        features: list[nn.Module] = [conv_bn(3, channels, 3, stride=2)]
        for stage in STAGES:
            out = divisible(stage.channels * width)
            for block in range(stage.blocks):
                stride = stage.stride if block == 0 else 1
                features.append(InvertedResidual(channels, out, stride, stage.expansion, attention))
                channels = out
        head = divisible(HEAD_CHANNELS * max(1.0, width))
        self.features = nn.Sequential(*features)
        self.conv = conv_bn(channels, head, 1)
        self.classifier = nn.Sequential(nn.Dropout(DROPOUT), nn.Linear(head, num_classes))
        self.apply(initialise)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, num_classes] of normalised images [N, 3, H, W]."""
        return self.classifier(self.conv(self.features(x)).mean(dim=(2, 3)))


class InvertedResidual(nn.Module):
    """Expand 1x1, depthwise 3x3, attention, project 1x1, and the shortcut where shapes allow it."""

    def __init__(self, channels: int, out: int, stride: int, expansion: int, attention: Attention) -> None:
        super().__init__()
        hidden = channels * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers += conv_bn(channels, hidden, 1)
        layers += conv_bn(hidden, hidden, 3, stride=stride, groups=hidden)
        # The authors leave the one block without expansion as it is.
        if expansion != 1 and attention == "ca":
            layers.append(CoordAtt(hidden))
        layers += [nn.Conv2d(hidden, out, 1, bias=False), nn.BatchNorm2d(out)]
        self.conv = nn.Sequential(*layers)
        self.shortcut = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        """x [N, channels, H, W] to [N, out, H / stride, W / stride]."""
        return x + self.conv(x) if self.shortcut else self.conv(x)


def conv_bn(channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU6(inplace=True),
    )


def divisible(channels: float, by: int = 8) -> int:
    """The nearest multiple of `by` that loses at most a tenth (as in the reference implementation)."""
    rounded = max(by, int(channels + by / 2) // by * by)
    return rounded + by if rounded < 0.9 * channels else rounded


def initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, 0, 0.01)
        nn.init.zeros_(module.bias)
