"""Lines over the time of a run, as SVG that needs nothing else."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 520, 190
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 8, 24
TICKS = 4


@dataclass(frozen=True)
class Line:
    """Values by point, NaN where there is none."""

    label: str
    colour: str
    values: Sequence[float]


def chart(title: str, unit: str, seconds: Sequence[float], lines: Sequence[Line], marks: Sequence[float] = ()) -> str:
    """A figure with its legend; `marks` are times that get a vertical line. Pointing at a time shows its values."""
    end = max([*seconds, 1.0])
    step = nice_step(max([0.0, *(value for line in lines for value in line.values if math.isfinite(value))]))
    top = step * TICKS

    def x(second: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * second / end

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / top

    parts = []
    for tick in range(TICKS + 1):
        value = tick * step
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:g}</text>')
    for second in _time_ticks(end):
        parts.append(f'<text x="{x(second):.1f}" y="{HEIGHT - 6}" text-anchor="middle">{second:g} s</text>')
    parts += [
        f'<line class="mark" x1="{x(at):.1f}" x2="{x(at):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>' for at in marks
    ]
    for line in lines:
        for run in _runs(seconds, line.values):
            points = " ".join(f"{x(second):.1f},{y(value):.1f}" for second, value in run)
            parts.append(f'<polyline stroke="{line.colour}" points="{points}"/>')
            if len(run) == 1:
                parts.append(f'<circle cx="{x(run[0][0]):.1f}" cy="{y(run[0][1]):.1f}" r="2" fill="{line.colour}"/>')
    before = 0.0
    for index, second in enumerate(seconds):
        shown = ", ".join(f"{line.label} {line.values[index]:.3g}" for line in lines)
        parts.append(
            f'<rect class="at" x="{x(before):.1f}" y="{TOP}" width="{x(second) - x(before):.1f}" '
            f'height="{HEIGHT - TOP - BOTTOM}"><title>{second:.0f} s: {escape(shown)}</title></rect>'
        )
        before = second
    legend = "".join(f'<li><i style="background:{line.colour}"></i>{escape(line.label)}</li>' for line in lines)
    return (
        f"<figure><figcaption>{escape(title)} <small>{escape(unit)}</small><ul>{legend}</ul></figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg></figure>'
    )


def nice_step(highest: float) -> float:
    """Of an axis: 1, 2, 2.5 or 5 times a power of ten, so that TICKS of them reach `highest`."""
    if highest <= 0:
        return 0.25
    power = 10.0 ** math.floor(math.log10(highest / TICKS))
    return next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor * TICKS >= highest * 0.9999)


def _time_ticks(end: float) -> list[float]:
    step = nice_step(end)
    return [index * step for index in range(int(end / step) + 1)]


def _runs(seconds: Sequence[float], values: Sequence[float]) -> list[list[tuple[float, float]]]:
    """What to draw without lifting the pen."""
    runs: list[list[tuple[float, float]]] = [[]]
    for second, value in zip(seconds, values, strict=True):
        if math.isfinite(value):
            runs[-1].append((second, value))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]
