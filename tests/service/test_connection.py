"""What clients do to their connections: too slow, too much, half, at once, or gone."""

import json
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import BinaryIO

import httpx
import pytest

from loadtests.pictures import photo
from loadtests.running import RunningService, wait_until
from service import connection
from service.bodies import BODIES
from tests.conftest import DIGITS
from tests.service.faulty_device import service_on

SEVEN = (DIGITS / "dejavu-sans-7.png").read_bytes()
HEAD = b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: %d\r\n" % len(SEVEN)
REQUEST = HEAD + b"\r\n" + SEVEN


@pytest.fixture(scope="module")
def service(compiled_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """One worker, whose batches wait 0.3 s, so that there is a time in which its requests are inside."""
    with service_on(tmp_path_factory.mktemp("no") / "fault", compiled_cache, max_delay_ms=300) as running:
        yield running


def connect(service: RunningService) -> closing[socket.socket]:
    return closing(socket.create_connection(("127.0.0.1", service.port), timeout=30))


def answer(client: socket.socket) -> tuple[int, dict]:
    """Status and JSON of the one answer that is to come."""
    return read_answer(client.makefile("rb"))


def read_answer(file: BinaryIO) -> tuple[int, dict]:
    status = int(file.readline().split()[1])
    length = 0
    while (line := file.readline().strip()) != b"":
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    return status, json.loads(file.read(length))


def is_closed(client: socket.socket) -> bool:
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def counted(service: RunningService, name: str) -> float:
    for line in service.get("/metrics")[1].decode().splitlines():
        if line.startswith(f"{name} "):
            return float(line.split()[-1])
    return 0.0


def all_slots_are_free(service: RunningService) -> bool:
    return counted(service, "coordserve_slots_used") == 0


DISCONNECTS = 'coordserve_dropped_images_total{reason="disconnect"}'


def say_goodbye(client: socket.socket) -> None:
    client.close()


def reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()


def half_close(client: socket.socket) -> None:
    client.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("leave", [say_goodbye, reset, half_close])
def test_the_image_of_a_client_that_has_gone_is_never_computed(
    service: RunningService, leave: Callable[[socket.socket], None]
):
    computed, dropped = counted(service, "coordserve_batch_images_sum"), counted(service, DISCONNECTS)
    with connect(service) as client:
        client.sendall(REQUEST)
        wait_until(lambda: counted(service, "coordserve_slots_used") == 1, 10, "the image is inside")
        leave(client)

        wait_until(lambda: all_slots_are_free(service), 10, "its slot is free again")
    assert counted(service, DISCONNECTS) == dropped + 1
    assert counted(service, "coordserve_batch_images_sum") == computed
    assert not [line for line in service.log if line["level"] == "error"]


def test_a_client_that_goes_while_it_sends_holds_nothing(service: RunningService):
    with connect(service) as client:
        client.sendall(HEAD + b"\r\n" + SEVEN[:50])

    assert httpx.post(f"{service.url}/v1/predict", content=SEVEN).status_code == 415
    assert all_slots_are_free(service)


def test_pipelined_requests_are_answered_in_order(service: RunningService):
    other = b"GET /v1/models/none HTTP/1.1\r\nHost: x\r\n\r\n"
    with connect(service) as client:
        client.sendall(REQUEST + other + REQUEST)
        file = client.makefile("rb")

        assert [read_answer(file)[0] for _ in range(3)] == [200, 404, 200]


def test_a_body_may_wait_to_be_asked_for(service: RunningService):
    """RFC 9110, section 10.1.1."""
    with connect(service) as client, client.makefile("rb") as file:
        client.sendall(HEAD + b"Expect: 100-continue\r\n\r\n")
        assert (file.readline(), file.readline()) == (b"HTTP/1.1 100 Continue\r\n", b"\r\n")
        client.sendall(SEVEN)

        status, body = read_answer(file)
    assert (status, body["predictions"][0][0]["label"]) == (200, "seven")


def test_an_answer_without_a_body_comes_at_once(service: RunningService):
    with connect(service) as client, client.makefile("rb") as file:
        client.sendall(b"HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert file.readline() == b"HTTP/1.1 200 OK\r\n"
        while file.readline() != b"\r\n":
            pass
        client.sendall(REQUEST)  # on the same connection, and nothing of the other answer is in its way

        assert read_answer(file)[0] == 200


@pytest.mark.parametrize("at_once", [1, 1000])
def test_headers_without_end_are_refused(service: RunningService, at_once: int):
    lines = [HEAD, *[b"X-Filler: " + b"x" * 988 + b"\r\n"] * (2 * connection.HEAD_BYTES // 1000)]
    with connect(service) as client:
        try:
            for first in range(0, len(lines), at_once):
                client.sendall(b"".join(lines[first : first + at_once]))
        except OSError:  # closed under our hands: that is its right
            return
        status, problem = answer(client)

    assert (status, problem["type"]) == (431, "urn:coordserve:problem:head-too-large")


@pytest.mark.parametrize("size", [connection.HEAD_BYTES - 1000, connection.HEAD_BYTES + 1])
def test_headers_may_be_large_but_not_too_large(service: RunningService, size: int):
    with connect(service) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Filler: " + b"x" * size + b"\r\n\r\n")
        status, body = answer(client)

    assert status == (200 if size < connection.HEAD_BYTES else 431)
    assert body.get("type") == (None if status == 200 else "urn:coordserve:problem:head-too-large")


@pytest.mark.parametrize("junk", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"])
def test_what_is_no_http_has_a_problem_that_says_so(service: RunningService, junk: bytes):
    with connect(service) as client:
        client.sendall(junk)

        status, problem = answer(client)

        assert (status, problem["type"]) == (400, "urn:coordserve:problem:not-http")
        assert is_closed(client)


def test_a_body_that_does_not_come_in_time_is_refused(service: RunningService):
    with connect(service) as client:
        client.sendall(HEAD + b"X-Request-Timeout: 0.2\r\n\r\n" + SEVEN[:50])

        status, problem = answer(client)

        assert (status, problem["type"]) == (408, "urn:coordserve:problem:body-too-slow")
        assert is_closed(client)


@pytest.mark.slow
def test_slow_heads_end_and_keep_nobody_from_an_answer(service: RunningService):
    """Slowloris: a byte now and then, on many connections."""
    started = time.monotonic()
    clients = [socket.create_connection(("127.0.0.1", service.port), timeout=30) for _ in range(200)]
    for client in clients:
        client.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: x\r\n")
    open_ = list(clients)
    while open_ and time.monotonic() < started + 3 * connection.HEAD_SECONDS:
        still = []
        for client in open_:
            try:
                client.sendall(b"X")
                still.append(client)
            except OSError:
                pass
        open_ = still
        with connect(service) as good:
            good.sendall(REQUEST)
            assert answer(good)[0] == 200
    assert not open_
    first = clients[0].recv(20)
    for client in clients:
        client.close()
    assert first.startswith(b"HTTP/1.1 408 ")


@pytest.mark.slow
def test_a_thousand_idle_connections_keep_nobody_from_an_answer(service: RunningService):
    clients = []
    try:
        for _ in range(1000):
            clients.append(socket.create_connection(("127.0.0.1", service.port), timeout=30))
        clients[-1].sendall(REQUEST)
        assert answer(clients[-1])[0] == 200
        clients[0].sendall(REQUEST)
        assert answer(clients[0])[0] == 200
    finally:
        for client in clients:
            client.close()


def test_a_request_whose_head_has_begun_is_answered_before_the_end(compiled_cache: Path):
    with RunningService(workers=1, cache_dir=compiled_cache) as service, connect(service) as client:
        client.sendall(REQUEST[:40])
        wait_until(lambda: service.get("/healthz")[0] == 200, 10, "the worker has had its turn")
        service.process.terminate()
        wait_until(lambda: service.logged("stopping"), 10, "it stops")
        time.sleep(0.3)  # the workers have been told by now, or will be before they are done
        client.sendall(REQUEST[40:])

        assert answer(client)[0] == 200
        assert service.process.wait(30) == 0


def test_an_offer_to_speak_something_else_is_passed_over(service: RunningService):
    """RFC 9110, section 7.8. Clients that would like HTTP/2 send it with every first request."""
    with connect(service) as client, client.makefile("rb") as file:
        client.sendall(HEAD + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAM\r\n\r\n")
        client.sendall(SEVEN + REQUEST)

        answers = [read_answer(file), read_answer(file)]
    assert [(status, body["predictions"][0][0]["label"]) for status, body in answers] == [(200, "seven")] * 2


def test_a_body_behind_such_an_offer_is_not_taken_for_a_request(service: RunningService):
    smuggled = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"
    head = b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: foo\r\nContent-Type: image/png\r\n"
    with connect(service) as client, client.makefile("rb") as file:
        client.sendall(head + b"Content-Length: %d\r\n\r\n" % len(smuggled))
        wait_until(lambda: service.get("/healthz")[0] == 200, 10, "the worker has had its turn")
        client.sendall(smuggled)
        assert read_answer(file)[0] == 415
        client.sendall(REQUEST)  # whose answer is the next, and not that of another request

        assert read_answer(file)[1]["predictions"]


@pytest.mark.parametrize(
    ("bad", "status"),
    [
        (b"GARBAGE\r\n\r\n", 400),
        (b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        (b"GET /healthz HTTP/1.1\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
        (b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n" % (b"a" * 70_000), 431),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", 400),
    ],
)
def test_what_is_broken_is_refused_after_the_answer_to_what_was_not(service: RunningService, bad: bytes, status: int):
    for before in ([200], [200, 200], []):
        with connect(service) as client, client.makefile("rb") as file:
            client.sendall(REQUEST * len(before) + bad)
            statuses = [read_answer(file)[0] for _ in before]
            refused, problem = read_answer(file)

            assert statuses == before
            assert refused == problem["status"] == status
            assert problem["request_id"]
            assert is_closed(client)


def test_a_broken_body_is_refused_also_where_the_request_waits_for_it(service: RunningService):
    with connect(service) as client:
        client.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        wait_until(lambda: service.get("/healthz")[0] == 200, 10, "the request waits for its body")
        client.sendall(b"no size\r\n")

        status, problem = answer(client)
        assert (status, problem["type"].rpartition(":")[2]) == (400, "not-http")
        assert is_closed(client)


def test_the_beginning_of_a_head_behind_a_large_body_is_no_large_head(service: RunningService):
    large = photo(800, 800, 95)
    assert len(large) > connection.HEAD_BYTES
    head = b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\n"
    with connect(service) as client, client.makefile("rb") as file:
        client.sendall(head + b"Content-Length: %d\r\n\r\n" % len(large) + large + REQUEST[:40])
        assert read_answer(file)[0] == 200
        client.sendall(REQUEST[40:])

        assert read_answer(file)[0] == 200


def test_after_an_early_answer_a_body_has_its_end(service: RunningService):
    """In bytes, and in time also for those who send one from time to time."""
    head = b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n"
    with connect(service) as much, connect(service) as slow, connect(service) as open_ended:
        slow.sendall(head + b"X")
        open_ended.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n")
        much.sendall(head)
        assert [answer(one)[0] for one in (much, slow, open_ended)] == [404, 404, 200]

        with pytest.raises(ConnectionError):
            much.sendall(bytes(2 * connection.DRAIN_BYTES))
        assert is_closed(slow)
        assert is_closed(open_ended)


def test_a_connection_lives_on_after_an_early_answer(service: RunningService):
    with connect(service) as client, client.makefile("rb") as file:
        client.sendall(REQUEST.replace(b"/v1/predict", b"/v1/nowhere"))
        assert read_answer(file)[0] == 404
        client.sendall(REQUEST)

        assert read_answer(file)[0] == 200


def test_bodies_that_are_held_are_bounded_together(compiled_cache: Path):
    size = 2**20
    head = HEAD.partition(b"Content-Length")[0] + b"X-Request-Timeout: 600\r\nContent-Length: %d\r\n\r\n" % size
    with RunningService(workers=1, cache_dir=compiled_cache, max_body_bytes=size) as service, ExitStack() as stack:
        clients = [stack.enter_context(connect(service)) for _ in range(BODIES + 1)]
        for client in clients:
            client.sendall(head + bytes(size - 1))
        [refused, *_], _, _ = select.select(clients, [], [], 30)
        status, problem = answer(refused)
        assert (status, "bytes of bodies" in problem["detail"]) == (429, True)

        for client in clients:
            client.close()

        def goes_on() -> bool:
            with connect(service) as client:
                client.sendall(REQUEST)
                return answer(client)[0] == 200

        wait_until(goes_on, 10, "there is room again")


def test_the_end_does_not_wait_for_a_body_that_never_comes(fault: Path, compiled_cache: Path):
    with service_on(fault, compiled_cache) as service, connect(service) as client:
        client.sendall(HEAD + b"X-Request-Timeout: 600\r\n\r\n" + SEVEN[:20])
        wait_until(lambda: service.get("/healthz")[0] == 200, 10, "the worker has had its turn")
        service.process.terminate()

        status, problem = answer(client)
        assert (status, problem["type"].rpartition(":")[2]) == (408, "body-too-slow")
        assert service.process.wait(30) == 0


def test_a_terminal_that_is_closed_ends_it_in_order(compiled_cache: Path):
    """SIGHUP."""
    with RunningService(workers=1, cache_dir=compiled_cache, max_delay_ms=1000) as service, connect(service) as client:
        client.sendall(REQUEST)
        wait_until(lambda: counted(service, "coordserve_slots_used") == 1, 10, "the request is inside")
        service.process.send_signal(signal.SIGHUP)

        assert answer(client)[0] == 200
        assert service.process.wait(60) == 0  # by 35 s workers are ended: request_timeout and what a child may take
