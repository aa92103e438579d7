"""`coordserve serve` and `coordserve compile`, whose flags are the settings."""

import argparse
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from pydantic import ValidationError

from service.cli.common import CommandError
from service.settings import PREFIX, Settings, mistyped_variables

if TYPE_CHECKING:
    from service.cli.common import Commands

log = logging.getLogger(__name__)

COMPILE_FLAGS = ("model", "device", "dtype", "cache_dir")


def add_to(commands: "Commands") -> None:
    command = commands.add_parser("serve", help="serve a model over HTTP")
    _add_flags(command, Settings.model_fields)
    command.set_defaults(run=serve)

    command = commands.add_parser("compile", help="compile a model into the cache; prints where")
    _add_flags(command, COMPILE_FLAGS)
    command.set_defaults(run=compile_)


# Each command imports what it needs: torch takes seconds, and `serve` must never have it in the supervisor.
def serve(options: argparse.Namespace) -> int:
    from service import logs
    from service.supervisor import StartError, Supervisor

    settings = _settings(options)
    logs.configure(settings.log_format, settings.log_level, "supervisor")
    for name, meant in mistyped_variables().items():
        log.warning("%s is set, but no setting reads it%s", name, f"; is {meant} meant?" if meant else "")
    try:
        Supervisor(settings).run()
    except StartError as error:
        raise CommandError(str(error)) from error
    return 0


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
        if not first["loc"]:  # of several settings together
            raise CommandError(str(first["ctx"]["error"])) from error
        name = str(first["loc"][0])
        raise CommandError(
            f"setting {name} is {first['input']!r}: {first['msg']} "
            f"(--{name.replace('_', '-')} or {PREFIX}{name.upper()})"
        ) from error


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
