"""`make bench`: every question in turn; all answers into one JSON file, and into a page with plots."""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from loadtests import networks, wrk
from loadtests.bench import engine, ingest, latency, page, serving, start_up
from loadtests.bench.serving import Case
from loadtests.machine import conditions
from models.config import BUNDLED_MODEL, read_config
from service.settings import Settings

OUT = Path(".cache/benchmarks.md")
DISTRIBUTIONS = "torch", "onnxruntime", "openvino"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtests.bench", description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT, help=f"the page, and the folder of the rest (default: {OUT})")
    parser.add_argument(
        "--short", action="store_true", help="whether it works, not how fast: the bundled network alone"
    )
    options = parser.parse_args()
    if not wrk.is_there("bench"):
        return 2
    begun = time.monotonic()

    def say(what: str) -> None:
        print(f"{time.monotonic() - begun:5.0f} s  {what}", file=sys.stderr)

    report: dict[str, Any] = {"short": options.short, **conditions(*DISTRIBUTIONS)}
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder, "cache")
        asked = {BUNDLED_MODEL: ingest.SMALL}
        if not options.short:
            asked[networks.imagenet_sized(Path(folder))] = ingest.MEDIUM
        say("ingest")
        report["ingest"] = ingest.run(short=options.short)
        say("engine; compiles each network for each dtype, in each way")
        report["engine"] = engine.run(list(asked), cache, short=options.short)
        say("start-up")
        report["start_up"] = start_up.run(cache, short=options.short)
        say("serving")
        cases = [case for model, picture in asked.items() for case in _cases(model, picture, report["ingest"])]
        report["serving"] = serving.run(cases, cache, short=options.short)
        say("latency")
        report["latency"] = [
            latency.run(model, ingest.encoded(picture), cache, short=options.short) for model, picture in asked.items()
        ]
    report["seconds"] = round(time.monotonic() - begun)
    path = page.json_of(options.out)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")
    page.write(options.out)
    say(f"done: {options.out}")
    return 0


def _cases(model: Path, picture: str, decoding: list[dict[str, Any]]) -> list[Case]:
    """By number of workers: one and two of the bundled network, and what the service chooses for others."""
    pixels = read_config(model).preprocessing.input_size
    [row] = [row for row in decoding if (row["picture"], row["network_pixels"]) == (picture, pixels)]
    counts = (1, 2) if model == BUNDLED_MODEL else (Settings().workers,)
    return [Case(model, count, ingest.encoded(picture), row["worker_ms"]["median"]) for count in counts]


if __name__ == "__main__":
    sys.exit(main())
