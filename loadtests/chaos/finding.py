"""What a scenario finds."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """A claim, what was asked of it, what was measured, and whether it held.

    timed: it is about time or speed, and a busy machine may break it: `make chaos` reports it, tests leave it alone.
    """

    claim: str
    asked: str
    measured: str
    held: bool
    timed: bool = False
