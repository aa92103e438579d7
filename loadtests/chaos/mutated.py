"""Hostile pictures without end, the same for the same seed: sound ones broken in every way, and crafted ones."""

import random
import struct
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from loadtests.chaos.crafted import heavy, hostile, polyglots, sound, spliced
from models.config import BUNDLED_MODEL

DIGITS = Path(__file__).parents[2] / "tests" / "data" / "digits"
HEAVY_EVERY = 400  # each is up to half a second of decoding
# Numbers that lengths and sizes are apt to be wrong for.
EDGES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


@cache
def good() -> list[bytes]:
    """Pictures of digits as people send them."""
    paths = sorted(DIGITS.iterdir()) + sorted((BUNDLED_MODEL / "examples").iterdir())
    return [path.read_bytes() for path in paths if path.suffix in (".png", ".jpg")]


def mutated(seed: int, count: int) -> Iterator[bytes]:
    """So many pictures."""
    generator = random.Random(seed)
    for index in range(count):
        if index % HEAVY_EVERY == HEAVY_EVERY - 1:
            yield heavy()[index // HEAVY_EVERY % len(heavy())]
        else:
            yield _one(generator)


def _one(generator: random.Random) -> bytes:
    kind, data = generator.random(), generator.choice(generator.choice((good(), sound())))
    if kind < 0.05:
        return data
    if kind < 0.2:
        return generator.choice(hostile())
    if kind < 0.25:
        return generator.choice(polyglots(data))
    if kind < 0.3:
        return _broken(generator, generator.choice([one for one in hostile() if len(one) < 100_000]))
    return _broken(generator, data)


def _broken(generator: random.Random, data: bytes) -> bytes:
    for _ in range(generator.choice((1, 1, 2, 4))):
        data = generator.choice((_flip, _flip_early, _cut, _drop, _double, _number, _splice, _fill))(generator, data)
    return data


def _flip(generator: random.Random, data: bytes) -> bytes:
    found = bytearray(data)
    for _ in range(generator.choice((1, 3, 30)) if found else 0):
        found[generator.randrange(len(found))] ^= 1 << generator.randrange(8)
    return bytes(found)


def _flip_early(generator: random.Random, data: bytes) -> bytes:
    """Where the headers are."""
    return _flip(generator, data[:200]) + data[200:]


def _cut(generator: random.Random, data: bytes) -> bytes:
    return data[: generator.randrange(len(data) + 1)]


def _drop(generator: random.Random, data: bytes) -> bytes:
    start = generator.randrange(len(data) + 1)
    return data[:start] + data[start + generator.choice((1, 4, 50)) :]


def _double(generator: random.Random, data: bytes) -> bytes:
    start = generator.randrange(len(data) + 1)
    end = start + generator.choice((1, 12, 200))
    return data[:end] + data[start:end] * generator.choice((1, 3, 100)) + data[end:]


def _number(generator: random.Random, data: bytes) -> bytes:
    """Another number in the place of four bytes or two, early in the file."""
    start, number = generator.randrange(min(len(data), 300) + 1), generator.choice(EDGES)
    text = struct.pack(generator.choice("<>") + "I", number)[: generator.choice((2, 4))]
    return data[:start] + text + data[start + len(text) :]


def _splice(generator: random.Random, data: bytes) -> bytes:
    """The start of this picture, and the rest of another."""
    other = generator.choice(generator.choice((good(), sound())))
    cut = generator.choice((8, 16, 33, 100, generator.randrange(len(data) + 1)))
    return spliced([data, other], [cut, len(other)])


def _fill(generator: random.Random, data: bytes) -> bytes:
    start = generator.randrange(len(data) + 1)
    length = generator.choice((1, 20, 2_000))
    return data[:start] + bytes([generator.choice((0, 0xFF, 0x41))]) * length + data[start + length :]
