"""A picture with where the network looked laid over it, as a PNG."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# From nothing over purple and orange to light yellow: brighter where the network looked more, in any printing.
STOPS = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], np.float32)
OPACITY = 0.55
LEAST_EDGE = 224  # pixels; what a network of small pictures sees is shown larger
_COLOURS = np.stack(
    [np.interp(np.linspace(0, 1, 256), np.linspace(0, 1, len(STOPS)), STOPS[:, channel]) for channel in range(3)],
    axis=1,
).round().astype(np.uint8)  # fmt: skip


def overlay(pixels: NDArray[np.uint8], found: NDArray[np.uint8]) -> bytes:
    """A PNG of an image uint8 [S, S, 3] under its map uint8 [S, S], at least LEAST_EDGE pixels wide."""
    edge = max(LEAST_EDGE, len(pixels))
    picture = Image.fromarray(pixels).resize((edge, edge), Image.Resampling.BILINEAR)
    heat = Image.fromarray(_COLOURS[np.asarray(Image.fromarray(found).resize((edge, edge), Image.Resampling.BILINEAR))])
    png = io.BytesIO()
    Image.blend(picture, heat, OPACITY).save(png, "PNG")
    return png.getvalue()
