"""`POST /v1/explain`: what a request may ask, and how an explanation is written."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from fastapi import Request
from numpy.typing import NDArray

from models.config import ModelConfig
from service import problems
from service.explanations import BEST, Explanation, Method
from service.problems import Problem
from service.slots import Question

METHODS = {method.name.lower(): method for method in Method}
PNG = "image/png"
# Every level as the text it is in JSON: a map of 224x224 is written in a tenth of the time that json takes.
_LEVELS = [f"{level / 255:.3f}".rstrip("0").rstrip(".") for level in range(256)]


def usual_question(config: ModelConfig) -> Question:
    """Where the network looked for its best class, by its Coordinate Attention if it has that."""
    return (Method.COORDATT if config.network.attention == "ca" else Method.GRADCAM), BEST


def question(request: Request, config: ModelConfig) -> Question:
    """The parameters `method` and `target`. Raises Problem 422."""
    return asked(request.query_params.get("method"), request.query_params.get("target"), config)


def asked(name: str | None, target: str | None, config: ModelConfig) -> Question:
    """The question in words; what is left out is as usual. Raises Problem 422."""
    usual, _ = usual_question(config)
    if name is None:
        name = (Method.GRADCAM if target is not None else usual).name.lower()
    if name not in METHODS:
        raise problems.out_of_range(f"method is {name!r}; it must be one of {', '.join(METHODS)}")
    if METHODS[name] is Method.COORDATT and target is not None:
        raise problems.out_of_range("maps of coordatt are the same for every class; leave out target, or method")
    if METHODS[name] is Method.COORDATT and usual is Method.GRADCAM:
        raise problems.out_of_range(f"{config.network.name} has no Coordinate Attention; ask for method=gradcam")
    return METHODS[name], _target(target, config.labels)


def wants_png(request: Request, images: int) -> bool:
    """Whether the answer is to be a picture. Raises Problem 422 for several images."""
    accepted: dict[str, float] = {}
    for one in ",".join(request.headers.getlist("accept")).lower().split(","):
        kind, *parameters = (part.strip() for part in one.split(";"))
        quality = next((text[2:] for text in parameters if text.startswith("q=")), "1")
        is_number = quality.isascii() and quality.replace(".", "", 1).isdecimal()
        accepted[kind] = float(quality) if is_number else 1.0

    def liking(kind: str) -> tuple[float, int]:
        """Of RFC 9110, section 12.5.1: the quality that the most specific range gives, and how specific it is."""
        ranges = (kind, kind.partition("/")[0] + "/*", "*/*")
        return next(((accepted[name], -rank) for rank, name in enumerate(ranges) if name in accepted), (0.0, -3))

    png, other = liking(PNG), liking("application/json")
    if png <= other or not png[0]:
        return False
    if images > 1:
        raise problems.out_of_range(f"{images} images cannot be one PNG; send one, or accept application/json")
    return True


def _target(text: str | None, labels: Sequence[str]) -> int:
    if text is None:
        return BEST
    if text in labels:
        return labels.index(text)
    if text.isascii() and text.isdecimal() and len(text) < 10 and int(text) < len(labels):
        return int(text)
    raise problems.out_of_range(f"target is {text!r}; it must be a label, or an index from 0 to {len(labels) - 1}")


class ExplanationWriter:
    """Writes the JSON of explanations by one model."""

    def __init__(self, config: ModelConfig) -> None:
        self._model, self._labels = config.name, config.labels

    def one(self, explanation: Explanation, scores: NDArray[np.float32], question: Question) -> str:
        """The JSON object of one image."""
        method, target = question
        index = int(scores.argmax()) if target == BEST else target
        rows = ",".join("[" + ",".join(map(_LEVELS.__getitem__, row)) + "]" for row in explanation.map.tolist())
        blocks = [
            {
                "name": f"features.{block.feature}",
                "a_h": _rounded(block.a_h),
                "a_w": _rounded(block.a_w),
                "map": _rounded(block.map),
            }
            for block in explanation.blocks
        ]
        described = {
            "method": method.name.lower(),
            "target": {"index": index, "label": self._labels[index], "score": round(float(scores[index]), 6)},
            "blocks": blocks,
        }
        return json.dumps(described, separators=(",", ":"))[:-1] + f',"map":[{rows}]}}'

    def answer(self, request_id: str, images: Sequence[str | Problem]) -> bytes:
        """The whole body."""
        written = [image if isinstance(image, str) else image.json(request_id).decode() for image in images]
        head = json.dumps({"model": self._model, "request_id": request_id}, separators=(",", ":"))[:-1]
        return f'{head},"explanations":[{",".join(written)}]}}'.encode()


def _rounded(values: NDArray[np.float32]) -> Any:
    return values.astype(np.float64).round(4).tolist()
