"""`make bench`: every question in turn; all answers into one JSON file, and into a page with plots."""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from loadtests import networks, wrk
from loadtests.bench import engine, growth, ingest, latency, page, serving, start_up
from loadtests.bench.serving import Case
from loadtests.machine import conditions
from loadtests.running import RunningService
from models.config import BUNDLED_MODEL, read_config
from service.settings import Settings

OUT = Path(".cache/benchmarks.md")
DISTRIBUTIONS = "torch", "onnxruntime", "openvino"


@dataclass
class Bench:
    """What the questions are asked about, and with."""

    folder: Path
    short: bool
    answers: dict[str, Any]
    """so far"""

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    @cached_property
    def asked(self) -> dict[Path, str]:
        """Networks, and the picture that each is asked about."""
        others = {} if self.short else {networks.imagenet_sized(self.folder): ingest.MEDIUM}
        return {BUNDLED_MODEL: ingest.SMALL, **others}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtests.bench", description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT, help=f"the page, and the folder of the rest (default: {OUT})")
    parser.add_argument(
        "--short", action="store_true", help="whether it works, not how fast: the bundled network alone"
    )
    parser.add_argument("--only", choices=QUESTIONS, help="ask this again, or first; the other answers stay")
    options = parser.parse_args()
    path = page.json_of(options.out)
    if options.only and not path.exists():
        parser.error(f"there is no {path} with the other answers")
    if not wrk.is_there("bench"):
        return 2
    begun = time.monotonic()

    def say(what: str) -> None:
        print(f"{time.monotonic() - begun:5.0f} s  {what}", file=sys.stderr)

    asked_in = {"short": options.short, **conditions(*DISTRIBUTIONS)}
    report: dict[str, Any] = json.loads(path.read_text()) if options.only else dict(asked_in)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), options.short, report)
        if options.only:
            say("compiles the bundled network")
            with RunningService(cache_dir=bench.cache) as service:
                service.wait_compiled()
        for name in [options.only] if options.only else QUESTIONS:
            say(name)
            report[name] = QUESTIONS[name](bench)
    asked_in["seconds"] = round(time.monotonic() - begun)
    if options.only:
        report["asked_apart"] = {**report.get("asked_apart", {}), options.only: asked_in}
    else:
        report.update(asked_in)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")
    page.write(options.out)
    say(f"done: {options.out}")
    return 0


def _engine(bench: Bench) -> dict[str, Any]:
    """Compiles each network for each dtype, in each way; the packages are there for the questions that follow."""
    return engine.run(list(bench.asked), bench.cache, short=bench.short)


def _serving(bench: Bench) -> list[dict[str, Any]]:
    cases = [case for model, picture in bench.asked.items() for case in _cases(model, picture, bench.answers["ingest"])]
    return serving.run(cases, bench.cache, short=bench.short)


def _cases(model: Path, picture: str, decoding: list[dict[str, Any]]) -> list[Case]:
    """By number of workers: one and two of the bundled network, and what the service chooses for others."""
    pixels = read_config(model).preprocessing.input_size
    [row] = [row for row in decoding if (row["picture"], row["network_pixels"]) == (picture, pixels)]
    counts = (1, 2) if model == BUNDLED_MODEL else (Settings().workers,)
    return [Case(model, count, ingest.encoded(picture), row["worker_ms"]["median"]) for count in counts]


def _latency(bench: Bench) -> list[dict[str, Any]]:
    return [
        latency.run(model, ingest.encoded(picture), bench.cache, short=bench.short)
        for model, picture in bench.asked.items()
    ]


QUESTIONS: dict[str, Callable[[Bench], Any]] = {
    "ingest": lambda bench: ingest.run(short=bench.short),
    "engine": _engine,
    "start_up": lambda bench: start_up.run(bench.cache, short=bench.short),
    "serving": _serving,
    "latency": _latency,
    "growth": lambda bench: growth.run(bench.cache, short=bench.short),
}


if __name__ == "__main__":
    sys.exit(main())
