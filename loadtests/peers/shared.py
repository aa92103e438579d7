"""What every peer does with the service's own code: decode, run the compiled network, and write the answer.

So that a comparison is one of serving. torch is imported with the network only: processes that decode do without.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# As the engine has it, before torch is imported: every layer's kernels stay prepared at every batch size.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8192")

import numpy as np
from numpy.typing import NDArray

from loadtests.pictures import with_pillow
from models.config import read_config
from models.images import Picture, Pixels
from service import allocator
from service.answers import AnswerWriter
from service.batch_curve import bucket_sizes

TOP_K = 5
WARM_RUNS = 3

MODEL = read_config(Path(os.environ["PEER_MODEL"]))
PACKAGE = Path(os.environ["PEER_PACKAGE"])  # in the cache
DEVICE = PACKAGE.name.partition("-")[0]  # cpu or cuda
DECODER = os.environ["PEER_DECODER"]  # ours, or pillow
MAX_BATCH = int(os.environ["PEER_MAX_BATCH"])
PORT = int(os.environ["PEER_PORT"])
COMPUTED = Path(os.environ["PEER_COMPUTED"])  # a file that grows by a byte for every image that the network has seen

if DECODER == "ours":  # whose time is twice as long without
    allocator.keep_free_memory()
_writer = AnswerWriter(MODEL.name, MODEL.labels)


class BadImage(ValueError):
    """A body that is no picture, or a broken one."""


def decode(data: bytes) -> Pixels:
    """RGB uint8 [input_size, input_size, 3]. Raises BadImage."""
    try:
        return (
            Picture(data).pixels(MODEL.preprocessing)
            if DECODER == "ours"
            else np.asarray(with_pillow(data, MODEL.preprocessing))
        )
    except (ValueError, OSError) as error:
        raise BadImage(str(error)) from error


def answer(scores: NDArray[np.float32]) -> bytes:
    """The JSON of the best classes of scores float32 [classes], as the service writes it."""
    return f'{{"model":"{MODEL.name}","predictions":[{_writer.ranking(scores, TOP_K)}]}}'.encode()


def best(scores: NDArray[np.float32]) -> dict[str, Any]:
    """The same for those who write JSON themselves."""
    classes = scores.argsort()[::-1][:TOP_K].tolist()
    ranking = [{"index": one, "label": MODEL.labels[one], "score": float(scores[one])} for one in classes]
    return {"model": MODEL.name, "predictions": [ranking]}


class Network:
    """The compiled network, run as the engine runs it: batches padded to sizes that are warm."""

    def __init__(self) -> None:
        import torch

        from models.compile import ENTRY_FILE, Target, load_package

        entry = json.loads((PACKAGE / ENTRY_FILE).read_text())
        self._run = load_package(PACKAGE, Target(entry["device"], entry["dtype"], entry["threads"]))
        self._torch = torch
        size = MODEL.preprocessing.input_size
        self._sizes = bucket_sizes(MAX_BATCH)
        self._staging = np.zeros((MAX_BATCH, size, size, 3), np.uint8)
        self._computed = os.open(COMPUTED, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        for padded in self._sizes * WARM_RUNS:
            self._scores(padded)

    def __call__(self, images: Sequence[Pixels]) -> NDArray[np.float32]:
        """Scores float32 [N, classes] of up to MAX_BATCH images."""
        for place, image in zip(self._staging, images, strict=False):
            place[:] = image
        scores = self._scores(next(size for size in self._sizes if size >= len(images)))[: len(images)]
        os.write(self._computed, b"." * len(images))
        return scores

    def _scores(self, padded: int) -> NDArray[np.float32]:
        with self._torch.inference_mode():
            return self._run(self._torch.from_numpy(self._staging[:padded]).to(DEVICE)).cpu().numpy()
