"""The page and its plots, out of what was measured; `python -m loadtests.bench.page PAGE` makes them anew."""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from loadtests.bench import growth, plots
from loadtests.bench.plots import names_of, network_name
from loadtests.machine import sentence

# Asked for: by share of the capacity, how many times a lone request's time the p99 may be.
ASKED_P99 = {0.3: 2, 0.7: 4}
SHORT = "**A short run: it shows that everything is measured, and no figure counts.**"
HEAD = """# Benchmarks

Written by `make bench` out of [bench.json]({folder}/bench.json), not by hand. {conditions}
It took {minutes:.0f} minutes. The load generators run on the same cores.

Given are medians, with the least and the most in parentheses. What is compared took turns, and a ratio is of two
turns of the same round."""
APART = "Asked apart: {question}; {conditions} It took {minutes:.0f} minutes."
ENGINE = """Every way computes the same batches, has as many threads as the service gives the network, and agrees
with eager float32 as well as a package must. *aot* is what the service compiles and serves, *eager* what it serves
meanwhile, *jit* its torch.compile with frozen weights, *torch.compile* the same without options. The last two
compile every batch size for half a minute, so that they are there only for the dtype that is served and one size.
On the right: how many times as fast as each *aot* is."""
ALONE = """The engine process, with its doorbell and shared memory but without workers, beside a bare loop over the
same package at the same batch size. The curve is what the engine measures when it starts, and takes its largest
batch from. Asked for: at least 0.95 of the loop."""
SERVING = """wrk, one thread, {connections} connections in closed loop. *Of the engine*: of what the engine computes
without workers and clients, in turns with the service. *Of the cores*: of what they would do if they were never
idle, at the costs below."""
COSTS = """What a request costs, in microseconds of CPU: of the processes during the run, except that decoding is
what it takes alone, and the rest of the worker its time less that."""
LATENCY = """Open loop: a Poisson process of so much of the rate that {connections} connections had reached in
closed loop just before, {seconds:g} s each. Latency counts from when a request was due. The client has priority
over the service."""
GROWTH = """Microseconds of CPU that the service spends on an image, in closed loop, with the queue at {queue:,} images
instead of 512, so that nothing is refused. *Expected* is the power of the size as which they may grow at most,
*measured* that as which they do among the largest sizes (in bold), *worse* what is more than {tolerance} above it. An
image costs the engine more where batches are small: with few connections, or where it found small ones as fast as large
ones when it started. The last three run eagerly, those by classes on one core: compiled, each number of classes would
take half a minute, and the engine would be too fast for a queue; and on all cores large networks get more threads than
small ones. Of the images asked for at a time {several} are in a request."""
INGEST = """CPU of one core from the encoded picture to the network's pixels, as a worker does it; and decoding,
resizing and cropping with Pillow."""
MEMORY = """Resident MB of the idle service, compiled; *shared once* counts once what processes share. Asked for: a
worker under 250, all under 1,200 with two workers."""
START_UP = {
    "to_import_torch": "`import torch` in a Python of its own",
    "to_first_answer_with_an_empty_cache": "to the first answer, with an empty cache",
    "to_first_compiled_answer_with_a_warm_cache": "to the first compiled answer, with a warm one",
    "beyond_import_torch": "that, beyond `import torch` in the same round; asked for: at most 1.5",
}
MEMORIES = {
    "worker_mb": "a worker",
    "engine_mb": "engine",
    "supervisor_mb": "supervisor",
    "total_mb": "all",
    "total_proportional_mb": "all, shared once",
}

Report = dict[str, Any]
Cells = Sequence[str]


def json_of(out: Path) -> Path:
    """Where the report of a page is: with the plots, in the folder of its name."""
    return out.with_suffix("") / "bench.json"


def write(out: Path) -> None:
    """The page of the report that is there, and its plots."""
    report = json.loads(json_of(out).read_text())
    for name, svg in plots.draw(report).items():
        json_of(out).with_name(f"{name}.svg").write_text(svg)
    out.write_text(page(report, out.stem))


def page(report: Report, folder: str) -> str:
    """Markdown; JSON and plots lie in `folder`."""

    def plot(name: str, shows: str) -> str:
        return f"![{shows}]({folder}/{name}.svg)"

    parts = [
        HEAD.format(folder=folder, conditions=sentence(report), minutes=report["seconds"] / 60),
        *([SHORT] if report["short"] else []),
        *_apart(report.get("asked_apart", {})),
        "## Ratios",
        table(["", "ratio"], _ratios(report)),
        _package_over(report),
        "## Engine",
        ENGINE,
        plot("engine", "images/s of each way to run the networks"),
        *_ways(report["engine"]["ways"]),
        ALONE,
        *_alone(report["engine"]["alone"]),
        "## Serving",
        SERVING.format(**report["serving"][0]),
        _served(report["serving"]),
        COSTS,
        plot("serving", "CPU of a request, by process"),
        _costs(report["serving"]),
        "## Latency against offered load",
        LATENCY.format(**report["latency"][0]),
        plot("latency", "p50 and p99 by offered load"),
        *map(_latency, report["latency"]),
        "## Growth",
        GROWTH.format(tolerance=growth.TOLERANCE, queue=growth.QUEUE, several=growth.SEVERAL),
        plot("growth", "CPU of an image by what grows"),
        *_growth(report["growth"]),
        "## Ingest",
        INGEST,
        plot("ingest", "CPU a picture, beside Pillow"),
        _ingest(report["ingest"]),
        "## Start-up",
        table(
            ["from `coordserve serve`; asked for: under 5", "s"],
            [[text, figure(report["start_up"][name])] for name, text in START_UP.items()],
        ),
        "## Memory",
        MEMORY,
        table(
            ["", *MEMORIES.values()],
            [[_service(row), *(figure(row[name]) for name in MEMORIES)] for row in report["serving"]],
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _apart(asked: dict[str, Any]) -> Iterator[str]:
    for name, how in asked.items():
        yield APART.format(question=name, conditions=sentence(how), minutes=how["seconds"] / 60)
        if how["short"]:
            yield SHORT


def figure(found: dict[str, float] | None) -> str:
    """A median with its spread, where there is one."""
    if found is None:
        return ""
    middle, least, most = (number(found[name]) for name in ("median", "min", "max"))
    return middle if least == most else f"{middle} ({least} to {most})"


def number(value: float) -> str:
    """About three digits."""
    return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def table(head: Cells, rows: Iterable[Cells]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _ratios(report: Report) -> Iterator[Cells]:
    for row in report["serving"]:
        yield f"{_service(row)}: requests/s, of what the engine computes alone", figure(row["share_of_engine_alone"])
        if row["workers"] > 1 and row["over_one_worker"]:
            yield f"{_service(row)}: requests/s, over one worker", figure(row["over_one_worker"])
    for row in report["engine"]["alone"]:
        yield f"{network_name(row['network'])}: engine process over a bare loop", figure(row["engine_over_bare_loop"])
    for one in report["latency"]:
        for load in one["loads"]:
            if asked := ASKED_P99.get(load["share"]):
                what = f"p99 at {load['share']:.0%} of the capacity, over a lone p50; asked for: under {asked}"
                yield f"{network_name(one['network'])}: {what}", figure(load["p99_over_lone"])
    for row in report["ingest"]:
        yield f"{_decoded(row)}: Pillow's time over a worker's", figure(row["pillow_over_worker"])


def _package_over(report: Report) -> str:
    """How many times as fast as each other way, for the dtypes that are served."""
    served = {(row["network"], row["dtype"]) for row in report["engine"]["alone"]}
    cells = [cell for cell in report["engine"]["ways"] if (cell["network"], cell["dtype"]) in served]
    names = names_of(cell["aot_over"] for cell in cells)
    rows = [[_computed(cell), *(figure(cell["aot_over"].get(name)) for name in names)] for cell in cells]
    return table(["compiled package over", *names], rows)


def _ways(cells: list[dict[str, Any]]) -> Iterator[str]:
    """A table for each network and dtype."""
    for network, dtype, threads in dict.fromkeys((cell["network"], cell["dtype"], cell["threads"]) for cell in cells):
        ours = [cell for cell in cells if (cell["network"], cell["dtype"]) == (network, dtype)]
        names = names_of({**cell["images_per_second"], **cell["left_out"]} for cell in ours)
        yield f"### {network_name(network)}, {dtype} ({threads} {'threads' if threads > 1 else 'thread'})"
        yield table(
            [
                "images/s",
                *(f"batch {cell['batch']}" for cell in ours),
                *(f"aot over, {cell['batch']}" for cell in ours),
            ],
            [
                [
                    name,
                    *(figure(cell["images_per_second"].get(name)) or "-" for cell in ours),
                    *(figure(cell["aot_over"].get(name)) for cell in ours),
                ]
                for name in names
            ],
        )
        left_out = dict.fromkeys(f"{name}: {why}" for cell in ours for name, why in cell["left_out"].items())
        if left_out:
            yield f"Left out: {'; '.join(left_out)}."


def _alone(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield table(
        ["images/s", "batch", "engine", "bare loop", "engine over it"],
        [
            [
                f"{network_name(row['network'])}, {row['dtype']}",
                str(row["batch"]),
                figure(row["engine_images_per_second"]),
                figure(row["bare_loop_images_per_second"]),
                figure(row["engine_over_bare_loop"]),
            ]
            for row in rows
        ],
    )
    for row in rows:
        curve = ", ".join(f"{size}: {number(rate)}" for size, rate in row["images_per_second_by_batch"].items())
        yield f"{network_name(row['network'])}, images/s by batch size: {curve}."


def _served(rows: list[dict[str, Any]]) -> str:
    names = "requests_per_second", "p50_ms", "p99_ms", "share_of_engine_alone", "share_of_limit_of_cores"
    return table(
        ["", "JPEG", "requests/s", "p50 ms", "p99 ms", "of the engine", "of the cores"],
        [
            [_service(row), f"{row['image_bytes'] / 1000:.0f} kB", *(figure(row[name]) for name in names)]
            for row in rows
        ],
    )


def _costs(rows: list[dict[str, Any]]) -> str:
    return table(
        ["us", *plots.PARTS.values(), "cores' limit, requests/s"],
        [
            [
                _service(row),
                number(row["ingest_us"]),
                *(figure(row[name]) for name in ("request_us", "engine_us", "client_us", "limit_of_cores")),
            ]
            for row in rows
        ],
    )


def _latency(one: dict[str, Any]) -> str:
    rows = [["a lone request at a time", "", *_times(one["lone"]), ""]]
    rows += [
        [f"{load['share']:.0%}", figure(load["offered"]), *_times(load), figure(load["p99_over_lone"])]
        for load in one["loads"]
    ]
    head = "offered, requests/s", "p50 ms", "p99 ms", "refused (429), %", "p99 over a lone p50"
    return table([network_name(one["network"]), *head], rows)


def _times(found: dict[str, Any]) -> list[str]:
    return [figure(found[name]) for name in ("p50_ms", "p99_ms", "refused_percent")]


def _growth(axes: list[dict[str, Any]]) -> Iterator[str]:
    yield table(
        ["us of an image by", "expected", *(f"{name}, measured" for name in growth.PARTS.values()), "worse"],
        [
            [
                axis["axis"],
                f"{axis['exponent']:g}",
                *(figure(axis["growth"][part]) for part in growth.PARTS),
                ", ".join(growth.PARTS[part] for part in axis["worse"]),
            ]
            for axis in axes
        ],
    )
    names = "worker_us", "engine_us", "p50_ms", "waiting"
    for axis in axes:
        judged = axis["loads"][-axis["judged"] :]
        yield table(
            [axis["axis"], "workers, us", "engine, us", "p50 ms", "images that wait for the engine", "largest batch"],
            [
                [
                    f"**{load['size']:,}**" if load in judged else f"{load['size']:,}",
                    *(figure(load[name]) for name in names),
                    str(load["batch_cap"]),
                ]
                for load in axis["loads"]
            ],
        )


def _ingest(rows: list[dict[str, Any]]) -> str:
    return table(
        ["ms", "kB", "worker", "Pillow", "Pillow over worker", "a second and core"],
        [
            [
                _decoded(row),
                number(row["bytes"] / 1000),
                *(figure(row[name]) for name in ("worker_ms", "pillow_ms", "pillow_over_worker")),
                number(1000 / row["worker_ms"]["median"]),
            ]
            for row in rows
        ],
    )


def _service(row: dict[str, Any]) -> str:
    return f"{network_name(row['network'])}, {row['workers']} {'workers' if row['workers'] > 1 else 'worker'}"


def _computed(cell: dict[str, Any]) -> str:
    return f"{network_name(cell['network'])}, {cell['dtype']}, batch {cell['batch']}"


def _decoded(row: dict[str, Any]) -> str:
    return f"{row['picture']} to {row['network_pixels']}"


if __name__ == "__main__":
    write(Path(sys.argv[1]))
