"""The paper's networks: a file for each family, one for each attention, and what they share."""

from collections.abc import Callable

from models.config import Attention, Family, Network
from models.networks.convnet import ConvNet, FeatureMaps
from models.networks.efficientnet import EfficientNetB0
from models.networks.mobilenetv2 import MobileNetV2
from models.networks.mobilenext import MobileNeXt

__all__ = ["FAMILIES", "ConvNet", "FeatureMaps", "create", "features_only"]

FAMILIES: dict[Family, Callable[[int, float, Attention], ConvNet]] = {
    "mobilenetv2": MobileNetV2,
    "mobilenext": MobileNeXt,
    "efficientnet_b0": EfficientNetB0,
}


def create(network: Network, num_classes: int) -> ConvNet:
    """A freshly initialised network: normalised images [N, 3, H, W] to logits [N, num_classes], both float32."""
    return FAMILIES[network.family](num_classes, network.width, network.attention)


def features_only(network: ConvNet) -> FeatureMaps:
    """The network without its head, for detection and segmentation: images to one map a stride. Shares its weights."""
    return FeatureMaps(network)
