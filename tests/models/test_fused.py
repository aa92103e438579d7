"""Coordinate Attention as an operator of compiled packages computes what the layer does."""

import copy

import pytest
import torch
from torch import nn
from torch._C._aoti import AOTIModelPackageLoader

from models import fused
from models.inference import fold_batch_norm
from models.networks.coordatt import CoordAtt


@pytest.fixture(scope="module", params=[(torch.float32, 1e-5), (torch.bfloat16, 1e-2)], ids=["float32", "bfloat16"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple:
    dtype, tolerance = request.param
    torch.manual_seed(0)
    block = CoordAtt(144)
    nn.init.normal_(block.bn1.bias)
    layer = nn.Sequential(block).eval()
    fold_batch_norm(layer)
    compiled = copy.deepcopy(layer)
    fused.fuse(compiled)
    path = tmp_path_factory.mktemp("fused") / "layer.pt2"
    x = torch.zeros(2, 144, 7, 5, dtype=dtype).to(memory_format=torch.channels_last)
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(path.parent))  # not a folder under /tmp that other users share
        program = torch.export.export(compiled, (x,), dynamic_shapes=({0: torch.export.Dim("n", min=1)},))
        torch._inductor.aoti_compile_and_package(
            program, package_path=str(path), inductor_configs=fused.inductor_configs()
        )
    return AOTIModelPackageLoader(str(path), "model", False, 1, -1), layer, dtype, tolerance


@pytest.mark.parametrize("images", [1, 2, 3])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_operator_agrees_with_the_layer(case: tuple, images: int, threads: int) -> None:
    """Whether threads share an image or each have their own."""
    loader, layer, dtype, tolerance = case
    before = torch.get_num_threads()
    x = torch.randn(images, 144, 7, 5).to(dtype).to(memory_format=torch.channels_last)
    try:
        torch.set_num_threads(threads)
        with torch.inference_mode():
            found = loader.boxed_run([x])[0]
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(found.float(), layer(x.float()).detach(), atol=tolerance, rtol=tolerance)
