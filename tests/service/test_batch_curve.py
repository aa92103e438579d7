"""The batch cap follows what is measured; the clock is the test's own."""

import time
from collections.abc import Callable

import pytest

from service import batch_curve


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def advance(seconds: float) -> None:
        now[0] += seconds

    return advance


def test_sizes_lie_close_enough_that_padding_wastes_at_most_a_third():
    sizes = batch_curve.bucket_sizes(64)

    assert sizes == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]
    assert batch_curve.bucket_sizes(1) == [1]
    assert batch_curve.bucket_sizes(10) == [1, 2, 3, 4, 6, 8, 10]


def test_the_smallest_batch_near_the_best_rate_wins(clock: Callable[[float], None]):
    curve: dict[int, float] = {}
    for _ in batch_curve.measure(
        lambda size: clock(0.010 + 0.001 * size if size < 16 else 0.0015 * size), [1, 8, 16], curve
    ):
        pass

    assert curve == pytest.approx({1: 1 / 0.011, 8: 8 / 0.018, 16: 1 / 0.0015})
    assert batch_curve.best_batch({1: 100, 8: 980, 16: 1000}) == 8
    assert batch_curve.best_batch({1: 100, 8: 940, 16: 1000}) == 16


def test_a_batch_is_large_where_the_network_is_as_fast_with_small_ones():
    """Else what every batch costs the engine would be as much as the network itself."""
    assert batch_curve.best_batch({1: 10_000, 8: 10_000, 32: 10_000, 64: 10_000}) == 32
    assert batch_curve.best_batch({1: 100, 8: 100, 64: 100}) == 1


def test_measuring_stops_past_the_peak(clock: Callable[[float], None]):
    seconds = {1: 0.01, 2: 0.01, 4: 0.03, 8: 0.1, 16: 0.3}
    curve: dict[int, float] = {}

    for _ in batch_curve.measure(lambda size: clock(seconds[size]), list(seconds), curve):
        pass

    assert list(curve) == [1, 2, 4, 8]
    assert batch_curve.best_batch(curve) == 2


def test_runs_that_others_have_slowed_down_do_not_count(clock: Callable[[float], None]):
    calls: list[int] = []

    def run(size: int) -> None:
        calls.append(size)
        clock(0.05 if len(calls) % 2 else 0.005)

    curve: dict[int, float] = {}
    for _ in batch_curve.measure(run, [1, 2, 4], curve):
        pass

    assert curve == pytest.approx({1: 1 / 0.005, 2: 2 / 0.005, 4: 4 / 0.005})
