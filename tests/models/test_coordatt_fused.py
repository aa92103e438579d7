"""The operator agrees with the block, whatever computes it; export sees it; and it is used where it is faster."""

import importlib.util
import subprocess
import sys
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.config import Family
from models.inference import fold_batch_norm, replace_pointwise
from models.networks import FAMILIES
from models.networks.coordatt import CoordAtt
from models.networks.coordatt_fused import (
    FusedCoordAtt,
    Projected,
    fuse_where_faster,
    projected_reference,
    reference,
    ways,
)
from models.networks.layers import InvertedResidual, Residual
from models.networks.mobilenext import Sandglass

# channels, reduction, height, width: narrow and wide, even and odd, with fewer and more places than a tile
SHAPES = [(16, 32, 4, 4), (24, 32, 7, 5), (40, 4, 17, 33), (96, 32, 14, 14), (144, 8, 1, 20)]
# Channels that come out, and whether there is a shortcut; fewer and more than a tile, and not a multiple of one.
PROJECTIONS = dict(zip(SHAPES, [(8, True), (24, False), (200, True), (130, False), (16, True)], strict=True))
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
        f"{function} {shape} {dtype}": (function, in_dtype(dtype, make(shape)))
        for function, make in (("coordatt", arguments), ("coordatt_projected", projected_arguments))
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


def projected_arguments(shape: tuple[int, int, int, int]) -> list[Tensor | None]:
    found = arguments(shape)
    outs, has_shortcut = PROJECTIONS[shape]
    conv = nn.Conv2d(shape[0], outs, 1).requires_grad_(False)
    shortcut = torch.randn(3, outs, *shape[2:]).to(memory_format=torch.channels_last) if has_shortcut else None
    return [*found, conv.weight.flatten(1), conv.bias, shortcut]


def in_dtype(dtype: torch.dtype, values: Sequence[Tensor | None]) -> list[Tensor | None]:
    return [None if value is None else value.to(dtype) for value in values]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_the_kernels_agree_with_the_reference(
    interpreted: dict[str, Tensor], shape: tuple[int, int, int, int], dtype: torch.dtype
):
    found = interpreted[f"coordatt {shape} {dtype}"]

    assert found.dtype == dtype
    assert found.is_contiguous(memory_format=torch.channels_last)
    tolerance = TOLERANCES[dtype]
    torch.testing.assert_close(found.float(), reference(*arguments(shape)), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_the_projecting_kernels_agree_with_the_reference(
    interpreted: dict[str, Tensor], shape: tuple[int, int, int, int], dtype: torch.dtype
):
    found = interpreted[f"coordatt_projected {shape} {dtype}"]

    assert found.dtype == dtype
    assert found.is_contiguous(memory_format=torch.channels_last)
    tolerance = TOLERANCES[dtype]
    expected = projected_reference(*projected_arguments(shape))
    torch.testing.assert_close(found.float(), expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_projecting_rounds_what_is_gated_as_the_block_alone_does(
    interpreted: dict[str, Tensor], shape: tuple[int, int, int, int], dtype: torch.dtype
):
    """What differs from its product in float32 is the order of a sum, and that its end is rounded to the dtype."""
    *_, weight, bias, shortcut = in_dtype(dtype, projected_arguments(shape))
    assert weight is not None
    assert bias is not None
    gated = interpreted[f"coordatt {shape} {dtype}"].permute(0, 2, 3, 1)
    expected = F.linear(gated.float(), weight.float(), bias.float()).permute(0, 3, 1, 2)
    if shortcut is not None:
        expected += shortcut.float()

    found = interpreted[f"coordatt_projected {shape} {dtype}"]

    torch.testing.assert_close(found.float(), expected, atol=1e-5, rtol=max(1e-5, torch.finfo(dtype).eps / 2))


TENSORS = {
    "pool": "x y",
    "gates": "y w1 b1 w2 b2 g",
    "gate": "x g out",
    "project": "x g weight bias shortcut out",
}
BLOCKS = {
    "pool": {"BLOCK_C": 32, "BLOCK_W": 64},
    "gates": {"BLOCK_L": 16, "BLOCK_C": 64, "BLOCK_M": 16},
    "gate": {"BLOCK": 1024},
    "project": {"ADD": True, "BLOCK_P": 64, "BLOCK_C": 32, "BLOCK_D": 128},
}
# Compute capabilities, and the shared memory that a block of threads may have there; of 8.x that of 8.6 and 8.9.
SHARED_BYTES = {75: 64 << 10, 80: 99 << 10, 90: 227 << 10}


@pytest.mark.parametrize("capability", SHARED_BYTES)
@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp32"])
@pytest.mark.parametrize("name", TENSORS)
def test_the_kernels_compile_for_gpus_that_are_not_here(name: str, dtype: str, capability: int):
    """Down to machine code, by the assembler that Triton brings."""
    triton = pytest.importorskip("triton", reason="there is no triton (pip install triton)")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from models.networks import coordatt_triton

    kernel = getattr(coordatt_triton, name)
    blocks = BLOCKS[name]
    signature = {
        argument: f"*{dtype}" if argument in TENSORS[name].split() else "constexpr" if argument in blocks else "i32"
        for argument in kernel.arg_names
    }

    aligned = [index for index, argument in enumerate(kernel.arg_names) if argument in [*TENSORS[name].split(), "C"]]
    attributes = {(index,): [["tt.divisibility", 16]] for index in aligned}  # what lets loads be pipelined
    source = ASTSource(kernel, signature, constexprs=blocks, attrs=attributes)

    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32))

    assert compiled.asm["cubin"]
    assert compiled.metadata.shared <= SHARED_BYTES[capability]


@pytest.mark.parametrize(("operator", "last"), [("coordatt_cuda", "gate"), ("coordatt_projected_cuda", "project")])
def test_pytorch_knows_the_kernels_of_the_operators(operator: str, last: str):
    """Else its caches would not notice when one changes."""
    pytest.importorskip("triton", reason="there is no triton (pip install triton)")
    from torch._library.triton import get_triton_kernels_for_op

    found = {kernel.__name__ for kernel in get_triton_kernels_for_op(f"coordserve::{operator}")}

    assert found == {"pool", "gates", last}


def inverted(out: int, stride: int = 1) -> InvertedResidual:
    return InvertedResidual(8, out, stride, 2, [CoordAtt(16)])


def sandglass() -> Sandglass:
    """Where what stands behind the attention is not the end of the block."""
    return Sandglass(8, 8, 1, 2, wide_first=True, attention=[CoordAtt(8)])


def served(network: nn.Module) -> nn.Module:
    """As for_inference leaves it."""
    network.eval().requires_grad_(False)
    fold_batch_norm(network)
    replace_pointwise(network)
    return network.to(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    "block", [inverted(8), inverted(12), inverted(8, 2), sandglass()], ids=["shortcut", "wider", "stride", "sandglass"]
)
def test_export_sees_the_operators_at_any_batch_size(block: Residual):
    served(block)
    x = torch.randn(3, 8, 6, 5).to(memory_format=torch.channels_last)
    batch = torch.export.Dim("batch", min=1, max=64)

    for way, operator in (("fused", "coordatt_cuda"), ("projected", "coordatt_projected_cuda")):
        program = torch.export.export(ways(block)[way], (x,), dynamic_shapes=({0: batch},))

        assert f"coordserve.{operator}." in str(program.graph)
        torch.testing.assert_close(program.module()(x[:2]), block(x[:2]))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_operators_say_what_shape_and_memory_their_results_have(shape: tuple[int, int, int, int]):
    checks = "test_schema", "test_faketensor"
    torch.library.opcheck(torch.ops.coordserve.coordatt_cuda, arguments(shape), test_utils=checks)
    torch.library.opcheck(torch.ops.coordserve.coordatt_projected_cuda, projected_arguments(shape), test_utils=checks)


def test_a_block_is_what_was_measured_to_be_fastest():
    torch.manual_seed(0)
    network = served(nn.Sequential(inverted(8), inverted(8), inverted(8, 2), sandglass(), inverted(24)))
    x = torch.randn(2, 8, 6, 6).to(memory_format=torch.channels_last)
    expected = network(x)
    timed = iter([1.0, 2.0, 3.0, 2.0, 1.0, 3.0, 3.0, 2.0, 1.0, 2.0, 3.0, 1.0])  # three ways of each shape in turn

    found = fuse_where_faster(network, x, lambda call: next(timed))

    assert found["0"] == found["1"] == {"inductor": 1.0, "fused": 2.0, "projected": 3.0}
    assert found["2"] == {"inductor": 2.0, "fused": 1.0, "projected": 3.0}
    assert found["3"] == {"inductor": 3.0, "fused": 2.0, "projected": 1.0}
    assert [type(block) for block in network] == [*[InvertedResidual] * 3, Projected, Projected]
    fused = [any(isinstance(layer, FusedCoordAtt) for layer in block.modules()) for block in network]
    assert fused == [False, False, True, True, True]
    torch.testing.assert_close(network(x), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_block_of_a_network_can_be_projected(family: Family):
    torch.manual_seed(0)
    network = served(FAMILIES[family](10, 0.25, "ca").features)
    blocks = sum(isinstance(layer, CoordAtt) for layer in network.modules())
    x = torch.randn(2, 3, 64, 64).to(memory_format=torch.channels_last)
    expected = network(x)
    times = {"inductor": 2.0, "fused": 2.0, "projected": 1.0}
    timed = cycle(times.values())

    found = fuse_where_faster(network, x, lambda call: next(timed))

    assert list(found.values()) == [times] * blocks
    assert sum(isinstance(layer, Projected) for layer in network.modules()) == blocks
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


@pytest.mark.cuda
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_projecting_kernels_agree_with_the_reference_on_a_gpu(shape: tuple[int, int, int, int], dtype: torch.dtype):
    case = projected_arguments(shape)
    expected = projected_reference(*case)

    case = [None if value is None else value.to("cuda", dtype) for value in case]
    operator = torch.ops.coordserve.coordatt_projected_cuda
    for run in (operator, torch.compile(lambda *case: operator(*case), fullgraph=True)):
        torch.testing.assert_close(run(*case).float().cpu(), expected, atol=4e-2, rtol=4e-2)
