"""`make chaos`: every scenario in full, their findings into docs/reliability.md, which is written anew."""

import argparse
import importlib
import platform
import sys
import tempfile
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from types import ModuleType

import torch

from loadtests.chaos.finding import Finding
from models import compile as compiler
from models.config import BUNDLED_MODEL
from service import __version__
from service.settings import available_cores

SCENARIOS = ["overload", "priorities", "hang_ups", "shutdown", "crashes", "agreement", "inputs", "fuzz", "soak"]
HEAD = """# Reliability

Written by `make chaos` on {date}: coordserve {version}, Python {python}, torch {torch}, {cores} cores, on which
the clients run, too. A short form of every scenario is in `make test`.
"""


def scenarios(names: list[str]) -> Iterator[ModuleType]:
    """The modules: each has a docstring, and run(long, cache) -> list[Finding]."""
    for name in names:
        yield importlib.import_module(f"loadtests.chaos.{name}")


def section(scenario: ModuleType, findings: list[Finding]) -> str:
    title, _, text = (scenario.__doc__ or "").partition("\n")
    rows = [f"| {one.claim} | {one.asked} | {one.measured} | {'yes' if one.held else '**no**'} |" for one in findings]
    table = ["| | asked for | measured | held |", "|---|---|---|---|", *rows]
    return "\n".join([f"## {title.rstrip('.')}", "", *([text.strip(), ""] if text.strip() else []), *table, ""])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtests.chaos", description=__doc__)
    parser.add_argument("scenarios", nargs="*", help=f"which: {', '.join(SCENARIOS)}; all if none is named")
    parser.add_argument("--short", action="store_true", help="the form that the tests run")
    parser.add_argument("--out", type=Path, help="write the report there")
    options = parser.parse_args()
    parts = [
        HEAD.format(
            date=date.today().isoformat(),
            version=__version__,
            python=platform.python_version(),
            torch=torch.__version__,
            cores=available_cores(),
        )
    ]
    failed = 0
    with tempfile.TemporaryDirectory() as cache:
        compiler.compile_package(
            Path(cache), BUNDLED_MODEL, compiler.choose_target("cpu", "auto", cores=1, multiply_adds=0)
        )
        for scenario in scenarios(options.scenarios or SCENARIOS):
            findings = scenario.run(long=not options.short, cache=Path(cache))
            failed += sum(not one.held for one in findings)
            parts.append(section(scenario, findings))
            print(parts[-1], flush=True)
            if options.out:
                options.out.write_text("\n".join(parts))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
