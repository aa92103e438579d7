"""The names that timm gives to the parameters of MobileNetV2 and EfficientNet-B0, as ours."""

import re
from collections.abc import Mapping

from torch import Tensor

from models.config import Network
from models.networks import efficientnet, mobilenetv2

STEM = "conv_stem.weight"
ENDS = {
    "conv_stem": "features.0.0",
    "bn1": "features.0.1",
    "conv_head": "conv.0",
    "bn2": "conv.1",
    "classifier": "classifier.1",
}
# Layers of a block by their place in ours, without attention before the projection: with it, that moves on by one.
FIRST_BLOCK = {"conv_dw": 0, "bn1": 1, "se": 3, "conv_pw": 3, "bn2": 4}
BLOCK = {"conv_pw": 0, "bn1": 1, "conv_dw": 3, "bn2": 4, "se": 6, "conv_pwl": 6, "bn3": 7}
SE = {"conv_reduce": "gate.reduce", "conv_expand": "gate.expand"}


def to_ours(weights: Mapping[str, Tensor], network: Network) -> dict[str, Tensor]:
    """A state dict in timm's names with ours; a name that timm would not use stays as it is, to be reported."""
    stages = (efficientnet if network.family == "efficientnet_b0" else mobilenetv2).STAGES
    begins = [1 + sum(stage.blocks for stage in stages[:index]) for index in range(len(stages))]
    return {_ours(name, weights, begins): value for name, value in weights.items()}


def _ours(name: str, weights: Mapping[str, Tensor], begins: list[int]) -> str:
    layer, _, rest = name.partition(".")
    if layer in ENDS:
        return f"{ENDS[layer]}.{rest}"
    match = re.fullmatch(r"(blocks\.(\d+)\.(\d+))\.(\w+)\.(.+)", name)
    if match is None or int(match[2]) >= len(begins):
        return name
    block, stage, index, layer, rest = match[1], int(match[2]), int(match[3]), match[4], match[5]
    expanded = f"{block}.conv_pwl.weight" in weights
    places = BLOCK if expanded else FIRST_BLOCK
    if layer not in places:
        return name
    projection = ("conv_pwl", "bn3") if expanded else ("conv_pw", "bn2")
    moved = layer in projection and f"{block}.se.conv_reduce.weight" in weights
    if layer == "se":
        part, _, last = rest.partition(".")
        rest = f"{SE.get(part, part)}.{last}"
    return f"features.{begins[stage] + index}.conv.{places[layer] + moved}.{rest}"
