"""Prometheus' own tool understands the rules and fires every alert, and the runbook says what to do about each."""

import importlib.util
import re
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from tests.deploy.monitoring import ALERTS, MONITORING, RECORDED, ROOT, RULES, UNIT_TESTS, metrics_in, need, panels

RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()
SECTIONS = dict(re.findall(r"^### (\w+)\n(.+?)(?=^##|\Z)", RUNBOOK, re.MULTILINE | re.DOTALL))


def promtool(*arguments: object) -> str:
    done = subprocess.run([need("promtool"), *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def expectations(alert: str) -> list[bool]:
    """Whether the alert fires, for each place in the unit tests that says so."""
    return [
        bool(expected["exp_samples"])
        for file in UNIT_TESTS
        for test in yaml.safe_load(file.read_text())["tests"]
        for expected in test.get("promql_expr_test", [])
        if f'alertname="{alert}"' in expected["expr"]
    ]


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_prometheusrule", MONITORING / "make_prometheusrule.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_promtool_reads_the_rules():
    assert f"SUCCESS: {len(RECORDED) + len(ALERTS)} rules found" in promtool("check", "rules", RULES)


@pytest.mark.parametrize("file", UNIT_TESTS, ids=lambda file: file.name)
def test_every_alert_fires_and_rests_as_its_unit_tests_say(file):
    assert "SUCCESS" in promtool("test", "rules", file)


@pytest.mark.parametrize("alert", ALERTS)
def test_unit_tests_show_each_alert_firing_and_not_firing(alert):
    assert set(expectations(alert)) == {True, False}


def test_a_rule_that_is_wrong_fails_its_unit_test(tmp_path: Path):
    (tmp_path / RULES.name).write_text(RULES.read_text().replace("coordserve:slots_used:ratio > 0.8", "vector(0) > 1"))
    (tmp_path / "test.yaml").write_text(UNIT_TESTS[0].read_text())

    with pytest.raises(AssertionError, match="CoordserveQueueFilling"):
        promtool("test", "rules", tmp_path / "test.yaml")


def test_the_operator_s_rules_are_made_of_the_plain_ones():
    made = (MONITORING / "prometheusrule.yaml").read_text()

    assert made == script().prometheus_rule(RULES.read_text()), "run make rules"
    assert yaml.safe_load(made)["spec"] == yaml.safe_load(RULES.read_text())


def test_runbooks_may_lie_elsewhere():
    made = yaml.safe_load(script().prometheus_rule(RULES.read_text(), "https://git.example.com/"))

    links = {
        rule["annotations"]["runbook_url"]
        for group in made["spec"]["groups"]
        for rule in group["rules"]
        if "alert" in rule
    }
    assert links
    assert all(link.startswith("https://git.example.com/docs/runbook.md#") for link in links)


@pytest.mark.parametrize("alert", ALERTS)
def test_each_alert_says_how_bad_it_is_and_where_to_read_on(alert):
    rule = ALERTS[alert]
    file, _, anchor = rule["annotations"]["runbook_url"].partition("#")

    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"]["summary"].endswith(".")
    assert (ROOT / file).is_file()
    assert anchor == alert.lower()  # what becomes of the heading
    assert "kubectl" in SECTIONS[alert] or "see " in SECTIONS[alert]


def test_the_runbook_knows_no_alert_that_there_is_not():
    assert set(SECTIONS) == set(ALERTS)


def test_links_within_the_runbook_lead_somewhere():
    links = re.findall(r"\(#([^)]+)\)", RUNBOOK)

    assert links
    assert set(links) <= {alert.lower() for alert in ALERTS}


def test_recorded_series_in_alerts_and_dashboard_are_recorded():
    queries = [rule["expr"] for rule in ALERTS.values()] + [query for queries in panels().values() for query in queries]
    used = {name for query in queries for name in metrics_in(query) if ":" in name}

    assert len(used) > 10
    assert used <= set(RECORDED)
