"""Several GPUs, an engine each: who computes what, and what is lost with one of them.

The GPUs are made up (fake_nvml) and the engines compute on the CPU; the processes and all between them are real.
"""

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from pydantic import ValidationError

from loadtests.running import RunningService, wait_until
from service.settings import Settings
from service.supervisor import StartError, devices_of
from tests.conftest import DIGITS
from tests.service.faulty_device import service_on
from tests.service.test_complaints import metric
from tests.service.test_gpu_watch import BOARD, SLICES, there_are

SEVEN = (DIGITS / "dejavu-sans-7.png").read_bytes()
BOARDS = {**BOARD, "mig": 0}, {**BOARD, "uuid": "GPU-2", "mig": 1, "slices": SLICES[:1]}
FIRST, SECOND = "GPU-1", "MIG-0"


def ask(service: RunningService) -> httpx.Response:
    return httpx.post(f"{service.url}/v1/predict", content=SEVEN, headers={"Content-Type": "image/png"}, timeout=60)


def seconds(answer: httpx.Response) -> float:
    """How long its batch took."""
    return answer.json()["timing"]["infer_ms"] / 1000


def engines(service: RunningService) -> dict[str, psutil.Process]:
    """By the GPU that it sees."""
    return {engine.environ()["CUDA_VISIBLE_DEVICES"]: engine for engine in service.children("service.engine")}


def wait_for_both(service: RunningService) -> None:
    wait_until(lambda: metric(service, "coordserve_engines_up") == 2, 60, "both engines answer")


@pytest.mark.parametrize(
    ("there", "settings", "found"),
    [
        ("GPU-1,MIG-2", {"device": "cuda"}, ["GPU-1", "MIG-2"]),
        ("0,1,2", {"device": "cuda", "devices": 2}, ["0", "1"]),
        # As it finds it, the first is the one device of the one engine.
        ("0,1", {"device": "cuda", "devices": 1}, [None]),
        ("0", {"device": "cuda"}, [None]),
        ("", {"device": "cuda"}, [None]),
        ("0,1", {"device": "auto"}, [None]),
        ("0,1", {"device": "cpu"}, [None]),
    ],
)
def test_there_is_an_engine_for_each_gpu_that_is_wanted(
    monkeypatch: pytest.MonkeyPatch, there: str, settings: dict[str, Any], found: list[str | None]
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", there)

    assert devices_of(Settings(**settings)) == found


def test_more_gpus_than_there_are_is_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")

    with pytest.raises(StartError, match="3 GPUs are asked for with --devices or COORDSERVE_DEVICES, and 2 found"):
        devices_of(Settings(device="cuda", devices=3))


def test_several_cpus_are_refused():
    with pytest.raises(ValidationError, match="only GPUs can be several"):
        Settings(device="cpu", devices=2)


@pytest.fixture(scope="module")
def fault_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("device") / "fault"


@pytest.fixture(scope="module")
def shared(fault_file: Path, compiled_cache: Path) -> Iterator[RunningService]:
    gpus = fault_file.with_name("gpus.json")
    there_are(gpus, *BOARDS)
    with service_on(fault_file, compiled_cache, gpus=gpus) as service:
        yield service
        assert service.stop() == 0


@pytest.fixture
def service(shared: RunningService) -> RunningService:
    wait_for_both(shared)
    return shared


@pytest.fixture
def fault(fault_file: Path) -> Iterator[Path]:
    """What ails the devices of `service`, to the end of the test."""
    yield fault_file
    for file in fault_file.parent.glob("fault*"):
        file.unlink()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def at_once(service: RunningService, threads: ThreadPoolExecutor, count: int) -> list[Future[httpx.Response]]:
    """So many requests, all of them inside."""
    asked = [threads.submit(ask, service) for _ in range(count)]
    wait_until(lambda: metric(service, "coordserve_slots_used") == count, 30, "all are inside")
    return asked


def test_each_gpu_has_an_engine_that_sees_no_other_and_all_are_watched(service: RunningService):
    assert set(engines(service)) == {FIRST, SECOND}
    text = service.get("/metrics")[1].decode()
    assert "coordserve_engines 2.0" in text
    assert f'coordserve_gpu_up{{gpu="{FIRST}"' in text
    assert f'coordserve_gpu_up{{gpu="{SECOND}"' in text
    assert service.logged(f"2 engines, on {FIRST}, {SECOND}")


def test_the_capacity_is_that_of_both(service: RunningService):
    one = service.card()["images_per_second"]["1"]

    assert metric(service, 'coordserve_images_per_second_capacity{batch="1"}') > one


def test_images_go_where_fewer_wait(fault: Path, service: RunningService, threads: ThreadPoolExecutor):
    fault.with_suffix(f".{FIRST}").write_text("slow 2")
    slow = threads.submit(ask, service), threads.submit(ask, service)
    wait_until(lambda: any(one.done() for one in slow), 30, "the other GPU answers")

    others = []
    while not all(one.done() for one in slow):
        others.append(ask(service))

    assert sorted(seconds(one.result()) >= 2 for one in slow) == [False, True]
    assert len(others) > 1
    # The last may have come when that image was answered.
    assert not [answer for answer in others[:-1] if seconds(answer) >= 2]


def test_a_killed_engine_takes_its_own_images_and_nothing_else(
    fault: Path, service: RunningService, threads: ThreadPoolExecutor
):
    restarts = metric(service, "coordserve_engine_restarts_total")
    fault.write_text("slow 1.5")
    asked = at_once(service, threads, 8)
    victim = engines(service)[FIRST]
    victim.kill()
    wait_until(lambda: sum(one.done() for one in asked) >= 4, 30, "what it held is answered")
    assert service.get("/readyz")[0] == 200
    fault.unlink()

    codes = Counter(ask(service).status_code for _ in range(20))
    ready = []
    wait_until(
        lambda: ready.append(service.get("/readyz")[0]) or metric(service, "coordserve_engines_up") == 2, 60, "both"
    )

    assert codes == {200: 20}
    assert set(ready) == {200}
    answers = [one.result() for one in asked]
    assert Counter(answer.status_code for answer in answers) == {200: 4, 503: 4}
    assert {answer.headers.get("retry-after") for answer in answers if answer.status_code == 503} == {"1"}
    assert set(engines(service)) == {FIRST, SECOND}
    assert metric(service, "coordserve_engine_restarts_total") == restarts + 1
    assert metric(service, "coordserve_inflight_images") == metric(service, "coordserve_slots_used") == 0


def test_the_slots_of_a_dead_worker_are_not_taken_over_while_an_engine_holds_them(
    fault: Path, service: RunningService, threads: ThreadPoolExecutor
):
    """Its successor could order them from the other engine, and this one would write over the answer."""
    fault.write_text("slow 3")
    (worker,) = service.children("service.worker")
    started = time.monotonic()
    (asked,) = at_once(service, threads, 1)
    worker.kill()

    wait_until(lambda: service.children("service.worker") not in ([], [worker]), 30, "another worker")

    assert time.monotonic() - started >= 3
    assert isinstance(asked.exception(), httpx.TransportError)
    fault.unlink()
    wait_for_both(service)
    assert ask(service).json()["predictions"][0][0]["label"] == "seven"


def test_a_gpu_that_always_fails_leaves_the_service_alive_and_ready(fault: Path, service: RunningService):
    restarts = metric(service, "coordserve_engine_restarts_total")
    fault.with_suffix(f".{SECOND}").write_text("sticky")
    codes = Counter(ask(service).status_code for _ in range(4))  # they take turns until one is lost

    wait_until(lambda: metric(service, "coordserve_engine_restarts_total") >= restarts + 3, 120, "it was tried")

    assert codes == {200: 3, 503: 1}
    assert service.get("/healthz")[0] == service.get("/readyz")[0] == 200
    assert (metric(service, "coordserve_engine_up"), metric(service, "coordserve_engines_up")) == (1, 1)
    assert [ask(service).status_code for _ in range(10)] == [200] * 10
    lost = [line["message"] for line in service.log if f"engine 1 on {SECOND} ended" in line["message"]]
    waits = [float(line.split()[-2]) for line in lost]
    assert waits == sorted(waits)
    assert waits[0] < waits[-1]


def test_whoever_asks_for_a_package_hears_what_became_of_it(tmp_path: Path):
    there_are(tmp_path / "gpus.json", *BOARDS)
    (tmp_path / "no-folder").touch()
    with service_on(
        tmp_path / "fault", tmp_path / "no-folder" / "cache", gpus=tmp_path / "gpus.json", max_batch=4
    ) as service:

        def told() -> list[str]:
            return sorted(line["process"] for line in list(service.log) if "no compiled network" in line["message"])

        wait_until(lambda: told() == ["engine 0", "engine 1"], 60, "both know that there is none")
        assert ask(service).status_code == 200
