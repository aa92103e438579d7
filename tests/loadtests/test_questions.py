"""What the load asks has right answers, and wrong ones are seen."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from loadtests.answers import Answer, Known, Picture
from loadtests.pictures import draw_corpus
from loadtests.questions import CORPUS, PREDICT, Mix, Question
from loadtests.running import RunningService
from models.config import BUNDLED_MODEL, read_config

LABELS = list(read_config(BUNDLED_MODEL).labels)
ZERO, ONE = (Picture(f"{name}.png", (CORPUS / f"{name}.png").read_bytes(), name) for name in ("zero", "one"))


@pytest.fixture
def questions() -> list[Question]:
    return Mix(CORPUS, "digits", LABELS).questions


def asked(service: RunningService, path: str, headers: dict[str, str], body: bytes) -> Answer:
    found = httpx.post(service.url + path, headers=headers, content=body)
    return Answer(found.status_code, found.headers, found.content)


def test_each_is_answered_rightly(service, questions):
    complaints = {
        question.name: complaint
        for question in questions
        if (complaint := question.complaint(asked(service, question.path, question.headers, question.body)))
    }

    assert complaints == {}


def test_some_percent_are_bad(questions):
    bad = sum(question.weight for question in questions if question.name.startswith("bad"))

    assert 0.02 < bad / sum(question.weight for question in questions) < 0.06


def test_bad_input_that_is_answered_is_wrong(service, questions):
    good = asked(service, PREDICT, {"Content-Type": "image/png"}, ZERO.body)

    for question in questions:
        if question.name.startswith("bad"):
            assert "status 200 instead of 4" in (question.complaint(good) or "")


def test_what_is_no_answer_at_all_is_wrong_to_all(questions):
    empty = Answer(200, {"content-type": "application/json"}, b"{}")

    assert [question.name for question in questions if not question.complaint(empty)] == []


def change_first(answer: Answer, change: Callable[[Any], object]) -> Answer:
    body = answer.json()
    change(body["predictions"][0])
    return Answer(200, answer.headers, json.dumps(body).encode())


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda ranking: ranking.pop(), "not as many classes"),
        (lambda ranking: ranking.reverse(), "not sorted"),
        (lambda ranking: ranking[0].update(score=1.5), "not from 0 to 1"),
        (lambda ranking: ranking[0].update(label="nought"), "do not belong together"),
        (lambda ranking: ranking[0].pop("score"), "cannot be read: KeyError"),
    ],
)
def test_an_answer_that_is_not_well_formed(service, change, complaint):
    right = asked(service, PREDICT, {"Content-Type": "image/png"}, ZERO.body)
    question = Question("zero", 1, PREDICT, {}, b"", lambda answer: Known(LABELS).predictions(answer, [ZERO]))

    assert question.complaint(right) is None
    assert complaint in (question.complaint(change_first(right, change)) or "")


def test_answers_that_changed_places(service):
    form = httpx.post(service.url + PREDICT, files=[("image", ZERO.body), ("image", ONE.body)])
    answer = Answer(form.status_code, form.headers, form.content)
    question = Question("both", 1, PREDICT, {}, b"", lambda answer: Known(LABELS).predictions(answer, [ONE, ZERO]))

    assert question.complaint(answer) == "one.png is taken for zero"


def test_the_answer_of_another_picture_whose_class_nobody_knows(service):
    known, unnamed = Known(LABELS), Picture("photo.jpg", b"")
    zero, one = (asked(service, PREDICT, {"Content-Type": "image/png"}, digit.body) for digit in (ZERO, ONE))
    question = Question("photo", 1, PREDICT, {}, b"", lambda answer: known.predictions(answer, [unnamed]))

    assert question.complaint(zero) is None
    assert question.complaint(zero) is None
    assert question.complaint(one) == "photo.jpg has other scores than in its first answer"


def test_the_corpus_is_what_the_script_draws(tmp_path):
    draw_corpus(tmp_path)

    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in CORPUS.iterdir()}
    for path in tmp_path.iterdir():
        drawn, kept = (np.asarray(Image.open(file).convert("RGB"), float) for file in (path, CORPUS / path.name))
        assert drawn.shape == kept.shape
        assert np.abs(drawn - kept).mean() < 3  # another version of a codec or a font may differ by a little
