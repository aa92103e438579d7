"""Requests whose bodies are hostile, whatever their pictures: deep, long, or of numbers that nobody can hold."""

import json
from collections.abc import Iterator

from loadtests.client import post

PREDICT, INFER = "/v1/predict", "/v2/models/digits/infer"
MANY = 1_000_000
BODY = 15 * 2**20  # a little less than a body may have


def bombs() -> Iterator[tuple[str, bytes]]:
    """Path and whole request, one at a time, as they are large."""
    for text in _json():
        yield PREDICT, post(PREDICT, text, Content_Type="application/json")
        yield INFER, post(INFER, text, Content_Type="application/json")
    for text in _images():
        yield PREDICT, post(PREDICT, b'{"images":' + text + b"}", Content_Type="application/json")
        for shape in ("[1]", f"[{MANY}]", f"[1,{MANY},1,3]", "[1,1000,1000,3]"):
            for datatype in ("BYTES", "UINT8"):
                yield INFER, post(INFER, _infer(text, shape, datatype), Content_Type="application/json")
    for request in _forms():
        yield PREDICT, request
    for header in ("0", "1", "9" * 15, "9" * 5_000, "-1", "4"):
        yield INFER, post(INFER, bytes(4 * 2**20), Inference_Header_Content_Length=header)
    # A tensor of empty elements.
    text = b'{"inputs":[{"name":"image","datatype":"BYTES","shape":[1024],"parameters":{"binary_data_size":12582912}}]}'
    yield INFER, post(INFER, text + bytes(12_582_912), Inference_Header_Content_Length=str(len(text)))


def _json() -> Iterator[bytes]:
    for opened in (b"[", b'{"images":', b'{"images":[', b'{"inputs":[', b'[{"":'):
        yield opened * (BODY // len(opened))
        yield opened * 150
    yield b"[" * MANY + b"]" * MANY
    yield b"9" * BODY
    yield b'{"images":' + b"9" * BODY
    yield b"{" + b",".join(b'"%d":0' % index for index in range(MANY)) + b"}"
    yield b'{"images":["AA=="]' + b',"images":["AA=="]' * (MANY // 2) + b"}"
    yield b'{"' + b"a" * BODY + b'":1}'
    yield b" " * BODY
    yield b'"\\ud800' * MANY
    yield b"\xff" * BODY
    yield b'{"images":["' + b"\\u0041" * (BODY // 6) + b'"]}'
    huge = "9" * 4_000
    for name in ("timeout", "priority", "id", "binary_data_output", "sequence_id"):
        body = {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": ["AA=="]}]}
        yield json.dumps({**body, "parameters": {name: "?"}, name: "?"}).replace('"?"', huge).encode()
        yield json.dumps({**body, "parameters": {name: "?"}, "id": "x" * MANY}).replace('"?"', "1e999").encode()
    outputs = '{"name":"scores","parameters":{"classification":%s}}'
    inputs = '{"inputs":[{"name":"image","datatype":"UINT8","shape":[1,1,1,3],"data":[1,2,3]}],"outputs":[%s]}'
    for classes in (huge, "-1", "1e400", "0", "1"):
        yield (inputs % (outputs % classes)).encode()
    yield (inputs % ",".join([outputs % 1] * 100_000)).encode()


def _images() -> Iterator[bytes]:
    """Values of "images", or of "data"."""
    yield b"[" + b",".join([b"0"] * MANY) + b"]"
    yield b"[" + b",".join([b'""'] * MANY) + b"]"
    yield b"[" + b",".join([b"[]"] * MANY) + b"]"
    yield b"[" + b",".join([b"{}"] * MANY) + b"]"
    yield b"[" + b",".join([b"1e999"] * MANY) + b"]"
    yield b"[" + b",".join([b"9" * 300] * 40_000) + b"]"
    yield b'["data:' + b"a" * BODY + b'"]'
    yield b'["data:;base64,' + b"A" * BODY + b'"]'
    yield b'["data:' + b";a=b" * (BODY // 8) + b";base64," + b"A" * (BODY // 4) + b'"]'
    yield b'["' + b"data:" * (BODY // 5) + b'"]'
    yield b'["' + b"=" * BODY + b'"]'
    yield b'["' + "é".encode() * (BODY // 2) + b'"]'


def _infer(data: bytes, shape: str, datatype: str) -> bytes:
    head = f'{{"inputs":[{{"name":"image","datatype":"{datatype}","shape":{shape},"data":'
    return head.encode() + data + b"}]}"


def _forms() -> Iterator[bytes]:
    part = b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\n'
    for content in (b"\r\n--a" * MANY, b"\r" * BODY, part * 100_000, b"\r\n" + b"-" * BODY):
        yield post(PREDICT, part + content + b"\r\n--b--\r\n", Content_Type="multipart/form-data; boundary=b")
        yield post(PREDICT, content, Content_Type="multipart/form-data; boundary=b")
    for boundary in ("a" * 5_000, "", '""', "\t", ";" * 1_000, "=" * 1_000, "a; boundary=b", "a; boundary*=x''%ff"):
        yield post(PREDICT, part + b"\r\n--b--\r\n", Content_Type=f"multipart/form-data; boundary={boundary}")
