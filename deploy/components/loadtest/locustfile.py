"""Requests for a cluster: a small picture to /v1/predict, as fast as answers come, each user its own connection."""

import struct
import zlib

from locust import FastHttpUser, constant, task


def png(size: int = 64) -> bytes:
    """A grey picture with a bright diagonal, made here: the image has Locust and nothing else."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes(255 if abs(x - y) < 5 else 60 for x in range(size)) for y in range(size))
    header = struct.pack(">IIBBBBB", size, size, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


PICTURE = png()


class Client(FastHttpUser):
    wait_time = constant(0)

    @task
    def predict(self) -> None:
        headers = {"Content-Type": "image/png"}
        with self.client.post("/v1/predict", data=PICTURE, headers=headers, catch_response=True) as answer:
            if answer.status_code == 429:
                answer.success()  # the service says that it is full, as it should; a failure is anything else
