"""`coordserve explain`."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from models.config import BUNDLED_MODEL
from service.cli.common import CommandError
from service.cli.predicting import STDIN

if TYPE_CHECKING:
    from service.cli.common import Commands


def add_to(commands: "Commands") -> None:
    command = commands.add_parser("explain", help="show where a network looks in a picture, without a server")
    command.add_argument("image", type=Path, metavar="IMAGE", help="a file, or - for stdin")
    command.add_argument("--out", type=Path, required=True, metavar="PNG", help="the picture to write, under its map")
    command.add_argument("--model", type=Path, default=BUNDLED_MODEL, help="model directory (default: the digits)")
    command.add_argument("--method", choices=["coordatt", "gradcam"], help="default: coordatt where the network has it")
    command.add_argument("--target", help="label or index of the class that gradcam explains (default: the best)")
    command.set_defaults(run=explain)


def explain(options: argparse.Namespace) -> int:
    from models import files
    from models.config import read_config
    from models.images import ImageError, Picture
    from service.explain import asked
    from service.explainer import Explainer
    from service.explanations import BEST
    from service.overlay import overlay
    from service.problems import Problem

    config = read_config(options.model)
    try:
        method, target = asked(options.method, options.target, config)
        data = sys.stdin.buffer.read() if str(options.image) == STDIN else options.image.read_bytes()
        seen = Picture(data).pixels(config.preprocessing)
        scores, explanation = Explainer(options.model, "cpu").explain(seen, method, target)
        files.write(options.out, overlay(seen, explanation.map))
    except (ImageError, OSError, Problem) as error:
        raise CommandError(str(error)) from error
    index = int(scores.argmax()) if target == BEST else target
    print(f"{options.image}: {config.labels[index]} {scores[index]:.4f}, {method.name.lower()}, {options.out}")
    return 0
