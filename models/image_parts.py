"""The parts that a picture file is made of, bounded in number: which of them a decoder needs, and the Exif block.

Decoders read all of them, some in Python and some by unpacking them, however many there are. So those
that have no say in the pixels never reach one.
"""

import re
import struct
from collections.abc import Iterator

MAX_PARTS = 10_000  # 16 MiB of PNG in pieces of 8 kB, as libpng writes it, are 2,048
MAX_FILLER = 65_536  # bytes between the segments of a JPEG, where none belong
# A decoder goes over the whole picture once a scan, however little is in it: 70 ms at 50 megapixels.
# libjpeg's own scripts have 10 scans, and 24 in CMYK.
MAX_SCANS = 32

_SOF0, _SOF1, _SOF15, _SOI, _EOI, _SOS = 0xC0, 0xC1, 0xCF, 0xD8, 0xD9, 0xDA
_DHT = 0xC4
_APP0, _APP1, _APP14, _APP15, _COM = 0xE0, 0xE1, 0xEE, 0xEF, 0xFE
_FIRST_WITH_LENGTH = 0xC0
# In coded data a 0xFF is followed by a zero or a restart marker (ITU-T T.81, section B.1.1.5), and anywhere by fill.
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_EXIF = b"Exif\0\0"

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_NEEDED = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Marker, start, content's start and end of each segment between SOI and EOI. Raises struct.error if cut off."""
    position = 2
    while found := _MARKER.search(data, position):
        start, content = found.span()
        marker = data[content - 1]
        if marker == _EOI:
            return
        position = content
        if marker >= _FIRST_WITH_LENGTH and marker != _SOI:
            position += struct.unpack_from(">H", data, content)[0]
            content += 2
        yield marker, start, content, position


def bound_jpeg(data: bytes) -> bytes:
    """The Exif block, empty if there is none. Raises ValueError for more segments, filler or scans than allowed."""
    exif = b""
    filler = scans = end_before = components = 0
    many = False
    for count, (marker, start, content, end) in enumerate(jpeg_segments(data), 1):
        if not scans:
            filler += max(0, start - max(end_before, 2))
            end_before = end
        if marker == _APP1 and not exif and data.startswith(_EXIF, content):
            exif = data[content:end]
        elif marker in (_SOF0, _SOF1):
            components = data[content + 5] if content + 5 < len(data) else 0
        elif marker == _SOS:
            scans += 1
            if scans == 1:
                # All components in one scan, not progressive: the decoder stops behind it. Otherwise there are at most
                # as many scans as marks, and those behind the picture count only where it matters.
                whole = components and data[content : content + 1] == bytes([components])
                many = not whole and data.count(b"\xff\xda", content) >= MAX_SCANS
            if not many:
                break
        if count > MAX_PARTS or filler > MAX_FILLER:
            raise ValueError(f"more than {MAX_PARTS:,} segments, or {MAX_FILLER:,} bytes between them")
        if scans > MAX_SCANS:
            raise ValueError(f"more than {MAX_SCANS} scans")
    return exif


def is_plain_jpeg(data: bytes) -> bool:
    """Whether every decoder reads the same out of a JPEG within bounds: baseline, grey or YCbCr, in one scan, whole."""
    components, ycbcr = b"", True
    for marker, _, content, end in jpeg_segments(data):
        if marker == _SOS:
            one_scan = data[content : content + 1] == bytes([len(components)])
            return one_scan and ycbcr and data.endswith(bytes([0xFF, _EOI]))
        if marker == _APP14 and data.startswith(b"Adobe", content):
            ycbcr = data[content + 11 : content + 12] == b"\1"
        elif _SOF0 <= marker <= _SOF15 and marker != _DHT:
            eight_bits, again = data[content : content + 1] == b"\x08", bool(components)
            components = data[content + 6 : end : 3]
            if marker != _SOF0 or again or not eight_bits or (len(components) != 1 and components != b"\1\2\3"):
                return False
    return False


def needed_of_jpeg(data: bytes) -> bytes:
    """The file without its comments and application data; Adobe's stays, which says how colours are stored."""
    kept, done = [data[:2]], 2
    for marker, start, _, end in jpeg_segments(data):
        if marker == _SOS:
            done = start
            break
        if marker != _COM and (not _APP0 < marker <= _APP15 or marker == _APP14):
            kept.append(data[start:end])
        done = end
    return b"".join([*kept, data[done:]])


def split_png(data: bytes) -> tuple[bytes, bytes]:
    """The file with only what makes its pixels, and the Exif block, empty if there is none.

    Raises ValueError for too many chunks, or if the header is not the first and only one of its kind.
    """
    if data[8:16] != b"\0\0\0\rIHDR":
        raise ValueError("it does not begin with IHDR")  # PNG specification, section 5.6
    kept, exif = [PNG_SIGNATURE], b""
    headers = 0
    for count, (name, start, end) in enumerate(_chunks(data, len(PNG_SIGNATURE), ">I4s", 4, padded=False)):
        if count >= MAX_PARTS:
            raise ValueError(f"more than {MAX_PARTS:,} chunks")
        headers += name == b"IHDR"
        if name in _PNG_NEEDED:
            kept.append(data[start:end])
        elif name == b"eXIf" and not exif:
            exif = data[start + 8 : end - 4]
        if name == b"IEND":
            break
    if headers > 1:
        raise ValueError("it has several IHDR chunks")
    return b"".join(kept), exif


def bound_webp(data: bytes) -> bytes:
    """The Exif block, empty if there is none. Raises ValueError for too many chunks."""
    exif = b""
    for count, (name, start, end) in enumerate(_chunks(data, 12, "<4sI", 0, padded=True)):
        if count >= MAX_PARTS:
            raise ValueError(f"more than {MAX_PARTS:,} chunks")
        if name == b"EXIF" and not exif:
            exif = data[start + 8 : end]
    return exif


def _chunks(data: bytes, position: int, head: str, tail: int, padded: bool) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and end of each; the last may end beyond the data."""
    while position + 8 <= len(data):
        one, other = struct.unpack_from(head, data, position)
        name, length = (other, one) if isinstance(one, int) else (one, other)
        end = position + 8 + length + tail
        yield name, position, end
        position = end + (length & 1 if padded else 0)
