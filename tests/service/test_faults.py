"""What goes wrong around a running service: bad starts, signals, killed processes, a network that fails."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest
import torch

from loadtests.running import RunningService, wait_until
from models.config import BUNDLED_MODEL, CONFIG_FILE, WEIGHTS_FILE
from tests.conftest import DIGITS
from tests.service.faulty_device import service_on

SEVEN = (DIGITS / "dejavu-sans-7.png").read_bytes()
COORDSERVE = Path(sys.executable).with_name("coordserve")
HEADERS = {"Content-Type": "image/png"}


def refused(*flags: object) -> str:
    """The one line that a start which cannot succeed prints last; it must end by itself, and not with 0."""
    command = [str(COORDSERVE), "serve", "--port", "0", "--compile", "off", *map(str, flags)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


def copy_of_the_model(to: Path, config_changes: dict) -> Path:
    to.mkdir()
    (to / WEIGHTS_FILE).write_bytes((BUNDLED_MODEL / WEIGHTS_FILE).read_bytes())
    config = json.loads((BUNDLED_MODEL / CONFIG_FILE).read_text())
    (to / CONFIG_FILE).write_text(json.dumps({**config, **config_changes}))
    return to


def test_a_port_in_use_is_said():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        line = refused("--port", taken.getsockname()[1])

    assert "cannot listen" in line
    assert "--port" in line


def test_a_missing_model_directory_is_said(tmp_path: Path):
    line = refused("--model", tmp_path / "none")

    assert str(tmp_path / "none") in line
    assert "--model" in line


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_gpu_is_said():
    assert "COORDSERVE_DEVICE" in refused("--device", "cuda")


def test_a_broken_configuration_is_said(tmp_path: Path):
    model = copy_of_the_model(tmp_path / "model", {"labels": "many"})

    assert "labels" in refused("--model", model)


def test_a_configuration_that_does_not_fit_its_weights_is_said(tmp_path: Path):
    model = copy_of_the_model(tmp_path / "model", {"labels": ["a", "b", "c"]})

    line = refused("--model", model)

    assert "does not fit" in line
    assert "classifier.1.weight [10, 1280] instead of [3, 1280]" in line


def test_weights_that_are_no_safetensors_are_said(tmp_path: Path):
    model = copy_of_the_model(tmp_path / "model", {})
    (model / WEIGHTS_FILE).write_bytes(b"pickled?")

    assert "cannot read the weights" in refused("--model", model)


@pytest.mark.parametrize("flags", [("--port", "many"), ("--workers", "0"), ("--compile", "maybe")])
def test_a_wrong_setting_is_said(flags: tuple[str, str]):
    line = refused(*flags)

    assert flags[0] in line
    assert flags[1] in line


def ask(service: RunningService, headers: dict[str, str] = HEADERS) -> httpx.Response:
    return httpx.post(f"{service.url}/v1/predict", content=SEVEN, headers=headers, timeout=30)


def ask_or_none(service: RunningService) -> int | None:
    """The status of an answer, if there is one."""
    try:
        return ask(service).status_code
    except httpx.TransportError:
        return None


def slow_engine_service(cache: Path) -> RunningService:
    """A service whose batches wait 0.5 s to fill, so that requests are surely inside when something happens."""
    return RunningService(workers=2, cache_dir=cache, max_delay_ms=500)


async def many(url: str, count: int, during) -> list[httpx.Response | httpx.HTTPError]:
    """`count` requests at once, and `during` once they are on their way."""
    async with httpx.AsyncClient(timeout=30, limits=httpx.Limits(max_connections=count)) as client:

        async def one() -> httpx.Response | httpx.HTTPError:
            try:
                return await client.post(f"{url}/v1/predict", content=SEVEN, headers=HEADERS)
            except httpx.HTTPError as error:
                return error

        waiting = [asyncio.create_task(one()) for _ in range(count)]
        await asyncio.sleep(0.25)
        during()
        return await asyncio.gather(*waiting)


def test_sigterm_answers_what_was_accepted_then_exits_0(compiled_cache: Path):
    with slow_engine_service(compiled_cache) as service:
        family = psutil.Process(service.process.pid).children(recursive=True)
        answers = asyncio.run(many(service.url, 20, lambda: service.process.send_signal(signal.SIGTERM)))
        code = service.process.wait(30)

    assert [getattr(answer, "status_code", answer) for answer in answers] == [200] * 20
    assert code == 0
    assert not any(process.is_running() for process in family)


def test_ctrl_c_in_a_terminal_stops_all_in_order(compiled_cache: Path):
    with RunningService(workers=2, cache_dir=compiled_cache) as service:
        ask(service)
        service.process.send_signal(signal.SIGINT)
        assert service.process.wait(30) == 0
        wait_until(lambda: service.logged("stopping"), 5, "the last log lines")

    assert not [line for line in service.log if line["level"] == "error"]


def test_a_killed_engine_is_replaced_and_nothing_hangs(compiled_cache: Path):
    with slow_engine_service(compiled_cache) as service:
        (engine,) = service.children("service.engine")
        answers = asyncio.run(many(service.url, 20, engine.kill))

        statuses = [getattr(answer, "status_code", answer) for answer in answers]
        assert statuses == [503] * 20
        assert all(answer.headers["retry-after"] == "1" for answer in answers)
        wait_until(lambda: service.get("/readyz")[0] == 200, 60, "the engine is replaced")
        assert ask(service).status_code == 200
        assert b"coordserve_engine_restarts_total 1.0" in service.get("/metrics")[1]
        assert b"coordserve_slots_used 0.0" in service.get("/metrics")[1]


def test_without_its_engine_it_is_alive_but_not_ready_and_the_next_has_the_same_batches(compiled_cache: Path):
    """That starts under load, where measuring them again would find other ones, and keep them."""
    with RunningService(workers=1, cache_dir=compiled_cache) as service:
        service.wait_compiled()
        before = service.card()
        [engine] = service.children("service.engine")
        engine.kill()
        wait_until(lambda: service.get("/readyz")[0] == 503, 30, "readiness fails")
        alive = service.get("/healthz")[0]
        refused = ask(service)

        assert alive == 200
        assert refused.status_code in (503, 200)  # 200 if it is back already
        wait_until(lambda: service.get("/readyz")[0] == 200, 60, "the service is ready again")

        assert service.card() == before


def test_a_killed_worker_is_replaced_and_the_other_goes_on(compiled_cache: Path):
    with RunningService(workers=2, cache_dir=compiled_cache) as service:
        before = service.children("service.worker")
        before[0].kill()

        failed = 0
        for _ in range(50):
            try:
                assert ask(service).status_code == 200
            except httpx.TransportError:  # the dead worker's own connections
                failed += 1
        assert failed <= 1
        after = wait_until(
            lambda: (now := service.children("service.worker")) and len(now) == 2 and now, 30, "two workers"
        )
        assert {process.pid for process in after} != {process.pid for process in before}
        wait_until(lambda: not service.logged("worker 0 ended") or ask(service).status_code == 200, 30, "answers")


def test_workers_killed_while_the_engine_holds_their_images_harm_nobody_else(compiled_cache: Path):
    with slow_engine_service(compiled_cache) as service:
        victim, _ = service.children("service.worker")
        answers = asyncio.run(many(service.url, 20, victim.kill))

        for answer in answers:
            if isinstance(answer, httpx.Response):
                assert answer.status_code == 200
                assert answer.json()["predictions"][0][0]["label"] == "seven"
        wait_until(lambda: len(service.children("service.worker")) == 2, 30, "two workers")
        assert all(ask(service).status_code == 200 for _ in range(10))


def test_a_worker_that_dies_while_the_engine_starts_does_not_take_it_along(compiled_cache: Path):
    with RunningService(workers=1, cache_dir=compiled_cache) as service:
        (engine,), (worker,) = service.children("service.engine"), service.children("service.worker")
        engine.kill()
        wait_until(lambda: service.children("service.engine") not in ([], [engine]), 30, "another engine starts")
        worker.kill()

        wait_until(lambda: service.children("service.worker") not in ([], [worker]), 30, "another worker starts")
        wait_until(lambda: ask_or_none(service) == 200, 60, "it answers again")
        assert b"coordserve_engine_restarts_total 1.0" in service.get("/metrics")[1]


def test_a_stuck_engine_is_noticed_and_replaced(fault: Path, compiled_cache: Path):
    with service_on(fault, compiled_cache) as service:
        (engine,) = service.children("service.engine")
        engine.suspend()

        wait_until(lambda: service.get("/readyz")[0] == 503, 30, "the supervisor notices")
        assert service.logged("silent")
        wait_until(lambda: service.get("/readyz")[0] == 200, 60, "the engine is replaced")
        assert ask(service).status_code == 200


@pytest.mark.parametrize("killed", ["children", "supervisor"])
def test_no_orphan_is_left_by_a_killed_process(compiled_cache: Path, killed: str):
    with RunningService(workers=2, cache_dir=compiled_cache) as service:
        family = psutil.Process(service.process.pid).children(recursive=True)
        if killed == "supervisor":
            service.process.kill()
            service.process.wait()
        else:
            for process in family:
                process.kill()
            service.stop()
        wait_until(lambda: not any(process.is_running() for process in family), 10, "no child is left")


def test_a_full_service_answers_429_at_once_and_what_is_late_is_never_computed(compiled_cache: Path):
    with RunningService(workers=1, cache_dir=compiled_cache, queue_images=4, max_delay_ms=1000) as service:
        answers = asyncio.run(many(service.url, 12, lambda: None))
        statuses = sorted(answer.status_code for answer in answers)

        assert statuses == [200] * 4 + [429] * 8
        assert {answer.headers.get("retry-after") for answer in answers if answer.status_code == 429} == {"1"}
        assert b'coordserve_dropped_images_total{reason="shed"} 8.0' in service.get("/metrics")[1]
        too_many = httpx.post(f"{service.url}/v1/predict", files=[("image", SEVEN)] * 5)
        assert too_many.status_code == 422

        started = time.monotonic()
        alone = ask(service)
        waited = time.monotonic() - started
        late = ask(service, headers={**HEADERS, "X-Request-Timeout": "0.05"})

        assert alone.status_code == 200
        assert waited >= 1  # for company
        assert late.status_code == 504
        assert b"coordserve_batch_images_sum 5.0" in service.get("/metrics")[1]


def test_scores_that_are_no_numbers_are_never_a_prediction(not_a_number: Path):
    with RunningService(workers=1, model=not_a_number, compile="off") as service:
        answer = ask(service)

        assert answer.status_code == 500
        assert answer.json()["type"] == "urn:coordserve:problem:inference-failed"
        assert "not finite" in answer.json()["detail"]
        assert b"coordserve_not_finite_images_total 1.0" in service.get("/metrics")[1]


def test_settings_come_from_the_environment_and_flags_win(compiled_cache: Path):
    environment = {**os.environ, "COORDSERVE_WORKERS": "1", "COORDSERVE_QUEUE_IMAGES": "7", "COORDSERVE_API_KEY": "x"}
    with RunningService(environment=environment, cache_dir=compiled_cache, queue_images=9) as service:
        assert len(service.children("service.worker")) == 1
        mistyped = "COORDSERVE_API_KEY is set, but no setting reads it; is COORDSERVE_API_KEYS_FILE meant?"
        assert service.logged(mistyped)
        assert not service.logged("COORDSERVE_WORKERS is set")
        assert b"coordserve_slots 9.0" in service.get("/metrics")[1]
