"""The comparison: a peer that does the service's work, and the page that is made of what was measured."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loadtests import machine
from loadtests.compare import behaviours, page, rounds
from loadtests.compare.answers import OtherAnswers, difference
from loadtests.compare.rounds import Turns
from loadtests.compare.servers import NotStarted, Server, ours, peer
from loadtests.compare.settings import SETTINGS
from loadtests.pictures import encoded_blots, photo
from models.compile import choose_target, package_path
from models.config import BUNDLED_MODEL

SMALL = SETTINGS[0]
PICTURE = photo(*SMALL.picture)


@pytest.fixture(scope="module")
def plain(compiled_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The plain FastAPI app, which needs no more than the service does."""
    package = package_path(compiled_cache, BUNDLED_MODEL, choose_target("cpu", "auto", cores=1, multiply_adds=0))
    folder = tmp_path_factory.mktemp("peer")
    with peer("fastapi", Path(sys.executable), SMALL, BUNDLED_MODEL, package, PICTURE, folder) as server:
        yield server


@pytest.fixture(scope="module")
def service(compiled_cache: Path) -> Iterator[Server]:
    with ours(BUNDLED_MODEL, compiled_cache) as server:
        yield server


def test_a_peer_gives_the_answers_of_the_service(service: Server, plain: Server):
    assert difference(service, plain, [PICTURE, *encoded_blots(4, 64)], SMALL.tolerance) < SMALL.tolerance


def test_other_answers_are_found_out(service: Server, plain: Server, monkeypatch: pytest.MonkeyPatch):
    other = encoded_blots(1, 64)[0]
    monkeypatch.setattr(
        Server, "ask", lambda self, picture, ask=Server.ask: ask(self, picture if self is service else other)
    )

    with pytest.raises(OtherAnswers):
        difference(service, plain, [PICTURE], SMALL.tolerance)


def test_a_bad_picture_and_clients_that_hang_up(service: Server, plain: Server):
    for server in (service, plain):
        bad = behaviours.bad_picture(server, PICTURE)
        assert bad["bad_statuses"] == [400]
        assert bad["neighbours_failed"] == 0
    assert behaviours.hang_ups(plain, PICTURE)["computed_nevertheless"] > 0
    assert behaviours.hang_ups(service, PICTURE)["computed_nevertheless"] < behaviours.HANG_UPS


def test_a_restless_server_stands_still_while_another_is_measured(
    service: Server, plain: Server, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(rounds, "IDLE_SECONDS", 0.1)
    turns = Turns([service, plain])
    turns.idle_cores["fastapi"] = 0.5

    with turns.alone(service):
        standing = [process.status() for process in plain.tree()]
    with turns.alone(plain):
        running = [process.status() for process in [*plain.tree(), *service.tree()]]

    assert set(standing) == {"stopped"}
    assert "stopped" not in running


def test_a_peer_that_ends_says_why(tmp_path: Path):
    with (
        pytest.raises(NotStarted, match=r"nowhere/config\.json: No such file"),
        peer("fastapi", Path(sys.executable), SMALL, tmp_path / "nowhere", tmp_path, PICTURE, tmp_path),
    ):
        pass


def closed(rate: float, **others: float) -> dict[str, float]:
    usual = {"p50_ms": 20.0, "p99_ms": 40.0, "cpu_seconds_per_thousand": 0.8, "memory_mb": 500.0, "errors": 0}
    return {"requests_per_second": rate, **usual, **others}


def opened(p99: float) -> dict[str, float]:
    return {"open_p50_ms": p99 / 2, "open_p99_ms": p99, "unanswered": 0}


@pytest.fixture
def report() -> dict[str, Any]:
    """Three made-up rounds: three times mosec at the median, 1.5 times the plain app, with a higher p99."""
    rates = [(3000, 1000, 2000), (2000, 800, 1000), (3300, 1100, 2200)]
    return {
        "conditions": machine.conditions(),
        "rounds": 3,
        "seconds": 5.0,
        "versions": {"mosec": "mosec 0.9.8", "fastapi": "fastapi 0.165.0"},
        "left_out": {"ray": "it cannot be installed"},
        "settings": {
            "small": {
                "picture_bytes": 9000,
                "batch_cap": 64,
                "least_cpu_ms": 0.2,
                "rate": 1600.0,
                "idle_cores": {"coordserve": 0.03, "mosec": 0.0, "fastapi": 0.0},
                "differences": {"mosec": 0.0, "fastapi": 0.0},
                "closed": [
                    {"coordserve": closed(ours), "mosec": closed(mosec), "fastapi": closed(plain, memory_mb=400.0)}
                    for ours, mosec, plain in rates
                ],
                "open": [{"coordserve": opened(30.0), "mosec": opened(90.0), "fastapi": opened(25.0)}] * 3,
            }
        },
    }


def row(text: str, *words: str) -> str:
    [found] = [line for line in text.splitlines() if line.startswith("|") and all(word in line for word in words)]
    return found


def test_a_ratio_is_the_median_of_those_of_each_round(report: dict[str, Any]):
    assert row(page.write(report), "over mosec").endswith("| at least 2.5 | 3.00 (2.50 – 3.00) | yes |")  # noqa: RUF001


def test_what_is_not_reached_says_no(report: dict[str, Any]):
    text = page.write(report)

    assert row(text, "over fastapi, the best").endswith("| at least 1.6 | 1.50 (1.50 – 2.00) | **no** |")  # noqa: RUF001
    assert "30.0 ms; the lowest of the others, fastapi: 25.0 ms | **no** |" in row(text, "lower than any")


def test_the_page_says_where_the_service_loses_and_who_is_not_there(report: dict[str, Any]):
    text = page.write(json.loads(json.dumps(report)))

    assert "memory MB: fastapi 400; the service 500" in text
    assert "**ray** is not here: it cannot be installed" in text
    assert "**mosec 0.9.8** a stage of processes that decode" in text
