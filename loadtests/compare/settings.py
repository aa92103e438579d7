"""What is compared: which network, which pictures, whose decoder, and what is asked of the service."""

from dataclasses import dataclass, field

MAX_BATCH = 64


@dataclass(frozen=True)
class Setting:
    name: str
    title: str
    network: str
    """bundled, or imagenet: MobileNetV2+CA 1.0 at 224 with random weights"""
    picture: tuple[int, int, int]
    """width, height and quality of the JPEG that is sent"""
    decoder: str
    """of the peers: ours, or pillow as their documentation has it"""
    max_batch: int
    """of the peers, where images/s of the network are highest; the service measures its own"""
    tolerance: float
    """largest difference of a score from the service's, as a part of the highest"""
    ratios: dict[str, float] = field(default_factory=dict)
    """requests/s of the service over a peer's that are asked for, by peer; `best`: over the best peer's"""
    lower_p99: bool = False
    """whether the service's p99 is to be lower than every peer's, at the load that the best of them sustains"""


SMALL = "bundled network, 9 kB JPEGs"

SETTINGS = [
    Setting(
        "small",
        f"{SMALL}, the service's decoder for all",
        network="bundled",
        picture=(224, 224, 75),
        decoder="ours",
        max_batch=MAX_BATCH,
        tolerance=1e-3,
        ratios={"mosec": 2.5, "litserve": 5.0, "fastapi": 1.6},
        lower_p99=True,
    ),
    Setting(
        "small-pillow",
        f"{SMALL}, peers decode with Pillow",
        network="bundled",
        picture=(224, 224, 75),
        decoder="pillow",
        max_batch=MAX_BATCH,
        tolerance=0.5,
        ratios={"mosec": 3.5},
    ),
    Setting(
        "large",
        "MobileNetV2+CA 1.0 at 224, 37 kB JPEGs, the service's decoder for all",
        network="imagenet",
        picture=(500, 375, 85),
        decoder="ours",
        max_batch=8,
        tolerance=0.05,
        ratios={"best": 1.3},
    ),
]
