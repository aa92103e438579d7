"""`coordserve experiment`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from service.cli.common import CommandError, count

if TYPE_CHECKING:
    from service.cli.common import Commands


def add_to(commands: "Commands") -> None:
    command = commands.add_parser("experiment", help="ask whether the mechanism does what the paper says")
    experiments = command.add_subparsers(required=True, metavar="EXPERIMENT")
    position = experiments.add_parser("position", help="where a thing is, and what it is, by each attention")
    position.add_argument(
        "--out", type=Path, default=Path("position"), help="folder for the results (default: position)"
    )
    position.add_argument("--seeds", type=count, default=5, help="networks for each task and attention (default: 5)")
    position.add_argument("--epochs", type=count, default=10, help="of 50 batches of 64 (default: 10)")
    position.set_defaults(run=position_)


def position_(options: argparse.Namespace) -> int:
    try:
        from models.experiments.position import REPORT, experiment
    except ImportError as error:
        raise CommandError(f"this needs what training needs ({error}): pip install 'coordserve[train]'") from error
    from service.settings import available_cores

    try:
        for line in experiment(options.out, options.seeds, options.epochs, available_cores()):
            print(line, flush=True)
        print((options.out / REPORT).read_text())
    except OSError as error:
        raise CommandError(str(error)) from error
    return 0
