"""What `make audit` says of what coordserve is built on."""

import importlib.metadata
import json

import pytest

from tests.audit.licences import PAGE, Licensed, complaints, licensed, page, runtime_dependencies
from tests.audit.vulnerabilities import verdict


def test_the_page_names_every_dependency_with_its_licence():
    rows = {line.split(" | ")[0].strip("| ") for line in PAGE.read_text().splitlines()}

    assert runtime_dependencies() <= rows
    assert PAGE.read_text() == page(licensed()), "make audit writes it anew"


def test_dependencies_of_dependencies_count_and_those_of_extras_do_not():
    found = runtime_dependencies()

    assert {"torch", "sympy", "mpmath", "starlette", "fastapi-offline", "pydantic-core"} <= found
    assert not {"pytest", "ruff", "bandit", "locust", "matplotlib", "opentelemetry-sdk"} & found
    for name in found:
        assert importlib.metadata.version(name)


def test_no_licence_binds_the_project():
    assert complaints(licensed()) == []


@pytest.mark.parametrize(
    "licence",
    [
        "GPL-3.0-or-later",
        "AGPL-3.0",
        "GNU General Public License v2 (GPLv2)",
        "MIT AND GPL-2.0-only",
        "GNU Affero General Public License v3",
        "unknown",
    ],
)
def test_one_that_would_is_refused(licence: str):
    assert complaints([Licensed("some", licence)])


@pytest.mark.parametrize("licence", ["MIT", "MIT OR GPL-2.0-only", "(GPL-3.0 OR Apache-2.0) AND MIT", "LGPL-2.1-only"])
def test_one_that_would_not_is_taken(licence: str):
    assert complaints([Licensed("some", licence)]) == []


def test_a_lesser_one_is_listed_as_such():
    found = [Licensed("some", "GNU Lesser General Public License v3 (LGPLv3)"), Licensed("other", "MIT")]

    assert complaints(found) == []
    assert "the library that bears it: some." in page(found)


def audited(*dependencies: dict[str, object]) -> str:
    return json.dumps({"dependencies": dependencies, "fixes": []})


CLEAN = {"name": "a", "version": "1", "vulns": []}
UNKNOWN = {"name": "b", "skip_reason": "not found"}
BROKEN = {"name": "c", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}]}


def test_a_vulnerability_fails_the_audit():
    assert verdict(1, audited(CLEAN, UNKNOWN, BROKEN), "") == (1, "c 2: CVE-1, mended in 3")


def test_what_was_not_asked_about_is_not_called_clean():
    for output in ("", audited(UNKNOWN)):
        code, said = verdict(0, output, "ConnectionError: no network")
        assert code == 0
        assert said.startswith("NOT AUDITED")
    assert verdict(0, audited(CLEAN, UNKNOWN), "") == (0, "no known vulnerability in 1 distributions; NOT AUDITED: b")
    assert verdict(0, audited(CLEAN), "") == (0, "no known vulnerability in 1 distributions")
