"""The operator agrees with the block, whatever computes it; export sees it; and it is used where it is faster."""

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from models.inference import fold_batch_norm
from models.networks.coordatt import CoordAtt
from models.networks.coordatt_fused import FusedCoordAtt, fuse_where_faster, reference

# channels, reduction, height, width: narrow and wide, even and odd, with fewer and more places than a tile
SHAPES = [(16, 32, 4, 4), (24, 32, 7, 5), (40, 4, 17, 33), (96, 32, 14, 14), (144, 8, 1, 20)]
# Not bfloat16: the interpreter of Triton 3.9 multiplies its bits as if they were integers.
TOLERANCES = {torch.float32: 1e-5, torch.float16: 5e-3}


def block_and_input(channels: int, reduction: int, height: int, width: int) -> tuple[CoordAtt, Tensor]:
    torch.manual_seed(channels)
    block = CoordAtt(channels, reduction).eval().requires_grad_(False)
    for statistics in (block.bn1.running_mean, block.bn1.running_var):
        assert statistics is not None
        statistics.uniform_(0.5, 1.5)
    fold_batch_norm(block)
    x = torch.randn(3, channels, height, width).to(memory_format=torch.channels_last)
    return block, x


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_operator_agrees_with_the_block(shape: tuple[int, int, int, int]):
    block, x = block_and_input(*shape)

    torch.testing.assert_close(FusedCoordAtt(block)(x), block(x))


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """What the kernels make of every shape and dtype, by Triton's interpreter."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("there is no triton (pip install triton); PyTorch's CUDA builds bring it")
    folder = tmp_path_factory.mktemp("kernels")
    cases = {
        f"{shape} {dtype}": [tensor.to(dtype) for tensor in arguments(shape)]
        for shape in SHAPES
        for dtype in TOLERANCES
    }
    torch.save(cases, folder / "in")
    command = [sys.executable, "-m", "tests.models.interpret_kernels", str(folder / "in"), str(folder / "out")]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2])
    found: dict[str, Tensor] = torch.load(folder / "out")
    return found


def arguments(shape: tuple[int, int, int, int]) -> list[Tensor]:
    block, x = block_and_input(*shape)
    fused = FusedCoordAtt(block)
    return [x, *(parameter.detach() for parameter in (fused.w1, fused.b1, fused.w2, fused.b2))]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_the_kernels_agree_with_the_reference(
    interpreted: dict[str, Tensor], shape: tuple[int, int, int, int], dtype: torch.dtype
):
    found = interpreted[f"{shape} {dtype}"]

    assert found.dtype == dtype
    assert found.is_contiguous(memory_format=torch.channels_last)
    tolerance = TOLERANCES[dtype]
    torch.testing.assert_close(found.float(), reference(*arguments(shape)), atol=tolerance, rtol=tolerance)


TENSORS = {"pool": "x y", "gates": "y w1 b1 w2 b2 g", "gate": "x g out"}
BLOCKS = {"pool": {"BLOCK_C": 32, "BLOCK_W": 64}, "gates": {"BLOCK_L": 16, "BLOCK_C": 64, "BLOCK_M": 16}}


@pytest.mark.parametrize("capability", [75, 80, 90])
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize("name", TENSORS)
def test_the_kernels_compile_for_gpus_that_are_not_here(name: str, dtype: str, capability: int):
    """Down to machine code, by the assembler that Triton brings."""
    triton = pytest.importorskip("triton", reason="there is no triton (pip install triton)")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from models.networks import coordatt_triton

    kernel = getattr(coordatt_triton, name)
    blocks = BLOCKS.get(name, {"BLOCK": 1024})
    signature = {
        argument: f"*{dtype}" if argument in TENSORS[name].split() else "constexpr" if argument in blocks else "i32"
        for argument in kernel.arg_names
    }

    compiled = triton.compile(ASTSource(kernel, signature, constexprs=blocks), target=GPUTarget("cuda", capability, 32))

    assert compiled.asm["cubin"]


def test_pytorch_knows_the_kernels_of_the_operator():
    """Else its caches would not notice when one changes."""
    pytest.importorskip("triton", reason="there is no triton (pip install triton)")
    from torch._library.triton import get_triton_kernels_for_op

    found = {kernel.__name__ for kernel in get_triton_kernels_for_op("coordserve::coordatt_cuda")}

    assert found == {"pool", "gates", "gate"}


def test_export_sees_the_operator_at_any_batch_size():
    block, x = block_and_input(24, 32, 6, 6)
    batch = torch.export.Dim("batch", min=1, max=64)

    program = torch.export.export(FusedCoordAtt(block), (x,), dynamic_shapes=({0: batch},))

    assert "coordserve.coordatt" in str(program.graph)
    torch.testing.assert_close(program.module()(x[:2]), block(x[:2]))
    checks = "test_schema", "test_faketensor"
    torch.library.opcheck(torch.ops.coordserve.coordatt_cuda, arguments((24, 32, 6, 6)), test_utils=checks)


class Two(nn.Module):
    """Two blocks of different width."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = CoordAtt(8), CoordAtt(8, 4)
        self.third = CoordAtt(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.third(self.second(self.first(x))[:, :4])


def test_a_block_is_fused_where_that_was_measured_to_be_faster():
    network = Two().eval().requires_grad_(False)
    fold_batch_norm(network)
    x = torch.randn(2, 8, 4, 4)
    expected = network(x)
    timed = iter([2.0, 1.0, 1.0, 2.0])  # plain and fused, of each shape in turn
    calls: list[Callable[[], object]] = []

    def seconds(call: Callable[[], object]) -> float:
        calls.append(call)
        return next(timed)

    found = fuse_where_faster(network, x, seconds)

    assert found == {"first": (2.0, 1.0), "second": (2.0, 1.0), "third": (1.0, 2.0)}
    assert isinstance(network.first, FusedCoordAtt)
    assert isinstance(network.second, FusedCoordAtt)
    assert isinstance(network.third, CoordAtt)
    torch.testing.assert_close(network(x), expected)


@pytest.mark.cuda
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_kernels_agree_with_the_block_on_a_gpu(shape: tuple[int, int, int, int], dtype: torch.dtype):
    block, x = block_and_input(*shape)
    expected = block(x)

    fused = FusedCoordAtt(block).to("cuda", dtype)
    x = x.to("cuda", dtype)
    for run in (fused, torch.compile(fused, fullgraph=True)):
        torch.testing.assert_close(run(x).float().cpu(), expected, atol=4e-2, rtol=4e-2)
