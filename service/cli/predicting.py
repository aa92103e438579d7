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
from service.cli.common import CommandError

if TYPE_CHECKING:
    from service.cli.common import Commands

STDIN = "-"
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")  # of what is taken from a folder; a file that is named is always taken
MOST_CLASSES = 20_000  # that a row of CSV shows
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
    command.add_argument("--top-k", type=top_k, default=1, help="classes to show (default: 1)")
    command.add_argument("--format", choices=list(WRITERS), default="table", help="default: table")
    command.set_defaults(run=predict)


def top_k(text: str) -> int:
    """How many classes to show, as argparse wants it checked."""
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and 1 <= int(text) <= MOST_CLASSES):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to {MOST_CLASSES}")
    return int(text)


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
    """The names of the pictures that files, folders, patterns and - stand for. Raises CommandError.

    What is found and cannot be read, a link to nothing or a folder, is among them: reading it says why.
    """
    for name in given:
        if name == STDIN or (not os.path.isdir(name) and not glob.has_magic(name)) or os.path.isfile(name):
            yield name
            continue
        found = sorted(_inside(name) if os.path.isdir(name) else _matching(name))
        if not found:
            raise CommandError(f"there are no pictures in {name} ({', '.join(SUFFIXES)})")
        yield from found


def _inside(folder: str) -> Iterator[str]:
    """Pictures of a folder and those below, and the folders that cannot be read; each folder once, links or not."""
    unreadable: list[str] = []
    seen = {os.path.realpath(folder)}
    for path, folders, files in os.walk(
        folder, onerror=lambda error: unreadable.append(error.filename), followlinks=True
    ):
        new = []
        for name in sorted(folders, key=lambda name: (os.path.islink(os.path.join(path, name)), name)):
            target = os.path.realpath(os.path.join(path, name))
            if not name.startswith(".") and target not in seen:
                seen.add(target)
                new.append(name)
        folders[:] = new
        for name in files:
            if not name.startswith(".") and name.lower().endswith(SUFFIXES) and _is_file(os.path.join(path, name)):
                yield os.path.join(path, name)
    yield from unreadable


def _matching(pattern: str) -> Iterator[str]:
    """Files of a pattern; one that links between folders show in several places is there once."""
    places: dict[tuple[str, str], str] = {}
    for path in sorted(glob.iglob(pattern, recursive=True), key=lambda path: (len(path), path)):
        places.setdefault((os.path.realpath(os.path.dirname(path)), os.path.basename(path)), path)
    yield from (path for place, path in places.items() if _is_file(os.path.join(*place)))


def _is_file(path: str) -> bool:
    """Whether it is one, or looks like one and cannot be followed: a link to nothing."""
    return os.path.isfile(path) or not os.path.exists(path)


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
