"""`make chaos`: every scenario in full, and what it finds into docs/reliability.md."""

import argparse
import importlib
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from loadtests.chaos.finding import Finding
from loadtests.machine import conditions, sentence
from models import compile as compiler
from models.config import BUNDLED_MODEL

SCENARIOS = ["overload", "priorities", "hang_ups", "shutdown", "crashes", "agreement", "inputs", "fuzz", "soak"]
HEAD = """# Reliability

Written by `make chaos`, which runs every scenario in full, or by `python -m loadtests.chaos NAME --out PAGE` for one;
the claims say how often and how long. A short form of each is in `make test`. The clients run on the same cores as
the service.

"""


def scenarios(names: list[str]) -> Iterator[ModuleType]:
    """The modules: each has a docstring, and run(long, cache) -> list[Finding]."""
    for name in names:
        yield importlib.import_module(f"loadtests.chaos.{name}")


def title(scenario: ModuleType) -> str:
    return (scenario.__doc__ or "").partition("\n")[0].rstrip(".")


def section(scenario: ModuleType, findings: list[Finding]) -> str:
    text = (scenario.__doc__ or "").partition("\n")[2].strip()
    rows = [f"| {one.claim} | {one.asked} | {one.measured} | {'yes' if one.held else '**no**'} |" for one in findings]
    table = ["| | asked for | measured | held |", "|---|---|---|---|", *rows]
    return "\n".join([f"## {title(scenario)}", "", text, "", sentence(conditions("torch")), "", *table, ""])


def sections(report: str) -> dict[str, str]:
    """Of a report, by title."""
    parts = re.split(r"(?m)^(?=## )", report)[1:]
    return {part.partition("\n")[0].removeprefix("## "): part.rstrip("\n") + "\n" for part in parts}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtests.chaos", description=__doc__)
    parser.add_argument("scenarios", nargs="*", help=f"which: {', '.join(SCENARIOS)}; all if none is named")
    parser.add_argument("--short", action="store_true", help="the form that the tests run")
    parser.add_argument("--out", type=Path, help="write what was found there, and leave what others found")
    options = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as cache:
        compiler.compile_package(
            Path(cache), BUNDLED_MODEL, compiler.choose_target("cpu", "auto", cores=1, multiply_adds=0)
        )
        for scenario in scenarios(options.scenarios or SCENARIOS):
            findings = scenario.run(long=not options.short, cache=Path(cache))
            failed += sum(not one.held for one in findings)
            new = section(scenario, findings)
            print(new, flush=True)
            if options.out:
                _replace(options.out, title(scenario), new)
    return 1 if failed else 0


def _replace(report: Path, name: str, new: str) -> None:
    """Write one section anew, in the order of SCENARIOS, and leave the others."""
    known = sections(report.read_text()) if report.exists() else {}
    known[name] = new
    titles = [title(scenario) for scenario in scenarios(SCENARIOS)]
    report.write_text(HEAD + "\n".join(known[one] for one in titles if one in known))


if __name__ == "__main__":
    sys.exit(main())
