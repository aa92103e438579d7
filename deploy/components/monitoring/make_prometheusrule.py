"""Makes the operator's PrometheusRule of rules.yaml: `make rules`; with --runbooks URL that comes before every path."""

import argparse
from pathlib import Path
from textwrap import indent

HERE = Path(__file__).parent
RULES, PROMETHEUS_RULE = HERE / "rules.yaml", HERE / "prometheusrule.yaml"
HEAD = """\
# Made of rules.yaml by `make rules`; change that.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: coordserve
  labels:
    app.kubernetes.io/name: coordserve
spec:
"""


def prometheus_rule(rules: str, runbooks: str = "") -> str:
    """rules: the text of a file of Prometheus rules; runbooks: what comes before the path of a runbook"""
    return HEAD + indent(rules, "  ").replace("runbook_url: ", f"runbook_url: {runbooks}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runbooks", default="", metavar="URL", help="such as https://git.example.com/coordserve/")
    PROMETHEUS_RULE.write_text(prometheus_rule(RULES.read_text(), parser.parse_args().runbooks))
