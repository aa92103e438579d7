"""A device that fails: as after a CUDA error, or for want of memory."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from loadtests.running import RunningService, wait_until
from tests.conftest import DIGITS, encode, noise
from tests.service.faulty_device import service_on

SEVEN = (DIGITS / "dejavu-sans-7.png").read_bytes()


def ask(service: RunningService, content: bytes = SEVEN) -> httpx.Response:
    return httpx.post(f"{service.url}/v1/predict", content=content, headers={"Content-Type": "image/png"}, timeout=30)


either_device = pytest.mark.parametrize("overlapped", [False, True], ids=["one by one", "overlapped"])


@either_device
def test_a_cuda_error_poisons_no_process_that_says_ready(fault: Path, compiled_cache: Path, overlapped: bool):
    """Triton #3627."""
    with service_on(fault, compiled_cache, overlapped) as service:
        (engine,) = service.children("service.engine")
        fault.write_text("sticky")

        assert ask(service).status_code == 503

        fault.unlink()
        wait_until(lambda: not engine.is_running(), 10, "the engine has ended")
        wait_until(lambda: service.get("/readyz")[0] == 200, 60, "another is ready")
        assert ask(service).json()["predictions"][0][0]["label"] == "seven"
        assert service.logged("the engine cannot go on")
        assert all(line["level"] != "unformatted" for line in service.log)


@pytest.mark.slow
def test_an_engine_that_cannot_start_any_more_fails_liveness_and_says_so(fault: Path, compiled_cache: Path):
    with service_on(fault, compiled_cache) as service:
        fault.write_text("sticky")
        ask(service)

        wait_until(lambda: service.get("/healthz")[0] == 503, 120, "liveness fails")
        assert service.get("/readyz")[0] == 503
        refused = ask(service)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")

        fault.unlink()
        wait_until(lambda: service.get("/readyz")[0] == 200, 60, "it is ready once the device is well")
        wait_until(lambda: service.get("/healthz")[0] == 200, 30, "and alive when that has lasted")


@either_device
def test_a_batch_that_does_not_fit_is_halved_and_answered(fault: Path, compiled_cache: Path, overlapped: bool):
    pictures = [encode(noise(seed)) for seed in range(24)]
    with service_on(fault, compiled_cache, overlapped, max_delay_ms=200) as service:
        alone = [ask(service, picture).json()["predictions"] for picture in pictures[:2]]
        before = service.card()["batch_cap"]
        fault.write_text("memory 4")

        with ThreadPoolExecutor(24) as threads:
            answers = list(threads.map(lambda picture: ask(service, picture), pictures))

        assert [answer.status_code for answer in answers] == [200] * 24
        assert [answer.json()["predictions"][0][0]["index"] for answer in answers[:2]] == [
            ranking[0][0]["index"] for ranking in alone
        ]
        assert before > 4
        wait_until(lambda: service.card()["batch_cap"] <= 4, 10, "the cap is lowered")
        assert b"coordserve_out_of_memory_total 0.0" not in service.get("/metrics")[1]
        assert len(service.children("service.engine")) == 1
        assert b"coordserve_engine_restarts_total 0.0" in service.get("/metrics")[1]


@either_device
def test_batches_that_do_not_fit_at_the_start_are_left_out(fault: Path, compiled_cache: Path, overlapped: bool):
    fault.write_text("memory 4")
    with service_on(fault, compiled_cache, overlapped) as service:
        card = service.card()

    assert max(map(int, card["images_per_second"])) == 4
    assert card["batch_cap"] <= 4


def test_a_kernel_that_hangs_costs_what_flew_and_the_engine(fault: Path, compiled_cache: Path):
    with service_on(fault, compiled_cache, overlapped=True) as service:
        (engine,) = service.children("service.engine")
        fault.write_text("hang")

        assert ask(service).status_code == 503

        fault.unlink()
        wait_until(lambda: not engine.is_running(), 10, "the engine has ended")
        wait_until(lambda: service.get("/readyz")[0] == 200, 60, "another is ready")
        assert ask(service).json()["predictions"][0][0]["label"] == "seven"
        assert service.logged("has been in stage COPY")


def test_many_at_once_are_answered_each_with_its_own_scores(fault: Path, compiled_cache: Path):
    pictures = [encode(noise(seed)) for seed in range(48)]
    with service_on(fault, compiled_cache) as service, ThreadPoolExecutor(16) as threads:
        alone = list(threads.map(lambda picture: ask(service, picture).json()["predictions"], pictures))

    with service_on(fault, compiled_cache, overlapped=True) as service, ThreadPoolExecutor(16) as threads:
        found = list(threads.map(lambda picture: ask(service, picture).json()["predictions"], pictures))
        explained = httpx.post(f"{service.url}/v1/explain", content=SEVEN, headers={"Content-Type": "image/png"})
        assert b"coordserve_inflight_images 0.0" in service.get("/metrics")[1]

    ranked = [[(entry["index"], pytest.approx(entry["score"], abs=1e-3)) for entry in image[0]] for image in alone]
    assert [[(entry["index"], entry["score"]) for entry in image[0]] for image in found] == ranked
    assert explained.status_code == 200


@pytest.mark.slow
def test_a_package_is_swapped_in_while_batches_overlap(fault: Path, tmp_path: Path):
    with service_on(fault, tmp_path / "cache", overlapped=True) as service, ThreadPoolExecutor(4) as threads:

        def found(_: int) -> tuple[int, str]:
            answer = ask(service)
            return answer.status_code, answer.json()["predictions"][0][0]["label"]

        assert service.card()["form"] == "eager"
        rounds, answers = 0, set()
        while service.card()["form"] == "eager":
            answers.update(threads.map(found, range(8)))
            rounds += 1
            time.sleep(0.2)  # whoever compiles needs the cores, too
        answers.update(threads.map(found, range(8)))

    assert answers == {(200, "seven")}
    assert rounds > 0


@either_device
def test_an_image_that_does_not_fit_alone_fails_alone(fault: Path, compiled_cache: Path, overlapped: bool):
    with service_on(fault, compiled_cache, overlapped) as service:
        fault.write_text("memory 0")
        failed = ask(service)
        fault.unlink()

        assert (failed.status_code, failed.json()["type"]) == (500, "urn:coordserve:problem:inference-failed")
        assert ask(service).status_code == 200
