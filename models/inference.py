"""Puts a network into the form that is served: batch norm folded, pixels in, scores out."""

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from models.config import ModelConfig, Preprocessing
from models.networks.coordatt import CoordAtt

CHECKED_IMAGES = 16
ACTIVATIONS = nn.ReLU, nn.ReLU6, nn.SiLU


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
        dtype = next(self.network.parameters()).dtype
        return self.network(self.normalise(images).to(dtype)).float().softmax(dim=1)

    def normalise(self, images: Tensor) -> Tensor:
        """What the network sees, float32 [N, 3, H, W], of RGB images uint8 [N, H, W, 3]."""
        # NHWC memory seen as NCHW is what channels_last means: no copy, and the faster layout.
        return (images.permute(0, 3, 1, 2).to(self.mean.dtype) - self.mean) / self.std


class Pointwise(nn.Module):
    """A 1x1 convolution and the activation behind it as a product of pixels and weights: less to prepare for a call.

    Inductor makes the activation a part of the product only where no change of shape stands between them.
    """

    def __init__(self, conv: nn.Conv2d, activation: nn.Module) -> None:
        super().__init__()
        self.weight = nn.Parameter(conv.weight.flatten(1))
        self.bias = conv.bias
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] in channels_last memory to [N, out, H, W], likewise."""
        x = x.permute(0, 2, 3, 1)
        y = self.activation(F.linear(x.flatten(0, 2), self.weight, self.bias))
        return y.unflatten(0, x.shape[:3]).permute(0, 3, 1, 2)


def for_inference(network: nn.Module, config: ModelConfig, dtype: torch.dtype = torch.float32) -> Classifier:
    """The network (changed in place) as it is served: batch norm folded in float32, then cast, in eval mode."""
    network = network.eval().float()
    fold_batch_norm(network)
    replace_pointwise(network)
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


def replace_pointwise(module: nn.Module) -> None:
    """Turn, in place, every plain 1x1 convolution, with the activation that stands behind it, into a Pointwise.

    CoordAtt computes its own as products already.
    """
    children = [(name, child) for name, child in module.named_children() if not isinstance(child, nn.Identity)]
    for (name, child), (following, activation) in pairwise([*children, ("", nn.Identity())]):
        if isinstance(child, CoordAtt):
            continue
        if isinstance(child, nn.Conv2d) and child.kernel_size == child.stride == (1, 1) and child.groups == 1:
            if isinstance(activation, ACTIVATIONS):
                setattr(module, following, nn.Identity())
            else:
                activation = nn.Identity()
            setattr(module, name, Pointwise(child, activation))
        replace_pointwise(child)


def check_images(size: int) -> Tensor:
    """Images uint8 [CHECKED_IMAGES, size, size, 3], from smooth to noisy, the same at every call."""
    generator = np.random.default_rng(0)
    images = []
    for index in range(CHECKED_IMAGES):
        coarse = generator.random((3, 3 + index, 3 + index), dtype=np.float32)
        smooth = torch.nn.functional.interpolate(torch.from_numpy(coarse)[None], (size, size), mode="bilinear")
        images.append(smooth[0].permute(1, 2, 0))
    return (torch.stack(images) * 255).to(torch.uint8)
