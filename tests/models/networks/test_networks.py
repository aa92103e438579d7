"""The networks against the authors' code and the paper's figures."""

import numpy as np
import pytest
import torch

from models import cost
from models.config import Network, Preprocessing
from models.inference import Classifier, fold_batch_norm
from models.networks import create
from models.networks.coordatt import CoordAtt
from models.networks.mobilenetv2 import MobileNetV2
from tests.models.recipe import REFERENCE, relative_error, weights

# The agreement that the reference outputs ask of float32.
CLOSE = 1e-4


def test_block_equals_the_authors_code():
    block = CoordAtt(64).eval()
    block.load_state_dict(weights("coordatt_shapes.json"))
    x = np.random.Generator(np.random.PCG64(8)).standard_normal((2, 64, 17, 23)).astype(np.float32)

    with torch.inference_mode():
        out = block(torch.from_numpy(x))

    assert relative_error(out, REFERENCE["coordatt_out"]) < CLOSE


@pytest.mark.parametrize("folded", [False, True])
def test_mobilenetv2_equals_the_authors_code_and_reads_their_names(folded: bool):
    network = MobileNetV2().eval()
    network.load_state_dict(weights("mbv2_ca_shapes.json"))
    if folded:
        fold_batch_norm(network)
    x = np.random.Generator(np.random.PCG64(7)).random((2, 3, 224, 224), dtype=np.float32)

    with torch.inference_mode():
        logits = network(torch.from_numpy(x))

    assert relative_error(logits, REFERENCE["mbv2_ca_logits"]) < CLOSE


def test_folding_leaves_no_batch_norm():
    network = MobileNetV2(10, 0.25).eval()

    fold_batch_norm(network)

    assert not [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]


@pytest.mark.parametrize(
    ("width", "attention", "count"),
    [
        (0.5, "ca", 2_095_568),
        (0.75, "ca", 2_891_631),
        (1.0, "ca", 3_950_648),
        (1.4, "ca", 6_958_700),
        (1.0, "none", 3_504_872),
    ],
)
def test_parameters_are_those_of_the_authors_code(width: float, attention: str, count: int):
    network = create(Network(family="mobilenetv2", attention=attention, width=width), 1000)

    assert cost.parameters(network) == count


@pytest.mark.parametrize(("attention", "published"), [("none", 300e6), ("ca", 310e6)])
def test_multiply_adds_are_near_the_papers(attention: str, published: float):
    network = create(Network(family="mobilenetv2", attention=attention), 1000)

    assert cost.multiply_adds(network, 224) == pytest.approx(published, rel=0.05)


@pytest.mark.parametrize(("size", "classes"), [(32, 10), (65, 3), (224, 1000)])
def test_any_input_size_and_class_count(size: int, classes: int):
    network = create(Network(family="mobilenetv2", width=0.25), classes).eval()

    with torch.inference_mode():
        assert network(torch.zeros(2, 3, size, size + 7)).shape == (2, classes)


def test_gates_follow_rows_and_columns():
    block = CoordAtt(16).eval()
    x = torch.randn(2, 16, 5, 9)

    with torch.inference_mode():
        a_h, a_w = block.gates(x)
        out = block(x)

    assert a_h.shape == (2, 16, 5, 1)
    assert a_w.shape == (2, 16, 1, 9)
    assert 0 < min(a_h.min(), a_w.min()) <= max(a_h.max(), a_w.max()) < 1
    torch.testing.assert_close(out, x * a_h * a_w)


def test_classifier_normalises_as_its_configuration_says():
    preprocessing = Preprocessing(input_size=16, resize_size=16, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 1.0))
    seen = []

    class Recorder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x)
            return x.mean(dim=(2, 3))

    images = torch.full((1, 8, 8, 3), 255, dtype=torch.uint8)
    scores = Classifier(Recorder(), preprocessing)(images)

    torch.testing.assert_close(seen[0][0, :, 0, 0], torch.tensor([1.0, 3.0, 1.0]))
    torch.testing.assert_close(scores.sum(dim=1), torch.ones(1))
