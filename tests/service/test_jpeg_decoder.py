"""The device's decoder of JPEGs, on the CPU: what it makes of them beside what workers do, and when it is taken."""

import io
from collections.abc import Sequence

import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image

from models import orientation
from models.config import Preprocessing
from models.image_parts import jpeg_segments
from models.images import Picture
from models.resizing import resize_and_crop
from service import jpeg_decoder, jpegs
from service.jpeg_decoder import JpegDecoder, NoDecoder, Rates, as_seen
from service.jpegs import Jpeg
from tests.conftest import encode, noise
from tests.models.test_images import IMAGENET, PLAIN, difference, smooth

CUBIC = IMAGENET.model_copy(update={"interpolation": "bicubic"})
SHAPES = [(256, 256), (375, 500), (501, 333), (100, 399), (40, 30), (1, 1), (3, 2), (1200, 1600)]


def exif(turned: int) -> Image.Exif:
    block = Image.Exif()
    block[orientation.TAG] = turned
    return block


def packed(picture: Picture, size: int = 224) -> Jpeg | None:
    """What reaches the device, if anything does."""
    pixels = np.zeros((size, size, 3), np.uint8)
    return jpegs.unpack(pixels) if jpegs.pack(picture, pixels) else None


def without_quantisation(data: bytes) -> bytes:
    """A JPEG whose headers are good, and which nobody can decode."""
    [table] = [data[start:end] for marker, start, _, end in jpeg_segments(data) if marker == 0xDB][:1]
    return data.replace(table, b"")


def by_libjpeg(jpeg_list: Sequence[Jpeg]) -> list[torch.Tensor | None]:
    return [torch.from_numpy(simplejpeg.decode_jpeg(jpeg.data, "RGB")) for jpeg in jpeg_list]


@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_pixels_are_within_a_level_of_a_workers(height: int, width: int):
    for pixels in (noise(1, height, width), smooth(height, width).copy()):
        for preprocessing in (IMAGENET, PLAIN):
            found = as_seen(torch.from_numpy(pixels), 1, preprocessing).numpy()
            assert difference(found, resize_and_crop(pixels, preprocessing)) <= 1


@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_bicubic_pixels_are_within_a_level_of_a_workers_where_none_are_clipped(height: int, width: int):
    pixels = smooth(height, width) // 2 + 64

    found = as_seen(torch.from_numpy(pixels), 1, CUBIC).numpy()

    assert difference(found, resize_and_crop(pixels, CUBIC)) <= 1


@pytest.mark.parametrize("turned", range(1, 9))
def test_every_orientation_is_turned_as_a_worker_turns_it(turned: int):
    pixels = noise(2, 61, 47)
    upright = np.asarray(orientation.upright(Image.fromarray(pixels), turned))

    found = as_seen(torch.from_numpy(pixels), turned, PLAIN).numpy()

    assert difference(found, resize_and_crop(upright, PLAIN)) <= 1


def test_a_jpeg_travels_with_what_a_worker_knows_of_it():
    data = encode(smooth(97, 131), "JPEG", quality=85, exif=exif(6))

    assert packed(Picture(data)) == Jpeg(data, 131, 97, 6)


@pytest.mark.parametrize(
    "data",
    [
        encode(smooth(97, 131)),
        encode(smooth(97, 131), "WEBP"),
        encode(smooth(97, 131), "JPEG", progressive=True),
        encode(noise(0, 400, 400), "JPEG", quality=95),  # more bytes than there is room
        encode(smooth(1500, 1500), "JPEG", quality=30),  # more pixels
        encode(smooth(20, 81), "JPEG"),  # too long
        encode(smooth(97, 131), "JPEG")[:-2],  # without its end
    ],
    ids=["png", "webp", "progressive", "bytes", "pixels", "long", "cut off"],
)
def test_others_are_left_to_workers(data: bytes):
    assert packed(Picture(data)) is None


def test_one_that_cannot_be_read_is_none_and_the_others_are_what_they_are():
    good = Jpeg(encode(smooth(64, 64), "JPEG", quality=85), 64, 64, 1)
    sizes = [(64, 64, 3), None, (64, 32, 3), (64, 64, 1)]
    decoder = JpegDecoder(
        lambda _: [None if size is None else torch.zeros(size, dtype=torch.uint8) for size in sizes], PLAIN, "cpu"
    )

    found = decoder.pixels([good] * len(sizes))

    assert [image is not None for image in found] == [True, False, False, False]


def test_a_library_that_raises_has_read_nothing():
    def fails(_: Sequence[Jpeg]) -> list[torch.Tensor | None]:
        raise RuntimeError("nvJPEG: internal error")

    assert JpegDecoder(fails, PLAIN, "cpu").pixels([Jpeg(b"", 1, 1, 1)] * 2) == [None, None]


@pytest.mark.parametrize("preprocessing", [PLAIN, IMAGENET])
def test_it_is_timed_with_a_photo_that_fits_a_slot(preprocessing: Preprocessing, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jpeg_decoder, "TIMED_JPEGS", 2)
    photo = jpeg_decoder.photo(preprocessing)

    assert packed(Picture(photo.data), preprocessing.input_size) == photo
    assert min(JpegDecoder(by_libjpeg, preprocessing, "cpu").measured()) > 0


def test_the_faster_of_the_two_is_taken(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jpeg_decoder, "available_cores", lambda: 9)
    decoder = JpegDecoder(by_libjpeg, PLAIN, "cpu")
    assert decoder.pays(network=1.0, workers=1)  # it was asked for

    decoder.rates = Rates(device=6000.0, worker=1000.0)
    assert decoder.pays(network=6000.0, workers=2)  # 3,000 a second instead of 2,000
    assert not decoder.pays(network=6000.0, workers=4)
    assert not decoder.pays(network=500.0, workers=1)  # workers keep up

    monkeypatch.setattr(jpeg_decoder, "available_cores", lambda: 2)  # one of them is the engine's
    assert decoder.pays(network=6000.0, workers=4)


def test_without_a_gpu_workers_decode_unless_the_gpu_is_asked_for():
    assert jpeg_decoder.made("auto", "cpu", PLAIN) is None
    assert jpeg_decoder.made("cpu", "cuda", PLAIN) is None
    with pytest.raises(NoDecoder, match="COORDSERVE_DECODE=auto or cpu"):
        jpeg_decoder.made("gpu", "cpu", PLAIN)


def test_a_gpu_without_the_library_leaves_decoding_to_workers(monkeypatch: pytest.MonkeyPatch):
    def missing(device: str) -> jpeg_decoder.Read:
        raise ImportError("No module named 'nvidia'")

    monkeypatch.setattr(jpeg_decoder, "nvimagecodec", missing)
    assert jpeg_decoder.made("auto", "cuda", PLAIN) is None
    with pytest.raises(NoDecoder, match="extra nvjpeg"):
        jpeg_decoder.made("gpu", "cuda", PLAIN)


def test_a_library_that_reads_nothing_is_not_taken():
    with pytest.raises(NoDecoder, match="reads no JPEG"):
        JpegDecoder(lambda jpegs: [None] * len(jpegs), PLAIN, "cpu").measured()


@pytest.fixture(scope="module")
def library() -> jpeg_decoder.Read:
    """The real one, with the decoder that it has for the CPU."""
    pytest.importorskip("nvidia.nvimgcodec", reason="nvImageCodec is not installed")
    return jpeg_decoder.nvimagecodec("cpu")


def test_nvimagecodec_reads_what_is_passed_on_and_leaves_what_is_broken(library: jpeg_decoder.Read):
    options: list[dict] = [{}, {"subsampling": "4:4:4"}, {"subsampling": "4:2:2"}, {"restart_marker_blocks": 3}]
    options += [{"exif": exif(6)}]  # whose turning is ours
    pictures = [Picture(encode(smooth(97, 131), "JPEG", quality=85, **each)) for each in options]
    pictures.append(Picture(encode(smooth(97, 131)[..., 0].copy(), "JPEG")))  # grey
    good = [jpeg for picture in pictures if (jpeg := packed(picture))]
    assert len(good) == len(pictures)
    broken = [
        good[0]._replace(data=b"no picture"),
        good[0]._replace(data=good[0].data[: len(good[0].data) // 2]),
        good[0]._replace(data=without_quantisation(good[0].data)),
        good[0]._replace(width=1),  # not what a worker has bounded
    ]

    found = library([*broken[:1], *good, *broken[1:]])

    assert [image is None for image in found] == [True, *[False] * len(good), True, True, True]
    for jpeg, image in zip(good, found[1:], strict=False):
        assert image is not None
        expected = np.asarray(Image.open(io.BytesIO(jpeg.data)).convert("RGB"))
        assert difference(image.numpy(), expected) == 0


@pytest.mark.parametrize("turned", range(1, 9))
def test_with_nvimagecodec_the_network_sees_what_workers_make_of_a_jpeg(library: jpeg_decoder.Read, turned: int):
    picture = Picture(encode(smooth(375, 500), "JPEG", quality=85, exif=exif(turned)))
    jpeg = packed(picture)
    assert jpeg

    [found] = JpegDecoder(library, IMAGENET, "cpu").pixels([jpeg])

    assert found is not None
    assert difference(found.numpy(), picture.pixels(IMAGENET)) <= 1


@pytest.mark.cuda
def test_a_gpu_reads_what_workers_make_of_a_jpeg():
    decoder = jpeg_decoder.made("gpu", "cuda", IMAGENET)
    assert decoder
    pictures = [
        Picture(encode(smooth(height, width), "JPEG", quality=85, subsampling=subsampling, exif=exif(turned)))
        for height, width in [(375, 500), (501, 333), (40, 30)]
        for subsampling in ("4:4:4", "4:2:2", "4:2:0")
        for turned in (1, 6)
    ]
    good = [jpeg for picture in pictures if (jpeg := packed(picture))]
    broken = [good[0].data[: len(good[0].data) // 2], without_quantisation(good[0].data)]

    found = decoder.pixels([*good, *(good[0]._replace(data=data) for data in broken)])

    assert [image is None for image in found] == [False] * len(good) + [True] * len(broken)
    for picture, image in zip(pictures, found, strict=False):
        assert image is not None
        # Another inverse transform and another upsampling of colours than libjpeg-turbo's.
        assert np.abs(image.cpu().numpy().astype(int) - picture.pixels(IMAGENET)).mean() < 2
