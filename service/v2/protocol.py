"""Requests and answers of the Open Inference Protocol v2: JSON, and the binary tensor extension.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md and
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

import base64
import binascii
import json
import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service import json_text
from service.doorbell import LEAST_URGENCY
from service.parameters import MAX_TIMEOUT_SECONDS
from service.problems import Problem, shortened

INPUT, SCORES, ATTENTION = "image", "scores", "attention"
OUTPUTS = 2
ONCE = f"there are {SCORES!r} and {ATTENTION!r}, each once"
HEADER = "Inference-Header-Content-Length"
DATATYPES = (
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BYTES",
)  # fmt: skip
MICROSECONDS = 1_000_000
LONGEST_NUMBER = 15  # digits of a header; more would be no length, and slow to read

LONGEST = 2**31  # of a shape, so that products of its numbers can be printed
MOST_IMAGES = 1024  # as any setting allows
MAX_LISTS = 2_000_000  # nested, each pixel is one; larger pictures are sent flat, binary or encoded

Image = bytes | NDArray[np.uint8]
"""An encoded picture, or RGB pixels uint8 [height, width, 3]"""


class ProtocolError(Problem):
    """A request that the protocol does not allow: 400."""

    def __init__(self, message: str) -> None:
        super().__init__(400, "protocol", "The protocol does not allow this", message)


@dataclass(frozen=True)
class Output:
    """An output asked for."""

    name: str
    binary: bool
    classes: int
    """of the classification extension: how many; 0 for the tensor itself"""


@dataclass(frozen=True)
class InferRequest:
    """What a request asks for."""

    images: list[Image]
    outputs: list[Output]
    id: str | None = None
    timeout: float | None = None
    """seconds, of the schedule policy extension"""
    urgency: int | None = None
    """of the same extension's priority, 1 being the highest"""


def parse(body: bytes, header: str | None) -> InferRequest:
    """Read a request of one input. `header` is the value of Inference-Header-Content-Length. Raises ProtocolError."""
    if header is None:
        return _request(_json(body), None)
    if not (header.isascii() and header.isdecimal() and len(header) <= LONGEST_NUMBER):
        raise ProtocolError(f"{HEADER} is {shortened(header)}; it must be the length of the JSON in bytes, 0 or more")
    length = int(header)
    if length > len(body):
        raise ProtocolError(f"{HEADER} is {length}, and the body has only {len(body)} bytes")
    if length == 0:  # a raw request: the whole body is one element, and all outputs are binary
        return InferRequest([body], [Output(SCORES, binary=True, classes=0)])
    binary = _Binary(memoryview(body)[length:])
    request = _request(_json(body[:length]), binary)
    if binary.left:
        raise ProtocolError(f"{binary.left} bytes are left over behind the tensors; check every binary_data_size")
    return request


class _Binary:
    """The tensors behind the JSON, taken one after the other."""

    def __init__(self, data: memoryview) -> None:
        self._data = data

    @property
    def left(self) -> int:
        return len(self._data)

    def take(self, size: int, what: str) -> memoryview:
        if size > len(self._data):
            raise ProtocolError(f"{what} says binary_data_size {size}, and only {len(self._data)} bytes are left")
        taken, self._data = self._data[:size], self._data[size:]
        return taken


def _request(found: dict[str, Any], binary: _Binary | None) -> InferRequest:
    id_ = _field(found, "id", str, "the request", None)
    parameters = _field(found, "parameters", dict, "the request", {})
    inputs = _field(found, "inputs", list, "the request")
    if [_field(one, "name", str, "an input") for one in _objects(inputs, "inputs")] != [INPUT]:
        raise ProtocolError(f"inputs must be exactly one, named {INPUT!r}")
    all_binary = _field(parameters, "binary_data_output", bool, "parameters", False)
    timeout = _field(parameters, "timeout", int, "parameters", 0)
    if not 0 <= timeout <= MAX_TIMEOUT_SECONDS * MICROSECONDS:
        raise ProtocolError("timeout must be microseconds, at most an hour's; 0 for the service's own")
    priority = _field(parameters, "priority", int, "parameters", 0)
    if priority < 0:
        raise ProtocolError("priority must be 0, the service's own, or from 1, the highest")
    outputs = _objects(_field(found, "outputs", list, "the request", []), "outputs")
    if len(outputs) > OUTPUTS:
        raise ProtocolError(f"{len(outputs)} outputs are asked for; {ONCE}")
    asked = [_output(one, all_binary) for one in outputs] or [Output(SCORES, all_binary, 0)]
    if len({output.name for output in asked}) != len(asked):
        raise ProtocolError(f"an output is asked for twice; {ONCE}")
    return InferRequest(
        _images(inputs[0], binary),
        asked,
        id_,
        timeout / MICROSECONDS if timeout else None,
        min(priority - 1, LEAST_URGENCY) if priority else None,
    )


def _output(found: dict[str, Any], all_binary: bool) -> Output:
    name = _field(found, "name", str, "an output")
    if name not in (SCORES, ATTENTION):
        raise ProtocolError(f"there is no output {shortened(name)}; there are {SCORES!r} and {ATTENTION!r}")
    parameters = _field(found, "parameters", dict, f"output {name!r}", {})
    _refuse_shared_memory(parameters, f"output {name!r}")
    classes = _field(parameters, "classification", int, f"output {name!r}", 0)
    if "classification" in parameters and name != SCORES:
        raise ProtocolError(f"{name!r} has no classes; ask for the classification of {SCORES!r}")
    if "classification" in parameters and classes < 1:
        raise ProtocolError(f"classification is {shortened(classes)}; it must be how many classes, from 1")
    return Output(name, _field(parameters, "binary_data", bool, f"output {name!r}", all_binary), classes)


def _refuse_shared_memory(parameters: dict[str, Any], where: str) -> None:
    named = next((name for name in parameters if name.startswith("shared_memory")), None)
    if named:
        raise ProtocolError(f"{where} says {shortened(named)}; shared memory is not supported, tensors go in the body")


def _images(found: dict[str, Any], binary: _Binary | None) -> list[Image]:
    datatype = _field(found, "datatype", str, f"input {INPUT!r}")
    shape = _field(found, "shape", list, f"input {INPUT!r}")
    if not all(type(length) is int and 0 <= length <= LONGEST for length in shape):
        raise ProtocolError(f"input {INPUT!r} has shape {shortened(shape)}; it must be whole numbers up to {LONGEST}")
    parameters = _field(found, "parameters", dict, f"input {INPUT!r}", {})
    _refuse_shared_memory(parameters, f"input {INPUT!r}")
    size = _field(parameters, "binary_data_size", int, f"input {INPUT!r}", None)
    if (size is None) == ("data" not in found):
        raise ProtocolError(f"input {INPUT!r} must have either data or parameters.binary_data_size")
    if size is not None and size < 0:
        raise ProtocolError(f"input {INPUT!r} says binary_data_size {shortened(size)}")
    if size is not None and binary is None:
        raise ProtocolError(f"input {INPUT!r} says binary_data_size, and the request lacks the header {HEADER}")
    if datatype == "BYTES":
        return _encoded(shape, found, size, binary)
    if datatype == "UINT8":
        return _pixels(shape, found, size, binary)
    if datatype == "FP16" and size is None:
        raise ProtocolError("FP16 has no representation in JSON")
    known = "" if datatype in DATATYPES else " is unknown and"
    raise ProtocolError(
        f"datatype {shortened(datatype)}{known} is not taken; {INPUT!r} is BYTES (encoded) or UINT8 (RGB pixels)"
    )


def _encoded(shape: list[int], found: dict[str, Any], size: int | None, binary: _Binary | None) -> list[Image]:
    """BYTES [n]: encoded pictures, in JSON as base64."""
    if len(shape) != 1 or not 1 <= shape[0] <= MOST_IMAGES:
        raise ProtocolError(f"BYTES input {INPUT!r} has shape {shortened(shape)}; it must be [number of images]")
    if size is not None and binary is not None:
        # No more than one beyond the shape: a tensor of zeros is millions of empty elements.
        found_elements = _elements(binary.take(size, f"input {INPUT!r}"))
        elements: list[Image] = list(islice(found_elements, shape[0] + 1))
    else:
        elements = [_from_text(text) for text in _flat(found["data"], shape)]
    if len(elements) != shape[0]:
        raise ProtocolError(f"input {INPUT!r} has shape {shortened(shape)} and {len(elements)} elements")
    return elements


def _elements(data: memoryview) -> Iterator[bytes]:
    """Of a binary BYTES tensor: each a little-endian uint32 length and as many bytes."""
    while data:
        if len(data) < 4:
            raise ProtocolError(f"input {INPUT!r} ends within the length of an element")
        (length,) = struct.unpack_from("<I", data)
        if length > len(data) - 4:
            raise ProtocolError(
                f"an element of input {INPUT!r} has length {length}, and {len(data) - 4} bytes are left"
            )
        yield bytes(data[4 : 4 + length])
        data = data[4 + length :]


def _from_text(text: Any) -> bytes:
    if not isinstance(text, str):
        raise ProtocolError(f"an element of input {INPUT!r} is {type(text).__name__}; in JSON it must be base64 text")
    try:
        return base64.b64decode(text.partition(",")[2] if text.startswith("data:") else text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ProtocolError(f"an element of input {INPUT!r} is not base64: {error}") from error


def _pixels(shape: list[int], found: dict[str, Any], size: int | None, binary: _Binary | None) -> list[Image]:
    """UINT8 [n, height, width, 3]: RGB."""
    if len(shape) != 4 or shape[3] != 3 or not all(shape):
        raise ProtocolError(
            f"UINT8 input {INPUT!r} has shape {shortened(shape)}; it must be [images, height, width, 3]"
        )
    count = math.prod(shape)
    if size is not None and binary is not None:
        if size != count:
            raise ProtocolError(f"input {INPUT!r} of shape {shape} has {count} bytes, and binary_data_size is {size}")
        values = np.frombuffer(binary.take(size, f"input {INPUT!r}"), np.uint8)
    else:
        numbers = _flat(found["data"], shape)
        if any(type(number) is not int for number in numbers):
            raise ProtocolError(f"an element of input {INPUT!r} is no whole number from 0 to 255")
        try:
            values = np.frombuffer(bytes(numbers), np.uint8)
        except (ValueError, OverflowError) as error:
            raise ProtocolError(f"an element of input {INPUT!r} is no whole number from 0 to 255") from error
    return list(values.reshape(shape))


def _flat(data: Any, shape: list[int]) -> list[Any]:
    """JSON data, flat or nested as the shape says, in row-major order.

    Not by NumPy, which would make room for the longest of what is no number, as often as there are elements.
    """
    if not isinstance(data, list):
        raise ProtocolError(f"data of input {INPUT!r} must be a list")
    count = math.prod(shape)
    if len(shape) > 1 and len(data) == shape[0] and isinstance(data[0], list):
        for length in shape[1:]:
            if not all(isinstance(row, list) and len(row) == length for row in data):
                raise ProtocolError(f"data of input {INPUT!r} is neither flat nor nested as its shape {shape}")
            data = list(chain.from_iterable(data))
    if len(data) != count:
        raise ProtocolError(f"input {INPUT!r} has shape {shortened(shape)} and {len(data)} elements")
    return data


def _json(text: bytes) -> dict[str, Any]:
    try:
        found = json_text.read(text, MAX_LISTS)
    except ValueError as error:
        raise ProtocolError(f"the request is not JSON that can be read: {error}") from error
    if not isinstance(found, dict):
        raise ProtocolError("the request is not a JSON object")
    return found


def _objects(found: list[Any], what: str) -> list[dict[str, Any]]:
    if not all(isinstance(one, dict) for one in found):
        raise ProtocolError(f"{what} must be JSON objects")
    return found


_REQUIRED = object()


def _field(found: dict[str, Any], name: str, kind: type, where: str, default: Any = _REQUIRED) -> Any:
    if name not in found and default is not _REQUIRED:
        return default
    value = found.get(name)
    if type(value) is not kind:
        raise ProtocolError(f"{where} must have {name!r} as a JSON {_JSON_NAMES[kind]}")
    return value


_JSON_NAMES = {str: "string", dict: "object", list: "array", bool: "true or false", int: "whole number"}


def answer(
    model: str, version: str, request: InferRequest, values: dict[str, NDArray[np.float32]], labels: Sequence[str]
) -> tuple[bytes, int | None]:
    """The body, and the length of its JSON if tensors follow it.

    values: float32 tensors by output: scores [n, classes], attention [n, S, S] if it was asked for.
    """
    described: list[dict[str, Any]] = []
    tensors: list[bytes] = []
    for output in request.outputs:
        if output.classes:
            rows = [_classification(row, output.classes, labels) for row in values[output.name]]
            entry: dict[str, Any] = {"name": output.name, "datatype": "BYTES", "shape": [len(rows), len(rows[0])]}
            encoded = [text.encode() for row in rows for text in row]
            tensor = b"".join(struct.pack("<I", len(text)) + text for text in encoded)
            data: list[Any] = [text for row in rows for text in row]
        else:
            found = values[output.name]
            entry = {"name": output.name, "datatype": "FP32", "shape": list(found.shape)}
            tensor, data = found.astype("<f4", copy=False).tobytes(), []
        if output.binary:
            entry["parameters"] = {"binary_data_size": len(tensor)}
            tensors.append(tensor)
        else:
            entry["data"] = data or values[output.name].ravel().tolist()
        described.append(entry)
    head: dict[str, Any] = {"model_name": model, "model_version": version}
    if request.id is not None:
        head["id"] = request.id
    text = json.dumps({**head, "outputs": described}, separators=(",", ":")).encode()
    return b"".join([text, *tensors]), len(text) if tensors else None


def _classification(scores: NDArray[np.float32], count: int, labels: Sequence[str]) -> list[str]:
    """`<value>:<index>:<label>` of the highest, best first."""
    best = scores.argsort()[::-1][: min(count, len(scores))]
    return [f"{scores[index]:f}:{index}:{labels[index]}" for index in best]
