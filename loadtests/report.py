"""A run as one page of HTML: whether it passed, what locust and the service measured, and on what."""

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from loadtests.charts import Line, chart
from loadtests.slo import AT_LEAST, RATES

BLUE, ORANGE, GREEN, RED, GREY = "#2a6fb0", "#d9772b", "#3d8b5f", "#c23b3b", "#8a8f98"
STYLE = Path(__file__).with_name("report.css")
NOTHING = "none"
Cell = str | int | float | bool | None


def page(record: dict[str, Any], about: dict[str, dict[str, Any]]) -> str:
    """record: what the locustfile wrote. about: tables of what it ran on, by their titles."""
    outcome = "passed" if record["passed"] else "failed"
    load = f"{record['rate']:g} requests/s" if record["shape"] == "poisson" else f"{record['users']} users"
    whole = record["whole"]
    title = f"Load test: {record['shape']} {outcome}"
    parts = [
        f'<header><h1>{escape(record["shape"])} <b class="{outcome}">{outcome}</b></h1>',
        f"<p>{escape(record['what'])}: {load}, {whole['requests']:,} requests in {whole['seconds']:.0f} s</p></header>",
        "<h2>Objectives</h2>",
        _table(
            ["objective", "asked for", "measured", ""],
            [_verdict(verdict) for verdict in record["verdicts"]],
            [verdict["held"] for verdict in record["verdicts"]],
        ),
        *_periods(record["periods"]),
        "<h2>Over time</h2>",
        f'<div class="charts">{_charts(record)}</div>',
        "<h2>Requests</h2>",
        "<p>As the client measured them, with locust. Latency is in milliseconds.</p>",
        _tasks(record["tasks"]),
        *_errors(record["errors"]),
        "<h2>On what</h2>",
        f'<div class="about">{"".join(_about(name, facts) for name, facts in about.items())}</div>',
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{STYLE.read_text()}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def _verdict(verdict: dict[str, Any]) -> list[Cell]:
    name = verdict["objective"]
    bound = "at least" if name in AT_LEAST else "at most"
    return [
        name.replace("_", " "),
        f"{bound} {_number(verdict['asked'], name)}",
        _number(verdict["measured"], name),
        "held" if verdict["held"] else "broken",
    ]


def _number(value: float, name: str) -> str:
    if not math.isfinite(value):
        return NOTHING
    if name in RATES:
        return f"{100 * value:.3g} %"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _periods(periods: list[dict[str, Any]]) -> list[str]:
    if len(periods) < 2:
        return []
    names = ("requests_per_second", "p50_ms", "p99_ms", "error_rate", "refusal_rate")
    rows: list[list[Cell]] = [
        [
            period["users"],
            f"{period['seconds']:.0f} s",
            *(_number(period[name], name) for name in names),
            "held" if period["held"] else "broken",
        ]
        for period in periods
    ]
    head = ["users", "for", *(name.replace("_", " ") for name in names), ""]
    return ["<h2>Period by period</h2>", _table(head, rows, [period["held"] for period in periods])]


def _charts(record: dict[str, Any]) -> str:
    series = record["series"]
    seconds = [point["second"] for point in series]
    ends, now = [], 0.0
    for period in record["periods"][:-1]:
        ends.append(now := now + period["seconds"])

    def draw(title: str, unit: str, *lines: tuple[str, str, str]) -> str:
        drawn = [Line(label, colour, [point[name] for point in series]) for label, colour, name in lines]
        return chart(title, unit, seconds, drawn, ends)

    return "".join(
        [
            draw("Client: latency of predictions", "ms", ("p99", ORANGE, "p99_ms"), ("p50", BLUE, "p50_ms")),
            draw(
                "Client: answers",
                "per second",
                ("right", BLUE, "right"),
                ("refused", GREY, "refused"),
                ("wrong or none", RED, "wrong"),
            ),
            draw(
                "Service: stages of a request",
                "ms, mean",
                ("whole /v1/predict", GREY, "request_ms"),
                ("decode", GREEN, "decode_ms"),
                ("queue", ORANGE, "queue_ms"),
                ("infer", BLUE, "infer_ms"),
            ),
            draw("Service: batches", "images, mean", ("batch size", BLUE, "batch_images")),
            draw(
                "Service: images",
                "at that moment",
                ("in the service", GREY, "slots_used"),
                ("queued", ORANGE, "queue_images"),
            ),
            draw("Client: users", "at that moment", ("users", BLUE, "users")),
        ]
    )


def _tasks(tasks: list[dict[str, Any]]) -> str:
    names = ("per_second", "mean_ms", "p50_ms", "p95_ms", "p99_ms", "max_ms", "bytes")
    rows: list[list[Cell]] = [
        [
            f"{task['name']} ({task['kind']})" if task["kind"] != "POST" else task["name"],
            f"{task['requests']:,}",
            f"{task['failures']:,}",
            *(_number(task[name], name) for name in names),
        ]
        for task in tasks
    ]
    head = ["", "requests", "failed", "requests/s", "mean", "p50", "p95", "p99", "max", "bytes of answer"]
    return _table(head, rows, [not task["failures"] for task in tasks])


def _errors(errors: list[dict[str, Any]]) -> list[str]:
    if not errors:
        return []
    rows: list[list[Cell]] = [[error["name"], error["error"], f"{error['count']:,}"] for error in errors]
    return ["<h2>Failures</h2>", _table(["request", "what was wrong", "times"], rows, [False] * len(rows))]


def _about(name: str, facts: dict[str, Any]) -> str:
    rows = "".join(f"<tr><th>{escape(key)}</th><td>{escape(_text(value))}</td></tr>" for key, value in facts.items())
    return f"<section><h3>{escape(name)}</h3><table>{rows}</table></section>"


def _text(value: Any) -> str:
    if isinstance(value, dict):
        value = [f"{key}: {of}" for key, of in value.items()]
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _table(head: Sequence[str], rows: Sequence[Sequence[Cell]], good: Sequence[bool]) -> str:
    """`good` by row; the others stand out."""
    heads = "".join(f"<th>{escape(text)}</th>" for text in head)
    body = "".join(
        f"<tr{'' if well else ' class=bad'}>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>"
        for row, well in zip(rows, good, strict=True)
    )
    return (
        f'<div class="wide"><table class="figures"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>'
    )
