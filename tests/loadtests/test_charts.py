"""Axes end at round figures, and lines stop where nothing was measured."""

import math
import re

import pytest

from loadtests.charts import Line, chart, nice_step


@pytest.mark.parametrize(
    ("highest", "step"), [(0, 0.25), (4, 1), (4.1, 2), (9, 2.5), (20, 5), (21, 10), (0.3, 0.1), (1999, 500)]
)
def test_steps_of_an_axis(highest, step):
    assert nice_step(highest) == pytest.approx(step)


def test_a_line_is_broken_where_there_is_no_value():
    svg = chart("latency", "ms", [1, 2, 3, 4, 5], [Line("p50", "red", [1.0, 2.0, math.nan, 4.0, 3.0])])

    assert len(re.findall("<polyline", svg)) == 2
    assert "nan," not in svg


def test_nothing_measured_is_an_empty_chart():
    assert "<polyline" not in chart("latency", "ms", [], [Line("p50", "red", [])])


def test_pointing_at_a_time_says_its_values():
    svg = chart("latency", "ms", [1, 2], [Line("p50", "red", [1.5, 2.5]), Line("p99", "blue", [9, 8])])

    assert "<title>2 s: p50 2.5, p99 8</title>" in svg
