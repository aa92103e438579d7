"""What users of other servers complain about, each as a test of this one.

Elsewhere: p99 under uneven arrivals (Triton #5957), memory and slots after thousands of cancelled requests (LitServe
PR 683), dropped traffic at shutdown (Triton #6230, #6286) and growth under load (Triton #7481, #8457) in
loadtests/chaos; recompiles under varying batch sizes (pytorch #135430) in test_compiling.py.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from loadtests.running import RunningService, wait_until
from service.settings import Settings
from tests.conftest import DIGITS
from tests.service.faulty_device import service_on

SEVEN = (DIGITS / "dejavu-sans-7.png").read_bytes()
QUEUE = 12  # images


def ask(service: RunningService, images: int = 1, **headers: str) -> httpx.Response:
    files = [("image", SEVEN)] * images
    return httpx.post(f"{service.url}/v1/predict", files=files, headers=headers, timeout=60)


def metric(service: RunningService, name: str) -> float:
    lines = service.get("/metrics")[1].decode().splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith(f"{name} "))


@pytest.fixture(scope="module")
def fault_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("device") / "fault"


@pytest.fixture(scope="module")
def slowable(fault_file: Path, compiled_cache: Path) -> Iterator[RunningService]:
    with service_on(fault_file, compiled_cache, compile="off", max_batch=4, queue_images=QUEUE) as service:
        yield service


@pytest.fixture
def fault(fault_file: Path) -> Iterator[Path]:
    """What ails the device of `slowable`, to the end of the test."""
    yield fault_file
    fault_file.unlink(missing_ok=True)


def test_disconnected_clients_are_not_computed(fault: Path, slowable: RunningService):
    """LitServe #165, Triton #8030 and #3581."""
    disconnected = 'coordserve_dropped_images_total{reason="disconnect"}'
    dropped = metric(slowable, disconnected)
    fault.write_text("slow 1")
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(ask, slowable)
        wait_until(lambda: metric(slowable, "coordserve_inflight_images") == 1, 30, "a batch is being computed")
        before = metric(slowable, "coordserve_batch_images_sum")
        for _ in range(3):
            try:
                httpx.post(f"{slowable.url}/v1/predict", files=[("image", SEVEN)], timeout=0.1)
            except httpx.ReadTimeout:
                continue
        assert first.result().status_code == 200

    wait_until(lambda: metric(slowable, "coordserve_slots_used") == 0, 10, "the slots are free")
    assert metric(slowable, "coordserve_batch_images_sum") == before
    assert metric(slowable, disconnected) == dropped + 3


def test_a_timeout_in_the_queue_does_not_wait_for_the_running_batch(fault: Path, slowable: RunningService):
    """Triton #7512."""
    with ThreadPoolExecutor(1) as threads:
        fault.write_text("slow 3")
        running = threads.submit(ask, slowable)
        wait_until(lambda: metric(slowable, "coordserve_inflight_images") == 1, 30, "a batch is being computed")

        late = ask(slowable, **{"X-Request-Timeout": "0.2"})

        assert late.status_code == 504
        assert not running.done()
        fault.unlink()
        assert running.result().status_code == 200


def test_batches_are_as_large_as_what_waits(fault: Path, slowable: RunningService):
    """Triton #3624, Ray #43288: a concurrency cap below the batch size."""
    cap = slowable.card()["batch_cap"]
    fault.write_text("slow 0.5")
    with ThreadPoolExecutor(3 * cap) as threads:
        answers = list(threads.map(lambda _: ask(slowable), range(3 * cap)))

    assert cap > 1
    assert max(answer.json()["timing"]["batch_size"] for answer in answers) == cap


def test_there_is_no_latency_knob_to_understand(slowable: RunningService):
    """BentoML #3200: whatever waits goes at once, unless a delay was asked for."""
    assert Settings().max_delay_ms == 0
    assert ask(slowable).json()["timing"]["batch_size"] == 1


def test_limits_count_images_and_not_requests(fault: Path, slowable: RunningService):
    """BentoML #3859."""
    with ThreadPoolExecutor(1) as threads:
        fault.write_text("slow 2")
        running = threads.submit(ask, slowable, QUEUE - 2)
        wait_until(lambda: metric(slowable, "coordserve_slots_used") == QUEUE - 2, 30, "the images are inside")

        assert ask(slowable, 3).status_code == 429
        fault.unlink()
        assert running.result().status_code == 200
        assert ask(slowable, 3).status_code == 200


def test_queues_are_bounded(fault: Path, slowable: RunningService):
    """Ray #34280."""
    fault.write_text("slow 0.5")
    with ThreadPoolExecutor(3 * QUEUE) as threads:
        answers = threads.map(lambda _: ask(slowable), range(3 * QUEUE))
        statuses = [answer.status_code for answer in answers]

    assert set(statuses) == {200, 429}
    assert statuses.count(200) >= QUEUE


def test_half_dead_workers_are_replaced(fault: Path, compiled_cache: Path):
    """TorchServe #1815: a worker that is there and answers nothing."""
    with service_on(fault, compiled_cache) as service:
        (worker,) = service.children("service.worker")
        worker.suspend()

        wait_until(lambda: not worker.is_running(), 30, "the worker is ended")
        wait_until(lambda: service.children("service.worker"), 30, "there is another")
        assert ask(service).status_code == 200


def test_files_of_metrics_and_what_engines_unpack_do_not_pile_up(compiled_cache: Path):
    """client_python #275."""
    with RunningService(workers=1, cache_dir=compiled_cache) as service:
        service.wait_compiled()
        ask(service)
        (worker,), (engine,) = service.children("service.worker"), service.children("service.engine")
        metrics, unpacked = Path(worker.environ()["PROMETHEUS_MULTIPROC_DIR"]), Path(engine.environ()["TMPDIR"])
        files, packages = sorted(path.name for path in metrics.iterdir()), len(list(unpacked.iterdir()))
        for process in (worker, engine):
            process.kill()
        wait_until(lambda: not worker.is_running() and service.children("service.worker"), 30, "another worker")
        wait_until(lambda: metric(service, "coordserve_engine_restarts_total") == 1, 30, "the engine's end is known")
        wait_until(lambda: service.get("/readyz")[0] == 200, 60, "another engine")

        assert ask(service).status_code == 200
        assert sorted(path.name for path in metrics.iterdir()) == files
        assert metric(service, 'coordserve_http_requests_total{code="200",route="/v1/predict"}') == 2
        assert metric(service, "coordserve_batch_images_sum") == 2
        assert packages
        assert len(list(unpacked.iterdir())) == packages
    assert not unpacked.exists()


def test_what_a_killed_service_left_is_removed_by_the_next(compiled_cache: Path, tmp_path: Path):
    ours = {**os.environ, "TMPDIR": str(tmp_path)}  # where no other service starts meanwhile
    with RunningService(workers=1, cache_dir=compiled_cache, environment=ours) as service:
        (worker,) = service.children("service.worker")
        left = Path(worker.environ()["PROMETHEUS_MULTIPROC_DIR"])
        with RunningService(workers=1, cache_dir=compiled_cache, environment=ours):
            assert left.exists()  # its owner lives
        service.process.kill()
        wait_until(lambda: not worker.is_running(), 10, "all of it has ended")
        assert left.exists()

    with RunningService(workers=1, cache_dir=compiled_cache, environment=ours):
        assert not left.exists()


def test_nothing_of_ours_lies_in_dev_shm(service: RunningService):
    """A default pod has 64 MB there, and Triton's and PyTorch's users run out of them."""
    ask(service)
    for process in psutil.Process(service.process.pid).children(recursive=True):
        assert not [mapped.path for mapped in process.memory_maps() if mapped.path.startswith("/dev/shm")]


def test_requests_wait_while_a_lost_engine_is_replaced(compiled_cache: Path):
    with RunningService(workers=1, cache_dir=compiled_cache) as service:
        service.wait_compiled()
        (engine,) = service.children("service.engine")
        engine.kill()
        wait_until(lambda: service.get("/readyz")[0] == 503, 10, "it is known")

        answer = ask(service)

        assert answer.status_code == 200, answer.text
        assert answer.json()["predictions"][0][0]["label"] == "seven"
        assert service.get("/readyz")[0] == 200
