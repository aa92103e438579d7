"""The rules, the dashboard and the runbook, for the tests that look at them."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "deploy" / "components" / "monitoring"
RULES = MONITORING / "rules.yaml"
UNIT_TESTS = [MONITORING / "rules.test.yaml", MONITORING / "rules.days.test.yaml"]

GROUPS: list[dict[str, Any]] = yaml.safe_load(RULES.read_text())["groups"]
RECORDED = {rule["record"]: rule["expr"] for group in GROUPS for rule in group["rules"] if "record" in rule}
ALERTS = {rule["alert"]: rule for group in GROUPS for rule in group["rules"] if "alert" in rule}

# What Grafana puts in for its variables when all is chosen.
VARIABLES = {"$namespace": ".*", "$job": ".*"}


def panels() -> dict[str, list[str]]:
    """The queries of each panel of the dashboard, with everything chosen."""
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    found = {}
    for panel in dashboard["panels"]:
        queries = [target["expr"] for target in panel["targets"]]
        for name, value in VARIABLES.items():
            queries = [query.replace(name, value) for query in queries]
        found[panel["title"]] = queries
    return found


def metrics_in(query: str) -> set[str]:
    """Our metrics and recorded series in a query."""
    return set(re.findall(r"\bcoordserve[a-z0-9_:]+", re.sub(r'"[^"]*"', "", query)))


def need(command: str) -> str:
    """The path of a command of Debian's package prometheus; skips the test without it."""
    found = shutil.which(command)
    if found is None:
        pytest.skip(f"there is no {command} (Debian: apt-get install prometheus)")
    return found
