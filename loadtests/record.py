"""What happened in a run, second by second and period by period, and whether that will do."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from loadtests.figures import PREDICT, Figures
from loadtests.shapes import Shape
from loadtests.slo import Objectives, Verdict

POINTS = 300
"""most of a chart; a longer run is sampled less often than every second"""
SENT = 0.9
"""of what an open loop is to send"""


@dataclass(frozen=True)
class Period:
    """A part of a run that is judged by itself."""

    users: int
    figures: Figures
    verdicts: list[Verdict]

    @property
    def held(self) -> bool:
        return all(verdict.held for verdict in self.verdicts)

    def __str__(self) -> str:
        broken = [str(verdict) for verdict in self.verdicts if not verdict.held]
        return f"{self.users} users, {self.figures.requests_per_second:.1f} requests/s: {'; '.join(broken) or 'held'}"


class Record:
    """Kept by the one process in which locust's figures come together."""

    def __init__(
        self,
        stats: Any,
        shape: Shape,
        seconds: float,
        objectives: Objectives,
        users: Callable[[], int],
        server: Callable[[], dict[str, float]],
        rate: float = 0.0,
    ) -> None:
        """stats: a locust.stats.RequestStats; users: how many there are now; server: what its metrics say; rate:
        requests/s that an open loop is to send."""
        self._stats, self._shape, self._seconds, self._objectives = stats, shape, seconds, objectives
        self._users, self._server, self._rate = users, server, rate
        self.interval = max(1.0, seconds / POINTS)
        self.series: list[dict[str, float]] = []
        self.periods: list[Period] = []

    def start(self) -> None:
        self._start, self._end = time.monotonic(), math.inf
        self._sampled = self._judged = self._figures()
        self._present = self._users()
        self._server()  # from which the first means count

    def sample(self) -> None:
        """One point of every chart; none after the end."""
        if self._end < math.inf:
            return
        now = self._figures()
        new, self._sampled = now.since(self._sampled), now
        client = {
            "second": now.seconds,
            "users": self._users(),
            "p50_ms": new.p50_ms,
            "p99_ms": new.p99_ms,
            "right": new.requests_per_second,
            "wrong": new.failures / new.seconds,
            "refused": new.refusals / new.seconds,
        }
        self.series.append(client | self._server())

    def over(self, second: float) -> bool:
        """Whether the run is. Judges the period that has ended, if one has."""
        if second < self._seconds:  # then they leave
            self._present = self._users()
        ended = second * self._shape.periods / self._seconds
        if second < self._seconds and ended >= len(self.periods) + 1:
            self._judge()
        if over := second >= self._seconds or self._broken:
            self._end = time.monotonic()
        return over

    def finish(self) -> None:
        """When all figures have come."""
        if not self._broken:
            self._judge()

    @property
    def verdicts(self) -> list[Verdict]:
        """Of the whole, or of the best period of a run that goes on until one breaks."""
        if self._shape.until_broken:
            best = [period for period in self.periods if period.held] or self.periods
            return self._objectives.judge(best[-1].figures)
        sent = [self._sent()] if self._shape.open_loop else []
        return [*self._objectives.judge(self._figures()), *sent]

    def _sent(self) -> Verdict:
        """Whether an open loop sent what it was to, but for chance and a late start: else it measured a lower load."""
        due, sent = self._rate * self._seconds, self._figures().requests
        asked = SENT * due - 4 * math.sqrt(due)
        return Verdict("requests_sent", asked, sent, sent >= asked)

    @property
    def passed(self) -> bool:
        periods = [] if self._shape.until_broken else self.periods
        return all(verdict.held for verdict in self.verdicts) and all(period.held for period in periods)

    def json(self) -> dict[str, Any]:
        entries = sorted(self._stats.entries.values(), key=_predictions_first)
        return {
            "what": self._shape.what,
            "passed": self.passed,
            "verdicts": [asdict(verdict) for verdict in self.verdicts],
            "periods": [_period(period) for period in self.periods],
            "whole": _summary(self._figures()),
            "tasks": [_task(entry) for entry in entries if entry.num_requests],
            "errors": [
                {"name": error.name, "error": str(error.error), "count": error.occurrences}
                for error in self._stats.errors.values()
            ],
            "series": self.series,
        }

    @property
    def _broken(self) -> bool:
        return self._shape.until_broken and bool(self.periods) and not self.periods[-1].held

    def _figures(self) -> Figures:
        return Figures.of(self._stats, min(time.monotonic(), self._end) - self._start)

    def _judge(self) -> None:
        now = self._figures()
        figures, self._judged = now.since(self._judged), now
        alone = self._shape.periods > 1
        objectives = self._objectives.whatever_the_rate() if alone else self._objectives
        self.periods.append(Period(self._present, figures, objectives.judge(figures)))


def _predictions_first(entry: Any) -> tuple[bool, str, str]:
    return not entry.name.startswith(PREDICT), entry.name, entry.method


def _summary(figures: Figures) -> dict[str, float]:
    names = ("p50_ms", "p99_ms", "requests_per_second", "error_rate", "refusal_rate")
    return {"seconds": figures.seconds, "requests": figures.requests} | {name: getattr(figures, name) for name in names}


def _period(period: Period) -> dict[str, Any]:
    return {"users": period.users, "held": period.held, **_summary(period.figures)}


def _task(entry: Any) -> dict[str, Any]:
    return {
        "name": entry.name,
        "kind": entry.method,
        "requests": entry.num_requests,
        "failures": entry.num_failures,
        "per_second": entry.total_rps,
        "mean_ms": entry.avg_response_time,
        "p50_ms": entry.get_response_time_percentile(0.5),
        "p95_ms": entry.get_response_time_percentile(0.95),
        "p99_ms": entry.get_response_time_percentile(0.99),
        "max_ms": entry.max_response_time,
        "bytes": entry.avg_content_length,
    }
