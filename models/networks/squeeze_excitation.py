"""Squeeze-and-Excitation: gates that know how strong each channel is over the whole picture (Hu et al., CVPR 2018)."""

from torch import Tensor, nn


class SqueezeExcitation(nn.Module):
    """SE block, section 3 of https://arxiv.org/abs/1709.01507.

    The means over space of x [N, C, H, W] go through two 1x1 convolutions with biases, C to
    C // reduction to C, and gate the channels: out has the shape and dtype of x.
    """

    def __init__(self, channels: int, reduction: int, activation: type = nn.ReLU) -> None:
        super().__init__()
        self.gate = ChannelMLP(channels, reduction, activation)

    def forward(self, x: Tensor) -> Tensor:
        """Return x [N, C, H, W] with every channel weighted by its gate."""
        return x * self.gate(x.mean(dim=(2, 3), keepdim=True)).sigmoid()


class ChannelMLP(nn.Module):
    """Two 1x1 convolutions with biases and an activation between; also the shared one of CBAM."""

    def __init__(self, channels: int, reduction: int, activation: type) -> None:
        super().__init__()
        squeezed = max(1, channels // reduction)
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.activation = activation(inplace=True)
        self.expand = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, 1, 1] to [N, C, 1, 1]."""
        return self.expand(self.activation(self.reduce(x)))
