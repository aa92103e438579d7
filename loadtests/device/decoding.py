"""JPEGs decoded by workers and by the GPU: how many each decodes a second, and what the service answers either way."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from loadtests.device import serving
from models.config import read_config
from service import jpeg_decoder


def run(
    model: Path,
    cache: Path,
    seconds: float,
    workers: tuple[int, ...],
    going: Callable[[], bool] = lambda: True,
    device: str = "cuda",
    **settings: Any,
) -> dict[str, Any]:
    """JPEGs/s of the device and of a worker, a row for each way, number of workers and size; or why there are none."""
    preprocessing = read_config(model).preprocessing
    try:
        read = jpeg_decoder.library(device)
        rates = jpeg_decoder.JpegDecoder(read, preprocessing, device).measured()
    except jpeg_decoder.NoDecoder as error:
        return {"left_out": str(error)}
    rows = []
    for decode in ("cpu", "gpu"):
        found = serving.run(
            model, cache, seconds, workers, going, jpegs_only=True, decode=decode, device=device, **settings
        )
        rows += [{"decode": decode, **row} for row in found]
    return {"jpegs_per_second": rates._asdict(), "serving": rows}
