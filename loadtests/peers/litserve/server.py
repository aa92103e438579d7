"""LitServe: one LitAPI whose worker decodes a batch, runs the network, and encodes the answers.

With the ZeroMQ queue, which its documentation advises for hundreds of requests per second, and two HTTP servers: least
CPU of six ways on a busy machine (three runs of 2 s each), among them two workers, each with its own network.
"""

import litserve
import numpy as np
from fastapi import HTTPException, Response

from loadtests.peers.shared import DEVICE, MAX_BATCH, PORT, BadImage, Network, Pixels, answer, decode

BATCH_TIMEOUT = 0.005
HTTP_SERVERS = 2


class Classifier(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.network = Network()

    def decode_request(self, request) -> Pixels:  # type: ignore[no-untyped-def] # with a type it would not be a form
        try:
            return decode(request["image"].file.read())
        except BadImage as error:
            raise HTTPException(400, str(error)) from error

    def batch(self, inputs: list[Pixels]) -> list[Pixels]:
        return inputs

    def predict(self, x: list[Pixels]) -> np.ndarray:
        return self.network(x)

    def unbatch(self, output: np.ndarray) -> list[np.ndarray]:
        return list(output)

    def encode_response(self, output: np.ndarray) -> Response:
        return Response(answer(output), media_type="application/json")


if __name__ == "__main__":
    api = Classifier(max_batch_size=MAX_BATCH, batch_timeout=BATCH_TIMEOUT)
    server = litserve.LitServer(api, accelerator=DEVICE, workers_per_device=1, fast_queue=True)
    server.run(
        host="127.0.0.1",
        port=PORT,
        num_api_servers=HTTP_SERVERS,
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )
