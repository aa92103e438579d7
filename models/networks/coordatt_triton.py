"""Coordinate Attention in three Triton kernels; importing it needs Triton, which PyTorch's CUDA builds bring.

x is read twice and written once: for both poolings, and for gating. Everything between is small: [N, H + W, C].
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


def coordatt(
    x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, wrap_triton: Callable[[Any], Any] = lambda kernel: kernel
) -> Tensor:
    """As coordatt_fused.reference.

    wrap_triton: torch.library's, or nothing. PyTorch finds the kernels here by that name, for the keys of its caches.
    """
    images, channels, height, width = x.shape
    squeezed = w1.shape[0]
    x = x.permute(0, 2, 3, 1).contiguous()
    y = x.new_empty((images, height + width, channels))
    g, out = torch.empty_like(y), torch.empty_like(x)
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
    wrap_triton(gate)[(images * height, triton.cdiv(width * channels, GATED))](
        x, g, out, channels, height, width, BLOCK=GATED
    )
    return out.permute(0, 3, 1, 2)
