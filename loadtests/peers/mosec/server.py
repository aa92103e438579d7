"""mosec: a stage of processes that decode, and one process that runs the network in batches, as in its examples.

A process for each of two cores decodes, and batches wait 10 ms, its default. One or three processes, and 1 or 5 ms, did
not differ by more than the noise of a busy machine (three runs of 2 s each).
"""

import sys

from mosec import Server, ValidationError, Worker

from loadtests.peers.shared import MAX_BATCH, PORT, BadImage, Network, Pixels, answer, decode

DECODE_PROCESSES = 2
MAX_WAIT_MS = 10


class Decode(Worker):
    def deserialize(self, data: bytes) -> bytes:
        return data

    def forward(self, data: bytes) -> Pixels:
        try:
            return decode(data)
        except BadImage as error:
            raise ValidationError(str(error)) from error


class Inference(Worker):
    resp_mime_type = "application/json"

    def __init__(self) -> None:
        super().__init__()
        self.network = Network()

    def forward(self, data: list[Pixels]) -> list[bytes]:
        return [answer(scores) for scores in self.network(data)]

    def serialize(self, data: bytes) -> bytes:
        return data


if __name__ == "__main__":
    sys.argv += ["--address", "127.0.0.1", "--port", str(PORT), "--log-level", "warning", "--timeout", "30000"]
    server = Server()
    server.append_worker(Decode, num=DECODE_PROCESSES)
    server.append_worker(Inference, max_batch_size=MAX_BATCH, max_wait_time=MAX_WAIT_MS)
    server.run()
