"""Does coordinate attention help to say where something is? All attentions at equal budget, on gratings."""

import csv
import io
import itertools
import statistics
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields
from multiprocessing import get_context
from pathlib import Path
from typing import get_args

import torch
from matplotlib.figure import Figure
from pydantic import TypeAdapter

from models import cost, files
from models.config import Attention, Network
from models.experiments.gratings import GRID, SIZE, Gratings, Task
from models.networks import create
from models.training.fit import Recipe, State, fit, reproducible

WIDTH = 0.25
BATCH = 64
EPOCH_BATCHES = 50
EPOCHS = 10
SEEDS = 5
RESULTS, CHART, REPORT = "position.csv", "position.png", "position.md"

TASKS: tuple[Task, ...] = get_args(Task)
ATTENTIONS: tuple[Attention, ...] = get_args(Attention)


@dataclass(frozen=True)
class Run:
    """One network trained for one task from one seed."""

    task: Task
    attention: Attention
    seed: int


@dataclass(frozen=True)
class Result:
    """Held-out top-1 after one epoch of a run: a row of RESULTS."""

    task: Task
    attention: Attention
    seed: int
    epochs: int
    epoch: int
    top1: float


def experiment(out: Path, seeds: int, epochs: int, processes: int) -> Iterator[str]:
    """Train what RESULTS in `out` does not have yet, then write chart and report; yields a line a run.

    Each run takes one core; every finished one is kept, so that a stopped experiment goes on.
    """
    out.mkdir(parents=True, exist_ok=True)
    results = [result for result in read(out / RESULTS) if result.epochs == epochs and result.seed < seeds]
    done = {Run(result.task, result.attention, result.seed) for result in results}
    wanted = itertools.starmap(Run, ((t, a, s) for s in range(seeds) for t in TASKS for a in ATTENTIONS))
    # spawn: forked children of a process that has used its threads may hang in OpenMP.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        running = [pool.submit(train, run, epochs) for run in wanted if run not in done]
        for future in as_completed(running):
            results += future.result()
            write(out / RESULTS, results)
            last = results[-1]
            yield f"{last.task} {last.attention} seed {last.seed}: {last.top1:.1%}"
    draw(out / CHART, results)
    files.write(out / REPORT, report(results, seeds, epochs).encode())


def train(run: Run, epochs: int) -> list[Result]:
    """A new network of the run, trained on one thread: a result an epoch."""
    source = Gratings(run.task, run.seed, EPOCH_BATCHES, BATCH)
    recipe = Recipe(epochs, BATCH, seed=run.seed)
    with reproducible(run.seed, threads=1):
        state = State.start(create(network(run.attention), len(source.labels)), recipe, torch.device("cpu"))
        fit(state, source, recipe, lambda state: None)
    return [
        Result(run.task, run.attention, run.seed, epochs, epoch.epoch, epoch.held_out_top1) for epoch in state.history
    ]


def network(attention: Attention) -> Network:
    return Network(family="mobilenetv2", attention=attention, width=WIDTH)


def final(results: Iterable[Result], task: Task, attention: Attention) -> list[float]:
    """Top-1 after the last epoch, one a seed."""
    return [r.top1 for r in results if (r.task, r.attention) == (task, attention) and r.epoch == r.epochs]


def report(results: list[Result], seeds: int, epochs: int) -> str:
    """The table, in Markdown: mean and standard deviation over seeds, in per cent."""
    lines = [
        "# Where it is, and what it is",
        "",
        f"`coordserve experiment position --seeds {seeds} --epochs {epochs}` drew and trained this.",
        "",
        f"Each picture, {SIZE}x{SIZE}, shows one striped patch on a coloured, noisy ground. *Where* asks in which of "
        f"{GRID}x{GRID} cells its centre lies, *what* which of {GRID} directions and {GRID} widths its stripes "
        "have: the same pictures, and chance is 6.25 % for both.",
        f"MobileNetV2 {WIDTH} with each attention learns each task from {epochs * EPOCH_BATCHES} batches of {BATCH} "
        f"pictures, with one recipe (AdamW, cosine), from {seeds} seeds, which change initial weights and pictures.",
        f"Given is top-1 on {BATCH * Gratings.held_out_batches:,} pictures held out: mean ± standard deviation over "
        "seeds, and the least and the most.",
        "",
        "| attention | parameters | multiply-adds | " + " | ".join(f"{task}, %" for task in TASKS) + " |",
        "|---" * (3 + len(TASKS)) + "|",
    ]
    for attention in ATTENTIONS:
        built = create(network(attention), GRID * GRID)
        cells = [f"{cost.parameters(built):,}", f"{cost.multiply_adds(built.eval(), SIZE):,}"]
        for task in TASKS:
            top1 = [100 * value for value in final(results, task, attention)]
            spread = statistics.stdev(top1) if len(top1) > 1 else 0.0
            cells.append(f"{statistics.mean(top1):.1f} ± {spread:.1f} ({min(top1):.1f} to {max(top1):.1f})")
        lines.append(f"| {attention} | " + " | ".join(cells) + " |")
    lines += ["", f"![Top-1 by epoch]({CHART})", ""]
    return "\n".join(lines)


def draw(path: Path, results: list[Result]) -> None:
    """Held-out top-1 by epoch, a line for each attention, its band one standard deviation wide to both sides."""
    figure = Figure((10, 4), layout="constrained")
    for axes, task in zip(figure.subplots(1, len(TASKS), sharey=True), TASKS, strict=True):
        for attention in ATTENTIONS:
            mine = [result for result in results if (result.task, result.attention) == (task, attention)]
            epochs = sorted({result.epoch for result in mine})
            columns = [[100 * result.top1 for result in mine if result.epoch == epoch] for epoch in epochs]
            means = [statistics.mean(column) for column in columns]
            spreads = [statistics.pstdev(column) for column in columns]
            (line,) = axes.plot(epochs, means, label=attention)
            bounds = [(mean - spread, mean + spread) for mean, spread in zip(means, spreads, strict=True)]
            axes.fill_between(epochs, *zip(*bounds, strict=True), color=line.get_color(), alpha=0.2)
        axes.set(title=f"{task} it is", xlabel="epoch")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("held-out top-1, %")
    figure.axes[0].legend()
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=110)
    files.write(path, png.getvalue())


def read(path: Path) -> list[Result]:
    """The rows of a results file; none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [TypeAdapter(Result).validate_strings(row) for row in csv.DictReader(file)]


def write(path: Path, results: Iterable[Result]) -> None:
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow([field.name for field in fields(Result)])
    table.writerows(asdict(result).values() for result in results)
    files.write(path, text.getvalue().encode())
