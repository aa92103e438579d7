"""How many images come each second: evenly, in bursts, over a day, or as recorded.

These are means; within a second images come as a Poisson process. What a balancer sends at random to each of many
pods is then a Poisson process, too.
"""

import csv
import math
import random
from itertools import pairwise
from pathlib import Path

DAY = 86_400
NIGHT = 0.2  # of the mean that is left at four in the morning; its counterpart comes at four in the afternoon
BURST, BURST_SECONDS, CALM_SECONDS = 4.0, 60.0, 600.0  # times the calm rate; how long each lasts, on average


class TraceError(Exception):
    """A recording that cannot be read, and why."""


def steady(load: float, seconds: int) -> list[float]:
    """The same rate all the time: a Poisson process."""
    return [load] * seconds


def bursty(load: float, seconds: int, seed: int = 0) -> list[float]:
    """A Markov-modulated Poisson process: calm, and for a minute at times four times as much; `load` on average."""
    generator = random.Random(seed)
    calm = load * (BURST_SECONDS + CALM_SECONDS) / (BURST * BURST_SECONDS + CALM_SECONDS)
    rates: list[float] = []
    burst = False
    while len(rates) < seconds:
        length = generator.expovariate(1 / (BURST_SECONDS if burst else CALM_SECONDS))
        rates += [calm * BURST if burst else calm] * math.ceil(length)
        burst = not burst
    return rates[:seconds]


def daily(load: float, seconds: int) -> list[float]:
    """A wave over the day from midnight on, deepest at four in the morning; `load` on average."""
    swing = 1 - NIGHT
    return [load * (1 - swing * math.cos(2 * math.pi * (second / DAY - 4 / 24))) for second in range(seconds)]


def recorded(path: Path) -> list[float]:
    """Images of each second from a CSV file: either a column `second`, a time of arrival a line, in order; or two,
    `second` and `images`, a line for each second in which some came. Raises TraceError, which names the line.
    """
    try:
        with path.open(newline="") as file:
            lines = [line for line in csv.reader(file) if line]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TraceError(f"{path}: {error}") from error
    head, *body = lines or [[]]
    if head not in (["second"], ["second", "images"]):
        raise TraceError(f"{path}: the first line has to be 'second' or 'second,images'")
    found: list[tuple[float, float]] = []
    for number, line in enumerate(body, 2):
        try:
            second, images = float(line[0]), float(line[1]) if len(head) == 2 else 1.0
            good = len(line) == len(head) and 0 <= second < 366 * DAY and 0 <= images < math.inf
        except (ValueError, IndexError):
            good = False
        if not good:
            raise TraceError(f"{path}: line {number}: {','.join(line)!r} is not {' and '.join(head)}, from 0 on")
        found.append((second, images))
    if not any(images for _, images in found):
        raise TraceError(f"{path}: no arrivals")
    for number, (before, after) in enumerate(pairwise(found), 3):
        if after[0] < before[0]:
            raise TraceError(f"{path}: line {number}: earlier than the line before")
    rates = [0.0] * (int(found[-1][0]) + 1)
    for second, images in found:
        rates[int(second)] += images
    return rates
