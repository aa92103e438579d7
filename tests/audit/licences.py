"""docs/licences.md: what coordserve needs to run, under which licences.

From what the installed distributions say of themselves. Fails on a licence that would bind the project itself.
"""

import argparse
import importlib.metadata
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = "coordserve"
PAGE = Path(__file__).parents[2] / "docs" / "licences.md"
LONGEST = 60  # a licence's name; some put the whole text there

# What only torch's wheels for CUDA bring: the page is the same wherever it is written.
OF_CUDA = re.compile(r"(nvidia|cuda|triton)\b")

# Of a work that is passed on together with what bears them, they want the same licence.
BINDING = re.compile(r"\bA?GPL|GNU (Affero )?General Public", re.IGNORECASE)
# They want it of changes to the library itself.
LESSER = re.compile(r"\bLGPL|GNU (Lesser|Library) General Public", re.IGNORECASE)

HEAD = """\
# Licences

What `coordserve` needs to run, with all that this needs in turn; nothing of tests, tools and extras. Written by
`make audit` from what the installed distributions say of themselves, and refused there if a licence (GPL, AGPL) would
bind this project, itself under Apache 2.0. LGPL binds changes to the library that bears it: {lesser}. PyTorch's
wheels for CUDA also bring Triton (MIT) and NVIDIA's libraries (NVIDIA's licences).

| distribution | licence |
|---|---|
"""


@dataclass(frozen=True)
class Licensed:
    """A distribution and its licence, as it says itself."""

    name: str
    licence: str

    @property
    def binding(self) -> bool:
        """Whether each way to take it would bind the project."""
        return any(BINDING.search(part) and not LESSER.search(part) for part in _parts(self.licence))

    @property
    def lesser(self) -> bool:
        return bool(LESSER.search(self.licence))


def _parts(licence: str) -> list[str]:
    """What must be kept all at once; of alternatives, the ones that do not bind are chosen."""
    found = []
    for part in re.split(r"\s+AND\s+|;", licence):
        choices = re.split(r"\s+OR\s+", part.strip("() "))
        found.append(next((choice for choice in choices if not BINDING.search(choice)), choices[0]))
    return found


def runtime_dependencies(project: str = PROJECT) -> set[str]:
    """The canonical names of all that the installed project needs, and that its needs need, without extras and CUDA."""
    found: set[str] = set()
    waiting = [(project, frozenset({""}))]
    seen = set()
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        for line in importlib.metadata.requires(name) or []:
            needed = Requirement(line)
            if needed.marker and not any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                continue
            dependency = canonicalize_name(needed.name)
            if OF_CUDA.match(dependency):
                continue
            found.add(dependency)
            waiting.append((dependency, frozenset({"", *needed.extras})))
    return found


def licence_of(name: str) -> str:
    """Its SPDX expression (PEP 639), or what was usual before: classifiers, or a short text."""
    metadata = importlib.metadata.metadata(name)
    if expression := metadata.get("License-Expression"):
        return expression
    text = (metadata.get("License") or "").strip()
    classifiers = [
        line.rpartition(" :: ")[2] for line in metadata.get_all("Classifier", []) if line.startswith("License ::")
    ]
    if text and "\n" not in text and len(text) <= LONGEST and text.upper() not in ("UNKNOWN", "DUAL LICENSE"):
        return text
    return "; ".join(classifiers) or "unknown"


def licensed() -> list[Licensed]:
    return [Licensed(name, licence_of(name)) for name in sorted(runtime_dependencies())]


def page(found: list[Licensed]) -> str:
    """The whole of docs/licences.md."""
    lesser = ", ".join(one.name for one in found if one.lesser) or "none here"
    return HEAD.format(lesser=lesser) + "".join(f"| {one.name} | {one.licence} |\n" for one in found)


def complaints(found: list[Licensed]) -> list[str]:
    return [
        f"{one.name} is under {one.licence}: " + ("that would bind this project" if one.binding else "look it up")
        for one in found
        if one.binding or one.licence == "unknown"
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=PAGE, help="the page to write (default: docs/licences.md)")
    out: Path = parser.parse_args().out
    found = licensed()
    if wrong := complaints(found):
        print(*wrong, sep="\n", file=sys.stderr)
        return 1
    out.write_text(page(found))
    print(f"{len(found)} licences, none of them binding: {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
