"""Builds a network from its configuration and puts it into the form that is served."""

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from models.config import ModelConfig, Network, Preprocessing
from models.mobilenetv2 import MobileNetV2


def create(network: Network, num_classes: int) -> nn.Module:
    """A freshly initialised network: normalised images [N, 3, H, W] to logits [N, num_classes]."""
    return MobileNetV2(num_classes, network.width, network.attention)


class Classifier(nn.Module):
    """A network with everything around it that belongs on the device: pixels in, scores out."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(preprocessing.mean).mul(255).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocessing.std).mul(255).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Scores float32 [N, classes], each row summing to 1, of RGB images uint8 [N, H, W, 3]."""
        # NHWC memory seen as NCHW is what channels_last means: no copy, and the faster layout.
        x = (images.permute(0, 3, 1, 2).to(self.mean.dtype) - self.mean) / self.std
        dtype = next(self.network.parameters()).dtype
        return self.network(x.to(dtype)).float().softmax(dim=1)


def for_inference(network: nn.Module, config: ModelConfig, dtype: torch.dtype = torch.float32) -> Classifier:
    """Fold batch norm in float32, then cast: the network (changed in place) as it is served, in eval mode."""
    network = network.eval().float()
    fold_batch_norm(network)
    network = network.to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Classifier(network, config.preprocessing).eval().requires_grad_(False)


def fold_batch_norm(module: nn.Module) -> None:
    """Merge, in place, every BatchNorm2d into the Conv2d that stands before it among its siblings."""
    previous: tuple[str, nn.Module] | None = None
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d) and previous and isinstance(previous[1], nn.Conv2d):
            setattr(module, previous[0], fuse_conv_bn_eval(previous[1], child))
            setattr(module, name, nn.Identity())
        fold_batch_norm(child)
        previous = (name, child)
