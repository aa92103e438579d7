"""From an empty cache to compiled, under load: nothing lost, nothing wrong; and the other ways to compile."""

import threading
from pathlib import Path

import httpx
import pytest

from loadtests.running import RunningService, wait_until
from tests.conftest import DIGITS

HEADERS = {"Content-Type": "image/png"}
PICTURES = {digit: (DIGITS / f"dejavu-sans-{digit}.png").read_bytes() for digit in range(10)}


def ask(service: RunningService, digit: int, client: httpx.Client | None = None) -> int:
    """The digit that the service reads in the picture of `digit`."""
    answer = (client or httpx).post(f"{service.url}/v1/predict", content=PICTURES[digit], headers=HEADERS, timeout=60)
    assert answer.status_code == 200, answer.text
    return int(answer.json()["predictions"][0][0]["index"])


@pytest.mark.slow
def test_no_answer_is_lost_or_wrong_while_the_compiled_network_is_swapped_in(tmp_path: Path):
    with RunningService(workers=2, cache_dir=tmp_path / "cache") as service:
        assert service.card()["form"] == "eager"
        expected = {digit: ask(service, digit) for digit in PICTURES}
        stop, wrong, answered = threading.Event(), [], []

        def load(first: int) -> None:
            with httpx.Client() as client:
                digit = first
                while not stop.is_set():
                    digit = (digit + 1) % 10
                    try:
                        if (found := ask(service, digit, client)) != expected[digit]:
                            wrong.append((digit, found))
                    except (AssertionError, httpx.HTTPError) as error:
                        wrong.append((digit, repr(error)))
                    answered.append(digit)
                    stop.wait(0.01)

        threads = [threading.Thread(target=load, args=(first,)) for first in range(4)]
        for thread in threads:
            thread.start()
        service.wait_compiled()
        at_swap = len(answered)
        wait_until(lambda: len(answered) > at_swap + 200, 60, "answers of the compiled network")
        stop.set()
        for thread in threads:
            thread.join()

        assert wrong == []
        assert at_swap > 100
        wait_until(lambda: not service.children("service.compiler"), 30, "the compiler has ended")
        assert [path.name[0] for path in (tmp_path / "cache").iterdir()] == ["c"]  # one package, nothing unfinished
        assert not [line for line in service.log if line["level"] in ("error", "unformatted")]


@pytest.mark.slow
def test_stopping_while_compiling_leaves_nothing_behind(tmp_path: Path):
    with RunningService(workers=1, cache_dir=tmp_path / "cache") as service:
        wait_until(lambda: list((tmp_path / "cache").glob(".compiling-*")), 30, "the compiler works")

        assert service.stop() == 0

    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.slow
def test_jit_is_ready_once_compiled(compiled_cache: Path):
    with RunningService(workers=1, compile="jit", max_batch=1, cache_dir=compiled_cache) as service:
        assert service.card()["form"] == "jit"
        assert [ask(service, digit) for digit in (3, 7)] == [3, 7]
    assert (compiled_cache / "inductor").is_dir()  # and not in a folder under /tmp that anybody may have made


def test_off_serves_eagerly_and_compiles_nothing(tmp_path: Path):
    with RunningService(workers=1, compile="off", cache_dir=tmp_path / "cache") as service:
        assert service.card()["form"] == "eager"
        assert service.card()["compile"] == {"mode": "off", "state": "off"}
        assert ask(service, 7) == 7
        assert not service.children("service.compiler")
        assert not (tmp_path / "cache").exists()


def test_waiting_for_a_package_that_is_there_is_short(compiled_cache: Path):
    with RunningService(workers=1, cache_dir=compiled_cache, wait_for_compile=True) as service:
        assert service.card()["form"] == "aot"


def test_a_refused_package_leaves_the_service_eager_and_says_why(compiled_cache: Path, tmp_path: Path):
    import shutil

    cache = tmp_path / "cache"
    shutil.copytree(compiled_cache, cache)
    cache.chmod(0o777)

    with RunningService(workers=1, cache_dir=cache) as service:
        assert ask(service, 7) == 7
        assert service.card()["form"] == "eager"
        assert "can be written by others" in service.card()["compile"]["state"]
        assert service.logged("can be written by others")
