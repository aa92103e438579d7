"""A run is judged as its shape says, and its page says so."""

import math
from types import SimpleNamespace
from typing import Any

from loadtests.metrics import FIELDS
from loadtests.record import Record
from loadtests.report import page
from loadtests.shapes import SHAPES
from loadtests.slo import Objectives

SECONDS = 80.0


class Stats:
    """As much of locust's RequestStats as is read."""

    def __init__(self) -> None:
        self.entry = SimpleNamespace(name="predict", method="POST", num_requests=0, num_failures=0, response_times={})
        self.entries = {("predict", "POST"): self.entry}
        self.errors: dict[str, Any] = {}

    def answered(self, times: int, milliseconds: float) -> None:
        self.entry.num_requests += times
        known = self.entry.response_times
        self.entry.response_times = known | {milliseconds: known.get(milliseconds, 0) + times}


def started(shape: str) -> tuple[Stats, Record]:
    stats = Stats()
    objectives = Objectives(p99_ms=100, requests_per_second=1)
    record = Record(stats, SHAPES[shape], SECONDS, objectives, lambda: 8, lambda: dict.fromkeys(FIELDS, math.nan))
    record.start()
    return stats, record


def test_steps_go_on_until_one_breaks_and_the_best_counts():
    stats, record = started("step-to-breaking-point")
    outcomes = []
    for step, milliseconds in enumerate((20.0, 30.0, 500.0)):
        stats.answered(1000, milliseconds)
        outcomes.append(record.over(second=10.0 * (step + 1)))
    record.finish()

    assert outcomes == [False, False, True]
    assert [period.held for period in record.periods] == [True, True, False]
    assert record.verdicts[0].measured == 30.0
    assert record.passed


def test_a_first_step_that_breaks_fails():
    stats, record = started("step-to-breaking-point")
    stats.answered(1000, 500.0)

    assert record.over(second=10.0)
    record.finish()
    assert not record.passed


def test_steps_that_never_break_end_with_the_time():
    stats, record = started("step-to-breaking-point")
    for tick in range(81):
        stats.answered(100, 20.0)
        ended = record.over(second=float(tick))
    record.finish()

    assert ended
    assert [period.held for period in record.periods] == [True] * 8
    assert record.passed


def test_a_tenth_that_does_not_hold_fails_a_soak_whose_whole_does():
    stats, record = started("soak")
    for tick in range(81):
        stats.answered(1000, 20.0)
        if tick == 36:
            stats.answered(200, 500.0)
        record.over(second=float(tick))
    record.finish()

    assert [period.held for period in record.periods] == [True] * 4 + [False] + [True] * 5
    assert all(verdict.held for verdict in record.verdicts)
    assert not record.passed


def test_the_page_shows_what_it_is_told_as_text():
    stats, record = started("steady")
    stats.entry.num_requests, stats.entry.num_failures = 3, 1
    for name in ("total_rps", "avg_response_time", "max_response_time", "avg_content_length"):
        setattr(stats.entry, name, 1.0)
    stats.entry.get_response_time_percentile = lambda share: 1.0
    stats.errors["one"] = SimpleNamespace(name="predict", error="<script>alert(1)</script>", occurrences=1)
    record.sample()
    record.over(SECONDS)
    record.finish()

    html = page({"shape": "steady", "users": 8, "rate": 0, **record.json()}, {"Model": {"name": "<b>"}})

    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert "&lt;b&gt;" in html
