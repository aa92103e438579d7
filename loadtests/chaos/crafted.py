"""Pictures that no camera made: odd but sound ones of every mode, bombs, and headers that lie. Made once, and kept."""

import io
import random
import struct
import zlib
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
from PIL import Image

from models.image_parts import PNG_SIGNATURE, jpeg_segments

SIDE = 48
_SOF, _SOS = (0xC0, 0xC1, 0xC2), 0xDA
# Interlacing of PNG, section 8.2: first column and row of each pass, and the steps between them.
_ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]


def drawn(mode: str = "RGB", width: int = SIDE, height: int = SIDE) -> Image.Image:
    """Soft blots in any mode of Pillow."""
    blots = np.random.default_rng(0).integers(0, 256, (5, 5, 4), dtype=np.uint8)
    image = Image.fromarray(blots, "RGBA").resize((width, height), Image.Resampling.BICUBIC)
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    return image if mode == "RGBA" else image.convert("RGB").convert(mode)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    """Of a PNG, with its right checksum."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width: int, height: int, content: bytes, *, bits: int = 8, colour: int = 2, interlaced: int = 0) -> bytes:
    """One of any header; `content` is compressed as its pixels."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlaced)
    return PNG_SIGNATURE + b"".join(
        (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(content)), chunk(b"IEND", b""))
    )


def interlaced() -> bytes:
    pixels = np.asarray(drawn())
    rows = [
        b"\0" + row.tobytes()
        for left, top, across, down in _ADAM7
        for row in pixels[top::down, left::across]
        if row.size
    ]
    return png(SIDE, SIDE, b"".join(rows), interlaced=1)


def one_colour(width: int, height: int) -> bytes:
    """A PNG truly of so many grey pixels, a thousandth of their size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    packer, row = zlib.compressobj(), bytes(width + 1)
    content = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    return PNG_SIGNATURE + b"".join((chunk(b"IHDR", header), chunk(b"IDAT", content), chunk(b"IEND", b"")))


def after_header(data: bytes, *chunks: bytes) -> bytes:
    """A PNG with more chunks behind its IHDR."""
    end = len(PNG_SIGNATURE) + 25
    return data[:end] + b"".join(chunks) + data[end:]


def after_soi(data: bytes, *segments: tuple[int, bytes]) -> bytes:
    """A JPEG with more segments at its start."""
    more = [b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content for marker, content in segments]
    return data[:2] + b"".join(more) + data[2:]


def frame_headers(data: bytes) -> list[tuple[int, int]]:
    """Where the SOF segments of a JPEG start and end."""
    return [(start, end) for marker, start, _, end in jpeg_segments(data) if marker in _SOF]


def sized(data: bytes, width: int, height: int) -> bytes:
    """A JPEG whose header says another size than it has."""
    start = frame_headers(data)[0][0] + 5
    return data[:start] + struct.pack(">HH", height, width) + data[start + 4 :]


def many_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan comes again and again."""
    data = encoded(drawn(), "JPEG", progressive=True)
    last = max(start for marker, start, _, _ in jpeg_segments(data) if marker == _SOS)
    return data[:-2] + data[last:-2] * count + data[-2:]


def exif(entries: int, following: int, value: int = 1) -> bytes:
    """An Exif block of one directory, whose next one is at `following`: nowhere, or itself."""
    entry = struct.pack("<HHIHH", 0x8769, 4, 1, value, 0)  # each a pointer to a directory, too
    body = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0) + entry * (entries - 1)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, entries % 65_536) + body + struct.pack("<I", following)


def animated(kind: str, frames: int, **options: Any) -> bytes:
    images = [drawn().rotate(360 * index / frames) for index in range(frames)]
    return encoded(images[0], kind, save_all=True, append_images=images[1:], duration=10, **options)


@cache
def sound() -> list[bytes]:
    """Pictures of every mode and kind, all of which can be decoded."""
    profile = random.Random(0).randbytes(3_000)
    pictures = [encoded(drawn(mode), "PNG") for mode in ("RGB", "RGBA", "L", "LA", "1", "P", "I;16")]
    pictures += [encoded(drawn(mode), "JPEG", quality=80) for mode in ("RGB", "L", "CMYK")]
    pictures += [encoded(drawn(mode), "JPEG", progressive=True) for mode in ("RGB", "L", "CMYK")]
    pictures += [encoded(drawn(mode), "WEBP", lossless=lossless) for mode in ("RGB", "RGBA") for lossless in (0, 1)]
    pictures += [encoded(drawn("P"), "PNG", transparency=0), encoded(drawn("P"), "PNG", transparency=bytes(range(256)))]
    pictures += [encoded(drawn(), kind, icc_profile=profile) for kind in ("PNG", "JPEG", "WEBP")]
    pictures += [encoded(drawn(), kind, exif=exif(3, 0)) for kind in ("PNG", "JPEG", "WEBP")]
    pictures += [animated("PNG", 6), animated("WEBP", 6), interlaced(), many_scans(3)]
    pictures += [encoded(drawn(width=width, height=height), "PNG") for width, height in ((1, 1), (700, 2), (3, 900))]
    return pictures


@cache
def hostile() -> list[bytes]:
    """Bombs, and pictures whose parts are too many, too large, repeated, or not true."""
    small_png, small_jpeg, small_webp = (encoded(drawn(), kind) for kind in ("PNG", "JPEG", "WEBP"))
    zeros = zlib.compress(bytes(2**24), 9)
    frame = slice(*frame_headers(small_jpeg)[0])
    header = small_png[8:33]
    sizes = [(0, 0), (0, 9), (9, 0), (2**31 - 1, 2**31 - 1), (2**32 - 1, 1), (60_000, 60_000), (50_000_000, 1)]
    found = [png(width, height, bytes(64)) for width, height in sizes]
    found += [png(9, 9, bytes(2**24)), png(9, 9, b""), png(9, 9, bytes(999), bits=3), png(9, 9, bytes(999), colour=5)]
    found += [png(9, 9, bytes(999), bits=16, colour=3), png(9, 9, bytes(999), interlaced=7)]
    found += [
        sized(small_jpeg, width, height) for width, height in ((0, 0), (0, 9), (9, 0), (65_535, 65_535), (7_000, 7_000))
    ]
    found += [_webp_sized(width, height) for width, height in ((1, 1), (16_383, 16_383), (2**24, 2**24))]
    found += [small_webp[:26] + struct.pack("<HH", *size) + small_webp[30:] for size in ((0, 0), (16_383, 16_383))]
    found += [many_scans(31), many_scans(60), many_scans(2_000)]
    # Exif: deep, in circles, larger than anything that it could say.
    for block in (exif(5_000, 8), exif(65_535, 8, value=8), exif(1, 2**32 - 1), exif(4, 0, value=10)):
        found.append(after_header(small_png, chunk(b"eXIf", block[6:])))
        found.append(after_soi(small_jpeg, (0xE1, block[:65_000])))
        found.append(_with_webp_chunk(small_webp, b"EXIF", block))
    found.append(after_header(small_png, chunk(b"eXIf", bytes(4 * 2**20))))
    # Compressed profiles and texts of 16 MiB, and thousands of them.
    found += [
        after_header(small_png, chunk(b"iCCP", b"x\0\0" + zeros)),
        after_header(small_png, chunk(b"zTXt", b"x\0\0" + zeros)),
        after_header(small_png, *[chunk(b"iTXt", b"x\0\1\0\0\0" + zeros)] * 20),
        after_header(small_png, *[chunk(b"tEXt", b"a\0b")] * 20_000),
        after_soi(small_jpeg, *[(0xE2, b"ICC_PROFILE\0\1\xff" + bytes(60_000))] * 60),
        after_soi(small_jpeg, *[(0xFE, b"")] * 20_000),
        after_soi(small_jpeg, (0xE0, b"JFIF"), (0xEE, b"Adobe"), (0xED, b"Photoshop 3.0\x008BIM"), (0xE2, b"MPF\0")),
    ]
    # The same header again, and another one.
    other = frame_headers(sized(small_jpeg, 9_000, 9_000))[0]
    found += [
        small_png[:33] + header + small_png[33:],
        small_png[:33] + png(20_000, 20_000, b"")[8:33] + small_png[33:],
        small_png[:-12] + header * 2 + small_png[-12:],
        small_jpeg[: frame.stop] + small_jpeg[frame] + small_jpeg[frame.stop :],
        small_jpeg[: frame.stop] + sized(small_jpeg, 9_000, 9_000)[slice(*other)] + small_jpeg[frame.stop :],
        small_jpeg[: frame.start] + sized(small_jpeg, 1, 1)[slice(*other)] + small_jpeg[frame.start :],
        small_jpeg[:-2] + small_jpeg[2:],
    ]
    found += [animated("PNG", 60), animated("WEBP", 60), animated("PNG", 3, default_image=True)]
    found += [PNG_SIGNATURE, b"\xff\xd8\xff", b"\xff\xd8\xff\xd9", b"RIFF\0\0\0\0WEBP", b"II*\0"]
    return found


@cache
def heavy() -> list[bytes]:
    """Small files that are truly large pictures: one beyond what is allowed, others within it."""
    return [
        one_colour(10_000, 10_000),
        one_colour(7_000, 7_000),
        one_colour(49_000_000, 1),
        encoded(Image.new("RGB", (6_000, 4_000), (200, 30, 90)), "JPEG", progressive=True, quality=20),
        encoded(Image.new("CMYK", (4_000, 3_000)), "JPEG", quality=20),
        encoded(Image.new("RGB", (5_000, 4_000)), "WEBP", method=0, quality=5),
    ]


def polyglots(data: bytes) -> list[bytes]:
    """A picture that is something else as well: behind it, or before it."""
    archive = b"PK\5\6" + bytes(18)
    page = b"<!doctype html><script>alert(1)</script>"
    document = b"%PDF-1.7\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF"
    return [one for more in (archive, page, document) for one in (data + more, more + data)]


def spliced(parts: list[bytes], cuts: list[int]) -> bytes:
    """The first part up to the first cut, the second from there to the second cut, and so on."""
    return b"".join(part[start:stop] for part, (start, stop) in zip(parts, pairwise([0, *cuts]), strict=True))


def _webp_sized(width: int, height: int) -> bytes:
    """A WebP in the extended format that promises pixels and has none."""
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0" + bytes(4) + size


def _with_webp_chunk(data: bytes, name: bytes, content: bytes) -> bytes:
    found = data[12:] + name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
    return b"RIFF" + struct.pack("<I", len(found) + 4) + b"WEBP" + found
