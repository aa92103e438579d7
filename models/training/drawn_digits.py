"""Endless training pictures of digits, as people send them.

scikit-learn's digits are 8x8 scans, light on dark, that fill their frame. What people send to a
service is larger, dark on light, off-centre, printed or drawn with a mouse. So training mixes three
kinds of shapes, each kept as a field of distances to its ink, from which strokes of any thickness
can be cut at any size: the scans, digits drawn here as paths, and the digits of Pillow's own font.
"""

import math
import re
from collections.abc import Callable
from enum import IntEnum

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Generator, Tensor
from torch.nn import functional as F

from models.training.data import Examples
from models.training.scanned_digits import PREPROCESSING, SIZE

# Pictures are drawn on a canvas twice as fine as what the network sees and shrunk as the service shrinks a photo.
CANVAS = 2 * SIZE
ON_CANVAS = PREPROCESSING.model_copy(update={"input_size": CANVAS, "resize_size": CANVAS})

# A field is a frame of CANVAS pixels, in which a digit is as high as the frame, and a margin around it.
MARGIN = CANVAS // 4
FIELD = CANVAS + 2 * MARGIN
FINE = 2  # outlines are measured on a raster this many times finer, so that edges are not jagged

# Centre lines in the syntax of SVG paths, 60 wide and 100 high, y down: printed, serifed and written forms.
PATHS: dict[int, tuple[str, ...]] = {
    0: (
        "M30 0C50 0 60 20 60 50C60 80 50 100 30 100C10 100 0 80 0 50C0 20 10 0 30 0",
        "M30 0C52 0 60 12 60 50C60 88 52 100 30 100C8 100 0 88 0 50C0 12 8 0 30 0",
        "M40 3C14 -4 0 22 2 56C4 86 15 100 32 100C52 100 60 80 60 48C60 20 50 2 26 5",
        "M30 0C50 0 60 20 60 50C60 80 50 100 30 100C10 100 0 80 0 50C0 20 10 0 30 0M12 82L48 18",
        "M30 0C50 0 60 20 60 50C60 80 50 100 30 100C10 100 0 80 0 50C0 20 10 0 30 0M30 46L30 54",
    ),
    1: (
        "M30 0L30 100",
        "M8 25L33 0L33 100",
        "M8 22L32 0L32 100M6 100L58 100",
        "M14 13C24 12 30 7 32 0L32 100M14 100L50 100",
        "M2 45L36 0L36 100",
    ),
    2: (
        "M3 28C3 10 14 0 30 0C47 0 58 11 58 28C58 45 45 58 2 100L60 100",
        "M3 25C6 8 16 0 30 0C48 0 57 12 57 27C57 55 20 70 3 100L58 100",
        "M5 22C8 5 20 0 32 0C50 0 56 14 53 30C48 55 30 80 14 92C4 100 -4 92 4 86C14 80 30 98 42 99C50 100 56 96 60 90",
        "M4 30C4 8 16 0 31 0C47 0 56 11 56 26C56 45 40 60 3 97L54 97L60 80",
    ),
    3: (
        "M4 18C8 6 17 0 29 0C45 0 54 10 54 24C54 38 44 47 27 47C46 47 58 57 58 73C58 90 46 100 29 100C14 100 5 92 1 78",
        "M4 0L55 0L26 38C46 38 59 50 59 68C59 88 46 100 28 100C14 100 5 93 0 82",
        "M3 10C20 -5 52 -3 52 20C52 38 30 46 18 48C40 46 60 58 58 76C56 98 20 106 0 88",
    ),
    4: (
        "M44 100L44 0L0 68L62 68",
        "M8 0L2 58L60 58M46 10L46 100",
        "M10 0C8 30 4 45 2 60L60 60M45 30L45 100",
        "M44 100L44 0L0 70L62 70M28 100L60 100",
        "M40 0L2 62L60 60M42 32L38 100",
    ),
    5: (
        "M54 0L10 0L5 45C12 38 20 35 30 35C48 35 59 48 59 66C59 87 46 100 28 100C14 100 5 93 0 82",
        "M52 2L12 2L10 44C40 36 58 48 57 70C56 95 25 108 2 90",
        "M12 2L8 42C35 34 56 46 55 70C54 96 22 106 0 90M12 3L58 0",
        "M55 4C40 0 22 0 14 6C8 18 8 30 10 44C30 40 55 48 55 72C55 98 20 106 2 92",
    ),
    6: (
        "M52 14C48 5 40 0 31 0C12 0 2 20 2 55C2 85 12 100 31 100C48 100 59 87 59 68C59 50 48 38 32 38C17 38 5 50 2 62",
        "M42 0C22 20 2 45 2 68C2 88 13 100 30 100C47 100 58 88 58 69C58 51 47 40 31 40C17 40 6 50 2 64",
        "M45 0C20 15 3 45 4 72C5 95 20 102 34 98C52 94 56 70 42 60C28 52 10 62 5 76",
    ),
    7: (
        "M2 0L58 0L20 100",
        "M2 0L58 0C38 28 24 60 20 100",
        "M2 0L58 0L20 100M14 50L54 50",
        "M4 18L6 2L58 2L22 100",
        "M2 14L4 2L58 0C45 30 30 60 24 100M14 52L50 48",
    ),
    8: (
        "M30 47C14 47 6 37 6 24C6 10 15 0 30 0C45 0 54 10 54 24C54 37 46 47 30 47"
        "C12 47 1 58 1 73C1 90 13 100 30 100C47 100 59 90 59 73C59 58 48 47 30 47",
        "M50 12C42 -4 10 -4 10 20C10 42 54 52 54 76C54 104 6 106 6 78C6 54 56 40 50 12",
        "M52 8C40 -4 8 0 10 22C12 42 52 54 52 78C52 104 4 104 8 76C12 54 50 44 54 6",
    ),
    9: (
        "M8 86C12 95 20 100 29 100C48 100 58 80 58 45C58 15 48 0 29 0"
        "C12 0 1 13 1 32C1 50 12 62 28 62C43 62 55 50 58 38",
        "M18 100C38 80 58 55 58 32C58 12 47 0 30 0C13 0 2 12 2 31C2 49 13 60 29 60C43 60 54 50 58 36",
        "M54 22C50 4 35 -2 22 2C4 8 0 34 14 44C30 54 52 40 54 20L50 100",
        "M56 30C56 -10 2 -10 2 30C2 70 56 70 56 30L56 6L56 100",
    ),
}
# Pens: how much wider across than along they write. 1 is a marker; the others leave the thin and thick of serif type.
PENS = (1.0, 1.6, 2.5)

CURVE_SEGMENTS = 8


Uniform = Callable[..., Tensor]
"""uniform(low, high, *shape): float32 [N, *shape], of its own for every picture of a batch; shape (1,) if none"""


class Kind(IntEnum):
    SCAN = 0  # as it was scanned, soft edges and all
    OUTLINE = 1  # a scan cut anew, with sharp edges, along its outline
    PATH = 2
    GLYPH = 3


SHARES = {Kind.SCAN: 0.35, Kind.OUTLINE: 0.15, Kind.PATH: 0.38, Kind.GLYPH: 0.12}
# Distance from a field's zero at which its ink ends, in heights of a digit: half the stroke for a
# path; how much thinner or thicker than it was for an outline and a glyph.
RADII = {Kind.SCAN: (0, 0), Kind.OUTLINE: (-0.02, 0.04), Kind.PATH: (0.016, 0.09), Kind.GLYPH: (-0.03, 0.04)}


class TrainingDigits:
    """An endless stream of varied digits, made of the scans given, of PATHS and of the glyphs of Pillow's font."""

    def __init__(self, scans: Examples) -> None:
        """scans: the training part, seen with the preprocessing ON_CANVAS"""
        ink = scans.pixels[..., 0].float() / 255
        shapes = {
            Kind.SCAN: (F.pad(0.5 - ink, (MARGIN,) * 4, value=0.5), scans.targets),
            Kind.OUTLINE: (outline_fields(ink), scans.targets),
            Kind.PATH: path_fields(),
            Kind.GLYPH: glyph_fields(),
        }
        self.fields = torch.cat([fields for fields, _ in shapes.values()])
        self.targets = torch.cat([targets for _, targets in shapes.values()])
        self.kinds = torch.cat([torch.full_like(targets, kind) for kind, (_, targets) in shapes.items()])
        # Every class of a kind is as likely, however many shapes it has.
        self.weights = torch.cat([SHARES[kind] / targets.bincount()[targets] for kind, (_, targets) in shapes.items()])

    def batch(self, size: int, generator: Generator, difficulty: float = 1.0) -> Examples:
        """`size` pictures drawn at random, no two alike; at difficulty 0 all large, centred, upright, light on dark."""
        chosen = self.weights.multinomial(size, replacement=True, generator=generator)
        return Examples(vary(self.fields[chosen], self.kinds[chosen], difficulty, generator), self.targets[chosen])


def outline_fields(ink: Tensor) -> Tensor:
    """Signed distances, negative inside, to the outline of ink [N, CANVAS, CANVAS] within 0..1: [N, FIELD, FIELD]."""
    ink = F.pad(ink, (MARGIN,) * 4).unsqueeze(1)
    fine = F.interpolate(ink, scale_factor=FINE, mode="bilinear")
    return F.avg_pool2d(signed_distance(fine.squeeze(1) > 0.5).unsqueeze(1) / FINE, FINE).squeeze(1)


def signed_distance(inside: Tensor) -> Tensor:
    """Distance of each pixel of inside [N, H, W] to the edge, in pixels, negative inside: float32 [N, H, W]."""
    from scipy.ndimage import distance_transform_edt  # type: ignore[import-untyped]  # scikit-learn needs scipy

    return torch.stack(
        [
            torch.from_numpy(distance_transform_edt(~shape) - distance_transform_edt(shape)).float()
            for shape in inside.numpy()
        ]
    )


def glyph_fields() -> tuple[Tensor, Tensor]:
    """Fields [10, FIELD, FIELD] and targets [10] of the digits of the font inside Pillow."""
    edge = FIELD * FINE
    font = ImageFont.load_default(CANVAS * FINE * 1.4)  # its digits are 0.71 em high
    glyphs = []
    for digit in range(10):
        image = Image.new("L", (edge, edge))
        draw = ImageDraw.Draw(image)
        left, top, right, bottom = draw.textbbox((0, 0), str(digit), font=font)
        draw.text(((edge - left - right) / 2, (edge - top - bottom) / 2), str(digit), fill=255, font=font)
        glyphs.append(np.asarray(image) > 127)
    distance = signed_distance(torch.from_numpy(np.stack(glyphs)))
    return F.avg_pool2d(distance.unsqueeze(1) / FINE, FINE).squeeze(1), torch.arange(10)


def path_fields() -> tuple[Tensor, Tensor]:
    """Distances to the centre lines of PATHS by each of PENS: [N, FIELD, FIELD], and targets [N]."""
    centres = torch.arange(FIELD) + 0.5 - MARGIN
    points = torch.stack(torch.meshgrid(centres, centres, indexing="xy"), dim=-1).view(-1, 1, 2)
    fields, targets = [], []
    for digit, paths in PATHS.items():
        for path in paths:
            start, end = (segments(path) * (CANVAS / 100) + torch.tensor([CANVAS * 0.2, 0.0])).unbind(1)
            for pen in PENS:
                # A broad pen stretches what is near: an upright stroke comes out sqrt(pen) times thicker.
                metric = torch.tensor([pen**-0.5, pen**0.5])
                along, to_point = (end - start) * metric, (points - start) * metric
                length = along.square().sum(-1).clamp_min(1e-9)
                nearest = ((to_point * along).sum(-1) / length).clamp(0, 1)
                distance = (to_point - nearest.unsqueeze(-1) * along).norm(dim=-1).amin(dim=1)
                fields.append(distance.view(FIELD, FIELD))
                targets.append(digit)
    return torch.stack(fields), torch.tensor(targets)


def segments(path: str) -> Tensor:
    """The straight pieces, [N, 2 ends, 2], of an SVG path of absolute M, L and C commands."""
    pieces: list[Tensor] = []
    at = torch.zeros(2)
    along = torch.linspace(0, 1, CURVE_SEGMENTS + 1).view(-1, 1)
    for command, numbers in re.findall(r"([MLC])([^MLC]*)", path):
        points = torch.tensor([float(number) for number in numbers.split()]).view(-1, 2)
        if command == "L":
            pieces.append(torch.stack([at, points[0]]).unsqueeze(0))
        elif command == "C":
            a, b, c = points
            curve = (1 - along) ** 3 * at + 3 * (1 - along) ** 2 * along * a
            curve = curve + 3 * (1 - along) * along**2 * b + along**3 * c
            pieces.append(torch.stack([curve[:-1], curve[1:]], dim=1))
        at = points[-1]
    return torch.cat(pieces)


def vary(fields: Tensor, kinds: Tensor, difficulty: float, generator: Generator) -> Tensor:
    """Pictures uint8 [N, SIZE, SIZE, 3] of fields [N, FIELD, FIELD] of the given kinds [N], each varied at random."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.empty(len(fields), *shape or (1,)).uniform_(low, high, generator=generator)

    # Most scans stay near what they are, and half of those exactly light on dark: people post scans too.
    gentle = (kinds == Kind.SCAN).unsqueeze(1) & (uniform(0, 1) < 0.7)
    plain = (gentle & (uniform(0, 1) < 0.5)) | (uniform(0, 1) >= difficulty)
    scale = torch.where(gentle, uniform(0.85, 1.05), 0.95 - 0.6 * difficulty * uniform(0, 1))
    positions = place(scale, torch.where(gentle, 0.5, 1.0) * difficulty, uniform)
    ink = cut(fields, kinds, positions, scale, uniform)
    ink = blur(ink, scale * uniform(0.05, 1.5) * ~plain)
    rgb = torch.where(plain.view(-1, 1, 1, 1), ink, degrade(colour(ink, uniform), uniform))
    rgb = F.interpolate(rgb.expand(-1, 3, -1, -1), size=SIZE, mode="bilinear", antialias=True)
    return rgb.mul(255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def place(scale: Tensor, extent: Tensor, uniform: Uniform) -> Tensor:
    """Where in its field each pixel of a picture looks: [N, CANVAS, CANVAS, 2], x and y, 1 being a digit's height.

    scale [N, 1] is the digit's height in the picture's; extent [N, 1] within 0..1 how far to move and deform it.
    """
    angle, slant, squeeze = uniform(-0.22, 0.22) * extent, uniform(-0.3, 0.3) * extent, uniform(-0.3, 0.3) * extent
    cos, sin, one, zero = angle.cos(), angle.sin(), torch.ones_like(angle), torch.zeros_like(angle)
    turned = torch.stack([cos, -sin, sin, cos], dim=2).view(-1, 2, 2)
    slanted = torch.stack([squeeze.exp(), slant, zero, one], dim=2).view(-1, 2, 2)
    inverse = torch.linalg.inv(scale.unsqueeze(2) * turned @ slanted)
    # A digit is about 0.6 as wide as high, so it has more room to the sides; it may touch the edge.
    room = torch.cat([1.1 - 0.7 * scale, 1.05 - scale], dim=1).clamp_min(0.1) / 2
    shift = room * extent * uniform(-1, 1, 2)
    axis = (torch.arange(CANVAS) + 0.5) / CANVAS - 0.5
    pixels = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1).view(1, -1, 2)
    looks = (pixels - shift.unsqueeze(1)) @ inverse.transpose(1, 2)
    waves = looks @ uniform(-1.2, 1.2, 2, 2) + uniform(0, 1, 1, 2)
    bend = 0.035 * extent.unsqueeze(1) * uniform(0, 1, 1, 1)
    return (looks + bend * (2 * math.pi * waves).sin()).view(-1, CANVAS, CANVAS, 2)


def cut(fields: Tensor, kinds: Tensor, positions: Tensor, scale: Tensor, uniform: Uniform) -> Tensor:
    """Ink 0..1 [N, 1, CANVAS, CANVAS] of fields [N, FIELD, FIELD] seen at positions [N, CANVAS, CANVAS, 2]."""
    seen = F.grid_sample(
        fields.unsqueeze(1), positions * (2 * CANVAS / FIELD), padding_mode="border", align_corners=False
    )
    low, high = torch.tensor([RADII[kind] for kind in Kind])[kinds].split(1, dim=1)
    radius = CANVAS * (low + (high - low) * uniform(0, 1)).view(-1, 1, 1, 1)
    # How much the distance changes from one pixel to the next makes every edge one pixel soft, however it was warped.
    down, right = torch.gradient(seen, dim=(2, 3))
    slope = torch.hypot(down, right).maximum(0.4 / scale.view(-1, 1, 1, 1))
    slope = torch.where((kinds == Kind.SCAN).view(-1, 1, 1, 1), 1.0, slope)
    return ((radius - seen) / slope + 0.5).clamp(0, 1)


def blur(ink: Tensor, sigma: Tensor) -> Tensor:
    """ink [N, 1, H, W] under a Gaussian of sigma [N, 1] pixels, at most 1."""
    reach = torch.arange(-2, 3)
    kernel = (-0.5 * (reach / sigma.clamp_min(0.05)).square()).exp()
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).view(-1, 1, 1, 5)
    ink = F.pad(ink.transpose(0, 1), (2, 2, 2, 2), mode="replicate")
    ink = F.conv2d(F.conv2d(ink, kernel, groups=len(kernel)), kernel.transpose(2, 3), groups=len(kernel))
    return ink.transpose(0, 1)


def colour(ink: Tensor, uniform: Uniform) -> Tensor:
    """RGB [N, 3, H, W] of ink 0..1 [N, 1, H, W]: any two colours that differ in brightness, dark on light or not."""
    contrast = uniform(0.35, 1.8).clamp_max(1)
    dark = uniform(0, 1) * (1 - contrast)
    tint = 0.4 * uniform(0, 1, 1, 1) * uniform(-1, 1, 2, 3)
    dark_on_light = uniform(0, 1) < 0.6
    ground = torch.where(dark_on_light, dark + contrast, dark) + tint[:, 0]
    pen = torch.where(dark_on_light, dark, dark + contrast) + tint[:, 1]
    ground, pen = ground.clamp(0, 1)[..., None, None], pen.clamp(0, 1)[..., None, None]
    return ground + (pen - ground) * ink


def degrade(rgb: Tensor, uniform: Uniform) -> Tensor:
    """rgb [N, 3, CANVAS, CANVAS] under uneven light, with the noise of a camera and the rounding of a JPEG."""
    axis = torch.linspace(-1, 1, CANVAS)
    light = uniform(-0.15, 0.15, 1, 1, 1) * axis + uniform(-0.15, 0.15, 1, 1, 1) * axis.view(-1, 1)
    rgb = rgb + light + 0.08 * uniform(0, 1, 1, 1, 1).square() * uniform(-1.7, 1.7, *rgb.shape[1:])
    # JPEG rounds the cosine transform of each 8x8 block.
    order = torch.arange(8)
    cosine = (math.pi / 8 * (order + 0.5) * order.view(-1, 1)).cos() * 0.5
    cosine[0] *= 0.5**0.5
    blocks = rgb.unfold(2, 8, 8).unfold(3, 8, 8)
    step = 0.25 * uniform(0, 1, 1, 1, 1, 1, 1).square() + 1e-3
    rounded = (cosine @ blocks @ cosine.T / step).round() * step
    return (cosine.T @ rounded @ cosine).transpose(3, 4).reshape(rgb.shape)
