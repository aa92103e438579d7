"""`coordserve train` and `coordserve evaluate`."""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.config import BUNDLED_MODEL, Network, read_config
from service.cli.common import CommandError, count, network, positive, seed

if TYPE_CHECKING:
    from models.training.fit import Recipe
    from service.cli.common import Commands

# What is named `digits` is learned by the bundled network, in this many epochs of 100 batches.
DIGITS, DIGITS_NETWORK, DIGITS_EPOCHS = "digits", "mobilenetv2_ca_025", 40
NETWORK, EPOCHS = "mobilenetv2_ca_100", 30
DATA_HELP = "a folder with a folder of pictures for each class (or train/ and val/ with them), or: digits"
MISSING = "this needs what training needs ({}): pip install 'coordserve[train]'"


def add_to(commands: "Commands") -> None:
    command = commands.add_parser(
        "train",
        help="train a network into a model directory",
        description="Train a network into a model directory. The same command goes on with a stopped one.",
    )
    command.add_argument("--data", required=True, help=DATA_HELP)
    command.add_argument("--out", required=True, type=Path, help="the model directory to write")
    command.add_argument("--network", type=network, help=f"default: that of --init, or {NETWORK}")
    command.add_argument("--init", type=Path, metavar="DIR", help="a model directory whose weights to begin with")
    command.add_argument("--input-size", type=count, help="pixels (default: that of --init, or 224)")
    command.add_argument("--epochs", type=count, help=f"default: {EPOCHS}, of the digits {DIGITS_EPOCHS}")
    command.add_argument("--batch-size", type=count, default=64, help="default: 64")
    command.add_argument("--optimizer", choices=["adamw", "sgd"], default="adamw", help="default: adamw")
    command.add_argument(
        "--learning-rate",
        type=positive,
        help="the highest (default: 0.003, with sgd 0.05; a third with --init)",
    )
    command.add_argument("--weight-decay", type=float, help="default: 0.05 with adamw, 0.00004 with sgd")
    command.add_argument("--label-smoothing", type=float, default=0.05, help="default: 0.05")
    command.add_argument(
        "--patience", type=count, help="stop after so many epochs without a better held-out top-1, and keep the best"
    )
    command.add_argument("--no-mirror", action="store_true", help="never mirror pictures: left and right differ")
    command.add_argument("--seed", type=seed, default=0, help="the same seed gives the same weights (default: 0)")
    command.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="default: auto")
    command.set_defaults(run=train)

    command = commands.add_parser("evaluate", help="measure a model on pictures it was not trained on")
    command.add_argument("model", nargs="?", type=Path, default=BUNDLED_MODEL, help="model directory")
    command.add_argument("--data", required=True, help=DATA_HELP)
    command.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="default: auto")
    command.set_defaults(run=evaluate)


def train(options: argparse.Namespace) -> int:
    try:
        from tqdm import tqdm

        from models.images import ImageError
        from models.training.checkpoint import CheckpointError
        from models.training.data import DataError
        from models.training.fit import Diverged
        from models.training.folders import untracked
        from models.training.train import Job, Watch, train
    except ImportError as error:
        raise CommandError(MISSING.format(error)) from error

    job = Job(
        data=options.data,
        out=options.out,
        network=_network(options),
        recipe=_recipe(options),
        init=options.init,
        input_size=options.input_size,
        mirror=not options.no_mirror,
        device=_device(options.device),
    )
    progress = sys.stderr.isatty()
    # Without a bar lines go out at once: whoever reads a pipe or a log file wants to see how it goes.
    report = tqdm.write if progress else partial(print, flush=True)
    watch = Watch(report=report, track=_track if progress else untracked, progress=progress)
    try:
        evaluation = train(job, watch)
    except (CheckpointError, DataError, Diverged, ImageError, OSError) as error:
        raise CommandError(str(error)) from error
    except KeyboardInterrupt:
        print(f"stopped; the same command goes on after the last whole epoch ({options.out})", file=sys.stderr)
        raise
    print(evaluation)
    return 0


def evaluate(options: argparse.Namespace) -> int:
    try:
        from models.images import ImageError
        from models.training.data import DataError
        from models.training.evaluate import evaluate
        from models.training.folders import untracked
    except ImportError as error:
        raise CommandError(MISSING.format(error)) from error

    try:
        device, track = _device(options.device), _track if sys.stderr.isatty() else untracked
        evaluation, remarks = evaluate(options.model, options.data, device, track)
    except (DataError, ImageError, OSError) as error:
        raise CommandError(str(error)) from error
    for remark in remarks:
        print(remark, file=sys.stderr)
    print(evaluation)
    return 0


def _network(options: argparse.Namespace) -> Network:
    if options.network is None and options.init is not None:
        return read_config(options.init).network
    return options.network or Network.parse(DIGITS_NETWORK if options.data == DIGITS else NETWORK)


def _recipe(options: argparse.Namespace) -> "Recipe":
    from models.training.fit import LEARNING_RATE, TRANSFER, WEIGHT_DECAY, Recipe

    if options.batch_size < 2:
        raise CommandError("--batch-size 1: batch norm needs at least 2 pictures")
    if not 0 <= options.label_smoothing < 1:
        raise CommandError(f"--label-smoothing {options.label_smoothing} is not from 0 to below 1")
    weight_decay = WEIGHT_DECAY[options.optimizer] if options.weight_decay is None else options.weight_decay
    if not 0 <= weight_decay < 1:
        raise CommandError(f"--weight-decay {weight_decay} is not from 0 to below 1")
    usual = LEARNING_RATE[options.optimizer] * (TRANSFER if options.init else 1)
    return Recipe(
        epochs=options.epochs or (DIGITS_EPOCHS if options.data == DIGITS else EPOCHS),
        batch_size=options.batch_size,
        optimizer=options.optimizer,
        learning_rate=options.learning_rate or usual,
        weight_decay=weight_decay,
        label_smoothing=options.label_smoothing,
        patience=options.patience,
        seed=options.seed,
    )


def _device(name: str) -> str:
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise CommandError("--device cuda: torch finds no CUDA device here")
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


def _track(items: Any, total: int) -> Any:
    from tqdm import tqdm

    return tqdm(items, "reading pictures", total, leave=False)
