"""Pictures out of every kind of body, and the words for bodies that hold none."""

import base64
import json

import pytest

from service.bodies import pictures
from service.problems import Problem

BOUNDARY = "multipart/form-data; boundary=b0undary"


def form(*parts: tuple[str, bytes]) -> bytes:
    body = b""
    for name, content in parts:
        body += f'--b0undary\r\nContent-Disposition: form-data; name="{name}"; filename="x"\r\n\r\n'.encode()
        body += content + b"\r\n"
    return body + b"--b0undary--\r\n"


@pytest.mark.parametrize("kind", ["image/jpeg", "IMAGE/PNG", "image/webp", "application/octet-stream; x=y"])
def test_a_raw_body_is_one_picture(kind: str):
    assert pictures(kind, b"bytes", 8) == [b"bytes"]


def test_a_form_holds_its_image_parts_in_order():
    body = form(("image", b"one\r\n--b0\r\n"), ("note", b"not me"), ("image", bytes(range(256))))

    assert pictures(BOUNDARY, body, 8) == [b"one\r\n--b0\r\n", bytes(range(256))]


def test_json_holds_base64_and_data_uris():
    encoded = base64.b64encode(b"bytes").decode()
    body = json.dumps({"images": [encoded, f"data:image/png;base64,{encoded}"]}).encode()

    assert pictures("application/json; charset=utf-8", body, 8) == [b"bytes", b"bytes"]


def test_one_bad_base64_is_a_problem_in_its_place():
    found = pictures("application/json", b'{"images": ["AAAA", "no base64!", "data:image/png,raw"]}', 8)

    assert found[0] == b"\0\0\0"
    assert [problem.status for problem in found[1:] if isinstance(problem, Problem)] == [400, 400]


@pytest.mark.parametrize(
    ("content_type", "body", "status", "words"),
    [
        ("", b"x", 415, "missing"),
        ("text/plain", b"x", 415, "--data-binary"),
        ("application/x-www-form-urlencoded", b"x", 415, "image/jpeg"),
        ("multipart/form-data", b"x", 400, "boundary"),
        (f"multipart/form-data; boundary={'b' * 300}", b"x", 400, "300 exceeds"),
        (BOUNDARY, b"", 400, "closing boundary"),
        (BOUNDARY, b"nonsense", 400, "broken"),
        (BOUNDARY, form(("image", b"x"))[:-8], 400, "closing boundary"),
        (BOUNDARY, form(("picture", b"x")), 400, "named 'image'"),
        (BOUNDARY, form(*[("image", b"x")] * 9), 422, "at most 8"),
        ("application/json", b"{", 400, "images"),
        ("application/json", b"[]", 400, "images"),
        ("application/json", b'{"images": []}', 400, "images"),
        ("application/json", b'{"images": [1]}', 400, "images.0"),
        ("application/json", b'{"images": ["AA=="], "topk": 3}', 400, "topk"),
        ("application/json", json.dumps({"images": ["AA=="] * 9}).encode(), 422, "at most 8"),
    ],
)
def test_bodies_that_cannot_be_read_say_why(content_type: str, body: bytes, status: int, words: str):
    with pytest.raises(Problem, match=words) as refusal:
        pictures(content_type, body, 8)

    assert refusal.value.status == status


def test_broken_forms_do_not_fill_the_log(caplog: pytest.LogCaptureFixture):
    with pytest.raises(Problem, match="broken"):
        pictures(BOUNDARY, b"nonsense", 8)

    assert caplog.records == []


@pytest.mark.parametrize("element", [b"[]", b"{}", b'{"a":1}'])
def test_a_million_small_things_are_refused_unread(element: bytes):
    with pytest.raises(Problem, match="more than") as refusal:
        pictures("application/json", b'{"images":[' + b",".join([element] * 1_000_000) + b"]}", 8)

    assert refusal.value.status == 400
