"""Encoded pictures to the square uint8 pixels that a network takes. Needs no torch, so that workers stay small."""

import io
import struct
import threading
from contextlib import nullcontext

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError, WebPImagePlugin  # noqa: F401 (registers itself)

from models import image_parts, orientation
from models.config import Preprocessing
from models.image_headers import ImageError, MalformedImage, UnsupportedImage, read_header
from models.resizing import Pixels, resize_and_crop

__all__ = ["MAX_PIXELS", "ImageError", "ImageTooLarge", "MalformedImage", "Picture", "Pixels", "UnsupportedImage"]

Image.preinit()
# Pillow's own bound warns where we answer precisely; `max_pixels` replaces it.
Image.MAX_IMAGE_PIXELS = None
MAX_PIXELS = 50_000_000  # a 48-megapixel phone photo fits

# A JPEG may be decoded at a fraction as long as it stays this many times larger than the resize
# asks for: Pillow's `reducing_gap` calls 2.0 "almost indistinguishable" from a fair resize.
REDUCING_GAP = 2
# Those that libjpeg-turbo decodes to with SIMD, and that Pillow's draft mode knows: 5/8 takes longer than the whole.
FRACTIONS = (8, 4, 2)
# Decoding takes up to 20 bytes a pixel (WebP), so that large pictures are decoded one at a time; half a second each.
LARGE_PIXELS = 12_000_000
_large = threading.Lock()
BACKGROUND = (255, 255, 255)  # what shows through transparent pixels, as on a page


class ImageTooLarge(ImageError):
    """An image with more pixels than allowed."""

    def __init__(self, width: int, height: int, max_pixels: int) -> None:
        super().__init__(f"{width}x{height} pixels are more than the {max_pixels:,} allowed")


class Picture:
    """An encoded JPEG, PNG or WebP picture whose header and parts have been found within bounds."""

    def __init__(self, data: bytes, max_pixels: int = MAX_PIXELS) -> None:
        """Read the header of `data`. Raises UnsupportedImage, MalformedImage or ImageTooLarge."""
        if not data:
            raise MalformedImage("the image is empty")
        self.format, width, height = read_header(data)
        if width * height > max_pixels:
            raise ImageTooLarge(width, height, max_pixels)
        self.data = data
        self.size = width, height
        try:
            self._read_parts()
        except (ValueError, struct.error) as error:
            raise MalformedImage(f"broken {self.format} image: {error}") from error

    def _read_parts(self) -> None:
        if self.format == "PNG":
            self.data, exif = image_parts.split_png(self.data)
        else:
            exif = (image_parts.bound_jpeg if self.format == "JPEG" else image_parts.bound_webp)(self.data)
        self.orientation = orientation.read(exif)

    def pixels(self, preprocessing: Preprocessing) -> Pixels:
        """RGB uint8 [input_size, input_size, 3]. Raises MalformedImage.

        Upright (EXIF), transparency over white, the shorter side resized to `resize_size` and the
        centre cropped, as torchvision's Resize and CenterCrop do.
        """
        return resize_and_crop(self._decode(preprocessing.resize_size), preprocessing)

    def decode(self, shorter: int) -> Image.Image:
        """The whole picture, upright, RGB, transparency over white. Raises MalformedImage.

        It may be a fraction of its size, as long as it can still be resized well to `shorter` pixels
        of the shorter side.
        """
        return Image.fromarray(self._decode(shorter))

    def _decode(self, shorter: int) -> Pixels:
        shorter *= REDUCING_GAP
        large = self.size[0] * self.size[1] > LARGE_PIXELS
        try:
            with _large if large else nullcontext():
                pixels = self._decode_jpeg(shorter) if self.format == "JPEG" else None
                if pixels is not None and self.orientation == orientation.UPRIGHT:
                    return pixels
                image = self._decode_any(shorter) if pixels is None else Image.fromarray(pixels)
                return np.asarray(orientation.upright(image, self.orientation))
        except UnidentifiedImageError as error:  # its message is the address of the file in memory
            raise MalformedImage(f"broken {self.format} image: its header cannot be read") from error
        # Broken files make the decoders raise nearly anything (OSError, SyntaxError, struct.error, …).
        except Exception as error:
            reason = str(error) or "its parts do not fit together"  # a failed assertion says nothing
            raise MalformedImage(f"broken {self.format} image: {reason}") from error

    def _decode_jpeg(self, shorter: int) -> Pixels | None:
        """libjpeg-turbo without Pillow's overhead; None where Pillow knows better (CMYK, benign errors)."""
        width, height = self.size
        fraction = next((of for of in FRACTIONS if min(self.size) >= of * shorter), 1)
        try:
            return simplejpeg.decode_jpeg(
                self.data, "RGB", min_height=-(-height // fraction), min_width=-(-width // fraction)
            )
        except ValueError:
            return None

    def _decode_any(self, shorter: int) -> Image.Image:
        data = image_parts.needed_of_jpeg(self.data) if self.format == "JPEG" else self.data
        image = Image.open(io.BytesIO(data), formats=(self.format,))
        if image.size != self.size:  # a decoder that reads another header would not be bound by ours
            raise ValueError(f"its headers say {self.size} and {image.size} pixels")
        image.draft(None, (shorter, shorter))
        return _rgb(image)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits a pixel: convert() would clip instead of scale
        return Image.fromarray((np.asarray(image) // 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        flat = Image.new("RGB", image.size, BACKGROUND)
        flat.paste(image, mask=image.getchannel("A"))
        return flat
    return image.convert("RGB")
