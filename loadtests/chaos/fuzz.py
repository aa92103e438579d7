"""Fuzzing what reads bytes of strangers.

A coverage-guided fuzzer (Atheris) on the readers of bodies and pictures: only problems may come out of them, and what
they accept must be as they promise. Left out where Atheris is not installed.
"""

import base64
import contextlib
import importlib
import importlib.util
import json
import re
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from loadtests.chaos.crafted import hostile, sound
from loadtests.chaos.finding import Finding
from loadtests.chaos.mutated import good

MAX_IMAGES = 8
MAX_PIXELS = 200_000
MAX_BYTES = 8_192
SEED_BYTES = 4_000
RUNS, SECONDS = 4_000, 60
READERS = ["models.image_headers", "models.image_parts", "models.images", "models.orientation"]
READERS += ["service.bodies", "service.json_text", "service.v2.protocol"]


def run(long: bool, cache: Path) -> list[Finding]:
    return [_fuzzed(target, long) for target in TARGETS] if importlib.util.find_spec("atheris") else []


def _fuzzed(target: str, long: bool) -> Finding:
    """Runs in a process of its own, which a crash ends."""
    bound = f"-max_total_time={SECONDS}" if long else f"-runs={RUNS}"
    with tempfile.TemporaryDirectory() as folder:
        for index, seed in enumerate(SEEDS[target]()):
            Path(folder, str(index)).write_bytes(seed)
        options = [bound, "-seed=1", f"-max_len={MAX_BYTES}", "-timeout=10", f"-artifact_prefix={folder}/"]
        command = [sys.executable, "-m", "loadtests.chaos.fuzz", target, *options, folder]
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS * 4)
    counted = re.search(r"Done (\d+) runs", done.stderr)
    # The exception, and the input in base64.
    told = " ".join((done.stdout[-400:] + done.stderr[-400:]).split()).replace("|", "\\|")
    measured = f"{int(counted[1]):,} inputs, nothing else" if counted else told
    return Finding(
        f"{target}: what comes out of it",
        "problems, and what fits its contract",
        measured,
        done.returncode == 0 and counted is not None,
    )


def v2(data: bytes) -> None:
    """The first byte says how long the JSON is: unsaid, zero, text, up to the first new line (left out), or all."""
    from service.doorbell import LEAST_URGENCY
    from service.parameters import MAX_TIMEOUT_SECONDS
    from service.v2 import protocol

    kind, body = data[0] % 5, data[1:]
    text, _, rest = body.partition(b"\n")
    body = text + rest if kind == 3 else body
    header = [None, "0", text[:20].decode("latin-1"), str(len(text)), str(len(body))][kind]
    found = protocol.parse(body, header)
    assert 1 <= len(found.images) <= protocol.MOST_IMAGES
    for image in found.images:
        if not isinstance(image, bytes):
            assert image.dtype == "uint8"
            assert image.ndim == 3
            assert image.size
            assert image.shape[2] == 3
    names = [output.name for output in found.outputs]
    assert names
    assert set(names) <= {protocol.SCORES, protocol.ATTENTION}
    assert len(set(names)) == len(names)
    assert all(output.classes >= 0 for output in found.outputs)
    assert found.timeout is None or 0 < found.timeout <= MAX_TIMEOUT_SECONDS
    assert found.urgency is None or 0 <= found.urgency <= LEAST_URGENCY
    json.dumps(found.id).encode()


def _body(content_type: str, body: bytes) -> None:
    from service.bodies import pictures
    from service.problems import Problem

    found = pictures(content_type, body, MAX_IMAGES)
    assert 1 <= len(found) <= MAX_IMAGES
    for one in found:
        if isinstance(one, Problem):
            assert one.status in (400, 413, 415, 422)
            one.json("request")
        else:
            assert isinstance(one, bytes)


def json_body(data: bytes) -> None:
    _body("application/json", data)


def multipart(data: bytes) -> None:
    _body("multipart/form-data; boundary=b", data)


def content_type(data: bytes) -> None:
    """The type's own text, before the first new line, as HTTP allows it."""
    head, _, body = data.partition(b"\n")
    _body(head.decode("latin-1"), body)


def picture(data: bytes) -> None:
    """Header and parts."""
    from models.image_parts import needed_of_jpeg
    from models.images import Picture

    found = Picture(data, MAX_PIXELS)
    assert found.format in ("JPEG", "PNG", "WEBP")
    assert 0 <= found.size[0] * found.size[1] <= MAX_PIXELS
    assert len(found.data) <= len(data)
    assert 1 <= found.orientation <= 8
    if found.format == "JPEG":
        needed = needed_of_jpeg(data)
        assert len(needed) <= len(data)
        assert needed_of_jpeg(needed) == needed


def pixels(data: bytes) -> None:
    """All of a picture."""
    from models.config import Preprocessing
    from models.images import Picture

    as_asked = Preprocessing(input_size=16, resize_size=18, mean=(0, 0, 0), std=(1, 1, 1))
    found = Picture(data, MAX_PIXELS).pixels(as_asked)
    assert found.shape == (16, 16, 3)
    assert found.dtype == "uint8"


TARGETS: dict[str, Callable[[bytes], None]] = {
    "v2": v2,
    "json": json_body,
    "multipart": multipart,
    "content_type": content_type,
    "picture": picture,
    "pixels": pixels,
}


def _pictures() -> list[bytes]:
    return [one for one in [*good()[:8], *sound(), *hostile()] if len(one) <= SEED_BYTES]


def _json_bodies() -> list[bytes]:
    encoded = base64.b64encode(b"bytes").decode()
    return [json.dumps({"images": [encoded, f"data:image/png;base64,{encoded}"]}).encode(), b'{"images": ["", 1]}']


def _forms() -> list[bytes]:
    head = b'--b\r\nContent-Disposition: form-data; name="image"; filename="x"\r\nContent-Type: image/png\r\n\r\n'
    return [head + b"bytes\r\n" + head + b"--b\r\n--b--\r\n", head.replace(b"image", b"note") + b"\r\n--b--"]


def _typed_bodies() -> list[bytes]:
    forms = [kind + form for form in _forms() for kind in (b"multipart/form-data; boundary=b\n", b"image/png; q=1\n")]
    forms.append(b"multipart/form-data; boundary=" + b"b" * 300 + b"\n" + _forms()[0])  # longer than its parser takes
    return [*forms, b"multipart/form-data; boundary*=utf-8''b; charset=\"x\"\n" + _forms()[0]]


def _v2_bodies() -> list[bytes]:
    picture = {"name": "image", "datatype": "BYTES", "shape": [1]}
    pixel = {"name": "image", "datatype": "UINT8", "shape": [1, 1, 2, 3]}
    outputs = [{"name": "scores", "parameters": {"classification": 2, "binary_data": True}}, {"name": "attention"}]
    asked = {"id": "1", "parameters": {"timeout": 1_000_000, "priority": 2, "binary_data_output": True}}
    tensor = struct.pack("<I", 5) + b"bytes"
    binary = {**picture, "parameters": {"binary_data_size": len(tensor)}}
    in_json = [
        {**picture, "data": ["AA=="]},
        {**pixel, "data": [1, 2, 3, 4, 5, 6]},
        {**pixel, "data": [[[[1, 2, 3]] * 2]]},
    ]
    found = [b"\0" + json.dumps({**asked, "inputs": [one], "outputs": outputs}).encode() for one in in_json]
    return [*found, b"\1bytes", b"\3" + json.dumps({"inputs": [binary]}).encode() + b"\n" + tensor]


SEEDS: dict[str, Callable[[], list[bytes]]] = {
    "v2": _v2_bodies,
    "json": _json_bodies,
    "multipart": _forms,
    "content_type": _typed_bodies,
    "picture": _pictures,
    "pixels": _pictures,
}


def main() -> None:
    import atheris

    # Of what they import themselves nothing is of interest, and much of it is slow when it is watched.
    with atheris.instrument_imports(include=READERS):
        for name in READERS:
            importlib.import_module(name)
    from models.images import ImageError
    from service.problems import Problem

    target = TARGETS[sys.argv.pop(1)]

    def once(data: bytes) -> None:
        if not data:
            return
        with contextlib.suppress(Problem, ImageError):
            target(data)

    atheris.Setup(sys.argv, once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
