"""Which attention a block gets, by its name."""

from torch import nn

from models.config import Attention
from models.networks.cbam import CBAM
from models.networks.coordatt import CoordAtt
from models.networks.squeeze_excitation import SqueezeExcitation


def attention(
    kind: Attention, channels: int, reduction: dict[Attention, int], activation: type = nn.ReLU
) -> list[nn.Module]:
    """The layers to stand in a block where it has `channels`: one, or none for `none`.

    reduction says for each kind how many times fewer channels it squeezes them to; the hidden
    `activation` is that of SE and CBAM, CoordAtt has its own.
    """
    match kind:
        case "ca":
            return [CoordAtt(channels, reduction["ca"])]
        case "se":
            return [SqueezeExcitation(channels, reduction["se"], activation)]
        case "cbam":
            return [CBAM(channels, reduction["cbam"], activation)]
        case "none":
            return []
