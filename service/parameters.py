"""What a request asks for beside its pictures: how long to wait, how urgent it is, how many classes."""

import re
import time
from dataclasses import dataclass

from fastapi import Request

from service import problems
from service.doorbell import DEFAULT_URGENCY
from service.problems import shortened

TIMEOUT_HEADER = "x-request-timeout"
MAX_TIMEOUT_SECONDS = 3600.0
PRIORITY_HEADER = "priority"
_URGENCY = re.compile(r"(?:^|,)[ \t]*u=([0-7])[ \t]*(?:[,;]|$)")
DEFAULT_TOP_K = 5


@dataclass(frozen=True)
class Asked:
    """How a request wants to be served."""

    deadline: float
    """of time.monotonic()"""
    urgency: int = DEFAULT_URGENCY


def asked(request: Request, default_timeout: float) -> Asked:
    """What the headers X-Request-Timeout and Priority say; the time runs from now. Raises Problem 422."""
    return Asked(time.monotonic() + _timeout(request, default_timeout), _urgency(request))


def _timeout(request: Request, default: float) -> float:
    text = request.headers.get(TIMEOUT_HEADER)
    if text is None:
        return default
    try:
        seconds = float(text) if "_" not in text else 0.0  # which Python takes for a digit
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= MAX_TIMEOUT_SECONDS:  # also when it is NaN
        raise problems.out_of_range(
            f"X-Request-Timeout is {shortened(text)}; it must be seconds above 0 and at most {MAX_TIMEOUT_SECONDS:g}"
        )
    return seconds


def _urgency(request: Request) -> int:
    """What RFC 9218 does not know is not said, section 4."""
    text = request.headers.get(PRIORITY_HEADER)
    if text is None:
        return DEFAULT_URGENCY
    found = _URGENCY.search(text)
    return int(found[1]) if found else DEFAULT_URGENCY


def top_k(request: Request) -> int:
    """Of the query, or the default. Raises Problem 422."""
    text = request.query_params.get("top_k") if request.scope["query_string"] else None
    if text is None:
        return DEFAULT_TOP_K
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) > 0):
        raise problems.out_of_range(f"top_k is {shortened(text)}; it must be a whole number from 1")
    return int(text)
