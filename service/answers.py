"""Scores to the JSON of an answer. Written by hand: this is the hot path, and the schema is stated in `schema`."""

import json
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.problems import Problem


class Timing(NamedTuple):
    """Where the time of a request went; of several images the longest times and the largest batch."""

    decode_seconds: float
    queue_us: int
    infer_us: int
    batch_size: int


class AnswerWriter:
    """Writes the answers of one model, whose labels are encoded once."""

    def __init__(self, model: str, labels: tuple[str, ...]) -> None:
        self._head = f'{{"model":{json.dumps(model)},"request_id":'
        self._classes = [
            f'{{"index":{index},"label":{json.dumps(label)},"score":' for index, label in enumerate(labels)
        ]

    def ranking(self, scores: NDArray[np.float32], top_k: int) -> str:
        """The JSON list of the `top_k` highest of scores float32 [classes], best first; all if there are fewer."""
        count = min(top_k, len(scores))
        if count < len(scores) // 4:
            best = np.argpartition(scores, -count)[-count:]
            best = best[scores[best].argsort()[::-1]]
        else:
            best = scores.argsort()[::-1][:count]
        classes = self._classes
        values = zip(best.tolist(), scores[best].tolist(), strict=True)
        return "[" + ",".join(f"{classes[index]}{score:.6g}}}" for index, score in values) + "]"

    def answer(self, request_id: str, predictions: list[str | Problem], timing: Timing) -> bytes:
        """The whole body; `predictions` are rankings, or problems of single images."""
        images = ",".join(image if isinstance(image, str) else image.json(request_id).decode() for image in predictions)
        return (
            f'{self._head}{json.dumps(request_id)},"predictions":[{images}],"timing":{{'
            f'"decode_ms":{timing.decode_seconds * 1e3:.3f},"queue_ms":{timing.queue_us / 1e3:.3f},'
            f'"infer_ms":{timing.infer_us / 1e3:.3f},"batch_size":{timing.batch_size}}}}}'
        ).encode()
