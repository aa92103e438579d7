"""docs/licences.md: what serving needs beside Python, and under which licences; `python -m tests.licences` writes it.

Exits with 1, and names the package, where a licence would bind the project (GPL, AGPL).
"""

import re
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

PAGE = Path(__file__).parent.parent / "docs" / "licences.md"
HEAD = """# Licences

What `pip install coordserve` brings with it, as it is here; written by `make audit`.

| package | licence |
|---|---|
"""
BINDING = re.compile(r"\bA?GPL|Affero|GNU General Public", re.IGNORECASE)
LONGEST = 60  # characters: some packages put the whole text where its name belongs


def needed(name: str = "coordserve") -> dict[str, Distribution]:
    """What a distribution requires without extras, and what that requires, by name, as far as it is installed."""
    found: dict[str, Distribution] = {}
    names = [name]
    while names:
        one = names.pop()
        try:
            package = distribution(one)
        except PackageNotFoundError:  # for another platform
            continue
        key = package.metadata["Name"].lower().replace("_", "-")
        if key in found:
            continue
        found[key] = package
        for text in package.requires or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                names.append(requirement.name)
    found.pop(name, None)
    return dict(sorted(found.items()))


def licence(package: Distribution) -> str:
    """As the package states it: an SPDX expression, its classifiers, or the first line of its text."""
    metadata = package.metadata
    if expression := metadata.get("License-Expression"):
        return str(expression)
    classifiers = [text.rpartition(" :: ")[2] for text in metadata.get_all("Classifier", []) if "License ::" in text]
    return ", ".join(classifiers) or (metadata.get("License") or "not stated").splitlines()[0][:LONGEST]


def main() -> int:
    packages = {name: licence(package) for name, package in needed().items()}
    PAGE.write_text(HEAD + "".join(f"| {name} | {text} |\n" for name, text in packages.items()))
    bound = [f"{name}: {text}" for name, text in packages.items() if BINDING.search(text) and "LGPL" not in text]
    print("\n".join(bound) or f"{len(packages)} packages, none of which binds the project")
    return 1 if bound else 0


if __name__ == "__main__":
    sys.exit(main())
