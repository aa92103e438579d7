"""EfficientNet-B0 (Tan and Le, ICML 2019), with its own SE, another attention in its place, or none."""

from typing import NamedTuple

from torch import nn

from models.config import Attention
from models.networks.attention import attention as attend
from models.networks.convnet import ConvNet
from models.networks.layers import Block, ConvNorm, InvertedResidual, divisible


class Stage(NamedTuple):
    """One row of table 1 of https://arxiv.org/abs/1905.11946."""

    expansion: int
    channels: int
    blocks: int
    stride: int
    kernel: int


STAGES = (
    Stage(1, 16, 1, 1, 3),
    Stage(6, 24, 2, 2, 3),
    Stage(6, 40, 2, 2, 5),
    Stage(6, 80, 3, 2, 3),
    Stage(6, 112, 3, 1, 5),
    Stage(6, 192, 4, 2, 5),
    Stage(6, 320, 1, 1, 3),
)
STEM_CHANNELS = 32
HEAD_CHANNELS = 1280
DROPOUT = 0.2
CA_REDUCTION = 32
SQUEEZE = 4  # SE and CBAM squeeze to a quarter of the channels that come into the block, as the original does


class EfficientNetB0(ConvNet):
    """EfficientNet-B0; `se` is the original, any other attention takes the place of every SE.

    width scales the channels of every layer. The reduction of CA is not published; 32, as in
    MobileNetV2, gives 5.38M parameters (5.4M published). Stochastic depth is left out.
    """

    def __init__(self, num_classes: int = 1000, width: float = 1.0, attention: Attention = "se") -> None:
        channels = divisible(STEM_CHANNELS * width)
        blocks: list[Block] = [ConvNorm(3, channels, 3, stride=2, activation=nn.SiLU)]
        for stage in STAGES:
            out = divisible(stage.channels * width)
            squeeze = SQUEEZE * stage.expansion
            reduction: dict[Attention, int] = {"ca": CA_REDUCTION, "se": squeeze, "cbam": squeeze}
            for index in range(stage.blocks):
                gates = attend(attention, channels * stage.expansion, reduction, nn.SiLU)
                stride = stage.stride if index == 0 else 1
                blocks.append(InvertedResidual(channels, out, stride, stage.expansion, gates, stage.kernel, nn.SiLU))
                channels = out
        head = divisible(HEAD_CHANNELS * width)
        super().__init__(blocks, ConvNorm(channels, head, 1, activation=nn.SiLU), head, num_classes, DROPOUT)
