"""The operators of compiled packages for CPUs compute what the layers do."""

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._C._aoti import AOTIModelPackageLoader

from models import cpu, fused
from models.config import ModelConfig, Network, Preprocessing
from models.fused import FusedClassifier
from models.inference import Classifier, fold_batch_norm, for_inference, replace_pointwise
from models.networks.convnet import ConvNet
from models.networks.coordatt import CoordAtt
from models.networks.layers import ConvNorm, InvertedResidual
from models.networks.squeeze_excitation import SqueezeExcitation

HEIGHT, WIDTH = 25, 19


def network() -> ConvNet:
    """All that there are operators for, in a row."""
    blocks = [
        ConvNorm(3, 24, 3, stride=2, activation=nn.SiLU),
        InvertedResidual(24, 8, 1, 1, []),  # nothing to expand
        InvertedResidual(8, 8, 1, 1, []),  # fewer channels than lanes; a shortcut
        InvertedResidual(8, 24, 2, 6, [CoordAtt(48)]),
        InvertedResidual(24, 20, 1, 6, [CoordAtt(144)], kernel=5, activation=nn.SiLU),
        InvertedResidual(20, 36, 2, 3, [CoordAtt(60)], kernel=5, activation=nn.ReLU),  # hidden: no multiple of lanes
        CoordAtt(36),  # nor here: stays as it is
        InvertedResidual(36, 160, 1, 6, []),
        CoordAtt(160),
    ]
    return ConvNet(blocks, ConvNorm(160, 200, 1), 200, 10, 0.2)  # type: ignore[arg-type]


class Layers(nn.Module):
    """What each layer gives that is an operator, to begin with images and to end with the mean over space."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.fused = FusedClassifier(classifier)

    def forward(self, images: Tensor) -> list[Tensor]:
        found = [self.fused.stem(images)]
        for block in self.fused.blocks:
            found.append(block(found[-1]))
        assert self.fused.head
        return [*found, self.fused.head(found[-1])]


def plain(classifier: Classifier, images: Tensor) -> list[Tensor]:
    """The same by layers, eagerly."""
    found = [classifier.network.features[0](classifier.normalise(images))]
    for block in classifier.network.features[1:]:
        found.append(block(found[-1]))
    return [*found, classifier.network.conv(found[-1]).mean(dim=(2, 3))]


TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 3e-2}
LANES = cpu.vector_lanes()
CASES = [(torch.float32, LANES), (torch.bfloat16, LANES), *([(torch.float32, 8)] if LANES > 8 else [])]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}-{case[1]}".removeprefix("torch."))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple]:
    dtype, lanes = request.param
    if not lanes:
        pytest.skip("this CPU has neither AVX-512 nor AVX2: its packages have no operators")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused, "LANES", lanes)
        yield compiled(dtype, tmp_path_factory.mktemp("fused"))


def compiled(dtype: torch.dtype, folder: Path) -> tuple:
    torch.manual_seed(0)
    module = network()
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.bias, 0, 0.3)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
    config = ModelConfig(
        name="every",
        network=Network(family="mobilenetv2"),
        preprocessing=Preprocessing(input_size=32, resize_size=32, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25)),
        labels=tuple(map(str, range(10))),
    )
    classifier = for_inference(module, config, dtype)
    layers = Layers(copy.deepcopy(classifier))
    path = folder / "layers.pt2"
    images = torch.zeros(2, HEIGHT, WIDTH, 3, dtype=torch.uint8)
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(path.parent))  # not a folder under /tmp that other users share
        program = torch.export.export(layers, (images,), dynamic_shapes=({0: torch.export.Dim("n", min=1)},))
        torch._inductor.aoti_compile_and_package(
            program, package_path=str(path), inductor_configs=fused.inductor_configs(dtype)
        )
    classifier.network.float()
    return AOTIModelPackageLoader(str(path), "model", False, 1, -1), classifier, TOLERANCE[dtype]


@pytest.mark.parametrize("images", [1, 2, 3, 5])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_operators_agree_with_the_layers(case: tuple, images: int, threads: int) -> None:
    """Whether threads share an image or each have their own."""
    loader, classifier, tolerance = case
    before = torch.get_num_threads()
    pixels = torch.randint(0, 256, (images, HEIGHT, WIDTH, 3), dtype=torch.uint8)
    try:
        torch.set_num_threads(threads)
        with torch.inference_mode():
            found = loader.boxed_run([pixels])
    finally:
        torch.set_num_threads(before)
    for index, (mine, expected) in enumerate(zip(found, plain(classifier, pixels), strict=True)):
        assert mine.shape == expected.shape
        worst = float((mine.float() - expected).abs().max() / expected.abs().max())
        assert worst < tolerance, f"layer {index}"


def test_what_an_operator_does_not_know_stays_as_it_is() -> None:
    for block in (
        InvertedResidual(16, 16, 1, 6, [SqueezeExcitation(96, 24)]),
        InvertedResidual(16, 16, 1, 6, [], kernel=7),
        InvertedResidual(16, 16, 1, 6, [], activation=nn.Hardswish),
        CoordAtt(36),
    ):
        row = nn.Sequential(block).eval()
        fold_batch_norm(row)
        replace_pointwise(row)
        fused.fuse(row)
        assert row[0] is block


def test_panels_hold_the_outputs_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "LANES", 8)
    weight = torch.arange(16 * 6).view(16, 6)

    single, pairs = fused.panels(weight.float()), fused.panels(weight.bfloat16())

    assert single[1, 4, 3] == weight[11, 4]
    assert pairs[1, 2, 3].tolist() == weight[11, 4:6].tolist()


@pytest.mark.parametrize(
    ("flags", "lanes"),
    [("avx avx2 fma", 8), ("avx avx2", 0), ("avx2 fma avx512f", 8), ("asimd bf16", 0),
     ("avx2 fma avx512f avx512bw avx512dq avx512vl", 16)],
)  # fmt: skip
def test_operators_are_for_cpus_with_vectors_that_they_were_measured_with(
    monkeypatch: pytest.MonkeyPatch, flags: str, lanes: int
) -> None:
    monkeypatch.setattr(cpu, "flags", lambda: set(flags.split()))

    assert cpu.vector_lanes() == lanes


def test_other_cpus_and_dtypes_have_no_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "LANES", 0)
    assert not fused.knows(torch.float32)
    monkeypatch.setattr(fused, "LANES", 8)
    assert fused.knows(torch.float32)
    assert not fused.knows(torch.float16)
