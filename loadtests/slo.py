"""What a run must reach to pass: objectives, read strictly from a TOML file."""

import dataclasses
import tomllib
from dataclasses import dataclass
from pathlib import Path

from loadtests.figures import Figures

RATES = ("error_rate", "refusal_rate")
AT_LEAST = ("requests_per_second", "requests_sent")


class SloError(ValueError):
    """A file of objectives that cannot be used; its text says what to do."""


@dataclass(frozen=True)
class Verdict:
    objective: str
    asked: float
    measured: float
    held: bool

    def __str__(self) -> str:
        bound = "at least" if self.objective in AT_LEAST else "at most"
        outcome = "held" if self.held else "BROKEN"
        return f"{outcome} {self.objective} {bound} {self.asked:g}, measured {self.measured:.4g}"


@dataclass(frozen=True)
class Objectives:
    """Each is asked for if it has a value."""

    p50_ms: float | None = None
    p99_ms: float | None = None
    error_rate: float | None = None
    refusal_rate: float | None = None
    requests_per_second: float | None = None

    def judge(self, figures: Figures) -> list[Verdict]:
        """What was never measured is NaN, and holds nothing."""
        found = []
        for objective, asked in dataclasses.asdict(self).items():
            if asked is not None:
                measured = getattr(figures, objective)
                held = measured >= asked if objective in AT_LEAST else measured <= asked
                found.append(Verdict(objective, asked, measured, held))
        return found

    def whatever_the_rate(self) -> "Objectives":
        """For a part of a run in which few users ask."""
        return dataclasses.replace(self, requests_per_second=None)


def read(path: Path) -> Objectives:
    """Raises SloError."""
    try:
        found = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SloError(f"{path} cannot be read: {error}") from error
    known = [field.name for field in dataclasses.fields(Objectives)]
    for name, value in found.items():
        if name not in known:
            raise SloError(f"{path}: there is no objective {name!r}; there are {', '.join(known)}")
        if type(value) not in (int, float) or not value >= 0:
            raise SloError(f"{path}: {name} is {value!r}; it must be a number, 0 or more")
        if name in RATES and value > 1:
            raise SloError(f"{path}: {name} is {value}; it must be a share, from 0 to 1")
    if not found:
        raise SloError(f"{path} asks for nothing; name at least one of {', '.join(known)}")
    return Objectives(**found)
