"""Top-1, top-5, confusion and calibration, against values worked out by hand."""

import pytest
import torch

from models.training.evaluate import Evaluation

LABELS = tuple("abcdefg")


def evaluation(rows: list[list[float]], targets: list[int]) -> Evaluation:
    return Evaluation(LABELS[: len(rows[0])], torch.tensor(rows), torch.tensor(targets))


def test_top_1_and_top_5():
    ranking = [0.3, 0.25, 0.2, 0.1, 0.08, 0.05, 0.02]
    found = evaluation([ranking] * 4, [0, 1, 4, 5])

    assert found.accuracy == 0.25
    assert found.correct == 1
    assert found.top(5) == 0.75
    assert found.top(100) == 1


def test_confusion_counts_classes_by_answers():
    found = evaluation([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.3, 0.7]], [0, 1, 1, 1])

    assert found.confusion.tolist() == [[1, 0], [1, 2]]


def test_a_perfectly_calibrated_model_has_no_calibration_error():
    # Two of four answers given with 0.5 are right.
    found = evaluation([[0.5, 0.3, 0.2]] * 4, [0, 0, 1, 2])

    assert found.calibration_error() == pytest.approx(0, abs=1e-6)


def test_calibration_error_weighs_each_bins_gap_by_its_pictures():
    # 3 answers at 0.9, 1 right: gap 0.9 - 1/3. 1 at 0.5, right: gap 0.5.
    found = evaluation([[0.9, 0.1, 0], [0.9, 0.1, 0], [0.9, 0.1, 0], [0.5, 0.3, 0.2]], [0, 1, 1, 0])

    assert found.calibration_error() == pytest.approx((3 * (0.9 - 1 / 3) + 0.5) / 4, abs=1e-6)


def test_a_score_of_1_falls_into_the_last_bin():
    assert evaluation([[1.0, 0.0]], [0]).calibration_error() == 0


def test_worst_mistakes_come_first():
    found = evaluation([[0.6, 0.4], [0.9, 0.1], [0.2, 0.8], [0.1, 0.9]], [1, 1, 1, 0])

    assert found.worst_mistakes(2) == [1, 3]
    assert found.worst_mistakes(9) == [1, 3, 0]


def test_the_report_says_what_each_figure_is():
    report = str(evaluation([[0.9, 0.04, 0.03, 0.01, 0.01, 0.01]] * 2, [0, 1]))

    assert "top-1 50.00% (1 of 2 held-out pictures)" in report
    assert "top-5 100.00%" in report
    assert "expected calibration error 40.00%" in report
    assert "a  1 of 1" in report
    assert "b  0 of 1" in report
    assert "c " not in report
