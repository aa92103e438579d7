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

COMPILE_FLAGS = ("model", "device", "dtype", "cache_dir")


class CommandError(Exception):
    """Ends the command with one line that says what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code. 1: it failed, 2: it was called wrongly."""
    options = _parser().parse_args(arguments)
    from service.supervisor import StartError

    try:
        return int(options.run(options))
    except (CommandError, StartError, ModelDirectoryError) as error:
        print(f"coordserve: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def serve(options: argparse.Namespace) -> int:
    from service import logs
    from service.supervisor import Supervisor

    settings = _settings(options)
    logs.configure(settings.log_format, settings.log_level, "supervisor")
    Supervisor(settings).run()
    return 0


def predict(options: argparse.Namespace) -> int:
    from models.images import ImageError, Picture
    from service.answers import AnswerWriter

    pixels, failed = [], False
    from models.config import read_config

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
        from models.networks import for_inference

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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="coordserve", description="Image classification with Coordinate Attention.")
    parser.add_argument("--version", action="version", version=f"coordserve {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("serve", help="serve a model over HTTP")
    _add_flags(command, Settings.model_fields)
    command.set_defaults(run=serve)

    command = commands.add_parser("predict", help="classify image files here, without a server")
    command.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    command.add_argument("--model", type=Path, default=BUNDLED_MODEL, help="model directory")
    command.add_argument("--top-k", type=int, default=1, help="classes to show (default: 1)")
    command.set_defaults(run=predict)

    command = commands.add_parser("compile", help="compile a model into the cache; prints where")
    _add_flags(command, COMPILE_FLAGS)
    command.set_defaults(run=compile_)
    return parser


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
