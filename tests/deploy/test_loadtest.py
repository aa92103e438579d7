"""The cluster's locustfile makes requests that the service answers."""

import csv
import importlib.util
import subprocess
import sys

import pytest

from tests.deploy.manifests import DEPLOY

pytestmark = pytest.mark.slow


def test_locust_gets_predictions_and_counts_no_failure(service, tmp_path):
    if importlib.util.find_spec("locust") is None:
        pytest.skip("there is no locust (pip install '.[loadtest]')")
    locustfile = DEPLOY / "components" / "loadtest" / "locustfile.py"
    command = [sys.executable, "-m", "locust", "--headless", "--locustfile", locustfile, "--host", service.url]
    options = ["--users", "2", "--spawn-rate", "2", "--run-time", "2s", "--csv", tmp_path / "load"]

    done = subprocess.run([*command, *options], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    with (tmp_path / "load_stats.csv").open() as file:
        [predict, _] = csv.DictReader(file)
    assert predict["Name"] == "/v1/predict"
    assert int(predict["Request Count"]) > 0
    assert int(predict["Failure Count"]) == 0
