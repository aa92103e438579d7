"""What locust has counted in some time, and what follows from it."""

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

REFUSED = "refused"
"""the type under which 429 and 503 with Retry-After are counted: they are neither answers nor errors"""
PREDICT = "predict"
"""what the names of predictions begin with; only they count for latency, as explanations are background work"""


@dataclass(frozen=True)
class Figures:
    seconds: float
    requests: int
    failures: int
    refusals: int
    milliseconds: Counter[float]
    """how many predictions took how long"""

    @classmethod
    def of(cls, stats: Any, seconds: float) -> "Figures":
        """Of a locust.stats.RequestStats, `seconds` after its start."""
        entries = list(stats.entries.values())
        milliseconds: Counter[float] = Counter()
        for entry in entries:
            if entry.method != REFUSED and entry.name.startswith(PREDICT):
                milliseconds.update(entry.response_times)
        return cls(
            seconds,
            requests=sum(entry.num_requests for entry in entries),
            failures=sum(entry.num_failures for entry in entries),
            refusals=sum(entry.num_requests for entry in entries if entry.method == REFUSED),
            milliseconds=milliseconds,
        )

    def since(self, earlier: "Figures") -> "Figures":
        return Figures(
            self.seconds - earlier.seconds,
            self.requests - earlier.requests,
            self.failures - earlier.failures,
            self.refusals - earlier.refusals,
            self.milliseconds - earlier.milliseconds,
        )

    def percentile(self, percent: float) -> float:
        """Milliseconds within which so many of a hundred predictions were answered; NaN if there was none."""
        left = math.ceil(self.milliseconds.total() * percent / 100)
        for milliseconds in sorted(self.milliseconds):
            left -= self.milliseconds[milliseconds]
            if left <= 0:
                return milliseconds
        return math.nan

    @property
    def p50_ms(self) -> float:
        return self.percentile(50)

    @property
    def p99_ms(self) -> float:
        return self.percentile(99)

    @property
    def error_rate(self) -> float:
        return self.failures / self.requests if self.requests else math.nan

    @property
    def refusal_rate(self) -> float:
        return self.refusals / self.requests if self.requests else math.nan

    @property
    def requests_per_second(self) -> float:
        """That were answered as they should be."""
        return (self.requests - self.failures - self.refusals) / self.seconds
