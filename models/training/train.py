"""Trains a network on the digits or on a folder of pictures, and writes its model directory."""

import copy
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import ValidationError

from models import directory, imagenet
from models.config import ModelConfig, ModelDirectoryError, Network, Preprocessing
from models.inference import for_inference
from models.networks import ConvNet, create
from models.training import charts, checkpoint, digits, folders, record
from models.training.data import DataError, Examples, Source
from models.training.evaluate import Evaluation, score
from models.training.fit import Recipe, State, fit, reproducible
from models.training.folders import Split, Track, untracked
from models.training.pictures import PictureSource

DIGITS_THREADS = 2  # sums are rounded differently on another number of threads, so that it is part of the recipe
HEAD = "classifier."


@dataclass(frozen=True)
class Job:
    """One training: what `coordserve train` was asked for."""

    data: str
    """`digits`, or a folder with a folder of pictures for each class"""
    out: Path
    network: Network
    recipe: Recipe
    init: Path | None = None
    """a model directory whose weights to begin with; its head stays behind unless the labels are the same"""
    input_size: int | None = None
    """pixels; None takes that of `init`, or 224"""
    mirror: bool = True
    """whether a picture may be seen mirrored; the digits never are"""
    device: str = "cpu"


@dataclass(frozen=True)
class Watch:
    """Who is told how a training goes."""

    report: Callable[[str], None] = print
    """takes lines for people"""
    track: Track = untracked
    """shows how far the first pass over the pictures has come"""
    progress: bool = False
    """whether to draw a bar on stderr"""


def train(job: Job, watch: Watch = Watch()) -> Evaluation:
    """Do a job to its end, and say what the result makes of the held-out pictures.

    A job that was stopped goes on after its last whole epoch. Raises DataError,
    ModelDirectoryError, CheckpointError, Diverged, OSError.
    """
    # What can be wrong without the pictures is found before they are read, which may take minutes.
    initial = directory.load(job.init) if job.init else None
    if initial:
        _refuse_another_network(job.network, *initial)
    unfinished = job.out / record.DIRECTORY / record.CHECKPOINT
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    source, split = _source(job, initial[0] if initial else None, watch)
    config = ModelConfig(
        name=_name(job),
        description=digits.DESCRIPTION if split is None else "",
        network=job.network,
        preprocessing=source.preprocessing,
        labels=source.labels,
    )
    settings = _settings(job, source, split)
    threads = DIGITS_THREADS if split is None else len(os.sched_getaffinity(0))
    with reproducible(job.recipe.seed, threads):
        network = create(job.network, config.num_classes)
        if initial:
            watch.report(transfer(network, config, *initial))
        state = State.start(network, job.recipe, torch.device(job.device))
        if unfinished.exists():
            checkpoint.restore(unfinished, state, settings)
            watch.report(f"goes on after epoch {len(state.history)}, which {unfinished} has")

        def after_epoch(state: State) -> None:
            checkpoint.save(unfinished, state, settings)
            record.write_curves(job.out, state.history)
            watch.report(_line(state, job.recipe))

        fit(state, source, job.recipe, after_epoch, progress=watch.progress)
        trained = create(job.network, config.num_classes)
        trained.load_state_dict(state.weights)
        evaluation = score(
            for_inference(copy.deepcopy(trained), config).to(job.device), source.held_out(), config.labels
        )
    training = {
        **settings,
        "epochs_done": len(state.history),
        "threads": threads,
        "torch": torch.__version__,
        "held_out_correct": evaluation.correct,
        "held_out_total": evaluation.total,
        "held_out_accuracy": round(evaluation.accuracy, 4),
    }
    if split:
        record.write_pictures(job.out, split)
    directory.save(job.out, config.model_copy(update={"training": training}), trained)
    _draw(job.out / record.DIRECTORY, state, source, evaluation)
    unfinished.unlink()
    return evaluation


def transfer(network: ConvNet, config: ModelConfig, initial_config: ModelConfig, initial: ConvNet) -> str:
    """Give `network` the weights of `initial`, without its head where the labels differ; what was done, for people."""
    same_labels = config.labels == initial_config.labels
    taken = {name: value for name, value in initial.state_dict().items() if same_labels or not name.startswith(HEAD)}
    network.load_state_dict({**network.state_dict(), **taken})
    head = "with its head" if same_labels else f"with a new head for {config.num_classes} classes"
    return f"begins with the weights of {initial_config.name} ({initial_config.network.name}), {head}"


def _refuse_another_network(network: Network, config: ModelConfig, initial: ConvNet) -> None:
    if differences := directory.compare(create(network, config.num_classes).state_dict(), initial.state_dict()):
        raise ModelDirectoryError(
            f"--init has {config.network.name}, and --network is {network.name}: {'; '.join(differences)}; "
            "leave --network out to take that of --init"
        )


def _source(job: Job, initial: ModelConfig | None, watch: Watch) -> tuple[Source, Split | None]:
    recipe = job.recipe
    if job.data == digits.NAME:
        if job.input_size not in (None, digits.DigitsSource.preprocessing.input_size):
            raise DataError(f"the digits are seen at {digits.DigitsSource.preprocessing.input_size} pixels, no others")
        return digits.DigitsSource(recipe.epochs, recipe.batch_size, recipe.seed), None
    preprocessing = initial.preprocessing if initial else imagenet.PREPROCESSING
    if job.input_size:
        resize_size = round(job.input_size * preprocessing.resize_size / preprocessing.input_size)
        sizes = {"input_size": job.input_size, "resize_size": resize_size}
        try:
            preprocessing = Preprocessing.model_validate(preprocessing.model_dump() | sizes)
        except ValidationError as error:
            raise DataError(f"--input-size {job.input_size}: {error.errors()[0]['msg']}") from error
    split = folders.read_split(Path(job.data), preprocessing, watch.track)
    if split.skipped:
        watch.report(folders.describe(split.skipped))
    watch.report(
        f"{len(split.train)} pictures of {len(split.labels)} classes to learn from, {len(split.held_out)} held out"
    )
    return PictureSource(split, preprocessing, recipe.batch_size, recipe.seed, job.mirror), split


def _settings(job: Job, source: Source, split: Split | None) -> dict[str, str | int | float | bool | None]:
    """What the result depends on: kept with it, and compared before going on with an unfinished training."""
    return {
        "data": job.data,
        "network": job.network.name,
        "init": str(job.init) if job.init else None,
        "input_size": source.preprocessing.input_size,
        "mirror": job.mirror and split is not None,
        "pictures": len(split.train) if split else None,
        "epoch_batches": source.epoch_batches,
        **asdict(job.recipe),
    }


def _name(job: Job) -> str:
    if job.data == digits.NAME:
        return digits.NAME
    return re.sub(r"[^A-Za-z0-9._-]", "-", job.out.resolve().name).lstrip("._-")[:128] or "model"


def _line(state: State, recipe: Recipe) -> str:
    last = state.history[-1]
    return (
        f"epoch {last.epoch:>{len(str(recipe.epochs))}}/{recipe.epochs}  loss {last.loss:.3f}  top-1 {last.top1:.1%}"
        f"  held out {last.held_out_top1:.1%}  {last.seconds:.0f} s"
    )


def _draw(directory: Path, state: State, source: Source, evaluation: Evaluation) -> None:
    charts.draw_curves(directory / "curves.png", state.history)
    charts.draw_confusion(directory / "confusion.png", evaluation)
    worst = evaluation.worst_mistakes(charts.WORST)
    charts.draw_mistakes(directory / "mistakes.png", evaluation, worst, _pick(source.held_out(), worst))


def _pick(batches: Iterable[Examples], indices: Sequence[int]) -> np.ndarray:
    """The pictures at `indices`, in their order: uint8 [N, S, S, 3]."""
    picked: dict[int, np.ndarray] = {}
    begin = 0
    for examples in batches:
        end = begin + len(examples.targets)
        picked |= {index: examples.pixels[index - begin].numpy() for index in indices if begin <= index < end}
        begin = end
    return np.stack([picked[index] for index in indices]) if indices else np.empty((0,))
