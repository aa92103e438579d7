"""CBAM: gates of channels, then one gate a place from a 7x7 convolution (Woo et al., ECCV 2018)."""

import torch
from torch import Tensor, nn

from models.networks.layers import conv_norm
from models.networks.squeeze_excitation import ChannelMLP


class CBAM(nn.Module):
    """Convolutional Block Attention Module, section 3 of https://arxiv.org/abs/1807.06521.

    Channels: one shared MLP over the means and the maxima over space, added (equation 2). Places: a
    7x7 convolution over the mean and the maximum over channels (3), with the batch norm that the
    authors' code has and the paper does not mention. out has the shape and dtype of x [N, C, H, W].
    """

    def __init__(self, channels: int, reduction: int, activation: type = nn.ReLU) -> None:
        super().__init__()
        self.channels = ChannelMLP(channels, reduction, activation)
        self.places = nn.Sequential(*conv_norm(2, 1, 7))

    def forward(self, x: Tensor) -> Tensor:
        """Return x [N, C, H, W] weighted by channel, then by place."""
        means, maxima = x.mean(dim=(2, 3), keepdim=True), x.amax(dim=(2, 3), keepdim=True)
        x = x * (self.channels(means) + self.channels(maxima)).sigmoid()
        strengths = torch.cat([x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)], dim=1)
        return x * self.places(strengths).sigmoid()
