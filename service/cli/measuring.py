"""`coordserve bench`."""

import argparse
import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from service.cli.common import CommandError

if TYPE_CHECKING:
    from service.cli.common import Commands


def add_to(commands: "Commands") -> None:
    command = commands.add_parser("bench", help="measure what the service reaches on this machine")
    subjects = command.add_subparsers(required=True, metavar="SUBJECT")
    device = subjects.add_parser("device", help="everything about a CUDA device, in eight minutes")
    device.add_argument("--out", type=Path, default=Path("device"), help="folder for the results (default: device)")
    device.set_defaults(run=device_)


def device_(options: argparse.Namespace) -> int:
    try:
        # By name: load tests know of the service, and not the other way round. An installed service is without them.
        measuring = importlib.import_module("loadtests.device.run")
    except ImportError as error:
        raise CommandError(f"this needs a clone of the project, and its tests' extras ({error})") from error
    return int(measuring.run(options.out))
