"""What the load asks: pictures in every way that they can be sent, explanations, and a few percent of bad input."""

import base64
import json
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from loadtests.answers import PNG, TOP_K, Answer, Known, Picture, Wrong, overlay, problem

CORPUS = Path(__file__).with_name("corpus")
PREDICT, EXPLAIN = f"/v1/predict?top_k={TOP_K}", "/v1/explain"
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
BOUNDARY = "----loadtest"
# Of all requests, about: photos by how large they are, then the ways to send several, then what is rare.
WEIGHTS = {"small.jpg": 30, "medium.jpg": 20, "large.jpg": 4, "small.png": 5, "small.webp": 5}
DIGITS, FORM, SEVERAL, AS_JSON, V2, V2_RAW, EXPLANATION, PNG_EXPLANATION, BAD = 10, 5, 5, 3, 4, 2, 2, 1, 4


@dataclass(frozen=True)
class Question:
    """A request, how often it is asked beside the others, and what its answer must be."""

    name: str
    weight: float
    path: str
    headers: dict[str, str]
    body: bytes
    check: Callable[[Answer], None]
    """raises Wrong"""

    def complaint(self, answer: Answer) -> str | None:
        """What is wrong with an answer, if something is."""
        try:
            self.check(answer)
        except Wrong as wrong:
            return str(wrong)
        except (LookupError, TypeError, ValueError, struct.error) as error:
            return f"the answer cannot be read: {type(error).__name__}"
        return None


class Mix:
    """All questions for one model, to draw from."""

    def __init__(self, corpus: Path, model: str, labels: list[str]) -> None:
        """Raises FileNotFoundError if there is no picture in `corpus`."""
        self.questions = questions(corpus, model, Known(labels))
        self._weights = [question.weight for question in self.questions]

    def draw(self) -> Question:
        return random.choices(self.questions, self._weights)[0]


def read_corpus(folder: Path, labels: list[str]) -> tuple[list[Picture], list[Picture]]:
    """Photos, and digits, with what they show if the model reads digits. A pod has fewer of the photos."""
    photos = [Picture(name, (folder / name).read_bytes()) for name in WEIGHTS if (folder / name).exists()]
    paths = [path for number in NUMBERS if (path := folder / f"{number}.png").exists()]
    digits = [Picture(path.name, path.read_bytes(), path.stem if path.stem in labels else None) for path in paths]
    if not photos or len(digits) < 2:
        raise FileNotFoundError(f"no pictures in {folder}; python -m loadtests.pictures draws them")
    return photos, digits


def questions(corpus: Path, model: str, known: Known) -> list[Question]:
    photos, digits = read_corpus(corpus, known.labels)
    small, two, broken = photos[0], digits[-2:], photos[0].body[: len(photos[0].body) // 2]

    def predict(name: str, weight: float, content: tuple[dict[str, str], bytes], *of: Picture | None) -> Question:
        return Question(name, weight, PREDICT, *content, lambda answer: known.predictions(answer, list(of)))

    found = [predict(f"predict {one.name}", WEIGHTS[one.name], _raw(one), one) for one in photos]
    found += [predict("predict digit.png", DIGITS / len(digits), _raw(one), one) for one in digits]
    found += [
        predict("predict form", FORM, _form(small.body), small),
        predict("predict several", SEVERAL, _form(two[0].body, broken, two[1].body), two[0], None, two[1]),
        predict("predict json", AS_JSON, _json(*two), *two),
    ]
    infer = f"/v2/models/{model}/infer"
    found += [
        Question("predict v2", V2, infer, *_v2(small, *two), lambda answer: known.v2(answer, [small, *two])),
        Question(
            "predict v2 raw",
            V2_RAW,
            infer,
            {"Inference-Header-Content-Length": "0"},
            two[0].body,
            lambda answer: known.v2(answer, [two[0]]),
        ),
        Question("explain", EXPLANATION, EXPLAIN, *_raw(two[1]), lambda answer: known.explanation(answer, two[1])),
        Question(
            "explain as png", PNG_EXPLANATION, EXPLAIN, {**_raw(small)[0], "Accept": "image/png"}, small.body, overlay
        ),
    ]
    return found + _bad(small, broken)


def _bad(small: Picture, broken: bytes) -> list[Question]:
    cases = [
        ("bad: broken", PREDICT, "image/jpeg", broken, 400, "malformed-image"),
        ("bad: no picture", PREDICT, "image/jpeg", b"this is no picture", 415, "unsupported-image"),
        ("bad: text", PREDICT, "text/plain", b"this is text", 415, "unsupported-media-type"),
        ("bad: nothing", PREDICT, "image/jpeg", b"", 400, "malformed-request"),
        ("bad: too many pixels", PREDICT, "image/png", _huge(), 413, "image-too-large"),
        ("bad: top_k", "/v1/predict?top_k=0", "image/jpeg", small.body, 422, "out-of-range"),
        ("bad: method", f"{EXPLAIN}?method=guess", "image/jpeg", small.body, 422, "out-of-range"),
    ]
    return [
        Question(
            name, BAD / len(cases), path, {"Content-Type": media_type}, body, partial(problem, status=status, kind=kind)
        )
        for name, path, media_type, body, status, kind in cases
    ]


def _raw(picture: Picture) -> tuple[dict[str, str], bytes]:
    return {"Content-Type": picture.media_type}, picture.body


def _form(*bodies: bytes) -> tuple[dict[str, str], bytes]:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'.encode()
    parts = b"".join(head + body + b"\r\n" for body in bodies)
    return {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}, parts + f"--{BOUNDARY}--\r\n".encode()


def _json(*pictures: Picture) -> tuple[dict[str, str], bytes]:
    texts = [base64.b64encode(picture.body).decode() for picture in pictures]
    return {"Content-Type": "application/json"}, json.dumps({"images": texts}).encode()


def _v2(*pictures: Picture) -> tuple[dict[str, str], bytes]:
    tensor = b"".join(struct.pack("<I", len(picture.body)) + picture.body for picture in pictures)
    size = {"binary_data_size": len(tensor)}
    request = {
        "inputs": [{"name": "image", "datatype": "BYTES", "shape": [len(pictures)], "parameters": size}],
        "outputs": [{"name": "scores", "parameters": {"binary_data": True}}],
    }
    head = json.dumps(request).encode()
    return {
        "Content-Type": "application/octet-stream",
        "Inference-Header-Content-Length": str(len(head)),
    }, head + tensor


def _huge() -> bytes:
    """The head of a PNG of 3.6 billion pixels."""
    return PNG + struct.pack(">I4sIIBBBBBI", 13, b"IHDR", 60_000, 60_000, 8, 2, 0, 0, 0, 0)
