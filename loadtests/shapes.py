"""How load goes up and down over the time of a run: the shapes that `--shape` names."""

import math
from collections.abc import Callable
from dataclasses import dataclass

SPIKE = 4
STEPS = 8


@dataclass(frozen=True)
class Shape:
    """A course of load. Users ask, wait a little, ask again; an open loop asks at its times, whatever comes back."""

    what: str
    seconds: int
    """how long it takes unless something else is asked for"""
    users: Callable[[float, int], int]
    """how many after a share of the time (0 to 1), where so many are asked for"""
    periods: int = 1
    """parts of the time that are judged each by itself"""
    until_broken: bool = False
    """ends with the first period that does not hold, and is judged by the best that does"""
    open_loop: bool = False


SHAPES = {
    "steady": Shape("as many users throughout", 30, lambda share, users: users),
    "ramp": Shape("users come one after the other", 60, lambda share, users: max(1, math.ceil(share * users))),
    "spike": Shape(
        "four times as many users for a fifth of the time",
        60,
        lambda share, users: users * SPIKE if 0.4 <= share < 0.6 else users,
    ),
    "step-to-breaking-point": Shape(
        "twice as many users at each of eight steps, until an objective breaks",
        160,
        lambda share, users: users * 2 ** min(int(share * STEPS), STEPS - 1),
        periods=STEPS,
        until_broken=True,
    ),
    "soak": Shape(
        "as many users for long, and no tenth of it worse than the objectives",
        3600,
        lambda share, users: users,
        periods=10,
    ),
    "poisson": Shape("requests at random times, whatever comes back", 30, lambda share, users: users, open_loop=True),
}
