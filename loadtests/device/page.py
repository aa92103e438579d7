"""The table and the plots out of what was measured."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

LARGEST_LAYERS = 10


def wrong(report: dict[str, Any]) -> list[str]:
    """What disagreed, allocated or failed."""
    found = [f"{name}: {answer['failed']}" for name, answer in report.items() if _is(answer, "failed")]
    checks = report.get("checks", {})
    for row in checks.get("batches", []):
        found += [f"batch {row['batch']}: {what}" for what in row["wrong"]]
    if checks.get("allocations_once_warm"):
        found.append(f"{checks['allocations_once_warm']} allocations after warm-up")
    return found


def table(report: dict[str, Any]) -> str:
    """Everything in one text; what there is not is said."""
    lines = [
        f"{report['device']}, capability {report['capability']}, CUDA {report['cuda']}, torch {report['torch']}, "
        f"{report['cores']} cores, {report['date']}, {report['seconds']} s",
    ]
    for name in ("checks", "compute", "jit", "floor", "attention", "serving", "decoding", "start_up", "litserve"):
        answer = report.get(name, {"left_out": "not asked"})
        lines += ["", name]
        if _is(answer, "failed") or _is(answer, "left_out"):
            lines.append(f"  {'failed' if 'failed' in answer else 'left out'}: {next(iter(answer.values()))}")
        else:
            lines += [f"  {line}" for line in globals()[f"_{name}"](answer)]
    bad = wrong(report)
    lines += ["", *(f"WRONG: {what}" for what in bad)] if bad else ["", "all checks passed"]
    return "\n".join(lines) + "\n"


def plots(report: dict[str, Any], folder: Path) -> None:
    """images.png and serving.png, where there is matplotlib and something to show."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    if isinstance(report.get("compute"), list):
        lines: dict[str, list[tuple[float, float]]] = {}
        for row in report["compute"]:
            lines.setdefault(f"{row['mode']}, {row['dtype']}", []).append((row["batch"], row["images_per_second"]))
        _plot(Figure((8, 5), layout="constrained"), lines, "batch", "images/s", folder / "images.png")
    if isinstance(report.get("serving"), list):
        lines = {}
        for row in report["serving"]:
            lines.setdefault(row["sent"], []).append((row["workers"], row["requests_per_second"]))
        _plot(Figure((8, 5), layout="constrained"), lines, "workers", "requests/s", folder / "serving.png")


def _plot(figure: Any, lines: dict[str, list[tuple[float, float]]], x: str, y: str, file: Path) -> None:
    axes = figure.subplots()
    for name, points in lines.items():
        axes.plot(*zip(*points, strict=True), marker="o", label=name)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set(xlabel=x, ylabel=y, ylim=(0, None))
    axes.legend(frameon=False)
    figure.savefig(file)


def _checks(checks: dict[str, Any]) -> Iterator[str]:
    worst = max(row["worst"] for row in checks["batches"])
    yield f"batch sizes {', '.join(str(row['batch']) for row in checks['batches'])}"
    yield f"largest difference from eager float32: {worst:.2g} of the highest score"
    yield f"allocations once warm: {checks['allocations_once_warm']}"


def _compute(rows: list[dict[str, Any]]) -> Iterator[str]:
    names = ("mode", "dtype", "batch", "images_per_second", "copy_ms", "compute_ms", "read_ms")
    return _columns(names, rows)


_jit = _compute


def _floor(floor: dict[str, Any]) -> Iterator[str]:
    yield (
        f"copies {floor['copy_gb_per_second']:.0f} GB/s, products {floor['product_tflops']:.0f} TFLOP/s in "
        f"{floor['dtype']}: {floor['batch']} images in {floor['floor_ms']:.2f} ms at best"
    )
    yield from _columns(("name", "kind", "floor_ms", "eager_ms"), floor["layers"][:LARGEST_LAYERS])


def _attention(attention: dict[str, Any]) -> Iterator[str]:
    for size, cost in attention["cost"].items():
        rates = (attention["images_per_second"][f"{name}_{size}"] for name in ("with", "without"))
        yield f"batch {size}: {' of '.join(f'{rate:.0f}' for rate in rates)} images/s, {cost:.1%} less than without"
    rows = [{"block": name, **times} for name, times in attention["blocks_ms"].items()]
    yield from _columns(("block", "inductor", "fused", "projected"), rows)


SERVED = (
    "workers",
    "requests_per_second",
    "p50_ms",
    "p99_ms",
    "decode_ms",
    "queue_ms",
    "infer_ms",
    "http_ms",
    "errors",
)


def _serving(rows: list[dict[str, Any]]) -> Iterator[str]:
    return _columns(("sent", *SERVED), rows)


def _decoding(found: dict[str, Any]) -> Iterator[str]:
    yield "JPEGs/s: {device:,.0f} on the device, {worker:,.0f} in a worker".format(**found["jpegs_per_second"])
    yield from _columns(("decode", "sent", *SERVED), found["serving"])


def _start_up(seconds: dict[str, float]) -> Iterator[str]:
    yield ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())


def _litserve(figures: dict[str, Any]) -> Iterator[str]:
    return _columns(("requests_per_second", "p50_ms", "p99_ms", "errors"), [figures])


def _columns(names: Sequence[str], rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    cells = [list(names), *([_cell(row[name]) for name in names] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(names))]
    for row in cells:
        yield "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if value < 1000 else f"{value:,.0f}"
    return "-" if value is None else str(value)


def _is(answer: Any, key: str) -> bool:
    return isinstance(answer, dict) and key in answer
