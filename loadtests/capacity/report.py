"""What the commands say, and the page docs/capacity.md's figures: measured, checked and planned in one go."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from loadtests.capacity import arrivals, manifests, plan, pod, table, validate
from loadtests.capacity.fleet import Cluster, Failure, History
from loadtests.capacity.plan import Objective, Plan
from loadtests.capacity.pod import Pod
from loadtests.capacity.table import Table
from loadtests.capacity.validate import Compared, Verdict
from loadtests.machine import sentence
from models.config import BUNDLED_MODEL

MARK = "<!-- From here on `python -m loadtests.capacity report` writes. -->"
LOADS = (10.0, 100.0, 1_000.0, 10_000.0, 100_000.0, 1_000_000.0)
SLO = Objective(0.2)
ZONE_FAILURE = Failure("zone", 17 * 3600.0, 1800.0)  # in the afternoon, when there is most to do
DAY_LOAD = 20.0  # pods' worth of images/s, on average, of the day that is drawn


@dataclass(frozen=True)
class Check:
    """A pod of this machine and how well it is simulated."""

    pod: Pod
    found: list[list[Compared]]

    @property
    def verdicts(self) -> list[Verdict]:
        return validate.verdicts(self.found)


def checked(cache: Path, seconds: float, rounds: int) -> list[Check]:
    """Measure and validate the bundled network and MobileNetV2+CA 1.0 at 224."""
    from loadtests.capacity import measure
    from loadtests.networks import imagenet_sized

    checks = []
    with tempfile.TemporaryDirectory() as folder:
        for model in (BUNDLED_MODEL, imagenet_sized(Path(folder))):
            found = measure.pod(model, cache)
            checks.append(Check(found, validate.compare(found, model, cache, seconds, rounds)))
    return checks


def of_pod(found: Pod) -> str:
    rows = [
        ("decoding an image", found.decode_seconds),
        ("all else in a worker for a request", found.request_seconds),
        ("a turn of a worker", found.turn_seconds),
        ("a batch of one", found.batch_time(1)),
        (f"a batch of {found.batch_cap}, the largest", found.batch_time(found.batch_cap)),
        ("on the wire", found.wire_seconds),
        ("the load generator", found.client_seconds),
    ]
    return "\n".join(
        [
            f"{found.model} on {found.device}, {found.cores} cores, {found.workers} workers: "
            f"{found.capacity:,.0f} images/s for {found.connections} connections; all cores busy, everything takes "
            f"{found.crowded:g} times as long; ready after {found.start_seconds:.1f} s, and "
            f"{found.compile_seconds:.0f} s more without a compiled network.",
            "",
            "| while nothing else runs | ms |",
            "|---|---|",
            *(f"| {name} | {seconds * 1e3:.2f} |" for name, seconds in rows),
        ]
    )


def of_checks(checks: Sequence[Check]) -> str:
    lines = ["| | load | | measured, ms | simulated, ms | off by |", "|---|---|---|---|---|---|"]
    for check in checks:
        for one in check.verdicts:
            held = "" if abs(one.off) <= validate.ASKED else " **(too much)**"
            lines.append(
                f"| {check.pod.model} | {one.load:.0%} | p{one.percentile} | {one.measured * 1e3:.1f} | "
                f"{one.simulated * 1e3:.1f} | {one.off:+.0%}{held} |"
            )
    return "\n".join(lines)


def of_plan(found: Table, made: Plan, slo: Objective, autoscaler: str, price: float | None) -> str:
    history, one = made.history, found.pod
    manifest = manifests.keda() if autoscaler == "keda" else None
    hpa = manifest.hpa if manifest else manifests.hpa()[0]
    mean = sum(history.replicas) / len(history.replicas)
    lines = [
        f"pod: {one.model} on {one.device}, {one.cores} cores: at most {found.capacity:,.0f} images/s, "
        f"{made.load:,.0f} with {slo.goal:.0%} within {slo.seconds:g} s",
        f"threshold: {made.threshold:g}"
        + (
            f" images queued and in flight for each replica (deploy/ has {manifest.threshold:g})"
            if manifest
            else " of the requested CPU"
        ),
        f"replicas: {min(history.replicas)} to {max(history.replicas)}, {mean:,.1f} on average (deploy/ has "
        f"{hpa.least} to {hpa.most})",
        f"pod-hours: {history.pod_hours:,.0f} in {timedelta(seconds=len(history.load))}"
        + (f", {history.pod_hours * price:,.2f} at {price:g}" if price else ""),
        f"images: {history.images:,.0f}, of which late {_part(history.late, history)}, refused "
        f"{_part(history.refused, history)}, lost {_part(history.lost, history)}",
        f"objective: {slo.goal:.0%} within {slo.seconds:g} s is {'met' if made.met else 'missed'}: "
        f"{1 - history.missed:.2%} in the worst hour",
    ]
    return "\n".join(lines)


def _part(values: Sequence[float], history: History) -> str:
    return f"{sum(values) / max(1.0, history.images):.3%}"


def write(out: Path, seconds: float, rounds: int) -> None:
    """Into the folder `out` pod files and plots, into the page beside it what they show."""
    with tempfile.TemporaryDirectory() as folder:
        checks = checked(Path(folder), seconds, rounds)
    out.mkdir(parents=True, exist_ok=True)
    for check in checks:
        pod.write(out / f"{check.pod.model}.json", check.pod)
    page = out.with_suffix(".md")
    text = page.read_text() if page.exists() else f"# Capacity\n\n{MARK}\n"
    page.write_text(text.partition(MARK)[0] + MARK + "\n\n" + figures(out, checks))


def figures(out: Path, checks: Sequence[Check]) -> str:
    """The page's part that is measured; draws its plots into `out`."""
    from loadtests.capacity import plots

    plots.validation(out / "validation.png", [(check.pod, check.found) for check in checks])
    tables = [table.simulated(check.pod) for check in checks]
    by_model = {one.pod.model: _by_load(one) for one in tables}
    plots.loads(out / "loads.png", by_model)
    measured = checks[0].pod.measured
    name = out.name
    return "\n".join(
        [
            "## Measured",
            "",
            f"{sentence(measured)} The load generator runs on the same cores; "
            f"JPEGs of {measured['image_bytes'] / 1e3:.0f} kB.",
            "",
            *(of_pod(check.pod) + "\n" for check in checks),
            "## Simulated and measured",
            "",
            f"Loads are parts of what the pod answers to many connections; medians of {len(checks[0].found[0])} runs. "
            f"Asked for: at most {validate.ASKED:.0%} off.",
            "",
            of_checks(checks),
            "",
            f"![p50 and p99 by load, simulated and measured]({name}/validation.png)",
            "",
            f"## A day, from 10 to 1,000,000 images/s; {SLO.goal:.0%} within {SLO.seconds:g} s",
            "",
            "| | images/s, mean | threshold | replicas, least, mean, most | pod-hours | late | refused | met |",
            "|---|---|---|---|---|---|---|---|",
            *(_row(model, load, made) for model, plans in by_model.items() for load, made in plans),
            "",
            f"![replicas and pod-hours by load]({name}/loads.png)",
            "",
            *_day(out, tables[-1]),
        ]
    )


def _day(out: Path, found: Table) -> list[str]:
    """A day with a failure, unless the pod is too slow for any."""
    from loadtests.capacity import plots

    load = DAY_LOAD * found.best_load(SLO.seconds, SLO.goal)
    if not load:
        return []
    cluster = replace(_cluster(found.pod), failures=(ZONE_FAILURE,))
    made = plan.with_keda(found, arrivals.daily(load, arrivals.DAY), SLO, cluster)
    plots.day(out / "day.png", found, made, SLO)
    return [
        f"## A day of {load:,.0f} images/s, and a zone of three gone for half an hour",
        "",
        *(f"    {line}" for line in of_plan(found, made, SLO, "keda", None).splitlines()),
        "",
        f"![load, ready pods and what was missed over a day]({out.name}/day.png)",
        "",
    ]


def _by_load(found: Table) -> list[tuple[float, Plan]]:
    if not found.best_load(SLO.seconds, SLO.goal):
        return []
    return [
        (load, plan.with_keda(found, arrivals.daily(load, arrivals.DAY), SLO, _cluster(found.pod))) for load in LOADS
    ]


def _cluster(one: Pod) -> Cluster:
    return Cluster(one.start_seconds, scrape_seconds=manifests.scrape_seconds())


def _row(model: str, load: float, made: Plan) -> str:
    history = made.history
    replicas = history.replicas
    return (
        f"| {model} | {load:,.0f} | {made.threshold:g} | {min(replicas):,}, {sum(replicas) / len(replicas):,.1f}, "
        f"{max(replicas):,} | {history.pod_hours:,.0f} | {_part(history.late, history)} | "
        f"{_part(history.refused, history)} | {'yes' if made.met else 'no'} |"
    )
