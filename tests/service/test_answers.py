"""Hand-written JSON against the standard library's reading of it."""

import json

import numpy as np
import pytest

from service import problems
from service.answers import AnswerWriter, Timing


@pytest.mark.parametrize(("classes", "top_k"), [(3, 5), (10, 3), (1000, 5), (1000, 1), (1000, 1000)])
def test_rankings_are_the_highest_scores_in_order(classes: int, top_k: int):
    scores = np.random.default_rng(classes).random(classes, dtype=np.float32)
    writer = AnswerWriter("m", tuple(f"label {index}" for index in range(classes)))

    ranking = json.loads(writer.ranking(scores, top_k))

    expected = sorted(range(classes), key=lambda index: -scores[index])[:top_k]
    assert [entry["index"] for entry in ranking] == expected
    assert [entry["label"] for entry in ranking] == [f"label {index}" for index in expected]
    assert [entry["score"] for entry in ranking] == pytest.approx(
        [float(scores[index]) for index in expected], rel=1e-5
    )


def test_labels_and_names_of_any_characters_stay_json():
    writer = AnswerWriter('a"b', ('quote " back \\ ', "línea\n\u2028"))
    rankings: list[str | problems.Problem] = [
        writer.ranking(np.array([1e-9, 1.0], np.float32), 2),
        problems.malformed('say "what"'),
    ]

    answer = json.loads(writer.answer('id"', rankings, Timing(0.0012345, 2000, 3500, 4)))

    assert answer["model"] == 'a"b'
    assert answer["request_id"] == 'id"'
    assert [entry["label"] for entry in answer["predictions"][0]] == ["línea\n\u2028", 'quote " back \\ ']
    assert answer["predictions"][1]["detail"] == 'say "what"'
    assert answer["timing"] == {"decode_ms": 1.234, "queue_ms": 2.0, "infer_ms": 3.5, "batch_size": 4}
