"""The encoded pictures in a request's body: raw bytes, multipart, or JSON with base64."""

import asyncio
import base64
import binascii
import time
from typing import Annotated

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from service import problems
from service.problems import Problem

RAW_TYPES = ("image/jpeg", "image/png", "image/webp", "application/octet-stream")
MULTIPART_TYPE = "multipart/form-data"
JSON_TYPE = "application/json"
IMAGE_PART = "image"
ACCEPTED = ", ".join((*RAW_TYPES, MULTIPART_TYPE, JSON_TYPE))


class JsonImages(BaseModel):
    """The JSON body of a prediction."""

    model_config = ConfigDict(extra="forbid")

    images: Annotated[list[str], Field(min_length=1, description="each base64, or a data: URI with base64")]


async def read_body(request: Request, max_bytes: int, deadline: float) -> bytes:
    """The whole body, by `deadline` (of time.monotonic()).

    Raises Problem: 413 as soon as it is known to be too large, 408 if it does not come in time, 400 if empty; and
    ClientDisconnect.
    """
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > max_bytes:
        raise problems.body_too_large(max_bytes)
    message = await request.receive()
    if message.get("more_body", False):
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                body = await _rest_of_body(request, message["body"], max_bytes)
        except TimeoutError as error:
            raise problems.body_too_slow() from error
    else:
        body = message.get("body", b"")
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    if len(body) > max_bytes:
        raise problems.body_too_large(max_bytes)
    if not body:
        raise problems.malformed("the body is empty; send the bytes of an image")
    return body


async def _rest_of_body(request: Request, first: bytes, max_bytes: int) -> bytes:
    chunks, length, more = [first], len(first), True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        more = message.get("more_body", False)
        chunks.append(message.get("body", b""))
        length += len(chunks[-1])
        if length > max_bytes:
            raise problems.body_too_large(max_bytes)
    return b"".join(chunks)


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
        found = list(_image_parts(body, options.get(b"boundary", b"")))
    elif kind == JSON_TYPE:
        found = _json_images(body)
    else:
        raise problems.unsupported_media_type(
            f"Content-Type is {kind or 'missing'!r}; send one of {ACCEPTED} "
            "(curl: -H 'Content-Type: image/jpeg' --data-binary @FILE, or -F image=@FILE)"
        )
    if len(found) > max_images:
        raise problems.out_of_range(f"{len(found)} images in one request; at most {max_images} are allowed")
    return found


def _json_images(body: bytes) -> list[bytes | Problem]:
    try:
        texts = JsonImages.model_validate_json(body).images
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise problems.malformed(
            f'the JSON body must be {{"images": ["<base64 or data: URI>", …]}}: {where} {first["msg"]}'
        ) from error
    return [_from_base64(text) for text in texts]


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


def _image_parts(body: bytes, boundary: bytes) -> list[bytes]:
    """The contents of the parts named `image` of an RFC 7578 form."""
    if not boundary:
        raise problems.malformed("Content-Type multipart/form-data lacks its boundary")
    parts: list[bytes] = []
    header_name, header_value, disposition, content = bytearray(), bytearray(), b"", bytearray()
    finished = False

    def begin() -> None:
        nonlocal disposition
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
            parts.append(bytes(content))

    def end() -> None:
        nonlocal finished
        finished = True

    parser = MultipartParser(
        boundary,
        {
            "on_part_begin": begin,
            "on_header_field": lambda data, start, stop: header_name.extend(data[start:stop]),
            "on_header_value": lambda data, start, stop: header_value.extend(data[start:stop]),
            "on_header_end": end_header,
            "on_part_data": lambda data, start, stop: content.extend(data[start:stop]),
            "on_part_end": end_part,
            "on_end": end,
        },
    )
    try:
        parser.write(body)
        parser.finalize()
    except MultipartParseError as error:
        raise problems.malformed(f"the multipart body is broken: {error}") from error
    if not finished:
        raise problems.malformed("the multipart body ends before its closing boundary")
    if not parts:
        raise problems.malformed(f"the form has no part named {IMAGE_PART!r}")
    return parts
