"""`coordserve predict`: pictures from anywhere, here or at a running server, as a table, JSON lines or CSV."""

import argparse
import csv
import glob
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from models.config import BUNDLED_MODEL
from service.cli.common import CommandError, count

if TYPE_CHECKING:
    from service.cli.common import Commands

STDIN = "-"
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")  # of what is taken from a folder; a file that is named is always taken
KEY_VARIABLE = "COORDSERVE_API_KEY"


@dataclass(frozen=True)
class Result:
    """What became of one picture: its ranking, or why there is none."""

    image: str
    predictions: list[dict[str, Any]] = field(default_factory=list)
    """index, label and score of each class, best first"""
    error: str | None = None


Classify = Callable[[list[tuple[str, bytes]]], Iterator[Result]]
"""Names and contents of pictures to their results, in the same order"""


def add_to(commands: "Commands") -> None:
    command = commands.add_parser("predict", help="classify pictures here, or at a running server")
    command.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="a file, a folder, a pattern such as 'photos/**/*.jpg', or - for stdin",
    )
    command.add_argument("--model", type=Path, default=BUNDLED_MODEL, help="model directory (default: the digits)")
    command.add_argument("--url", help=f"ask the server there instead (its key in {KEY_VARIABLE})")
    command.add_argument("--top-k", type=count, default=1, help="classes to show (default: 1)")
    command.add_argument("--format", choices=list(WRITERS), default="table", help="default: table")
    command.set_defaults(run=predict)


def predict(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    names = list(find(options.images))
    if options.url:
        from service.cli.asking import Server

        classify: Classify = Server(options.url, os.environ.get(KEY_VARIABLE), options.top_k).classify
        size = Server.CONCURRENT
    else:
        from service.cli.classifying import Local

        classify = Local(options.model, options.top_k).classify
        size = Local.BATCH
    write = WRITERS[options.format](sys.stdout, options.top_k)
    failed = 0
    with tqdm(total=len(names), unit="image", disable=len(names) <= size or not sys.stderr.isatty()) as bar:
        for begin in range(0, len(names), size):
            for result in _in_order(names[begin : begin + size], classify):
                failed += result.error is not None
                with tqdm.external_write_mode():
                    write(result)
                bar.update()
    if failed:
        print(f"{failed} of {len(names)} images failed", file=sys.stderr)
    return int(failed > 0)


def find(given: list[str]) -> Iterator[str]:
    """The names of the pictures that files, folders, patterns and - stand for. Raises CommandError."""
    for name in given:
        if name == STDIN or (not os.path.isdir(name) and not glob.has_magic(name)) or os.path.isfile(name):
            yield name
            continue
        pattern = os.path.join(glob.escape(name), "**", "*") if os.path.isdir(name) else name
        found = sorted(path for path in glob.iglob(pattern, recursive=True) if os.path.isfile(path))
        if os.path.isdir(name):
            found = [path for path in found if path.lower().endswith(SUFFIXES)]
        if not found:
            raise CommandError(f"there are no pictures in {name} ({', '.join(SUFFIXES)})")
        yield from found


def _in_order(names: list[str], classify: Classify) -> Iterator[Result]:
    """Results of the pictures that can be read, and of those that cannot, in the order of `names`."""
    readable: list[tuple[str, bytes]] = []
    results: dict[int, Result] = {}
    for index, name in enumerate(names):
        try:
            readable.append((name, sys.stdin.buffer.read() if name == STDIN else Path(name).read_bytes()))
        except OSError as error:
            results[index] = Result(name, error=str(error.strerror))
    rest = classify(readable)
    for index in range(len(names)):
        yield results[index] if index in results else next(rest)


def _table(out: TextIO, top_k: int) -> Callable[[Result], None]:
    def write(result: Result) -> None:
        if result.error is not None:
            print(f"{result.image}: {result.error}", file=sys.stderr)
        else:
            ranking = ", ".join(f"{entry['label']} {entry['score']:.4f}" for entry in result.predictions)
            print(f"{result.image}: {ranking}", file=out, flush=True)

    return write


def _json_lines(out: TextIO, top_k: int) -> Callable[[Result], None]:
    def write(result: Result) -> None:
        print(json.dumps({name: value for name, value in asdict(result).items() if value}), file=out, flush=True)

    return write


def _csv(out: TextIO, top_k: int) -> Callable[[Result], None]:
    table = csv.writer(out)
    table.writerow(
        ["image", *(f"{name}{rank}" for rank in range(1, top_k + 1) for name in ("label", "score")), "error"]
    )

    def write(result: Result) -> None:
        ranking = [value for entry in result.predictions for value in (entry["label"], f"{entry['score']:.6g}")]
        table.writerow([result.image, *ranking, *[""] * (2 * top_k - len(ranking)), result.error or ""])

    return write


WRITERS = {"table": _table, "jsonl": _json_lines, "csv": _csv}
