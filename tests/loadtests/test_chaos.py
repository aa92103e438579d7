"""The short form of every scenario that tries to break a running service."""

from pathlib import Path

import pytest

from loadtests.chaos.__main__ import SCENARIOS, scenarios


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_the_service_holds(name: str, compiled_cache: Path):
    (scenario,) = scenarios([name])

    findings = scenario.run(long=False, cache=compiled_cache)

    assert findings
    assert [one for one in findings if not one.held and not one.timed] == []
