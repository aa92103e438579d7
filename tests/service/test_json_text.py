"""JSON that is small as text and large once it is read."""

import json

import pytest

from service.json_text import MAX_MEMBERS, read


def test_json_within_bounds_is_read():
    found = {"images": [["[{:"], [], {"a": None}]}

    assert read(json.dumps(found).encode(), max_lists=4) == found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"[" + b"[]," * 4 + b"0]", "more than 4 lists"),
        (b"[" + b"{}," * MAX_MEMBERS + b"{}]", "members"),
        (b"[" + b'{"a":1},' * (MAX_MEMBERS // 2) + b'{"a":1}]', "members"),
        (b"{" + b",".join(b'"%d":0' % index for index in range(MAX_MEMBERS)) + b"}", "members"),
        (b"[" * 4, "EOF"),
        (b"\xff", "expected value"),
    ],
)
def test_json_beyond_them_is_refused_unread(text: bytes, words: str):
    with pytest.raises(ValueError, match=words):
        read(text, max_lists=4)
