"""The encoded pictures in a request's body: raw bytes, multipart, or JSON with base64."""

import asyncio
import base64
import binascii
import logging
import time
from collections.abc import Callable
from typing import Annotated

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from service import json_text, problems
from service.problems import Problem, shortened

RAW_TYPES = ("image/jpeg", "image/png", "image/webp", "application/octet-stream")
MULTIPART_TYPE = "multipart/form-data"
JSON_TYPE = "application/json"
IMAGE_PART = "image"
MAX_PARTS = 1024  # of a form: as many images as any setting allows
MAX_LISTS = 100  # of JSON, which needs one
# Its parser warns of every broken form, which the answer says already: nobody may fill the log that way.
logging.getLogger("python_multipart").setLevel(logging.ERROR)
BODIES = 16  # of the largest size that a worker holds: 256 MiB by default, in small pictures more than slots
ACCEPTED = ", ".join((*RAW_TYPES, MULTIPART_TYPE, JSON_TYPE))


class JsonImages(BaseModel):
    """The JSON body of a prediction, for the OpenAPI document."""

    model_config = ConfigDict(extra="forbid")

    images: Annotated[list[str], Field(min_length=1, description="each base64, or a data: URI with base64")]


class BodyRoom:
    """The bodies that a worker holds: each is bounded, and all of them together."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.left = BODIES * max_bytes

    def reception(self) -> "Reception":
        return Reception(self)


class Reception:
    """The body of one request, which takes its room until the request is answered. A context manager."""

    def __init__(self, room: BodyRoom) -> None:
        self._room, self._held = room, 0

    def __enter__(self) -> "Reception":
        return self

    def __exit__(self, *_: object) -> None:
        self._room.left += self._held

    async def read(self, request: Request, deadline: float) -> bytes:
        """The whole body, by `deadline` (of time.monotonic()).

        Raises Problem: 413 as soon as it is known to be too large, 408 if it does not come in time, 400 if empty, 415
        if compressed, 429 if there is no room; and ClientDisconnect.
        """
        if request.headers.get("content-encoding", "identity") != "identity":
            raise problems.unsupported_media_type("a compressed body is not read; send it without Content-Encoding")
        declared = request.headers.get("content-length", "0")
        if declared.isdecimal() and int(declared) > self._room.max_bytes:
            raise problems.body_too_large(self._room.max_bytes)
        body, more = await self._next(request)
        if more:
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    body = await self._rest(request, body)
            except TimeoutError as error:
                raise problems.body_too_slow() from error
        if not body:
            raise problems.malformed("the body is empty; send the bytes of an image, or JSON that holds one")
        return body

    async def _rest(self, request: Request, first: bytes) -> bytes:
        chunks, more = [first], True
        while more:
            chunk, more = await self._next(request)
            chunks.append(chunk)
        return b"".join(chunks)

    async def _next(self, request: Request) -> tuple[bytes, bool]:
        """Some of the body, and whether there is more."""
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk: bytes = message.get("body", b"")
        self._held += len(chunk)
        self._room.left -= len(chunk)
        if self._held > self._room.max_bytes:
            raise problems.body_too_large(self._room.max_bytes)
        if self._room.left < 0:
            raise problems.queue_full("bytes of bodies")
        return chunk, message.get("more_body", False)


def pictures(content_type: str, body: bytes, max_images: int) -> list[bytes | Problem]:
    """The encoded pictures, in order, each in place of its own problem if it has one.

    Raises Problem: 400 for a body that cannot be read, 415 for an unknown type, 422 for too many pictures.
    """
    media_type, options = parse_options_header(content_type)
    kind = media_type.decode("latin-1").lower()
    found: list[bytes | Problem]
    if kind in RAW_TYPES:
        return [body]
    if kind == MULTIPART_TYPE:
        found = list(_image_parts(body, options.get(b"boundary", b""), max_images))
    elif kind == JSON_TYPE:
        found = _json_images(body, max_images)
    else:
        raise problems.unsupported_media_type(
            f"Content-Type is {shortened(kind) if kind else 'missing'}; send one of {ACCEPTED} "
            "(curl: -H 'Content-Type: image/jpeg' --data-binary @FILE, or -F image=@FILE)"
        )
    return found


def _json_images(body: bytes, max_images: int) -> list[bytes | Problem]:
    # By hand: pydantic would describe each of a million wrong elements.
    try:
        found = json_text.read(body, MAX_LISTS)
    except ValueError as error:
        raise _not_json_images(str(error)) from error
    if not isinstance(found, dict) or "images" not in found:
        raise _not_json_images("images is missing")
    if len(found) > 1:
        unknown = next(name for name in found if name != "images")
        raise _not_json_images(f"{shortened(unknown)} is not known")
    texts = found["images"]
    if not isinstance(texts, list) or not texts:
        raise _not_json_images("images must be a list with at least one element")
    if len(texts) > max_images:
        raise _too_many(len(texts), max_images)
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise _not_json_images(f"images.{index} must be a string")
    return [_from_base64(text) for text in texts]


def _not_json_images(reason: str) -> Problem:
    return problems.malformed(f'the JSON body must be {{"images": ["<base64 or data: URI>", …]}}: {reason}')


def _too_many(found: int, allowed: int) -> Problem:
    return problems.out_of_range(f"{found} images in one request; at most {allowed} are allowed")


def _from_base64(text: str) -> bytes | Problem:
    """RFC 4648 base64, or an RFC 2397 data: URI that holds it."""
    if text.startswith("data:"):
        head, _, text = text.partition(",")
        if not head.endswith(";base64"):
            return problems.malformed("a data: URI must say ;base64 before its comma")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        return problems.malformed(f"not base64: {error}")


def _image_parts(body: bytes, boundary: bytes, max_images: int) -> list[bytes]:
    """The contents of the parts named `image` of an RFC 7578 form."""
    if not boundary:
        raise problems.malformed("Content-Type multipart/form-data lacks its boundary")
    parts: list[bytes] = []
    header_name, header_value, disposition, content = bytearray(), bytearray(), b"", bytearray()
    finished, begun = False, 0

    def begin() -> None:
        nonlocal disposition, begun
        begun += 1
        if begun > MAX_PARTS:
            raise problems.out_of_range(f"the form has more than {MAX_PARTS} parts")
        disposition = b""
        content.clear()

    def end_header() -> None:
        nonlocal disposition
        if header_name.lower() == b"content-disposition":
            disposition = bytes(header_value)
        header_name.clear()
        header_value.clear()

    def end_part() -> None:
        if parse_options_header(disposition)[1].get(b"name") == IMAGE_PART.encode():
            if len(parts) == max_images:
                raise problems.out_of_range(f"too many images in one request; at most {max_images} are allowed")
            parts.append(bytes(content))

    def end() -> None:
        nonlocal finished
        finished = True

    callbacks: dict[str, Callable[..., None]] = {
        "on_part_begin": begin,
        "on_header_field": lambda data, start, stop: header_name.extend(data[start:stop]),
        "on_header_value": lambda data, start, stop: header_value.extend(data[start:stop]),
        "on_header_end": end_header,
        "on_part_data": lambda data, start, stop: content.extend(data[start:stop]),
        "on_part_end": end_part,
        "on_end": end,
    }
    try:
        parser = MultipartParser(boundary, callbacks)  # type: ignore[arg-type]
        parser.write(body)
        parser.finalize()
    except FormParserError as error:  # also of a boundary that is too long
        raise problems.malformed(f"the multipart body is broken: {error}") from error
    if not finished:
        raise problems.malformed("the multipart body ends before its closing boundary")
    if not parts:
        raise problems.malformed(f"the form has no part named {IMAGE_PART!r}")
    return parts
