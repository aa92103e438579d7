"""Format, width and height of a picture from its first bytes, before any decoder allocates for it."""

import struct

import simplejpeg


class ImageError(ValueError):
    """A picture that cannot be classified; the message says why."""


class UnsupportedImage(ImageError):
    """The bytes are no JPEG, PNG or WebP image."""


class MalformedImage(ImageError):
    """An image of a known format that is truncated or broken."""


def read_header(data: bytes) -> tuple[str, int, int]:
    """Format as Pillow names it (JPEG, PNG, WEBP), width and height. Raises UnsupportedImage, MalformedImage."""
    try:
        if data.startswith(b"\xff\xd8\xff"):
            return "JPEG", *_jpeg_size(data)
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            # The IHDR chunk comes first: PNG specification, section 5.6.
            if data[12:16] != b"IHDR":
                raise ValueError("it does not begin with IHDR")
            return "PNG", *struct.unpack_from(">II", data, 16)
        if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            return "WEBP", *_webp_size(data)
    except (ValueError, struct.error) as error:
        raise MalformedImage(f"broken image header: {error}") from error
    raise UnsupportedImage("not a JPEG, PNG or WebP image")


def _jpeg_size(data: bytes) -> tuple[int, int]:
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    except KeyError as error:  # it looks up -1 as a colour space where the header ends too early
        raise ValueError("it ends too early") from error
    return width, height


def _webp_size(data: bytes) -> tuple[int, int]:
    """RFC 9649: extended (section 2.7), lossless (3.4), lossy (RFC 6386, section 9.1)."""
    kind = data[12:16]
    if kind == b"VP8X":
        low_width, high_width, low_height, high_height = struct.unpack_from("<HBHB", data, 24)
        return 1 + (high_width << 16 | low_width), 1 + (high_height << 16 | low_height)
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    raise ValueError(f"WebP chunk {kind!r}")
