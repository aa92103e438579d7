"""JSON of strangers, read within bounds.

Small as text, it can be large once it is read: 16 MiB of empty lists are 400 MiB, and three seconds of a deaf worker.
"""

from typing import Any

from pydantic_core import from_json

MAX_MEMBERS = 10_000  # of objects, and objects; requests have a few, and data: URIs a colon each


def read(text: bytes, max_lists: int) -> Any:
    """What `text` says. Raises ValueError: it is no JSON, or has more lists or members than allowed.

    They are counted before any of it is read, those within strings included: base64 has none.
    """
    if text.count(b"[") > max_lists:
        raise ValueError(f"more than {max_lists:,} lists")
    if text.count(b"{") + text.count(b":") > MAX_MEMBERS:
        raise ValueError(f"more than {MAX_MEMBERS:,} objects and members")
    return from_json(text)
