"""One line a request in the log, for the share that is asked for."""

from pathlib import Path
from typing import Any

import httpx

from loadtests.running import RunningService, wait_until
from tests.conftest import DIGITS

PNG = (DIGITS / "dejavu-sans-7.png").read_bytes()


def lines(service: RunningService) -> list[dict[str, Any]]:
    return [line for line in service.log if "route" in line]


def ask(service: RunningService, path: str = "/v1/predict", **headers: str) -> httpx.Response:
    return httpx.post(f"{service.url}{path}", content=PNG, headers={"Content-Type": "image/png", **headers})


def test_a_line_says_who_asked_what_and_how_it_went(compiled_cache: Path):
    with RunningService(workers=1, cache_dir=compiled_cache, access_log=1) as service:
        ask(service, "/v1/predict?top_k=1", **{"X-Request-ID": "mine"})
        ask(service, "/v1/no%0Awhere")
        wait_until(lambda: len(lines(service)) == 2, 10, "both lines are there")
        first, second = lines(service)

    assert first["request_id"] == "mine"
    assert (first["method"], first["path"], first["route"]) == ("POST", "/v1/predict", "/v1/predict")
    assert (first["status"], first["client"], first["process"]) == (200, "127.0.0.1", "worker 0")
    assert 0 < first["seconds"] < 60
    assert (second["path"], second["route"], second["status"]) == ("/v1/no%0Awhere", "unmatched", 404)


def test_a_share_of_the_requests_is_logged(compiled_cache: Path):
    with RunningService(workers=1, cache_dir=compiled_cache, access_log=0.2) as service:
        for _ in range(200):
            ask(service)
    # 40 are expected, with a standard deviation of 6.
    assert 10 < len(lines(service)) < 90


def test_by_default_nothing_is_logged(service: RunningService):
    assert ask(service).status_code == 200

    assert lines(service) == []
