"""The operators of compiled packages for CPUs compute what the layers do."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch._C._aoti import AOTIModelPackageLoader

from models import fused
from models.inference import fold_batch_norm, replace_pointwise
from models.networks.coordatt import CoordAtt
from models.networks.layers import InvertedResidual
from models.networks.squeeze_excitation import SqueezeExcitation


class Row(nn.Module):
    """Blocks in a row, giving what each of them gives."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            InvertedResidual(8, 8, 1, 1, []),  # fewer channels than lanes; nothing to expand; a shortcut
            InvertedResidual(8, 24, 2, 6, [CoordAtt(48)]),
            InvertedResidual(24, 24, 1, 6, [CoordAtt(144)], kernel=5, activation=nn.SiLU),
            InvertedResidual(
                24, 40, 2, 3, [CoordAtt(72)], kernel=5, activation=nn.ReLU
            ),  # hidden: no multiple of lanes
            CoordAtt(40),  # nor here: stays as it is
            InvertedResidual(40, 160, 1, 6, []),
            CoordAtt(160),
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        found = []
        for block in self.blocks:
            x = block(x)
            found.append(x)
        return found


@pytest.fixture(scope="module", params=[(torch.float32, 1e-5), (torch.bfloat16, 3e-2)], ids=["float32", "bfloat16"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple:
    dtype, tolerance = request.param
    torch.manual_seed(0)
    row = Row().eval()
    for module in row.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias, 0, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    fold_batch_norm(row)
    replace_pointwise(row)
    row.requires_grad_(False).to(dtype=dtype, memory_format=torch.channels_last)
    compiled = copy.deepcopy(row)
    fused.fuse(compiled)
    path = tmp_path_factory.mktemp("fused") / "row.pt2"
    x = torch.zeros(2, 8, 13, 10, dtype=dtype).to(memory_format=torch.channels_last)
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(path.parent))  # not a folder under /tmp that other users share
        program = torch.export.export(compiled, (x,), dynamic_shapes=({0: torch.export.Dim("n", min=1)},))
        torch._inductor.aoti_compile_and_package(
            program, package_path=str(path), inductor_configs=fused.inductor_configs(dtype)
        )
    return AOTIModelPackageLoader(str(path), "model", False, 1, -1), row.float(), dtype, tolerance


@pytest.mark.parametrize("images", [1, 2, 3, 5])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_operators_agree_with_the_layers(case: tuple, images: int, threads: int) -> None:
    """Whether threads share an image or each have their own."""
    loader, row, dtype, tolerance = case
    before = torch.get_num_threads()
    x = torch.randn(images, 8, 13, 10).to(dtype).to(memory_format=torch.channels_last)
    try:
        torch.set_num_threads(threads)
        with torch.inference_mode():
            found = loader.boxed_run([x])
    finally:
        torch.set_num_threads(before)
    for block, (mine, expected) in enumerate(zip(found, row(x.float()), strict=True)):
        worst = float((mine.float() - expected).abs().max() / expected.abs().max())
        assert worst < tolerance, f"block {block}"


def test_what_an_operator_does_not_know_stays_as_it_is() -> None:
    for block in (
        InvertedResidual(16, 16, 1, 6, [SqueezeExcitation(96, 24)]),
        InvertedResidual(16, 16, 1, 6, [], kernel=7),
        InvertedResidual(16, 16, 1, 6, [], activation=nn.Hardswish),
        CoordAtt(40),
    ):
        row = nn.Sequential(block).eval()
        fold_batch_norm(row)
        replace_pointwise(row)
        fused.fuse(row)
        assert row[0] is block


def test_panels_hold_the_outputs_side_by_side() -> None:
    weight = torch.arange(32 * 6).view(32, 6)

    single, pairs = fused.panels(weight.float()), fused.panels(weight.bfloat16())

    assert single[1, 4, 3] == weight[19, 4]
    assert pairs[1, 2, 3].tolist() == weight[19, 4:6].tolist()
