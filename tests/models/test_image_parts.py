"""The parts of picture files: which reach a decoder, and how many may come."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from loadtests.chaos import crafted
from models.image_parts import (
    MAX_FILLER,
    MAX_PARTS,
    MAX_SCANS,
    bound_jpeg,
    bound_webp,
    is_plain_jpeg,
    jpeg_segments,
    needed_of_jpeg,
    split_png,
)
from models.images import Picture

EXIF = crafted.exif(1, 0)
PNG, JPEG, WEBP = (crafted.encoded(crafted.drawn(), kind) for kind in ("PNG", "JPEG", "WEBP"))


def webp_with(*chunks: tuple[bytes, bytes]) -> bytes:
    more = b"".join(
        name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2) for name, content in chunks
    )
    return WEBP + more


def decoded(data: bytes) -> list:
    return np.asarray(Image.open(io.BytesIO(data))).tolist()


def test_segments_cover_a_jpeg_up_to_its_end():
    segments = list(jpeg_segments(JPEG))

    assert segments[0][1] == 2
    assert all(start < content <= end <= len(JPEG) for _, start, content, end in segments)
    assert [marker for marker, *_ in segments][-1] == 0xDA


def test_segments_end_where_the_picture_does():
    assert list(jpeg_segments(JPEG + JPEG)) == list(jpeg_segments(JPEG))


def test_a_segment_cut_off_in_its_length_is_an_error():
    with pytest.raises(struct.error):
        list(jpeg_segments(b"\xff\xd8\xff\xe0\0"))


def framed(components: bytes, marker: int = 0xC0, bits: int = 8, data: bytes = JPEG) -> bytes:
    """A JPEG with another frame header: the numbers of its components, its marker, its bits."""
    [(start, end)] = crafted.frame_headers(data)
    described = b"".join(bytes((number, 0x11, 0)) for number in components)
    return crafted.after_soi(
        data[:start] + data[end:], (marker, struct.pack(">BHHB", bits, 9, 9, len(components)) + described)
    )


def adobe(transform: int) -> tuple[int, bytes]:
    return 0xEE, b"Adobe\0\x64" + bytes(4) + bytes((transform,))


GREY = crafted.encoded(crafted.drawn().convert("L"), "JPEG")


@pytest.mark.parametrize(
    ("data", "plain"),
    [
        (JPEG, True),
        (GREY, True),
        (crafted.after_soi(JPEG, (0xE1, EXIF), adobe(1)), True),
        (crafted.after_soi(JPEG, adobe(0)), False),  # red, green and blue
        (framed(b"\1\2\3"), True),
        (framed(b"RGB"), False),
        (framed(b"\1\2\3\4"), False),
        (framed(b"\1\2"), False),
        (framed(b"\7", data=GREY), True),
        (framed(b"\1"), False),  # its scan has three
        (framed(b"\1\2\3", marker=0xC1), False),
        (framed(b"\1\2\3", marker=0xC2), False),  # progressive
        (framed(b"\1\2\3", marker=0xC9), False),  # arithmetic
        (framed(b"\1\2\3", bits=12), False),
        (crafted.after_soi(JPEG, (0xC0, b"\x08\0\x09\0\x09\1\1\x11\0")), False),  # two frames
        (JPEG[:-2], False),
        (JPEG + b"\0", False),
        (b"\xff\xd8\xff\xd9", False),
    ],
)
def test_a_plain_jpeg_is_one_that_everybody_reads_alike(data: bytes, plain: bool):
    assert is_plain_jpeg(data) is plain


def test_exif_is_found_in_each_format():
    assert bound_jpeg(crafted.after_soi(JPEG, (0xE1, b"http://ns.adobe.com/"), (0xE1, EXIF))) == EXIF
    assert split_png(crafted.after_header(PNG, crafted.chunk(b"eXIf", EXIF[6:])))[1] == EXIF[6:]
    assert bound_webp(webp_with((b"XMP ", b"odd"), (b"EXIF", EXIF))) == EXIF
    assert (bound_jpeg(JPEG), split_png(PNG)[1], bound_webp(WEBP)) == (b"", b"", b"")


def test_the_first_exif_block_counts():
    other = crafted.exif(2, 0)

    assert bound_jpeg(crafted.after_soi(JPEG, (0xE1, EXIF), (0xE1, other))) == EXIF
    assert bound_webp(webp_with((b"EXIF", EXIF), (b"EXIF", other))) == EXIF


def test_what_makes_no_pixels_is_left_out_of_a_jpeg():
    cluttered = crafted.after_soi(JPEG, (0xE1, EXIF), (0xE2, b"ICC_PROFILE\0" + bytes(900)), (0xFE, b"comment"))

    needed = needed_of_jpeg(cluttered)

    assert len(needed) <= len(JPEG)
    assert decoded(needed) == decoded(JPEG)


def test_adobes_segment_stays_that_says_how_colours_are_stored():
    cmyk = crafted.encoded(crafted.drawn("CMYK"), "JPEG")

    assert b"Adobe" in needed_of_jpeg(cmyk)
    assert decoded(needed_of_jpeg(cmyk)) == decoded(cmyk)


def test_what_makes_no_pixels_is_left_out_of_a_png():
    bomb = crafted.chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(2**20)))

    kept, _ = split_png(crafted.after_header(PNG, bomb, crafted.chunk(b"iCCP", b"junk")) + b"PK behind the end")

    assert kept == PNG


def test_an_animation_is_its_first_picture():
    kept, _ = split_png(crafted.animated("PNG", 4))

    assert Image.open(io.BytesIO(kept)).n_frames == 1
    assert decoded(kept) == decoded(crafted.encoded(crafted.drawn().rotate(0), "PNG"))


def test_png_palettes_and_transparency_stay():
    data = crafted.encoded(crafted.drawn("P"), "PNG", transparency=bytes(range(256)))

    assert split_png(data)[0] == data


@pytest.mark.parametrize(
    "data", [PNG[:33] + PNG[8:33] + PNG[33:], PNG[:-12] + PNG[8:33] + PNG[-12:], PNG[:8] + PNG[33:]]
)
def test_a_png_has_one_header_and_first(data: bytes):
    with pytest.raises(ValueError, match="IHDR"):
        split_png(data)


def test_parts_are_bounded_in_number():
    many = MAX_PARTS + 1

    with pytest.raises(ValueError, match="chunks"):
        split_png(crafted.after_header(PNG, *[crafted.chunk(b"tEXt", b"")] * many))
    with pytest.raises(ValueError, match="segments"):
        bound_jpeg(crafted.after_soi(JPEG, *[(0xFE, b"")] * many))
    with pytest.raises(ValueError, match="chunks"):
        bound_webp(webp_with(*[(b"XMP ", b"")] * many))


def test_filler_between_segments_is_bounded():
    assert bound_jpeg(JPEG[:2] + b"\xff" * MAX_FILLER + JPEG[2:]) == b""
    with pytest.raises(ValueError, match="between them"):
        bound_jpeg(JPEG[:2] + b"\0" * (MAX_FILLER + 9) + JPEG[2:])


def test_scans_are_bounded_but_only_those_of_the_picture():
    own = sum(marker == 0xDA for marker, *_ in jpeg_segments(crafted.many_scans(0)))

    assert bound_jpeg(crafted.many_scans(MAX_SCANS - own)) == b""
    with pytest.raises(ValueError, match="scans"):
        bound_jpeg(crafted.many_scans(MAX_SCANS - own + 1))
    assert bound_jpeg(JPEG + crafted.many_scans(100)) == b""


@pytest.mark.parametrize("data", crafted.sound())
def test_sound_pictures_are_within_all_bounds(data: bytes):
    assert Picture(data).size
