"""Decoding against Pillow and torchvision's rule, and every odd picture that people send."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from loadtests.chaos.crafted import png
from models.config import Preprocessing
from models.images import ImageTooLarge, MalformedImage, Picture, UnsupportedImage
from tests.conftest import encode, noise

PLAIN = Preprocessing(input_size=32, resize_size=32, mean=(0, 0, 0), std=(1, 1, 1))
IMAGENET = Preprocessing(input_size=224, resize_size=256, mean=(0, 0, 0), std=(1, 1, 1))


def smooth(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A picture without the detail that any resize would lose: uint8 [height, width, 3]."""
    return np.asarray(Image.fromarray(noise(seed, 6, 6)).resize((width, height), Image.Resampling.BICUBIC))


def resized_then_cropped(pixels: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """torchvision's Resize and CenterCrop, spelled out with Pillow."""
    image = Image.fromarray(pixels)
    width, height = image.size
    short, size = preprocessing.resize_size, preprocessing.input_size
    to = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
    left, top = round((to[0] - size) / 2), round((to[1] - size) / 2)
    resized = image.resize(to, Image.Resampling.BILINEAR)
    return np.asarray(resized.crop((left, top, left + size, top + size)))


def difference(found: np.ndarray, expected: np.ndarray) -> int:
    return int(np.abs(found.astype(int) - expected.astype(int)).max())


@pytest.mark.parametrize(("height", "width"), [(256, 256), (375, 500), (501, 333), (40, 700), (1, 1), (300, 2)])
def test_pixels_are_those_of_resize_then_crop(height: int, width: int):
    pixels = noise(1, height, width)

    found = Picture(encode(pixels)).pixels(IMAGENET)

    assert difference(found, resized_then_cropped(pixels, IMAGENET)) <= 1


def test_jpeg_pixels_are_those_of_pillow():
    data = encode(smooth(375, 500), "JPEG", quality=80)

    found = Picture(data).pixels(IMAGENET)

    decoded = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert difference(found, resized_then_cropped(decoded, IMAGENET)) <= 1


def test_large_jpeg_decoded_at_a_fraction_looks_the_same():
    data = encode(smooth(1500, 2000), "JPEG", quality=95)

    found = Picture(data).pixels(IMAGENET)

    assert difference(found, resized_then_cropped(smooth(1500, 2000), IMAGENET)) <= 6


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(orientation: int, image_format: str):
    upright = smooth(96, 64)
    undo = Image.Image.transpose
    stored = Image.fromarray(upright)
    inverse = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # PIL.Image.Transpose that makes the stored picture
    if orientation in inverse:
        stored = undo(stored, Image.Transpose(inverse[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    stored.save(file, image_format, exif=exif, quality=95)

    found = Picture(file.getvalue()).pixels(PLAIN)

    assert difference(found, resized_then_cropped(upright, PLAIN)) <= 12


def grey(value: int) -> np.ndarray:
    return np.full((32, 32), value, np.uint8)


def as_file(image: Image.Image, image_format: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "colour"),
    [
        (encode(grey(100)), (100, 100, 100)),
        (encode(grey(100), "JPEG"), (100, 100, 100)),
        (encode(grey(1) > 0), (255, 255, 255)),
        (encode(np.full((32, 32), 100 * 257, np.uint16)), (100, 100, 100)),
        (as_file(Image.new("P", (32, 32), 1).convert("P")), None),
        (as_file(Image.new("LA", (32, 32), (0, 0))), (255, 255, 255)),
        (as_file(Image.new("RGBA", (32, 32), (200, 0, 0, 0))), (255, 255, 255)),
        (as_file(Image.new("RGBA", (32, 32), (200, 0, 0, 255))), (200, 0, 0)),
        (as_file(Image.new("CMYK", (32, 32), (0, 255, 255, 0)), "JPEG", quality=95), (255, 0, 0)),
        (as_file(Image.new("RGB", (32, 32), (10, 20, 30)), "WEBP", lossless=True), (10, 20, 30)),
        (as_file(Image.new("RGB", (1, 1), (10, 20, 30))), (10, 20, 30)),
    ],
    ids=["L", "L jpeg", "1 bit", "16 bit", "palette", "LA", "transparent", "opaque", "CMYK jpeg", "webp", "1x1"],
)
def test_every_mode_has_its_right_colour(data: bytes, colour: tuple[int, int, int] | None):
    found = Picture(data).pixels(PLAIN)

    assert found.shape == (32, 32, 3)
    if colour:
        assert difference(found, np.broadcast_to(np.array(colour, np.uint8), found.shape)) <= 3


def test_palette_with_a_transparent_colour_lies_on_white():
    image = Image.new("P", (32, 32), 0)
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.paste(1, (0, 0, 16, 32))

    found = Picture(as_file(image, transparency=0)).pixels(PLAIN)

    assert tuple(found[16, 4]) == (255, 0, 0)
    assert tuple(found[16, 28]) == (255, 255, 255)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_truncated_pictures_are_malformed(image_format: str):
    data = encode(noise(2, 200, 200), image_format)

    with pytest.raises(MalformedImage, match="broken"):
        Picture(data[: len(data) // 2]).pixels(PLAIN)


def test_a_broken_picture_says_why_and_no_address_of_memory():
    without_palette = png(9, 9, bytes(90), colour=3)

    for data in (png_header(0, 9), png_header(9, 9), without_palette):
        with pytest.raises(MalformedImage, match=r"broken PNG image: \w+") as refusal:
            Picture(data).pixels(PLAIN)
        assert " at 0x" not in str(refusal.value)


@pytest.mark.parametrize("data", [b"hello", b"GIF89a" + bytes(50), b"RIFF0000AVI ", b"<svg/>"])
def test_other_bytes_are_no_picture(data: bytes):
    with pytest.raises(UnsupportedImage, match="not a JPEG, PNG or WebP"):
        Picture(data)


def test_no_bytes_are_an_empty_picture():
    with pytest.raises(MalformedImage, match="empty"):
        Picture(b"")


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises pixels and has none."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + bytes(12)


def webp_header(width: int, height: int) -> bytes:
    """A WebP in the extended format that promises pixels and has none."""
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0" + bytes(4) + size


@pytest.mark.parametrize(
    ("image_format", "options"),
    [("JPEG", {}), ("PNG", {}), ("WEBP", {}), ("WEBP", {"lossless": True}), ("WEBP", {"exif": b"Exif\0\0MM"})],
)
def test_size_comes_from_the_header(image_format: str, options: dict[str, object]):
    data = encode(noise(4, 57, 301), image_format, **options)

    assert Picture(data[:1000]).size == (301, 57)


def test_pixels_are_bounded_before_decoding():
    for data in (png_header(20_000, 20_000), webp_header(16_383, 16_383)):
        with pytest.raises(ImageTooLarge, match="pixels are more than the 50,000,000"):
            Picture(data)
    with pytest.raises(ImageTooLarge, match="100x50 pixels are more than the 4,999"):
        Picture(encode(noise(3, 50, 100), "JPEG"), max_pixels=4_999)
    assert Picture(encode(noise(3, 50, 100), "JPEG"), max_pixels=5_000).size == (100, 50)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
@pytest.mark.parametrize(("height", "width"), [(97, 131), (375, 500), (513, 1024), (1025, 1100), (1501, 2003)])
def test_jpegs_are_decoded_to_the_pixels_of_pillow(height: int, width: int, subsampling: str):
    """Whole, or at the fraction that Pillow's draft mode takes for twice the size asked for."""
    data = encode(noise(5, height, width), "JPEG", quality=80, subsampling=subsampling)

    found = np.asarray(Picture(data).decode(256))

    image = Image.open(io.BytesIO(data))
    image.draft(None, (512, 512))
    expected = np.asarray(image.convert("RGB"))
    assert found.shape == expected.shape
    assert (np.abs(found.astype(int) - expected) <= 1).mean() >= 0.999


def test_an_oriented_jpeg_is_resized_like_its_upright_copy():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(smooth(301, 457), "JPEG", quality=90, exif=exif)

    found = Picture(data).pixels(IMAGENET)

    upright = np.asarray(Picture(data).decode(256))
    assert upright.shape == (457, 301, 3)
    assert difference(found, resized_then_cropped(upright, IMAGENET)) <= 1
