"""Every error answer of the service: RFC 9457 problem objects, and which exception becomes which."""

import json
from typing import Any

from models.images import ImageError, ImageTooLarge, MalformedImage, UnsupportedImage

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:coordserve:problem:"


SHOWN_CHARACTERS = 100
RETRY_AFTER_SECONDS = 1


def shortened(value: object) -> str:
    """What a client sent, quoted in a message: no more of it than helps to find it."""
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"


class Problem(Exception):
    """An error with an HTTP status, a stable type, and a detail that says what to do."""

    def __init__(self, status: int, type_: str, title: str, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.headers = headers or {}
        self.body: dict[str, Any] = {"type": TYPE_PREFIX + type_, "title": title, "status": status, "detail": detail}

    def json(self, request_id: str | None = None) -> bytes:
        return json.dumps({**self.body, **({"request_id": request_id} if request_id else {})}).encode()


def malformed(detail: str) -> Problem:
    return Problem(400, "malformed-request", "The request cannot be read", detail)


def unauthorized(detail: str) -> Problem:
    return Problem(401, "unauthorized", "A key is needed", detail, {"WWW-Authenticate": 'Bearer realm="coordserve"'})


def body_too_large(limit: int) -> Problem:
    return Problem(
        413, "body-too-large", "The request body is too large", f"a body may have at most {limit:,} bytes; send less"
    )


def body_too_slow() -> Problem:
    return Problem(
        408,
        "body-too-slow",
        "The request body did not come in time",
        "the deadline passed while it was still being sent; allow more with X-Request-Timeout, or send less",
        {"Connection": "close"},
    )


def not_http(detail: str) -> Problem:
    return Problem(400, "not-http", "This is no HTTP request", detail)


def unknown_coding(coding: str) -> Problem:
    return Problem(
        501,
        "unknown-transfer-coding",
        "The transfer coding is not known",
        f"Transfer-Encoding is {coding}; send Content-Length, or chunked alone",
    )


def head_too_slow(seconds: float) -> Problem:
    return Problem(
        408, "head-too-slow", "The request did not come in time", f"send its headers within {seconds:g} seconds"
    )


def head_too_large(limit: int) -> Problem:
    return Problem(
        431, "head-too-large", "The request's headers are too large", f"send at most {limit:,} bytes before the body"
    )


def unsupported_media_type(detail: str) -> Problem:
    return Problem(415, "unsupported-media-type", "The content type is not accepted", detail)


def out_of_range(detail: str) -> Problem:
    return Problem(422, "out-of-range", "A parameter is out of range", detail)


def queue_full(what: str = "images") -> Problem:
    return Problem(
        429,
        "queue-full",
        "The queue is full",
        f"as many {what} as the service takes are waiting; try again in {RETRY_AFTER_SECONDS} s",
        {"Retry-After": str(RETRY_AFTER_SECONDS)},
    )


def not_ready(reason: str) -> Problem:
    return Problem(
        503,
        "not-ready",
        "The service cannot answer now",
        f"{reason}; try again in {RETRY_AFTER_SECONDS} s",
        {"Retry-After": str(RETRY_AFTER_SECONDS)},
    )


def deadline_exceeded() -> Problem:
    return Problem(
        504,
        "deadline-exceeded",
        "The deadline passed",
        "no answer before the deadline; allow more with X-Request-Timeout",
    )


def inference_failed(detail: str) -> Problem:
    return Problem(500, "inference-failed", "The network failed on this image", detail)


def internal_error() -> Problem:
    return Problem(500, "internal-error", "The service failed", "this is a defect of the service; its log has more")


def from_http_status(status: int, detail: str, headers: dict[str, str] | None = None) -> Problem:
    """For what the framework refuses by itself (no such route, method not allowed)."""
    return Problem(status, f"http-{status}", detail, detail, headers)


def of_image(error: ImageError) -> Problem:
    """400 for a broken image, 413 for one with too many pixels, 415 for what is no image we read."""
    if isinstance(error, ImageTooLarge):
        return Problem(413, "image-too-large", "The image has too many pixels", str(error))
    if isinstance(error, UnsupportedImage):
        return Problem(415, "unsupported-image", "The bytes are no image we read", str(error))
    assert isinstance(error, MalformedImage)
    return Problem(400, "malformed-image", "The image is broken", str(error))
