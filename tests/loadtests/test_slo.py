"""Objectives are read strictly, and judged from what was counted."""

from collections import Counter
from pathlib import Path

import pytest

import loadtests.slo
from loadtests.figures import Figures
from loadtests.slo import Objectives, SloError, read

# A hundred predictions: 98 in 10 ms, two in 700.
HUNDRED = Figures(2.0, requests=100, failures=1, refusals=4, milliseconds=Counter({10.0: 98, 700.0: 2}))
NOTHING = Figures(2.0, requests=0, failures=0, refusals=0, milliseconds=Counter())


def written(folder: Path, text: str) -> Path:
    path = folder / "slo.toml"
    path.write_text(text)
    return path


def test_the_file_that_comes_with_it_asks_for_everything():
    asked = read(Path(loadtests.slo.__file__).with_name("slo.toml"))

    assert None not in vars(asked).values()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("p98_ms = 3", "no objective 'p98_ms'; there are p50_ms, p99_ms"),
        ("p50_ms = 'fast'", "p50_ms is 'fast'; it must be a number"),
        ("p50_ms = true", "p50_ms is True; it must be a number"),
        ("p50_ms = -1", "0 or more"),
        ("p50_ms = nan", "0 or more"),
        ("error_rate = 5", "it must be a share"),
        ("", "asks for nothing"),
        ("p50_ms =", "cannot be read"),
    ],
)
def test_what_it_cannot_mean_is_refused_with_what_to_do(tmp_path, text, complaint):
    with pytest.raises(SloError, match=complaint):
        read(written(tmp_path, text))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(SloError, match="cannot be read"):
        read(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("objective", "held", "broken", "measured"),
    [
        ("p50_ms", 10, 9, 10),
        ("p99_ms", 700, 699, 700),
        ("error_rate", 0.01, 0.009, 0.01),
        ("refusal_rate", 0.04, 0.03, 0.04),
        ("requests_per_second", 47.5, 48, 47.5),
    ],
)
def test_an_objective_holds_up_to_its_bound(objective, held, broken, measured):
    [well] = Objectives(**{objective: held}).judge(HUNDRED)
    [badly] = Objectives(**{objective: broken}).judge(HUNDRED)

    assert (well.held, badly.held) == (True, False)
    assert well.measured == badly.measured == measured


def test_what_was_not_measured_holds_nothing():
    everything = Objectives(p50_ms=1e9, p99_ms=1e9, error_rate=1, refusal_rate=1, requests_per_second=0.1)

    assert [verdict.held for verdict in everything.judge(NOTHING)] == [False] * 5


def test_figures_of_a_part_are_the_difference():
    later = Figures(5.0, requests=130, failures=1, refusals=5, milliseconds=Counter({10.0: 98, 700.0: 2, 30.0: 29}))

    part = later.since(HUNDRED)

    assert part == Figures(3.0, 30, 0, 1, Counter({30.0: 29}))
