"""Whether an answer is right: complete, well formed, and about the picture that was sent and no other."""

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# Scores of one picture differ by the network's form, its arithmetic and the batch; those of two pictures by more.
SAME_SCORE = 0.05
TOP_K = 5
PROBLEM = "urn:coordserve:problem:"
PNG = b"\x89PNG\r\n\x1a\n"


class Wrong(Exception):
    """What is wrong with an answer: the same words for the same mistake, as locust counts by them."""


@dataclass(frozen=True)
class Picture:
    """An encoded picture, and the label of what it shows if that is known."""

    name: str
    body: bytes
    label: str | None = None

    @property
    def media_type(self) -> str:
        return {"jpg": "image/jpeg"}.get(kind := self.name.rpartition(".")[2], f"image/{kind}")


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def has(self, status: int, media_type: str) -> None:
        if self.status != status:
            raise Wrong(f"status {self.status} instead of {status}")
        found = self.headers.get("content-type", "")
        if found != media_type:
            raise Wrong(f"Content-Type {found!r} instead of {media_type!r}")


class Known:
    """What is known of each picture: what it shows, and what its first answer was."""

    def __init__(self, labels: list[str]) -> None:
        self.labels = labels
        self._first: dict[str, dict[int, float]] = {}

    def predictions(self, answer: Answer, pictures: list[Picture | None]) -> None:
        """Of /v1/predict, for pictures in order; None is one that cannot be read. Raises Wrong."""
        answer.has(200, "application/json")
        found = answer.json()
        if not found["request_id"] or found["timing"]["batch_size"] < 1:
            raise Wrong("no request_id, or no batch")
        if len(found["predictions"]) != len(pictures):
            raise Wrong("not as many predictions as pictures")
        for one, picture in zip(found["predictions"], pictures, strict=True):
            if picture:
                self._ranking(one, picture)
            elif one["type"] != PROBLEM + "malformed-image":
                raise Wrong("a broken picture has no problem in its place")

    def v2(self, answer: Answer, pictures: list[Picture]) -> None:
        """Of /v2/models/…/infer with binary scores, float32 [pictures, classes]. Raises Wrong."""
        answer.has(200, "application/octet-stream")
        length = int(answer.headers["inference-header-content-length"])
        [output] = json.loads(answer.body[:length])["outputs"]
        if output["name"] != "scores" or output["shape"] != [len(pictures), len(self.labels)]:
            raise Wrong("not the scores of every class for every picture")
        values = [row for (row,) in struct.iter_unpack("<f", answer.body[length:])]
        for index, picture in enumerate(pictures):
            row = values[index * len(self.labels) : (index + 1) * len(self.labels)]
            if not math.isclose(sum(row), 1, abs_tol=0.01):
                raise Wrong("scores do not sum up to 1")
            self._same(dict(enumerate(row)), picture)

    def explanation(self, answer: Answer, picture: Picture) -> None:
        """Of /v1/explain, as JSON. Raises Wrong."""
        answer.has(200, "application/json")
        [found] = answer.json()["explanations"]
        size = len(found["map"])
        if any(len(row) != size or not all(0 <= level <= 1 for level in row) for row in found["map"]):
            raise Wrong("the map is no square of levels from 0 to 1")
        target = found["target"]
        if self.labels[target["index"]] != target["label"]:
            raise Wrong("index and label do not belong together")
        self._same({target["index"]: target["score"]}, picture, first=False)

    def _ranking(self, found: Any, picture: Picture) -> None:
        scores = {one["index"]: one["score"] for one in found}
        if len(scores) != min(TOP_K, len(self.labels)):
            raise Wrong("not as many classes as asked for")
        if any(self.labels[one["index"]] != one["label"] for one in found):
            raise Wrong("index and label do not belong together")
        values = list(scores.values())
        if values != sorted(values, reverse=True) or not 0 <= values[-1] <= values[0] <= 1:
            raise Wrong("scores are not sorted, or not from 0 to 1")
        self._same(scores, picture)

    def _same(self, scores: dict[int, float], picture: Picture, first: bool = True) -> None:
        best = self.labels[max(scores, key=scores.__getitem__)]
        if picture.label and best != picture.label:
            raise Wrong(f"{picture.name} is taken for {best}")
        if first:
            self._first.setdefault(picture.name, scores)
        known = self._first.get(picture.name, scores)
        shared = known.keys() & scores.keys()
        if not shared or any(abs(known[index] - scores[index]) > SAME_SCORE for index in shared):
            raise Wrong(f"{picture.name} has other scores than in its first answer")


def overlay(answer: Answer) -> None:
    """Of /v1/explain, as a picture. Raises Wrong."""
    answer.has(200, "image/png")
    if not answer.body.startswith(PNG):
        raise Wrong("the picture is no PNG")


def problem(answer: Answer, status: int, kind: str) -> None:
    """Of bad input: an RFC 9457 object. Raises Wrong."""
    answer.has(status, "application/problem+json")
    found = answer.json()
    if (found["type"], found["status"]) != (PROBLEM + kind, status):
        raise Wrong(f"problem {found['type']!r} instead of {kind!r}")
    if not found["detail"] or not found["request_id"]:
        raise Wrong("a problem without detail or request_id")
