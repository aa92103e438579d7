"""The plots of docs/benchmarks.md, as SVG whose text stays text."""

import io
from collections.abc import Iterable
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from loadtests.bench import growth

# The same figures make the same file.
STYLE: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "coordserve", "font.size": 9, "axes.spines.top": False}
WAYS_WIDTH = 0.8
NETWORKS = {"digits": "bundled network", "mobilenetv2_ca_100": "MobileNetV2+CA 1.0 at 224"}
PARTS = {"ingest_us": "decoding", "request_us": "rest of the worker", "engine_us": "engine", "client_us": "client"}


def network_name(model: str) -> str:
    """For people."""
    return NETWORKS.get(model, model)


def names_of(cells: Iterable[dict[str, Any]]) -> list[str]:
    """All keys, in the order of whoever has most of them."""
    return list(dict.fromkeys(name for cell in sorted(cells, key=len, reverse=True) for name in cell))


def draw(report: dict[str, Any]) -> dict[str, str]:
    """SVG by name of the plot."""
    with matplotlib.rc_context(STYLE):
        return {
            "engine": _svg(_engine(report["engine"]["ways"])),
            "serving": _svg(_serving(report["serving"])),
            "latency": _svg(_latency(report["latency"])),
            "growth": _svg(_growth(report["growth"])),
            "ingest": _svg(_ingest(report["ingest"])),
        }


def _engine(ways: list[dict[str, Any]]) -> Figure:
    """A row for each network, a column for each dtype."""
    networks, dtypes = (list(dict.fromkeys(cell[key] for cell in ways)) for key in ("network", "dtype"))
    names = names_of(cell["images_per_second"] for cell in ways)
    figure = Figure((9, 0.6 + 2.8 * len(networks)), layout="constrained")
    for row, network in zip(figure.subplots(len(networks), len(dtypes), squeeze=False), networks, strict=True):
        for axes, dtype in zip(row, dtypes, strict=True):
            cells = [cell for cell in ways if (cell["network"], cell["dtype"]) == (network, dtype)]
            for place, name in enumerate(names):
                shift = WAYS_WIDTH * ((place + 0.5) / len(names) - 0.5)
                found = [(at + shift, cell["images_per_second"].get(name)) for at, cell in enumerate(cells)]
                _bars(axes, [(at, one) for at, one in found if one], WAYS_WIDTH / len(names), f"C{place}")
            axes.set_xticks(range(len(cells)), [f"batch {cell['batch']}" for cell in cells])
            axes.set(title=f"{network_name(network)}, {dtype}", ylabel="images/s")
    handles = [Patch(color=f"C{place}", label=name) for place, name in enumerate(names)]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    return figure


def _bars(axes: Axes, found: list[tuple[float, dict[str, float]]], width: float, colour: str) -> None:
    """Medians, with a line from the least to the most."""
    medians = [one["median"] for _, one in found]
    errors = [[one["median"] - one["min"] for _, one in found], [one["max"] - one["median"] for _, one in found]]
    axes.bar([at for at, _ in found], medians, width, yerr=errors, color=colour, error_kw={"lw": 0.8})


def _serving(rows: list[dict[str, Any]]) -> Figure:
    figure = Figure((9, 0.9 + 0.5 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for at, row in enumerate(rows):
        costs = [row["ingest_us"], *(row[part]["median"] for part in list(PARTS)[1:])]
        left = 0.0
        for place, cost in enumerate(costs):
            width = 100 * cost / sum(costs)
            axes.barh(at, width, left=left, color=f"C{place}")
            left += width
    named = [f"{network_name(row['network'])}, workers: {row['workers']}" for row in rows]
    axes.set_yticks(range(len(rows)), named)
    axes.invert_yaxis()
    axes.set(xlabel="% of the CPU of a request")
    handles = [Patch(color=f"C{place}", label=label) for place, label in enumerate(PARTS.values())]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(PARTS), frameon=False)
    return figure


def _latency(found: list[dict[str, Any]]) -> Figure:
    figure = Figure((4.5 * len(found), 3.2), layout="constrained")
    for axes, one in zip(figure.subplots(1, len(found), squeeze=False)[0], found, strict=True):
        offered = [100 * load["share"] for load in one["loads"]]
        for name, colour in (("p50_ms", "C0"), ("p99_ms", "C1")):
            axes.plot(offered, [load[name]["median"] for load in one["loads"]], color=colour, label=name[:3])
            least, most = ([load[name][end] for load in one["loads"]] for end in ("min", "max"))
            axes.fill_between(offered, least, most, color=colour, alpha=0.2, lw=0)
        axes.axhline(one["lone"]["p50_ms"]["median"], color="grey", lw=0.8, ls="--", label="alone, p50")
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set(title=network_name(one["network"]), xlabel="offered, % of the closed loop's", ylabel="ms")
        axes.legend(frameon=False)
    return figure


def _growth(found: list[dict[str, Any]]) -> Figure:
    """Dashed: the most that is expected, among the sizes that are judged."""
    figure = Figure((9, 5.6), layout="constrained")
    for axes, axis in zip(figure.subplots(2, len(found) // 2).flat, found, strict=True):
        sizes = [load["size"] for load in axis["loads"]]
        for place, (part, name) in enumerate(growth.PARTS.items()):
            axes.plot(sizes, [load[part]["median"] for load in axis["loads"]], f"C{place}.-", label=name)
            least, most = ([load[part][end] for load in axis["loads"]] for end in ("min", "max"))
            axes.fill_between(sizes, least, most, color=f"C{place}", alpha=0.2, lw=0)
        judged = sizes[-axis["judged"] :]
        first = axis["loads"][-axis["judged"]]["service_us"]["median"]
        expected = [first * (size / judged[0]) ** axis["exponent"] for size in judged]
        axes.plot(judged, expected, color="grey", lw=0.8, ls="--", label="both, expected at most")
        axes.set_xscale("log", base=2 if sizes[-1] < 10 else 10)
        axes.set(yscale="log", title=axis["axis"], ylabel="us of CPU an image")
        axes.xaxis.set_major_formatter("{x:g}")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def _ingest(rows: list[dict[str, Any]]) -> Figure:
    figure = Figure((9, 0.8 + 0.4 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for shift, way, colour in ((-0.2, "worker", "C0"), (0.2, "pillow", "C1")):
        widths = [row[f"{way}_ms"]["median"] for row in rows]
        label = {"worker": "worker", "pillow": "Pillow"}[way]
        axes.barh([at + shift for at in range(len(rows))], widths, 0.4, label=label, color=colour)
    axes.set_yticks(range(len(rows)), [f"{row['picture']} to {row['network_pixels']}" for row in rows])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set(xlabel="milliseconds of CPU a picture")
    axes.legend(frameon=False)
    return figure


def _svg(figure: Figure) -> str:
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None}, facecolor="white")
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"
