"""Each shape's users over its time."""

import pytest

from loadtests.shapes import SHAPES


def course(name: str, users: int, ticks: int) -> list[int]:
    return [SHAPES[name].users(tick / ticks, users) for tick in range(ticks)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("steady", [8] * 10),
        ("soak", [8] * 10),
        ("poisson", [8] * 10),
        ("ramp", [1, 1, 2, 3, 4, 4, 5, 6, 7, 8]),
        ("spike", [8, 8, 8, 8, 32, 32, 8, 8, 8, 8]),
    ],
)
def test_users_of_ten_ticks(name, expected):
    assert course(name, users=8, ticks=10) == expected


def test_steps_double():
    assert course("step-to-breaking-point", users=3, ticks=8) == [3, 6, 12, 24, 48, 96, 192, 384]


def test_a_late_tick_is_still_the_last_step():
    assert SHAPES["step-to-breaking-point"].users(1.01, 3) == 384


def test_each_step_is_a_period_of_its_own():
    assert SHAPES["step-to-breaking-point"].periods == 8
