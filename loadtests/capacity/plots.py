"""Pictures of a plan: latency against load, a day of a fleet, and what more load costs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from loadtests.capacity import validate
from loadtests.capacity.arrivals import DAY
from loadtests.capacity.plan import Objective, Plan
from loadtests.capacity.pod import Pod
from loadtests.capacity.table import Table
from loadtests.capacity.validate import Compared

BLUE, ORANGE, GREY, RED = "#1f6fb2", "#d9772b", "#8a8f98", "#c0392b"
SIMULATED_LOADS = np.linspace(0.1, 0.96, 14)
MINUTE = 60


def validation(path: Path, pods: Sequence[tuple[Pod, Sequence[Sequence[Compared]]]]) -> None:
    """p50 and p99 by load: simulated as lines, each measured round as a dot."""
    figure = Figure((4.6 * len(pods), 3.6), layout="constrained")
    for axes, (pod, found) in zip(figure.subplots(1, len(pods), squeeze=False)[0], pods, strict=True):
        served = [validate.simulate(pod, float(load) * pod.capacity, 0) for load in SIMULATED_LOADS]
        for at, (percent, colour) in enumerate(zip(validate.PERCENTILES, (BLUE, ORANGE), strict=True)):
            line = [1e3 * float(np.percentile(one.latencies, percent)) for one in served]
            axes.plot(100 * SIMULATED_LOADS, line, color=colour, label=f"p{percent}, simulated")
            dots = [(100 * one.load, 1e3 * one.measured[at]) for rounds in found for one in rounds]
            axes.scatter(*zip(*dots, strict=True), color=colour, s=14, alpha=0.7, label=f"p{percent}, measured")
        axes.set(xlabel=f"load, % of {pod.capacity:,.0f} images/s", ylabel="ms", yscale="log", title=pod.model)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(_plain)
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=8)
    _save(figure, path)


def day(path: Path, table: Table, plan: Plan, slo: Objective) -> None:
    """What came and what was ready for it, and what was missed, minute by minute."""
    history = plan.history
    minutes = max(1, len(history.load) // MINUTE)
    hours = np.arange(minutes) / 60

    def by_minute(values: Sequence[float]) -> np.ndarray:
        return np.asarray(values[: minutes * MINUTE], float).reshape(minutes, -1).mean(axis=1)

    load = by_minute(history.load)
    figure = Figure((9, 5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    above.fill_between(hours, load, color=BLUE, alpha=0.25, linewidth=0, label="images/s")
    above.plot(
        hours,
        by_minute(history.ready) * plan.load,
        color=ORANGE,
        label=f"what the ready pods answer within {slo.seconds:g} s",
    )
    above.set(ylabel="images/s", ylim=(0, None), xlim=(0, max(hours[-1], 1 / 60)))
    above.yaxis.set_major_formatter(_plain)
    pods = above.twinx()
    pods.set_ylim(0, above.get_ylim()[1] / max(plan.load, 1e-9))
    pods.set_ylabel("ready pods")
    pods.yaxis.set_major_formatter(_plain)
    above.legend(loc="upper left", fontsize=8)
    floor = np.zeros(minutes)
    for values, colour, name in (
        (history.late, BLUE, f"later than {slo.seconds:g} s"),
        (history.refused, ORANGE, "refused (429)"),
        (history.lost, RED, "lost with a pod"),
    ):
        part = 100 * by_minute(values) / np.maximum(load, 1e-9)
        below.fill_between(hours, floor, floor + part, color=colour, label=name, linewidth=0)
        floor = floor + part
    below.axhline(100 * (1 - slo.goal), color=GREY, linewidth=0.8, linestyle="--")
    below.set(xlabel="hour", ylabel="% of the images", ylim=(0, max(2.0, float(floor.max()) * 1.1)))
    if len(history.load) == DAY:
        below.set_xticks(range(0, 25, 3))
    below.legend(loc="upper left", fontsize=8)
    for axes in (above, below):
        axes.grid(alpha=0.3)
    _save(figure, path)


def loads(path: Path, by_model: dict[str, list[tuple[float, Plan]]]) -> None:
    """Replicas and pod-hours of a day by its mean load."""
    figure = Figure((9, 3.8), layout="constrained")
    replicas, hours = figure.subplots(1, 2)
    for (model, plans), colour in zip(by_model.items(), (BLUE, ORANGE, GREY), strict=False):
        x = [load for load, _ in plans]
        most = [max(plan.history.replicas) for _, plan in plans]
        mean = [sum(plan.history.replicas) / len(plan.history.replicas) for _, plan in plans]
        replicas.plot(x, most, "o-", color=colour, markersize=4, label=f"{model}, most")
        replicas.plot(x, mean, "o--", color=colour, markersize=3, linewidth=1, label=f"{model}, mean")
        each = [plan.history.pod_hours / plan.history.images * 1e6 for _, plan in plans]
        hours.plot(x, each, "o-", color=colour, markersize=4, label=model)
    replicas.set(xscale="log", yscale="log", xlabel="images/s, mean of a day", ylabel="replicas")
    hours.set(xscale="log", yscale="log", xlabel="images/s, mean of a day", ylabel="pod-hours for a million images")
    for axes in (replicas, hours):
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(_plain)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    _save(figure, path)


def _written(value: float, _: object) -> str:
    """1M, 100k, 2,000, 50, 0.5."""
    if value >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if value >= 1e4 else f"{value:,.0f}" if value >= 1 else f"{value:g}"


_plain = FuncFormatter(_written)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"Date": None} if path.suffix == ".svg" else None
    figure.savefig(path, dpi=110, metadata=metadata)
