"""Coordinate Attention in three Triton kernels; importing it needs Triton, which PyTorch's CUDA builds bring.

x is read twice: for both poolings, and for gating. Everything between is small: [N, H + W, C]. What is gated is written
once; or, where a 1x1 convolution follows, goes into its product and is never written.
Memory is NHWC throughout; what is summed is summed in float32.
"""

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

POOL_CHANNELS = 32  # 64 bytes of bfloat16, side by side: two of a GPU's 32-byte sectors
PRODUCT = 16  # the smallest side of a product of tiles
GATED = 1024
# The tiles of the projection, [pixels, channels] by [channels, out]: pipelined, they fit any GPU's shared memory.
PIXELS, PROJECTED_CHANNELS, OUT = 64, 32, 128


@triton.jit
def pool(x, y, C, H, W, BLOCK_C: tl.constexpr, BLOCK_W: tl.constexpr):
    """Means of x [N, H, W, C] along W into y[:, :H], along H into y[:, H:], y [N, H + W, C] (equations 4 and 5).

    A program goes down the rows of some channels of an image: each row is summed at once, the columns on the way.
    """
    image = tl.program_id(0).to(tl.int64)
    channels = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    columns = tl.arange(0, BLOCK_W)
    cells = columns[:, None] * C + channels[None, :]
    inside = (columns[:, None] < W) & (channels[None, :] < C)
    x += image * H * W * C
    y += image * (H + W) * C
    below = tl.zeros([BLOCK_W, BLOCK_C], tl.float32)
    for row in range(H):
        tile = tl.load(x + row * W * C + cells, mask=inside, other=0.0).to(tl.float32)
        below += tile
        tl.store(y + row * C + channels, (tl.sum(tile, 0) / W).to(y.dtype.element_ty), mask=channels < C)
    tl.store(y + H * C + cells, (below / H).to(y.dtype.element_ty), mask=inside)


@triton.jit
def gates(y, w1, b1, w2, b2, g, C, M, H, W, BLOCK_L: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_M: tl.constexpr):
    """Gates g [N, H + W, C] of the means y, likewise (equations 6 to 8).

    w1 [M, C], b1 [M]: the shared product; w2 [2, C, M], b2 [2, C]: those of rows and of columns.
    A program takes some places of one image, all rows or all columns, through both products.
    """
    image = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    row_blocks = tl.cdiv(H, BLOCK_L)
    side = (block >= row_blocks).to(tl.int32)
    places = side * H + (block - side * row_blocks) * BLOCK_L + tl.arange(0, BLOCK_L)
    there = places < H + side * W
    squeezed = tl.arange(0, BLOCK_M)
    y += image * (H + W) * C
    g += image * (H + W) * C
    w2 += side * C * M
    b2 += side * C
    middle = tl.zeros([BLOCK_L, BLOCK_M], tl.float32)
    for first in range(0, C, BLOCK_C):
        channels = first + tl.arange(0, BLOCK_C)
        tile = tl.load(
            y + places[:, None] * C + channels[None, :], mask=there[:, None] & (channels[None, :] < C), other=0.0
        )
        weight = tl.load(
            w1 + squeezed[None, :] * C + channels[:, None],
            mask=(squeezed[None, :] < M) & (channels[:, None] < C),
            other=0.0,
        )
        middle = tl.dot(tile, weight, middle, input_precision="ieee")
    middle += tl.load(b1 + squeezed, mask=squeezed < M, other=0.0).to(tl.float32)[None, :]
    middle *= tl.minimum(tl.maximum(middle + 3.0, 0.0), 6.0) / 6.0  # h-swish
    activated = middle.to(y.dtype.element_ty)
    for first in range(0, C, BLOCK_C):
        channels = first + tl.arange(0, BLOCK_C)
        weight = tl.load(
            w2 + channels[None, :] * M + squeezed[:, None],
            mask=(channels[None, :] < C) & (squeezed[:, None] < M),
            other=0.0,
        )
        gate = tl.dot(activated, weight, input_precision="ieee")
        gate = tl.sigmoid(gate + tl.load(b2 + channels, mask=channels < C, other=0.0).to(tl.float32)[None, :])
        tl.store(
            g + places[:, None] * C + channels[None, :],
            gate.to(g.dtype.element_ty),
            mask=there[:, None] & (channels[None, :] < C),
        )


@triton.jit
def gate(x, g, out, C, H, W, BLOCK: tl.constexpr):
    """out = x * rows' gates * columns' gates, x and out [N, H, W, C] (equation 9); a program takes part of one row.

    Along a row of x lie its columns' gates in the same order, and those of the row again and again.
    """
    line = tl.program_id(0).to(tl.int64)
    cells = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = cells < W * C
    image, row = line // H, line % H
    g += image * (H + W) * C
    pixels = tl.load(x + line * W * C + cells, mask=inside).to(tl.float32)
    across = tl.load(g + H * C + cells, mask=inside).to(tl.float32)
    down = tl.load(g + row * C + cells % C, mask=inside).to(tl.float32)
    tl.store(out + line * W * C + cells, (pixels * across * down).to(out.dtype.element_ty), mask=inside)


@triton.jit
def project(
    x,
    g,
    weight,
    bias,
    shortcut,
    out,
    P,
    C,
    D,
    H,
    W,
    ADD: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """out = gated x @ weight.T + bias, and + shortcut if ADD: equation 9 and the 1x1 convolution behind it.

    P: pixels of all images. x [P, C]; weight [D, C], bias [D]; shortcut and out [P, D]. What is gated is rounded to
    x's dtype, as `gate` rounds it. A program makes some channels of some pixels; those of the same pixels are
    neighbours, so that x is read from memory once.
    """
    parts = tl.cdiv(D, BLOCK_D)
    program = tl.program_id(0)
    pixels = (program // parts).to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)
    outs = program % parts * BLOCK_D + tl.arange(0, BLOCK_D)
    lines = pixels // W
    images = lines // H
    down = images * W + lines  # where in g [N * (H + W), C] the gates of a pixel's row are
    across = images * (H + W) + H + pixels % W
    sums = tl.zeros([BLOCK_P, BLOCK_D], tl.float32)
    for first in range(0, C, BLOCK_C):
        channels = first + tl.arange(0, BLOCK_C)
        inside = (pixels[:, None] < P) & (channels[None, :] < C)
        tile = tl.load(x + pixels[:, None] * C + channels[None, :], mask=inside, other=0.0).to(tl.float32)
        tile *= tl.load(g + across[:, None] * C + channels[None, :], mask=inside, other=0.0).to(tl.float32)
        tile *= tl.load(g + down[:, None] * C + channels[None, :], mask=inside, other=0.0).to(tl.float32)
        weights = tl.load(
            weight + outs[None, :] * C + channels[:, None],
            mask=(outs[None, :] < D) & (channels[:, None] < C),
            other=0.0,
        )
        sums = tl.dot(tile.to(x.dtype.element_ty), weights, sums, input_precision="ieee")
    sums += tl.load(bias + outs, mask=outs < D, other=0.0).to(tl.float32)[None, :]
    cells = pixels[:, None] * D + outs[None, :]
    inside = (pixels[:, None] < P) & (outs[None, :] < D)
    if ADD:
        sums += tl.load(shortcut + cells, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + cells, sums.to(out.dtype.element_ty), mask=inside)


WrapTriton = Callable[[Any], Any]
"""torch.library's wrap_triton, or nothing. PyTorch finds the kernels by that name, for the keys of its caches."""


def as_it_is(kernel: Any) -> Any:
    return kernel


def coordatt(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, wrap_triton: WrapTriton = as_it_is) -> Tensor:
    """As coordatt_fused.reference."""
    images, channels, height, width = x.shape
    x = x.permute(0, 2, 3, 1).contiguous()
    g = pooled_gates(x, w1, b1, w2, b2, wrap_triton)
    out = torch.empty_like(x)
    wrap_triton(gate)[(images * height, triton.cdiv(width * channels, GATED))](
        x, g, out, channels, height, width, BLOCK=GATED
    )
    return out.permute(0, 3, 1, 2)


def coordatt_projected(
    x: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    weight: Tensor,
    bias: Tensor,
    shortcut: Tensor | None,
    wrap_triton: WrapTriton = as_it_is,
) -> Tensor:
    """As coordatt_fused.projected_reference."""
    images, channels, height, width = x.shape
    outs = weight.shape[0]
    x = x.permute(0, 2, 3, 1).contiguous()
    g = pooled_gates(x, w1, b1, w2, b2, wrap_triton)
    out = x.new_empty((images, height, width, outs))
    pixels, block = images * height * width, min(OUT, max(PRODUCT, triton.next_power_of_2(outs)))
    wrap_triton(project)[(triton.cdiv(pixels, PIXELS) * triton.cdiv(outs, block),)](
        *(x, g, weight, bias),
        x if shortcut is None else shortcut.permute(0, 2, 3, 1).contiguous(),  # x stands in, and is not read
        *(out, pixels, channels, outs, height, width),
        ADD=shortcut is not None,
        BLOCK_P=PIXELS,
        BLOCK_C=PROJECTED_CHANNELS,
        BLOCK_D=block,
    )
    return out.permute(0, 3, 1, 2)


def pooled_gates(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, wrap_triton: WrapTriton) -> Tensor:
    """The gates [N, H + W, C] of x [N, H, W, C], contiguous: those of its rows, then those of its columns."""
    images, height, width, channels = x.shape
    squeezed = w1.shape[0]
    y = x.new_empty((images, height + width, channels))
    g = torch.empty_like(y)
    wrap_triton(pool)[(images, triton.cdiv(channels, POOL_CHANNELS))](
        x, y, channels, height, width, BLOCK_C=POOL_CHANNELS, BLOCK_W=triton.next_power_of_2(width)
    )
    blocks = triton.cdiv(height, PRODUCT) + triton.cdiv(width, PRODUCT)
    wrap_triton(gates)[(images, blocks)](
        *(y, w1, b1, w2, b2, g, channels, squeezed, height, width),
        BLOCK_L=PRODUCT,
        BLOCK_C=64,
        BLOCK_M=max(PRODUCT, triton.next_power_of_2(squeezed)),
    )
    return g
