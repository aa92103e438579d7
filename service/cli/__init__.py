"""The command line: `coordserve COMMAND`; a file for each group of commands."""

import argparse
import os
import sys
from collections.abc import Sequence

import shtab

from models.config import ModelDirectoryError
from service import __version__
from service.cli import experimenting, explaining, measuring, predicting, serving, training, weights
from service.cli.common import CommandError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code: 1 it failed, 2 wrongly called, 130 interrupted, 141 nobody read on."""
    options = parser().parse_args(arguments)
    try:
        return int(options.run(options) or 0)
    except (CommandError, ModelDirectoryError) as error:
        print(f"coordserve: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read our output has seen enough; the interpreter must not write the rest
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def parser() -> argparse.ArgumentParser:
    """All commands and their flags; `run` of what it parses is the command."""
    root = argparse.ArgumentParser(prog="coordserve", description="Image classification with Coordinate Attention.")
    root.add_argument("--version", action="version", version=f"coordserve {__version__}")
    commands = root.add_subparsers(required=True, metavar="COMMAND")
    for group in (serving, predicting, explaining, training, weights, experimenting, measuring):
        group.add_to(commands)
    completion = commands.add_parser("completion", help="print a script that completes commands for a shell")
    completion.add_argument("shell", choices=["bash", "zsh", "tcsh"])
    completion.set_defaults(run=lambda options: print(shtab.complete(root, options.shell)))
    return root
