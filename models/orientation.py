"""Which way up a picture is, by its Exif block: one number of it, and nothing else of it is read."""

import struct

from PIL import Image

TAG = 0x0112  # Exif 2.3, section 4.6.4
SHORT = 3
UPRIGHT = 1
_TO_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read(exif: bytes) -> int:
    """1 to 8 of an Exif block, with or without its name before it; 1 where it says none or is broken."""
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return UPRIGHT
    try:
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (entries,) = struct.unpack_from(f"{order}H", tiff, start)
        for entry in range(start + 2, start + 2 + 12 * entries, 12):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", tiff, entry)
            if tag == TAG:
                return value if kind == SHORT and value in _TO_UPRIGHT else UPRIGHT
    except struct.error:
        pass
    return UPRIGHT


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """The image turned and mirrored as an orientation of 1 to 8 asks."""
    return image.transpose(_TO_UPRIGHT[orientation]) if orientation in _TO_UPRIGHT else image
