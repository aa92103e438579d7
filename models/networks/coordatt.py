"""Coordinate Attention: gates that know the row and the column of what they emphasise (Hou et al., CVPR 2021)."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class CoordAtt(nn.Module):
    """Coordinate Attention block, section 3.2 of https://arxiv.org/abs/2103.02907.

    x [N, C, H, W] is averaged along each axis (equations 4 and 5), both averages share one 1x1
    convolution to m = max(8, C // reduction) channels (6), and two 1x1 convolutions turn them
    into the gates of rows and columns (7 and 8): out = x * a_h * a_w (9), shape and dtype of x.
    """

    def __init__(self, channels: int, reduction: int = 32) -> None:
        super().__init__()
        squeezed = max(8, channels // reduction)
        self.conv1 = nn.Conv2d(channels, squeezed, 1)
        self.bn1 = nn.BatchNorm2d(squeezed)
        self.conv_h = nn.Conv2d(squeezed, channels, 1)
        self.conv_w = nn.Conv2d(squeezed, channels, 1)
        self.register_load_state_dict_pre_hook(accept_released_names)  # type: ignore[no-untyped-call]

    def forward(self, x: Tensor) -> Tensor:
        """Return x [N, C, H, W] with every row and every column weighted by its gate."""
        a_h, a_w = self.gates(x)
        return x * a_w * a_h

    def gates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The gates of x [N, C, H, W]: a_h [N, C, H, 1] and a_w [N, C, 1, W], both within (0, 1)."""
        height, width = x.shape[2:]
        x = x.permute(0, 2, 3, 1)
        # Means keep a dynamic batch size through torch.export (AdaptiveAvgPool2d does not), and 1x1
        # convolutions written as products over NHWC need no change of layout.
        y = torch.cat([x.mean(dim=2), x.mean(dim=1)], dim=1)
        y = product(y, self.conv1)
        y = self.bn1(y.transpose(1, 2).unsqueeze(3)).squeeze(3).transpose(1, 2)
        y_h, y_w = F.hardswish(y).split([height, width], dim=1)
        a_h = product(y_h, self.conv_h).sigmoid()
        a_w = product(y_w, self.conv_w).sigmoid()
        return a_h.transpose(1, 2).unsqueeze(3), a_w.transpose(1, 2).unsqueeze(2)


def product(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """The 1x1 convolution of x [N, L, C] along its last dimension."""
    return F.linear(x, conv.weight.flatten(1), conv.bias)


def accept_released_names(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Read `conv2` and `conv3` of the authors' released MobileNetV2 as `conv_h` and `conv_w`."""
    for released, name in (("conv2", "conv_h"), ("conv3", "conv_w")):
        for parameter in ("weight", "bias"):
            if f"{prefix}{released}.{parameter}" in state:
                state[f"{prefix}{name}.{parameter}"] = state.pop(f"{prefix}{released}.{parameter}")
