"""MobileNetV2 (Sandler et al., CVPR 2018), with attention in its expanded blocks."""

from typing import NamedTuple

from models.config import Attention
from models.networks.attention import attention as attend
from models.networks.convnet import ConvNet
from models.networks.layers import Block, ConvNorm, InvertedResidual, divisible


class Stage(NamedTuple):
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
REDUCTION: dict[Attention, int] = {"ca": 32, "se": 24, "cbam": 24}


class MobileNetV2(ConvNet):
    """MobileNetV2 with attention after the depthwise convolution of every block with expansion (figure 3a of CoordAtt).

    width scales the channels of every layer, the head's only above 1 (section 5). The reduction of CA is
    the authors' (3.95M parameters); that of SE and CBAM is not published, and 24 gives the 3.89M that is.
    """

    def __init__(self, num_classes: int = 1000, width: float = 1.0, attention: Attention = "ca") -> None:
        channels = divisible(STEM_CHANNELS * width)
        blocks: list[Block] = [ConvNorm(3, channels, 3, stride=2)]
        for stage in STAGES:
            out = divisible(stage.channels * width)
            for index in range(stage.blocks):
                hidden = channels * stage.expansion
                # The authors leave the one block without expansion as it is.
                gates = attend(attention, hidden, REDUCTION) if stage.expansion != 1 else []
                stride = stage.stride if index == 0 else 1
                blocks.append(InvertedResidual(channels, out, stride, stage.expansion, gates))
                channels = out
        head = divisible(HEAD_CHANNELS * max(1.0, width))
        super().__init__(blocks, ConvNorm(channels, head, 1), head, num_classes, DROPOUT)
