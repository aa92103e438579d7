"""Where a network looked: shapes, ranges, and that the maps follow the object."""

import numpy as np
import pytest
import torch
from PIL import Image

from models.attention_maps import block_maps, combined_map, grad_cam
from models.config import BUNDLED_MODEL, Network
from models.directory import load
from models.inference import Classifier
from models.networks import ConvNet, create
from tests.conftest import DIGITS

# The corner of the canvas where a digit stands: left, top, in pixels of 96.
CORNERS = {"top left": (2, 2), "top right": (50, 2), "bottom left": (2, 50), "bottom right": (50, 50)}


def test_gates_of_every_block_have_the_shape_of_its_map_and_lie_within_0_and_1():
    network = create(Network(family="mobilenetv2", width=0.25), 3).eval()

    maps = block_maps(network, torch.randn(2, 3, 64, 96))

    assert len(maps) == 16
    assert [block.name for block in maps[:2]] == ["features.2.conv.6", "features.3.conv.6"]
    assert maps[0].a_h.shape == (2, 48, 16)
    assert maps[0].a_w.shape == (2, 48, 24)
    for block in maps:
        for gates in (block.a_h, block.a_w, block.map()):
            assert 0 < gates.min() <= gates.max() < 1
        expected = (block.a_h.unsqueeze(3) * block.a_w.unsqueeze(2)).mean(dim=1)
        torch.testing.assert_close(block.map(), expected)


@pytest.mark.parametrize(("family", "blocks"), [("mobilenext", 15), ("efficientnet_b0", 16)])
def test_blocks_of_the_other_families_are_found(family: str, blocks: int):
    network = create(Network(family=family, attention="ca", width=0.25), 3).eval()

    assert len(block_maps(network, torch.randn(1, 3, 64, 64))) == blocks


def test_the_maps_of_an_image_do_not_depend_on_its_neighbours():
    network, images = bundled(), pictures(5)

    alone = combined_map(network, images[1:2])

    torch.testing.assert_close(combined_map(network, images)[1:2], alone, atol=1e-4, rtol=0)


def test_a_combined_map_has_the_size_of_the_image_and_reaches_from_0_to_1():
    maps = combined_map(bundled(), pictures(7))

    assert maps.shape == (4, 32, 32)
    assert maps.dtype == torch.float32
    assert maps.amin(dim=(1, 2)).tolist() == [0, 0, 0, 0]
    assert maps.amax(dim=(1, 2)).tolist() == pytest.approx([1, 1, 1, 1])


def test_an_empty_picture_moves_nothing():
    assert combined_map(bundled(), torch.ones(1, 3, 32, 32)).abs().max() == 0


@pytest.mark.parametrize("digit", range(10))
def test_moving_the_object_moves_the_combined_map(digit: int):
    maps = combined_map(bundled(), pictures(digit))

    for (left, top), found in zip(CORNERS.values(), maps, strict=True):
        row, column = divmod(int(found.argmax()), found.shape[1])
        assert (column < 16) == (left < 48), found
        assert (row < 16) == (top < 48), found


def test_grad_cam_lies_on_the_object_more_than_elsewhere():
    network = bundled()
    images = torch.cat([pictures(digit) for digit in range(10)])
    answers = network(images).argmax(dim=1)

    maps = grad_cam(network, images, answers)

    assert maps.shape == (40, 32, 32)
    assert maps.min() >= 0
    assert maps.max() <= 1
    quarters = torch.stack([maps[:, :16, :16], maps[:, :16, 16:], maps[:, 16:, :16], maps[:, 16:, 16:]], dim=1)
    shares = quarters.sum(dim=(2, 3)) / maps.sum(dim=(1, 2)).clamp_min(1e-9).unsqueeze(1)
    on_object = shares.view(10, 4, 4).diagonal(dim1=1, dim2=2)
    assert on_object.mean() > 0.35  # of four quarters


def test_grad_cam_needs_no_gradients_of_weights_and_leaves_none():
    network = bundled().requires_grad_(False)

    with torch.inference_mode():
        images = pictures(3)
    grad_cam(network, images.clone(), torch.zeros(4, dtype=torch.int64))

    assert all(parameter.grad is None for parameter in network.parameters())


def test_grad_cam_of_another_class_is_another_map():
    network, images = bundled(), pictures(8)

    one, other = (grad_cam(network, images, torch.full((4,), target)) for target in (8, 1))

    assert not torch.allclose(one, other)


def test_a_network_without_coordinate_attention_says_so():
    network = create(Network(family="mobilenetv2", attention="se", width=0.25), 3).eval()

    with pytest.raises(ValueError, match="Grad-CAM works for any network"):
        block_maps(network, torch.zeros(1, 3, 32, 32))

    assert grad_cam(network, torch.randn(1, 3, 224, 224), torch.tensor([1])).shape == (1, 224, 224)


def bundled() -> ConvNet:
    return load(BUNDLED_MODEL)[1]


def pictures(digit: int) -> torch.Tensor:
    """One digit in each of CORNERS, as the bundled network sees it: float32 [4, 3, 32, 32]."""
    glyph = Image.open(DIGITS / f"dejavu-sans-{digit}.png").convert("RGB").resize((60, 60)).crop((8, 8, 52, 52))
    drawn = []
    for corner in CORNERS.values():
        canvas = Image.new("RGB", (96, 96), "white")
        canvas.paste(glyph, corner)
        drawn.append(np.asarray(canvas.resize((32, 32), Image.Resampling.BILINEAR)))
    config, network = load(BUNDLED_MODEL)
    return Classifier(network, config.preprocessing).normalise(torch.from_numpy(np.stack(drawn)))
