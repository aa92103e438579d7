"""Where a network looked: the gates of its Coordinate Attention blocks, and Grad-CAM."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.networks import ConvNet
from models.networks.coordatt import CoordAtt

# Grad-CAM of a map of fewer cells across than this shows nothing: on a small picture it looks at an earlier stage.
LEAST_CELLS = 4


@dataclass(frozen=True)
class BlockMap:
    """What one Coordinate Attention block makes of N images: gates within (0, 1), float32."""

    name: str
    """of the block, in the network's state dict"""
    a_h: Tensor
    """of rows, [N, C, H]: equation 7 of the paper"""
    a_w: Tensor
    """of columns, [N, C, W]: equation 8"""

    def map(self) -> Tensor:
        """The mean over channels of a_h * a_w, what equation 9 multiplies by: [N, H, W] within (0, 1)."""
        return torch.einsum("nch,ncw->nhw", self.a_h, self.a_w) / self.a_h.shape[1]


@dataclass(frozen=True)
class Attention:
    """What a network makes of N images, and where it looked."""

    logits: Tensor
    """[N, classes]"""
    blocks: list[BlockMap]
    """of every Coordinate Attention block, from first to last"""
    map: Tensor
    """of all blocks: float32 [N, H, W], as `combined_map` gives it"""


def attention(network: ConvNet, images: Tensor) -> Attention:
    """Logits and maps of normalised images [N, 3, H, W], in one pass. ValueError without Coordinate Attention."""
    count = len(images)
    empty = images.flatten(2).median(dim=2).values[:, :, None, None].expand_as(images)
    logits, blocks = _run(network, torch.cat([images, empty]))
    moved = []
    for block in blocks:
        change = BlockMap(
            block.name,
            (block.a_h[:count] - block.a_h[count:]).abs(),
            (block.a_w[:count] - block.a_w[count:]).abs(),
        )
        moved.append(_resized(change.map(), images.shape[2:]))
    own = [BlockMap(block.name, block.a_h[:count], block.a_w[:count]) for block in blocks]
    return Attention(logits[:count], own, _stretched(torch.stack(moved).mean(dim=0)))


def block_maps(network: ConvNet, images: Tensor) -> list[BlockMap]:
    """The gates of every Coordinate Attention block, from first to last, of normalised images [N, 3, H, W].

    Raises ValueError for a network without such blocks.
    """
    return _run(network, images)[1]


def combined_map(network: ConvNet, images: Tensor) -> Tensor:
    """One map an image, of all blocks: float32 [N, H, W] for normalised images [N, 3, H, W], stretched to 0..1.

    It shows where the picture, and not its border, moves the gates. From each gate is taken what the
    block gives for an empty picture of the image's median colour; then each place has the product of
    how far its row's and its column's gate have moved, mean over channels and blocks. (The plain
    products of gates are mostly what zero padding does at the border, and lower at the object as often
    as higher.) Raises ValueError for a network without Coordinate Attention.
    """
    return attention(network, images).map


@torch.no_grad()
def _run(network: ConvNet, images: Tensor) -> tuple[Tensor, list[BlockMap]]:
    blocks = {module: name for name, module in network.named_modules() if isinstance(module, CoordAtt)}
    if not blocks:
        raise ValueError("the network has no Coordinate Attention blocks; Grad-CAM works for any network")
    maps = []

    def keep(block: nn.Module, inputs: tuple[Tensor]) -> None:
        assert isinstance(block, CoordAtt)
        a_h, a_w = block.gates(inputs[0])
        maps.append(BlockMap(blocks[block], a_h.squeeze(3).float(), a_w.squeeze(2).float()))

    hooks = [block.register_forward_pre_hook(keep) for block in blocks]
    try:
        return network(images), maps
    finally:
        for hook in hooks:
            hook.remove()


def grad_cam(network: ConvNet, images: Tensor, targets: Tensor) -> Tensor:
    """Which places speak for class `targets` [N] in normalised images [N, 3, H, W]: float32 [N, H, W] within 0..1.

    Selvaraju et al. (ICCV 2017), equations 1 and 2, on the last stage with enough cells. A map
    is 0 everywhere where no place speaks for the class.
    """
    with torch.no_grad():
        maps = [images]
        for block in network.features:
            maps.append(block(maps[-1]))
    deepest = max((i for i in range(1, len(maps)) if min(maps[i].shape[2:]) >= LEAST_CELLS), default=1)
    activations = maps[deepest].clone().requires_grad_()
    with torch.enable_grad():
        logits = network.head(network.features[deepest:](activations))
        (gradients,) = torch.autograd.grad(logits.gather(1, targets.view(-1, 1)).sum(), activations)
    weights = gradients.mean(dim=(2, 3), keepdim=True)
    cam = _resized((weights * activations.detach()).sum(dim=1).relu().float(), images.shape[2:])
    return cam / cam.amax(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(cam.dtype).tiny)


def _resized(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    """[N, h, w] to [N, *size]."""
    return F.interpolate(maps.unsqueeze(1), size=tuple(size), mode="bilinear", align_corners=False).squeeze(1)


def _stretched(maps: Tensor) -> Tensor:
    """Each map's least value to 0 and its greatest to 1; a flat one to 0."""
    low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    return (maps - low) / (high - low).clamp_min(torch.finfo(maps.dtype).eps)
