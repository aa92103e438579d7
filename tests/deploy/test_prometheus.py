"""A real Prometheus scrapes the running service: what rules and dashboard ask for is there."""

import json
import os
import re
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from loadtests.running import RunningService, free_port, wait_until
from tests.conftest import DIGITS
from tests.deploy.monitoring import ALERTS, RECORDED, RULES, metrics_in, need, panels
from tests.service.test_gpu_watch import BOARD, FAKE, there_are

pytestmark = pytest.mark.slow

# Of what never happens to a service that is well there is nothing to show.
EMPTY_WHEN_WELL = {"coordserve:predictions_refused:ratio_rate5m"}


class Prometheus:
    def __init__(self, url: str) -> None:
        self._url = url

    def ask(self, query: str) -> list[dict[str, Any]]:
        """The samples of an instant query. Raises HTTPError if Prometheus does not understand it."""
        question = urllib.parse.urlencode({"query": query})
        with urllib.request.urlopen(f"{self._url}/api/v1/query?{question}", timeout=10) as answer:
            return json.load(answer)["data"]["result"]

    def shows(self, query: str) -> list[dict[str, Any]]:
        """Its samples, once there are any: a rule is evaluated after what it asks for was scraped."""
        return wait_until(lambda: self.ask(query), 60, f"{query} shows something")

    def is_up(self) -> bool:
        try:
            return self.ask('up{job="coordserve"}')[0]["value"][1] == "1"
        except (OSError, IndexError):
            return False


@pytest.fixture(scope="module")
def service(compiled_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """The bundled model, beside a GPU of which only figures are seen."""
    gpus = tmp_path_factory.mktemp("gpus") / "gpus.json"
    there_are(gpus, BOARD)
    environment = {**os.environ, "PYTHONPATH": str(FAKE), "FAKE_NVML": str(gpus)}
    with RunningService(workers=2, cache_dir=compiled_cache, environment=environment) as running:
        yield running


@pytest.fixture(scope="module")
def prometheus(service: RunningService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Prometheus with our rules, after it has seen the service predict."""
    command, folder = need("prometheus"), tmp_path_factory.mktemp("prometheus")
    # The labels that the PodMonitor gives.
    targets = [{"targets": [f"127.0.0.1:{service.port}"], "labels": {"namespace": "test"}}]
    configuration = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [{"job_name": "coordserve", "static_configs": targets}],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    port = free_port()
    process = subprocess.Popen(
        [
            command,
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        stderr=(folder / "log").open("w"),
    )
    try:
        found = Prometheus(f"http://127.0.0.1:{port}")
        _predict(service)
        wait_until(found.is_up, 60, f"Prometheus scrapes the service: {folder / 'log'}")
        _predict(service)  # rates want a change between two scrapes
        found.shows("coordserve:predictions:rate5m > 0")
        yield found
    finally:
        process.terminate()
        process.wait(30)


def _predict(service: RunningService) -> None:
    picture = (DIGITS / "dejavu-sans-7.png").read_bytes()
    for path in ("/v1/predict", "/v2/models/digits/infer"):
        headers = {"Content-Type": "image/png", "Inference-Header-Content-Length": "0"}
        request = urllib.request.Request(service.url + path, picture, headers)
        assert urllib.request.urlopen(request, timeout=30).status == 200


def test_every_metric_of_rules_and_dashboard_is_there(prometheus):
    shown = [query for queries in panels().values() for query in queries]
    queries = [*RECORDED.values(), *(rule["expr"] for rule in ALERTS.values()), *shown]
    names = {name for query in queries for name in metrics_in(query)} - EMPTY_WHEN_WELL

    assert len(names) > 30
    for name in sorted(names):
        prometheus.shows(name)


@pytest.mark.parametrize("series", [name for name in RECORDED if name not in EMPTY_WHEN_WELL])
def test_every_recorded_series_has_a_value_and_the_labels_of_the_service(prometheus, series):
    samples = prometheus.shows(series)

    assert {(sample["metric"]["namespace"], sample["metric"]["job"]) for sample in samples} == {("test", "coordserve")}


@pytest.mark.parametrize("panel", panels())
def test_every_panel_of_the_dashboard_shows_something(prometheus, panel):
    for query in panels()[panel]:
        prometheus.shows(query)


def test_predictions_are_those_by_either_protocol_and_nothing_else(prometheus, service):
    [selector] = re.findall(r"coordserve_http_requests_total\{.+?\}(?=\[)", RECORDED["coordserve:predictions:rate5m"])
    routes = {sample["metric"]["route"] for sample in prometheus.ask(selector)}
    others = {sample["metric"]["route"] for sample in prometheus.ask("coordserve_http_requests_total")} - routes

    assert routes == {"/v1/predict", "/v2/models/{name}/infer"}
    assert "/metrics" in others


def test_no_alert_fires_for_a_service_that_is_well(prometheus):
    assert prometheus.ask("ALERTS") == []
