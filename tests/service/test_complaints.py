"""What users of other servers complain about, each as a test of this one.

Elsewhere: p99 under uneven arrivals (Triton #5957), memory and slots after thousands of cancelled requests (LitServe
PR 683), dropped traffic at shutdown (Triton #6230, #6286) and growth under load (Triton #7481, #8457) in
loadtests/chaos; recompiles under varying batch sizes (pytorch #135430) in test_compiling.py.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil

from loadtests.running import RunningService, wait_until
from service.settings import Settings
from tests.conftest import DIGITS
from tests.service.faulty_device import service_on

SEVEN = (DIGITS / "dejavu-sans-7.png").read_bytes()


def ask(service: RunningService, images: int = 1, **headers: str) -> httpx.Response:
    files = [("image", SEVEN)] * images
    return httpx.post(f"{service.url}/v1/predict", files=files, headers=headers, timeout=60)


def metric(service: RunningService, name: str) -> float:
    lines = service.get("/metrics")[1].decode().splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith(f"{name} "))


def test_disconnected_clients_are_not_computed(fault: Path, compiled_cache: Path):
    """LitServe #165, Triton #8030 and #3581."""
    fault.write_text("slow 1")
    with service_on(fault, compiled_cache, compile="off", max_batch=1) as service:
        with ThreadPoolExecutor(1) as threads:
            first = threads.submit(ask, service)
            wait_until(lambda: metric(service, "coordserve_inflight_images") == 1, 30, "a batch is being computed")
            before = metric(service, "coordserve_batch_images_sum")
            for _ in range(3):
                try:
                    httpx.post(f"{service.url}/v1/predict", files=[("image", SEVEN)], timeout=0.1)
                except httpx.ReadTimeout:
                    continue
            assert first.result().status_code == 200

        wait_until(lambda: metric(service, "coordserve_slots_used") == 0, 10, "the slots are free")
        assert metric(service, "coordserve_batch_images_sum") == before
        assert metric(service, 'coordserve_dropped_images_total{reason="disconnect"}') == 3


def test_a_timeout_in_the_queue_does_not_wait_for_the_running_batch(fault: Path, compiled_cache: Path):
    """Triton #7512."""
    with service_on(fault, compiled_cache, compile="off", max_batch=1) as service, ThreadPoolExecutor(1) as threads:
        fault.write_text("slow 5")
        running = threads.submit(ask, service)
        wait_until(lambda: metric(service, "coordserve_inflight_images") == 1, 30, "a batch is being computed")

        late = ask(service, **{"X-Request-Timeout": "0.2"})

        assert late.status_code == 504
        assert not running.done()
        fault.unlink()
        assert running.result().status_code == 200


def test_batches_are_as_large_as_what_waits(fault: Path, compiled_cache: Path):
    """Triton #3624, Ray #43288: a concurrency cap below the batch size."""
    with service_on(fault, compiled_cache, compile="off", max_batch=16) as service:
        cap = service.card()["batch_cap"]
        fault.write_text("slow 0.5")
        with ThreadPoolExecutor(3 * cap) as threads:
            answers = list(threads.map(lambda _: ask(service), range(3 * cap)))

    assert cap > 1
    assert max(answer.json()["timing"]["batch_size"] for answer in answers) == cap


def test_there_is_no_latency_knob_to_understand(fault: Path, compiled_cache: Path):
    """BentoML #3200: whatever waits goes at once, unless a delay was asked for."""
    assert Settings().max_delay_ms == 0
    with service_on(fault, compiled_cache, compile="off") as service:
        assert ask(service).json()["timing"]["batch_size"] == 1


def test_limits_count_images_and_not_requests(fault: Path, compiled_cache: Path):
    """BentoML #3859."""
    with service_on(fault, compiled_cache, compile="off", queue_images=8) as service, ThreadPoolExecutor(1) as threads:
        fault.write_text("slow 2")
        running = threads.submit(ask, service, 6)
        wait_until(lambda: metric(service, "coordserve_slots_used") == 6, 30, "six images are inside")

        assert ask(service, 3).status_code == 429
        fault.unlink()
        assert running.result().status_code == 200
        assert ask(service, 3).status_code == 200


def test_half_dead_workers_are_replaced(compiled_cache: Path):
    """TorchServe #1815: a worker that is there and answers nothing."""
    with RunningService(workers=1, cache_dir=compiled_cache) as service:
        (worker,) = service.children("service.worker")
        worker.suspend()

        wait_until(lambda: not worker.is_running(), 30, "the worker is ended")
        wait_until(lambda: service.children("service.worker"), 30, "there is another")
        assert ask(service).status_code == 200


def test_queues_are_bounded(fault: Path, compiled_cache: Path):
    """Ray #34280."""
    with service_on(fault, compiled_cache, compile="off", queue_images=4) as service:
        fault.write_text("slow 0.5")
        with ThreadPoolExecutor(20) as threads:
            statuses = sorted(answer.status_code for answer in threads.map(lambda _: ask(service), range(20)))

    assert set(statuses) == {200, 429}
    assert statuses.count(200) >= 4


def test_files_of_metrics_do_not_pile_up(compiled_cache: Path):
    """client_python #275."""
    with RunningService(workers=1, cache_dir=compiled_cache) as service:
        ask(service)
        (worker,), (engine,) = service.children("service.worker"), service.children("service.engine")
        directory = Path(worker.environ()["PROMETHEUS_MULTIPROC_DIR"])
        before = sorted(path.name for path in directory.iterdir())
        for process in (worker, engine):
            process.kill()
        wait_until(lambda: not worker.is_running() and service.children("service.worker"), 30, "another worker")
        wait_until(lambda: not engine.is_running() and service.get("/readyz")[0] == 200, 30, "another engine")

        assert ask(service).status_code == 200
        assert sorted(path.name for path in directory.iterdir()) == before
        assert metric(service, 'coordserve_http_requests_total{code="200",route="/v1/predict"}') == 2
        assert metric(service, "coordserve_batch_images_sum") == 2


def test_what_engines_unpack_does_not_pile_up(compiled_cache: Path):
    with RunningService(workers=1, cache_dir=compiled_cache) as service:
        service.wait_compiled()
        (engine,) = service.children("service.engine")
        folder = Path(engine.environ()["TMPDIR"])
        before = len(list(folder.iterdir()))
        engine.kill()
        restarted = b"coordserve_engine_restarts_total 1.0"
        wait_until(lambda: restarted in service.get("/metrics")[1], 30, "the engine's end is known")
        wait_until(lambda: service.get("/readyz")[0] == 200, 60, "another engine")

        assert before
        assert len(list(folder.iterdir())) == before
    assert not folder.exists()


def test_what_a_killed_service_left_is_removed_by_the_next(compiled_cache: Path):
    with RunningService(workers=1, cache_dir=compiled_cache) as service:
        (worker,) = service.children("service.worker")
        left = Path(worker.environ()["PROMETHEUS_MULTIPROC_DIR"])
        with RunningService(workers=1, cache_dir=compiled_cache):
            assert left.exists()  # its owner lives
        service.process.kill()
        wait_until(lambda: not worker.is_running(), 10, "all of it has ended")
        assert left.exists()

    with RunningService(workers=1, cache_dir=compiled_cache):
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
