"""What the CoordAtt paper reports on ImageNet (https://arxiv.org/abs/2103.02907)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """Rounded as published. None of it was measured here."""

    parameters: float
    multiply_adds: float
    top1: float
    """per cent"""


PUBLISHED: dict[str, Published] = {
    "mobilenetv2_none_100": Published(3.5e6, 300e6, 72.3),
    "mobilenetv2_se_100": Published(3.89e6, 300e6, 73.5),
    "mobilenetv2_cbam_100": Published(3.89e6, 300e6, 73.6),
    "mobilenetv2_ca_100": Published(3.95e6, 310e6, 74.3),
    "mobilenext_none_100": Published(3.5e6, 300e6, 74.0),
    "mobilenext_se_100": Published(3.89e6, 300e6, 74.7),
    "mobilenext_ca_100": Published(4.09e6, 330e6, 75.2),
    "efficientnet_b0_se_100": Published(5.3e6, 390e6, 76.3),
    "efficientnet_b0_ca_100": Published(5.4e6, 400e6, 76.9),
}
