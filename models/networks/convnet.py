"""What the three families have in common: blocks in a row, pooling, a linear layer; or the blocks alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from models.networks.layers import Block, initialise


class ConvNet(nn.Module):
    """Blocks, a last 1x1 convolution where there is one, the mean over space, and a linear layer.

    The names of the parts are those of the CoordAtt authors' checkpoint.
    """

    def __init__(
        self, blocks: Sequence[Block], head: nn.Module, num_features: int, num_classes: int, dropout: float
    ) -> None:
        super().__init__()
        self.features = nn.Sequential(*blocks)
        self.conv = head
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(num_features, num_classes))
        self.apply(initialise)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, num_classes] of normalised images [N, 3, H, W]; H and W may be anything from 32."""
        return self.head(self.features(x))

    def head(self, x: Tensor) -> Tensor:
        """Logits [N, num_classes] of what the last block gives."""
        return self.classifier(self.conv(x).mean(dim=(2, 3)))


@dataclass(frozen=True)
class FeatureInfo:
    """One of the maps that FeatureMaps gives."""

    channels: int
    reduction: int
    """how many pixels of the image, in height and in width, are one of the map"""


class FeatureMaps(nn.Module):
    """A network's blocks, giving the last map before every halving and the last of all (timm's `features_only`)."""

    def __init__(self, network: ConvNet) -> None:
        super().__init__()
        self.features = network.features
        blocks: list[Block] = list(network.features)  # type: ignore[arg-type]
        self.taps = {index for index, (_, after) in enumerate(pairwise(blocks)) if after.stride > 1}
        self.taps.add(len(blocks) - 1)
        reduction, info = 1, []
        for index, block in enumerate(blocks):
            reduction *= block.stride
            if index in self.taps:
                info.append(FeatureInfo(block.out_channels, reduction))
        self.feature_info = tuple(info)

    def forward(self, x: Tensor) -> list[Tensor]:
        """A map [N, channels, ceil(H / reduction), ceil(W / reduction)] a `feature_info`, of images [N, 3, H, W]."""
        maps = []
        for index, block in enumerate(self.features):
            x = block(x)
            if index in self.taps:
                maps.append(x)
        return maps
