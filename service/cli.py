"""The command line: `coordserve serve`, `predict`, `compile`, `train`, `evaluate`."""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import ValidationError

from models.config import BUNDLED_MODEL, ModelDirectoryError
from service import __version__
from service.settings import Settings

DEFAULT_EPOCHS = 40
COMPILE_FLAGS = ("model", "device", "dtype", "cache_dir")


class CommandError(Exception):
    """Ends the command with one line that says what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code. 1: it failed, 2: it was called wrongly."""
    options = parser().parse_args(arguments)
    from service.supervisor import StartError

    try:
        return int(options.run(options))
    except (CommandError, StartError, ModelDirectoryError) as error:
        print(f"coordserve: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


# Each command imports what it needs: torch takes seconds, and `serve` must never have it in the supervisor.
def serve(options: argparse.Namespace) -> int:
    from service import logs
    from service.supervisor import Supervisor

    settings = _settings(options)
    logs.configure(settings.log_format, settings.log_level, "supervisor")
    Supervisor(settings).run()
    return 0


def predict(options: argparse.Namespace) -> int:
    from models.config import read_config
    from models.images import ImageError, Picture
    from service.answers import AnswerWriter

    pixels, failed = [], False

    config = read_config(options.model)
    for path in options.images:
        try:
            data = path.read_bytes()
            pixels.append((path, Picture(data).pixels(config.preprocessing)))
        except (OSError, ImageError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            print(f"{path}: {reason}", file=sys.stderr)
            failed = True
    if pixels:
        import numpy as np
        import torch

        from models import directory
        from models.inference import for_inference

        classifier = for_inference(directory.load(options.model)[1], config)
        writer = AnswerWriter(config.name, config.labels)
        for path, image in pixels:
            with torch.inference_mode():
                scores = classifier(torch.from_numpy(np.array(image)[None])).numpy()[0]
            ranking = json.loads(writer.ranking(scores, options.top_k))
            print(f"{path}: " + ", ".join(f"{entry['label']} {entry['score']:.4f}" for entry in ranking))
    return int(failed)


def compile_(options: argparse.Namespace) -> int:
    from models import compile as compiler
    from models import cost, directory
    from service.settings import available_cores

    settings = _settings(options)
    config, network = directory.load(settings.model)
    multiply_adds = cost.multiply_adds(network, config.preprocessing.input_size)
    target = compiler.choose_target(settings.device, settings.dtype, available_cores(), multiply_adds)
    try:
        print(compiler.compile_package(settings.cache_dir, settings.model, target))
    except compiler.PackageRefused as error:
        raise CommandError(f"the package was refused: {error}") from error
    return 0


def train(options: argparse.Namespace) -> int:
    from models.config import Network
    from models.training.digits import DataError
    from models.training.train import train

    try:
        network = Network(family="mobilenetv2", attention=options.attention, width=options.width)
        evaluation = train(options.data, options.out, network, options.epochs, options.seed)
    except ValidationError as error:
        raise CommandError(f"--{error.errors()[0]['loc'][0]}: {error.errors()[0]['msg']}") from error
    except (DataError, OSError) as error:
        raise CommandError(str(error)) from error
    print(evaluation)
    return 0


def evaluate(options: argparse.Namespace) -> int:
    from models.training.digits import DataError
    from models.training.evaluate import evaluate

    try:
        print(evaluate(options.model, options.data))
    except DataError as error:
        raise CommandError(str(error)) from error
    return 0


def _settings(options: argparse.Namespace) -> Settings:
    """Flags before environment before defaults."""
    given = {name: value for name, value in vars(options).items() if name in Settings.model_fields}
    try:
        return Settings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise CommandError(
            f"setting {name} is {first['input']!r}: {first['msg']} "
            f"(--{name.replace('_', '-')} or COORDSERVE_{name.upper()})"
        ) from error


def parser() -> argparse.ArgumentParser:
    """All commands and their flags; `run` of what it parses is the command."""
    root = argparse.ArgumentParser(prog="coordserve", description="Image classification with Coordinate Attention.")
    root.add_argument("--version", action="version", version=f"coordserve {__version__}")
    commands = root.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("serve", help="serve a model over HTTP")
    _add_flags(command, Settings.model_fields)
    command.set_defaults(run=serve)

    command = commands.add_parser("predict", help="classify image files here, without a server")
    command.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    command.add_argument("--model", type=Path, default=BUNDLED_MODEL, help="model directory")
    command.add_argument("--top-k", type=_count, default=1, help="classes to show (default: 1)")
    command.set_defaults(run=predict)

    command = commands.add_parser("compile", help="compile a model into the cache; prints where")
    _add_flags(command, COMPILE_FLAGS)
    command.set_defaults(run=compile_)

    command = commands.add_parser("train", help="train a network into a model directory")
    command.add_argument("--data", required=True, help="what to learn: digits")
    command.add_argument("--out", required=True, type=Path, help="the model directory to write")
    command.add_argument("--attention", choices=["ca", "none"], default="ca", help="default: ca")
    command.add_argument("--width", type=float, default=0.25, help="channels, as a multiple (default: 0.25)")
    command.add_argument("--epochs", type=_count, default=DEFAULT_EPOCHS, help=f"default: {DEFAULT_EPOCHS}")
    command.add_argument("--seed", type=int, default=0, help="the same seed gives the same weights (default: 0)")
    command.set_defaults(run=train)

    command = commands.add_parser("evaluate", help="measure a model on held-out data")
    command.add_argument("model", nargs="?", type=Path, default=BUNDLED_MODEL, help="model directory")
    command.add_argument("--data", required=True, help="what to measure on: digits")
    command.set_defaults(run=evaluate)
    return root


def _count(text: str) -> int:
    """A whole number from 1, as argparse wants it checked."""
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def _add_flags(parser: argparse.ArgumentParser, names: Iterable[str]) -> None:
    """Flags of the settings; their values are checked, and their defaults known, by Settings alone."""
    for name in names:
        setting = Settings.model_fields[name]
        flag = f"--{name.replace('_', '-')}"
        if setting.annotation is bool:
            parser.add_argument(
                flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=setting.description
            )
        else:
            parser.add_argument(flag, metavar=name.upper(), default=argparse.SUPPRESS, help=setting.description)


if __name__ == "__main__":
    sys.exit(main())
