"""The plots of docs/benchmarks.md, as SVG whose text stays text."""

import io
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# The same figures make the same file.
STYLE: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "coordserve", "font.size": 9, "axes.spines.top": False}
WAYS_WIDTH = 0.8
NETWORKS = {"digits": "bundled network", "mobilenetv2_ca_100": "MobileNetV2+CA 1.0 at 224"}
PARTS = {"ingest_us": "decoding", "request_us": "rest of the worker", "engine_us": "engine", "client_us": "client"}


def network_name(model: str) -> str:
    """For people."""
    return NETWORKS.get(model, model)


def draw(report: dict[str, Any]) -> dict[str, str]:
    """SVG by name of the plot."""
    with matplotlib.rc_context(STYLE):
        return {
            "engine": _svg(_engine(report["engine"]["ways"])),
            "serving": _svg(_serving(report["serving"])),
            "latency": _svg(_latency(report["latency"])),
            "ingest": _svg(_ingest(report["ingest"])),
        }


def _engine(ways: list[dict[str, Any]]) -> Figure:
    panels = sorted({(cell["network"], cell["dtype"]) for cell in ways})
    names = list(dict.fromkeys(name for cell in ways for name in cell["images_per_second"]))
    figure = Figure((4.6 * len(panels), 3.4), layout="constrained")
    for axes, (network, dtype) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        cells = [cell for cell in ways if (cell["network"], cell["dtype"]) == (network, dtype)]
        for place, name in enumerate(names):
            found = [(at, cell["images_per_second"].get(name)) for at, cell in enumerate(cells)]
            shift = WAYS_WIDTH * ((place + 0.5) / len(names) - 0.5)
            _bars(axes, [(at + shift, one) for at, one in found if one], WAYS_WIDTH / len(names), name, f"C{place}")
        axes.set_xticks(range(len(cells)), [f"batch {cell['batch']}" for cell in cells])
        axes.set(title=f"{network_name(network)}, {dtype}", ylabel="images/s")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(names), frameon=False)
    return figure


def _bars(axes: Axes, found: list[tuple[float, dict[str, float]]], width: float, label: str, colour: str) -> None:
    """Medians, with a line from the least to the most."""
    medians = [one["median"] for _, one in found]
    errors = [[one["median"] - one["min"] for _, one in found], [one["max"] - one["median"] for _, one in found]]
    axes.bar([at for at, _ in found], medians, width, yerr=errors, label=label, color=colour, error_kw={"lw": 0.8})


def _serving(rows: list[dict[str, Any]]) -> Figure:
    figure = Figure((8, 0.8 + 0.5 * len(rows)), layout="constrained")
    axes = figure.subplots()
    ends = [0.0] * len(rows)
    for part, label in PARTS.items():
        widths = [row[part]["median"] if isinstance(row[part], dict) else row[part] for row in rows]
        axes.barh(range(len(rows)), widths, left=ends, label=label)
        ends = [end + width for end, width in zip(ends, widths, strict=True)]
    axes.set_yticks(range(len(rows)), [f"{network_name(row['network'])}, workers: {row['workers']}" for row in rows])
    axes.invert_yaxis()
    axes.set(xlabel="microseconds of CPU a request")
    figure.legend(loc="outside upper center", ncols=len(PARTS), frameon=False)
    return figure


def _latency(found: list[dict[str, Any]]) -> Figure:
    figure = Figure((4.6 * len(found), 3.2), layout="constrained")
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


def _ingest(rows: list[dict[str, Any]]) -> Figure:
    figure = Figure((8, 0.8 + 0.4 * len(rows)), layout="constrained")
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
