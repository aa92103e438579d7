"""JPEGs to what the network sees, on the device: read by nvImageCodec, then turned, resized and cropped as on the CPU.

Whatever the library cannot read is left to the worker that it came from: there it is decoded, or refused, as ever.
"""

import io
import logging
import os
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.dlpack import from_dlpack

from models.config import Preprocessing
from models.images import Picture
from service.jpegs import Jpeg
from service.settings import available_cores

log = logging.getLogger(__name__)

TIMED_JPEGS = 64
TIMED_RUNS = 5  # of which the fastest is believed

Read = Callable[[Sequence[Jpeg]], Sequence[Tensor | None]]
"""RGB uint8 [height, width, 3] on the device, as they lie in the files; None where a file cannot be read"""


class NoDecoder(Exception):
    """JPEGs cannot be decoded on the device; the message says what to do."""


class Rates(NamedTuple):
    """JPEGs a second, all the way to what the network sees."""

    device: float
    worker: float


class JpegDecoder:
    """A library's decoder, and what is to be done after it."""

    def __init__(self, read: Read, preprocessing: Preprocessing, device: str) -> None:
        self._read, self._preprocessing, self._device = read, preprocessing, device
        self._stream = torch.cuda.Stream() if device == "cuda" else None
        self.rates: Rates | None = None
        """None if it serves however fast it is"""

    def pixels(self, jpegs: Sequence[Jpeg]) -> list[Tensor | None]:
        """What the network sees, uint8 [S, S, 3] on the device, of each; None where it cannot be read.

        When it returns nothing is on its way any more: nvJPEG's hardware writes where it is told to at once, whatever
        is in the stream before (https://github.com/meta-pytorch/torchcodec/pull/1634).
        """
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            try:
                images = self._read(jpegs)
            except Exception:
                log.exception("the device's decoder failed on %d JPEGs", len(jpegs))
                images = [None] * len(jpegs)
            found = [
                None
                if image is None or image.shape != (jpeg.height, jpeg.width, 3)
                else as_seen(image, jpeg.orientation, self._preprocessing)
                for jpeg, image in zip(jpegs, images, strict=True)
            ]
            if self._stream:
                self._stream.synchronize()
        return found

    def measured(self) -> Rates:
        """How fast it is, and how fast a worker. Raises NoDecoder if it reads no JPEG."""
        jpeg = photo(self._preprocessing)
        batch = [jpeg] * TIMED_JPEGS
        if any(pixels is None for pixels in self.pixels(batch)):
            raise NoDecoder("the GPU's decoder reads no JPEG; is nvJPEG there (pip install 'coordserve[nvjpeg]')?")
        on_device = _fastest(lambda: self.pixels(batch)) / TIMED_JPEGS
        by_worker = _fastest(lambda: Picture(jpeg.data).pixels(self._preprocessing))
        return Rates(1 / on_device, 1 / by_worker)

    def pays(self, network: float, workers: int) -> bool:
        """Whether the service is faster with it than without, or whether it was asked for; network: its images/s.

        The device then decodes and computes in turn, at worst, instead of computing while all workers decode.
        """
        if self.rates is None:
            return True
        with_it = 1 / (1 / self.rates.device + 1 / network)
        return with_it > min(network, self.rates.worker * min(workers, max(1, available_cores() - 1)))


def made(mode: str, device: str, preprocessing: Preprocessing) -> JpegDecoder | None:
    """The device's decoder for a setting of cpu, gpu or auto; None if JPEGs are decoded by workers.

    Raises NoDecoder if there is none where one is asked for.
    """
    if mode == "cpu" or (mode == "auto" and device != "cuda"):
        return None
    try:
        decoder = JpegDecoder(library(device), preprocessing, device)
        rates = decoder.measured()
    except NoDecoder as error:
        if mode == "gpu":
            raise
        log.info("JPEGs are decoded by workers: %s", error)
        return None
    log.info("%.0f JPEGs/s are decoded on the device, %.0f by a worker", *rates)
    if mode == "auto":
        decoder.rates = rates
    return decoder


def library(device: str) -> Read:
    """The one that reads JPEGs on a device. Raises NoDecoder."""
    if device != "cuda":
        raise NoDecoder("decoding on the GPU needs one; COORDSERVE_DECODE=auto or cpu does without")
    try:
        return nvimagecodec(device)
    except (ImportError, RuntimeError) as error:
        raise NoDecoder(
            f"decoding on the GPU needs the extra nvjpeg (pip install 'coordserve[nvjpeg]'): {error}"
        ) from error


def nvimagecodec(device: str) -> Read:
    """NVIDIA's nvImageCodec; on `cpu` the same library with the decoder that it has for that. Raises ImportError."""
    os.environ.setdefault("PYNVIMGCODEC_VERBOSITY", "0")  # what clients send that is broken, they are told
    from nvidia import nvimgcodec as codec

    if on_cpu := device == "cpu":
        kinds, number = [codec.BackendKind.CPU_ONLY], codec.NVIMGCODEC_DEVICE_CPU_ONLY
    else:
        kinds = [codec.BackendKind.HW_GPU_ONLY, codec.BackendKind.GPU_ONLY, codec.BackendKind.HYBRID_CPU_GPU]
        number = torch.cuda.current_device()
    decoder = codec.Decoder(number, available_cores(), [codec.Backend(kind) for kind in kinds])
    how = codec.DecodeParams(apply_exif_orientation=False, sample_format=codec.SampleFormat.I_RGB)

    def parsed(jpeg: Jpeg) -> object:
        try:
            stream = codec.CodeStream(jpeg.data)
            return stream if (stream.width, stream.height) == (jpeg.width, jpeg.height) else None
        except RuntimeError:
            return None

    def tensor(image: object) -> Tensor:
        return torch.from_numpy(np.asarray(image)) if on_cpu else from_dlpack(image)

    def read(jpegs: Sequence[Jpeg]) -> list[Tensor | None]:
        streams = [parsed(jpeg) for jpeg in jpegs]
        order = 0 if on_cpu else torch.cuda.current_stream().cuda_stream
        found = iter(decoder.decode([stream for stream in streams if stream], params=how, cuda_stream=order))
        images = [next(found) if stream else None for stream in streams]
        return [None if image is None else tensor(image) for image in images]

    return read


def as_seen(image: Tensor, orientation: int, preprocessing: Preprocessing) -> Tensor:
    """RGB uint8 [height, width, 3] upright, resized and cropped, uint8 [S, S, 3].

    Bilinear values are at most a level from those of models/resizing.py.
    """
    upright = _upright(image, orientation)
    height, width, _ = upright.shape
    short, size = preprocessing.resize_size, preprocessing.input_size
    to = (int(short * height / width), short) if width <= height else (short, int(short * width / height))
    planes = upright.permute(2, 0, 1)[None].float()
    resized = F.interpolate(planes, to, mode=preprocessing.interpolation, antialias=True)[0]
    top, left = (round((length - size) / 2) for length in to)
    cropped = resized[:, top : top + size, left : left + size]
    return cropped.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0)


def _upright(image: Tensor, orientation: int) -> Tensor:
    """[height, width, 3] turned and mirrored as an orientation of 1 to 8 asks: models/orientation.py for tensors."""
    mirrored = {2: (1,), 3: (0, 1), 4: (0,), 6: (0,), 7: (0, 1), 8: (1,)}.get(orientation, ())
    image = image.flip(mirrored) if mirrored else image
    return image.transpose(0, 1) if orientation >= 5 else image


def photo(preprocessing: Preprocessing) -> Jpeg:
    """A JPEG half as large again as the resize asks for, in 4:3, with a photo's bytes a pixel or so."""
    short = 3 * preprocessing.resize_size // 2
    width, height = 4 * short // 3, short
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (height // 16, width // 16, 3), np.uint8)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    grain = random.integers(-4, 5, (height, width, 1))
    file = io.BytesIO()
    Image.fromarray((np.asarray(smooth) + grain).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=85)
    return Jpeg(file.getvalue(), width, height, 1)


def _fastest(call: Callable[[], object]) -> float:
    """Seconds of the fastest of some calls."""
    seconds = []
    for _ in range(TIMED_RUNS):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return min(seconds)
