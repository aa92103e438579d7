"""docs/comparison.md out of what was measured: ratios first, then every figure, then where the service loses."""

import ast
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

from loadtests.compare.behaviours import LOADED_SECONDS, OVERLOAD
from loadtests.compare.environments import PEERS
from loadtests.compare.rounds import PATIENCE, RESTLESS, SUSTAINED, figures, restless_of
from loadtests.compare.servers import OURS, STOP_SECONDS
from loadtests.compare.settings import SETTINGS, Setting
from loadtests.machine import sentence
from loadtests.wrk import CONNECTIONS

HEAD = """# Comparison

Written by `make compare`. {conditions}
The service has its default settings.

`loadtests/peers` has the servers, each as its own documentation advises, all with the service's compiled network, and
giving the same answers about the same pictures. They take turns of {seconds:g} s: in closed loop ({connections}
connections of wrk), then in open loop (a Poisson process). Given are medians, least to most in parentheses, of
{rounds} rounds; a ratio is one of two turns of the same round. The load generators run on the same cores.
"""
SECTION = """A picture of {picture_bytes:,} bytes. Open loop at {rate:,.0f} requests/s, {sustained:g} of what {best},
the best peer, reaches in closed loop; a request without an answer after {patience:g} s counts as {patience:g} s.
Peers make batches of up to {max_batch}, the service of up to {batch_cap}. Scores differ from the service's by at most
{difference:.1%} of the highest. The service's decoder and the network alone take at least {least_cpu_ms:.2f} ms of CPU
for a picture."""
RESTLESS_NOTE = "Idle, these take more than {limit:.0%} of a core, and are stopped while others are measured: {who}."
BEHAVIOURS = """Overload: {times:g} times what each reaches in closed loop, in open loop; neither: late, lost, or
other errors; in vain: images computed for clients that had given up after {patience:g} s; probe: the slowest answer
to whether it is alive. Hung up: requests whose client closed 0 to 20 ms after it had asked, and that were computed
nevertheless. SIGTERM: to the first process, under load, which ends {loaded:g} s later; lost are requests that were sent
before it and not answered. Bad picture: half a JPEG among good ones; its status, and good ones that failed with it."""
# name, heading, digits, whether more is better
FIGURES = [
    ("requests_per_second", "requests/s", 0, True),
    ("p50_ms", "p50 ms", 1, False),
    ("p99_ms", "p99 ms", 1, False),
    ("cpu_seconds_per_thousand", "CPU s / 1,000", 2, False),
    ("memory_mb", "memory MB", 0, False),
    ("errors", "errors", 0, False),
    ("open_p50_ms", "p50 ms, open", 1, False),
    ("open_p99_ms", "p99 ms, open", 1, False),
    ("unanswered", "unanswered, open", 0, False),
]


def write(report: dict[str, Any]) -> str:
    """The page of a report, which is what `--json` writes."""
    settings = [(one, report["settings"][one.name]) for one in SETTINGS if one.name in report["settings"]]
    parts = [
        HEAD.format(
            conditions=sentence(report["conditions"]),
            seconds=report["seconds"],
            connections=CONNECTIONS,
            rounds=report["rounds"],
        ),
        asked_for(settings),
        *(section(setting, found) for setting, found in settings),
    ]
    if "behaviours" in report:
        parts.append(behaviours(report["behaviours"]))
    parts += [losses(settings, report.get("behaviours", {})), peers(report)]
    return "\n".join(parts)


def ratios(found: dict[str, Any], peer: str) -> list[float]:
    """Requests/s of the service over the peer's, of each round."""
    rounds = [one for one in found["closed"] if peer in one]
    rates = [(one[OURS]["requests_per_second"], one[peer]["requests_per_second"]) for one in rounds]
    return [ours / theirs if theirs else math.inf for ours, theirs in rates]


def best_peer(found: dict[str, Any]) -> str:
    """Whose median of requests/s is highest."""
    others = [name for name in found["closed"][0] if name != OURS]
    return max(others, key=lambda name: median(figures(found, name, "requests_per_second")))


def asked_for(settings: list[tuple[Setting, dict[str, Any]]]) -> str:
    rows = []
    for setting, found in settings:
        best = best_peer(found)
        for peer in sorted(set(found["closed"][0]) - {OURS}, key=lambda name: median(ratios(found, name))):
            asked = max(setting.ratios.get(peer, 0.0), setting.ratios.get("best", 0.0) if peer == best else 0.0)
            measured = ratios(found, peer)
            name = f"{peer}, the best" if peer == best else peer
            reached = _held(median(measured) >= asked) if asked else ""
            wanted = f"at least {asked:g}" if asked else ""
            rows.append(
                f"| {setting.title} | requests/s, over {name} | {wanted} | {_spread(measured, 2)} | {reached} |"
            )
        rows += list(_latency_rows(setting, found))
    return "\n".join(["| setting | | asked for | measured | reached |", "|---|---|---|---|---|", *rows, ""])


def _latency_rows(setting: Setting, found: dict[str, Any]) -> Iterator[str]:
    if not setting.lower_p99:
        return
    others = [name for name in found["open"][0] if name != OURS]
    p99 = {name: median(figures(found, name, "open_p99_ms")) for name in [OURS, *others]}
    lowest = min(others, key=lambda name: p99[name])
    load = f"p99 at {found['rate']:,.0f} requests/s, open loop"
    held = _held(p99[OURS] < p99[lowest])
    yield (
        f"| {setting.title} | {load} | lower than any | {p99[OURS]:.1f} ms; the lowest of the others, {lowest}: "
        f"{p99[lowest]:.1f} ms | {held} |"
    )


def section(setting: Setting, found: dict[str, Any]) -> str:
    names = sorted(found["closed"][0], key=lambda name: -median(figures(found, name, "requests_per_second")))
    rows = []
    for name in names:
        cells = [_spread(figures(found, name, figure), digits) for figure, _, digits, _ in FIGURES]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    headings = " | ".join(heading for _, heading, _, _ in FIGURES)
    text = SECTION.format(
        **{key: found[key] for key in ("picture_bytes", "rate", "batch_cap", "least_cpu_ms")},
        sustained=SUSTAINED,
        best=best_peer(found),
        patience=PATIENCE,
        max_batch=setting.max_batch,
        difference=max(found["differences"].values(), default=0.0),
    )
    restless = [f"{name} {found['idle_cores'][name]:.1%}" for name in restless_of(found["idle_cores"])]
    if restless:
        text += "\n" + RESTLESS_NOTE.format(limit=RESTLESS, who=", ".join(restless))
    title = setting.title[0].upper() + setting.title[1:]
    return "\n".join([f"## {title}", "", text, "", f"| | {headings} |", "|---" * (len(FIGURES) + 1) + "|", *rows, ""])


def _share(count: float, one: dict[str, Any]) -> str:
    return f"{count / one['asked']:.0%}"


def _ending(one: dict[str, Any]) -> str:
    how = f"not within {STOP_SECONDS} s" if one["exit"] is None else f"{one['stop_seconds']:.1f} s, exit {one['exit']}"
    return how + (f", {one['processes_left']} processes left" if one["processes_left"] else "")


# Heading, and the cell out of a server's findings.
COLUMNS: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
    ("overload: answered", lambda one: f"{_share(one['answered'], one)}, p99 {one['accepted_p99_ms']:,.0f} ms"),
    ("refused", lambda one: _share(one["refused"], one)),
    ("neither", lambda one: _share(one["asked"] - one["answered"] - one["refused"], one)),
    ("in vain", lambda one: f"{one['computed_in_vain']:,}"),
    ("probe", lambda one: f"{one['slowest_probe_ms']:,.0f} ms, {one['probes_failed']} of {one['probes']} failed"),
    ("hung up", lambda one: f"{one['computed_nevertheless']:,} of {one['hung_up']:,}"),
    ("SIGTERM: lost", lambda one: f"{one['pending_failed']} of {one['pending']}"),
    ("served on", lambda one: f"{one['served_on_seconds']:.1f} s"),
    ("ended", _ending),
    ("bad picture", lambda one: ", ".join(map(str, one["bad_statuses"]))),
    ("its neighbours failed", lambda one: f"{one['neighbours_failed']} of {one['neighbours']}"),
]


def behaviours(found: dict[str, dict[str, Any]]) -> str:
    headings = " | ".join(heading for heading, _ in COLUMNS)
    rows = [f"| {name} | {' | '.join(cell(one) for _, cell in COLUMNS)} |" for name, one in found.items()]
    text = BEHAVIOURS.format(times=OVERLOAD, patience=PATIENCE, loaded=LOADED_SECONDS)
    return "\n".join(["## Behaviours", "", text, "", f"| | {headings} |", "|---" * (len(COLUMNS) + 1) + "|", *rows, ""])


def losses(settings: list[tuple[Setting, dict[str, Any]]], behaviours: dict[str, dict[str, Any]]) -> str:
    """Every figure in which a peer's median is better than ours."""
    lines = []
    for setting, found in settings:
        for figure, heading, digits, more in FIGURES:
            ours = median(figures(found, OURS, figure))
            better = {}
            for name in found["closed"][0]:
                theirs = median(figures(found, name, figure))
                if theirs > ours if more else theirs < ours:
                    better[name] = theirs
            if better:
                others = ", ".join(f"{name} {value:,.{digits}f}" for name, value in better.items())
                lines.append(f"* {setting.title}: {heading}: {others}; the service {ours:,.{digits}f}.")
    lines += list(_behaviour_losses(behaviours))
    return "\n".join(["## Where the service loses", "", *(lines or ["Nowhere in these figures."]), ""])


def _behaviour_losses(found: dict[str, dict[str, Any]]) -> Iterator[str]:
    if OURS not in found:
        return
    fewer = [
        ("computed_nevertheless", "computed for clients that hung up"),
        ("computed_in_vain", "computed in vain under overload"),
        ("slowest_probe_ms", "slowest probe under overload, ms"),
        ("accepted_p99_ms", "p99 of what is answered under overload, ms"),
        ("pending_failed", "requests lost at SIGTERM"),
        ("stop_seconds", "seconds from SIGTERM to the end"),
        ("neighbours_failed", "neighbours of a bad picture that failed"),
    ]
    for key, what in fewer:
        better = {name: one[key] for name, one in found.items() if one[key] < found[OURS][key]}
        if better:
            others = ", ".join(f"{name} {value:,.3g}" for name, value in better.items())
            yield f"* {what}: {others}; the service {found[OURS][key]:,.3g}."


def peers(report: dict[str, Any]) -> str:
    """How each peer is set up, in its server's own words, and who is not here."""
    lines = []
    for name, version in report["versions"].items():
        docstring = ast.get_docstring(ast.parse((PEERS / name / "server.py").read_text())) or ""
        lines.append(f"* **{version}** {' '.join(docstring.partition(':')[2].split())}")
    lines += [f"* **{name}** is not here: {reason}" for name, reason in report["left_out"].items()]
    return "\n".join(["## The peers", "", *lines, ""])


def _spread(values: list[float], digits: int) -> str:
    if not values:
        return "-"
    middle = f"{median(values):,.{digits}f}"
    least, most = f"{min(values):,.{digits}f}", f"{max(values):,.{digits}f}"
    return middle if least == most else f"{middle} ({least} – {most})"  # noqa: RUF001


def _held(yes: bool) -> str:
    return "yes" if yes else "**no**"


def save(report: dict[str, Any], out: Path) -> None:
    out.write_text(write(report))
