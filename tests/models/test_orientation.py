"""One number out of an Exif block, whoever wrote it, and whatever else is in there."""

import struct

import numpy as np
import pytest
from PIL import Image

from models.orientation import read, upright


def block(*entries: tuple[int, int, int], order: str = "<", claimed: int | None = None, start: int = 8) -> bytes:
    """An Exif block of entries: tag, type, value."""
    packed = b"".join(struct.pack(f"{order}HHIHH", tag, kind, 1, value, 0) for tag, kind, value in entries)
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return mark + struct.pack(f"{order}IH", start, len(entries) if claimed is None else claimed) + packed


@pytest.mark.parametrize("name", [b"", b"Exif\0\0"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_the_orientation_is_found_in_either_byte_order(order: str, name: bytes):
    assert read(name + block((0x0100, 3, 640), (0x0112, 3, 6), (0x0131, 2, 9), order=order)) == 6


@pytest.mark.parametrize(
    "exif",
    [
        b"",
        b"Exif\0\0",
        b"JJ*\0" + bytes(40),
        block(),
        block((0x0100, 3, 6)),
        block((0x0112, 3, 0)),
        block((0x0112, 3, 9)),
        block((0x0112, 4, 6)),  # a LONG, which no camera writes
        block((0x0112, 3, 6), claimed=0),
        block((0x0100, 3, 6), claimed=65_535),
        block((0x0112, 3, 6), start=2**32 - 1),
        block((0x0112, 3, 6))[:-4],
    ],
)
def test_what_says_no_orientation_is_upright(exif: bytes):
    assert read(exif) == 1


def test_the_first_of_several_counts():
    assert read(block((0x0112, 3, 3), (0x0112, 3, 8))) == 3


def test_directories_that_point_at_themselves_are_read_once():
    circle = block(*[(0x8769, 4, 8)] * 65_535) + struct.pack("<I", 8)

    assert read(circle) == 1


@pytest.mark.parametrize("orientation", [0, 1, 9])
def test_upright_pictures_stay_as_they_are(orientation: int):
    image = Image.new("RGB", (3, 2))

    assert upright(image, orientation) is image


def test_a_picture_on_its_side_is_turned():
    stored = np.array([[10, 20, 30], [40, 50, 60]], np.uint8)

    turned = np.asarray(upright(Image.fromarray(stored), 6))

    assert turned.tolist() == [[40, 10], [50, 20], [60, 30]]
