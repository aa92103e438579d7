"""`python -m loadtests.capacity`: measure a pod, check the simulation against it, plan a fleet of it."""

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from loadtests.arguments import count, positive
from loadtests.capacity import arrivals, fleet, manifests, plan, pod, report, table
from loadtests.capacity.fleet import Cluster, Failure
from loadtests.capacity.plan import Objective


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except (pod.PodFileError, pod.NotMeasuredError, arrivals.TraceError) as error:
        print(f"capacity: {error}", file=sys.stderr)
        return 2


def _measure(options: argparse.Namespace) -> int:
    from loadtests.capacity import measure

    found = measure.pod(options.model)
    pod.write(options.out, found)
    print(report.of_pod(found))
    return 0


def _validate(options: argparse.Namespace) -> int:
    from loadtests.capacity import validate

    with tempfile.TemporaryDirectory() as folder:
        checks = report.checked(Path(folder), options.seconds, options.rounds)
    print(report.of_checks(checks))
    return 0 if all(abs(one.off) <= validate.ASKED for check in checks for one in check.verdicts) else 1


def _plan(options: argparse.Namespace) -> int:
    one, rates = pod.read(options.pod), _rates(options)
    rules = manifests.hpa()[0] if options.autoscaler == "hpa" else manifests.keda().hpa
    if options.max_replicas and options.max_replicas < rules.least:
        print(f"capacity: --max-replicas is less than the {rules.least} that deploy/ always has", file=sys.stderr)
        return 2
    if late := [failure for failure in options.failure if failure.at >= len(rates)]:
        print(f"capacity: a failure at {late[0].at:g} s comes after the end, {len(rates)} s", file=sys.stderr)
        return 2
    found = table.simulated(one)
    slo = Objective(options.slo_p99, 0.99)
    cluster = _cluster(options, found.pod)
    if options.autoscaler == "hpa":
        made = plan.with_hpa(found, rates, slo, cluster, options.max_replicas)
    else:
        if not options.threshold and not found.best_load(slo.seconds, slo.goal):
            late = found.misses(found.points[0].load, slo.seconds)
            print(f"capacity: no number of pods does that: with hardly any load {late:.1%} miss {slo.seconds:g} s")
            return 1
        made = plan.with_keda(found, rates, slo, cluster, options.threshold, options.max_replicas)
    print(report.of_plan(found, made, slo, options.autoscaler, options.price))
    if options.plot:
        from loadtests.capacity import plots

        plots.day(options.plot, found, made, slo)
    return 0 if made.met else 1


def _report(options: argparse.Namespace) -> int:
    report.write(options.out, options.seconds, options.rounds)
    return 0


def _rates(options: argparse.Namespace) -> list[float]:
    if options.trace:
        return arrivals.recorded(options.trace)
    seconds = round(options.hours * 3600)
    return {"steady": arrivals.steady, "bursty": arrivals.bursty, "daily": arrivals.daily}[options.arrivals](
        options.load, seconds
    )


def _cluster(options: argparse.Namespace, one: pod.Pod) -> Cluster:
    start = one.start_seconds + (0.0 if options.compile_cache else one.compile_seconds)
    return Cluster(
        options.start_seconds if options.start_seconds is not None else start,
        options.zones,
        options.pods_per_node,
        tuple(options.failure),
        manifests.scrape_seconds(),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtests.capacity", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=text, description=text)
        one.set_defaults(run=run)
        return one

    from models.config import BUNDLED_MODEL

    measuring = command("measure", _measure, "measure a pod on this machine, which should do nothing else")
    measuring.add_argument("--model", type=Path, default=BUNDLED_MODEL, help="model directory (default: the digits)")
    measuring.add_argument("--out", type=Path, required=True, help="the pod file")

    validating = command("validate", _validate, "compare simulated and measured latencies, of two networks")
    reporting = command("report", _report, "measure, validate, plan; figures and plots for docs/capacity.md")
    reporting.add_argument("--out", type=Path, required=True, help="folder; the page beside it gets the figures")
    for one in (validating, reporting):
        one.add_argument("--seconds", type=positive, default=20.0, help="of each load (default: 20)")
        one.add_argument("--rounds", type=count, default=5, help="medians of so many (default: 5)")

    planning = command("plan", _plan, "replicas, threshold, cost, and what is missed")
    planning.add_argument("--pod", type=Path, required=True, help="what `measure` wrote, on a machine like a pod's")
    planning.add_argument(
        "--load", type=positive, default=1000.0, help="mean images/s, `daily`: of a whole day (default: 1000)"
    )
    planning.add_argument("--arrivals", choices=["steady", "bursty", "daily"], default="daily", help="(default: daily)")
    planning.add_argument("--trace", type=Path, help="a recording instead: CSV with `second` or `second,images`")
    planning.add_argument("--hours", type=positive, default=24.0, help="from midnight on (default: 24)")
    planning.add_argument(
        "--slo-p99", type=positive, default=0.2, help="99 %% answered within so many s (default: 0.2)"
    )
    planning.add_argument("--autoscaler", choices=["keda", "hpa"], default="keda", help="whose rules in deploy/")
    planning.add_argument("--threshold", type=positive, help="of the ScaledObject, instead of looking for one")
    planning.add_argument("--max-replicas", type=count, help="(default: as many as it takes)")
    planning.add_argument("--start-seconds", type=positive, help="of a pod, with image and node (default: as measured)")
    planning.add_argument(
        "--compile-cache", action=argparse.BooleanOptionalAction, default=True, help="pods find a compiled network"
    )
    planning.add_argument("--zones", type=count, default=3, help="(default: 3)")
    planning.add_argument("--pods-per-node", type=count, default=4, help="(default: 4)")
    planning.add_argument(
        "--failure",
        type=_failure,
        action="append",
        default=[],
        metavar="WHAT:AT:SECONDS",
        help="a node or zone is gone: zone:61200:1800; again for more",
    )
    planning.add_argument("--price", type=positive, help="of a pod for an hour, in whatever money")
    planning.add_argument("--plot", type=_picture, help="SVG or PNG of the run")
    return parser


def _picture(text: str) -> Path:
    if not text.endswith((".svg", ".png")) or not Path(text).parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is no file.svg or file.png in a folder that exists")
    return Path(text)


def _failure(text: str) -> Failure:
    what, *times = text.split(":")
    try:
        at, seconds = map(float, times)
    except ValueError:
        at = seconds = -1.0
    if what not in ("node", "zone") or not at >= 0 or not seconds > 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not node or zone, a second and how many: zone:61200:1800")
    return fleet.Failure(what, at, seconds)


if __name__ == "__main__":
    sys.exit(main())
