"""MobileNeXt (Zhou et al., ECCV 2020), with attention after the first depthwise convolution of its sandglass blocks."""

import math
from typing import NamedTuple

from torch import nn

from models.config import Attention
from models.networks.attention import attention as attend
from models.networks.convnet import ConvNet
from models.networks.layers import Block, ConvNorm, Residual, conv_norm, divisible


class Stage(NamedTuple):
    """One row of table 2 of https://arxiv.org/abs/2007.02269."""

    reduction: int
    channels: int
    blocks: int
    stride: int


STAGES = (
    Stage(2, 96, 1, 2),
    Stage(6, 144, 1, 1),
    Stage(6, 192, 3, 2),
    Stage(6, 288, 3, 2),
    Stage(6, 384, 4, 1),
    Stage(6, 576, 4, 2),
    Stage(6, 960, 3, 1),
    Stage(6, 1280, 1, 1),
)
STEM_CHANNELS = 32
WIDEST = 1280  # the last stage, which the authors never make narrower
DROPOUT = 0.2
REDUCTION: dict[Attention, int] = {"ca": 24, "se": 24, "cbam": 24}


class MobileNeXt(ConvNet):
    """MobileNeXt with attention as in figure 3b of CoordAtt, in the 15 blocks that start with a depthwise convolution.

    width scales the channels of every layer, the last stage's only above 1. The reductions are not
    published: 24 gives CA 4.11M parameters (4.09M published; exactly that without the biases of its
    convolutions, which the authors' code has), and SE 3.91M (3.89M published).
    """

    def __init__(self, num_classes: int = 1000, width: float = 1.0, attention: Attention = "ca") -> None:
        channels = divisible(STEM_CHANNELS * width)
        blocks: list[Block] = [ConvNorm(3, channels, 3, stride=2)]
        for stage in STAGES:
            out = divisible(stage.channels * (max(1.0, width) if stage.channels == WIDEST else width))
            for index in range(stage.blocks):
                stride = stage.stride if index == 0 else 1
                # Between two widths the authors leave out the first depthwise convolution, except
                # in the stages that are a single block.
                wide_first = channels == out or stage.blocks == 1
                gates = attend(attention, channels, REDUCTION) if wide_first else []
                blocks.append(Sandglass(channels, out, stride, stage.reduction, wide_first, gates))
                channels = out
        super().__init__(blocks, nn.Identity(), channels, num_classes, DROPOUT)


class Sandglass(Residual):
    """Depthwise 3x3 on the wide ends, 1x1 down and up between them, shortcut between the wide ends (section 3.2)."""

    def __init__(
        self, channels: int, out: int, stride: int, reduction: int, wide_first: bool, attention: list[nn.Module]
    ) -> None:
        super().__init__()
        hidden = channels // reduction
        if hidden < out / 6:
            hidden = divisible(math.ceil(out / 6), 16)
        first = [*ConvNorm(channels, channels, 3, groups=channels), *attention] if wide_first else []
        last = conv_norm(out, out, 3, stride, groups=out) if wide_first or stride == 2 else ()
        self.conv = nn.Sequential(*first, *conv_norm(channels, hidden, 1), *ConvNorm(hidden, out, 1), *last)
        self.shortcut = stride == 1 and channels == out
        self.stride, self.out_channels = stride, out
