"""TorchServe's side that knows the network: decode, run, answer, a batch at a time."""

from typing import Any

import numpy as np
from ts.context import Context

from loadtests.peers.shared import MODEL, BadImage, Network, Pixels, answer, decode


class Handler:
    def initialize(self, context: Context) -> None:
        self.network = Network()

    def handle(self, requests: list[dict[str, Any]], context: Context) -> list[bytes]:
        """Bad pictures have a status of their own, as the custom handlers of its documentation do it."""
        size = MODEL.preprocessing.input_size
        pixels: list[Pixels] = []
        bad: dict[int, str] = {}
        for index, request in enumerate(requests):
            try:
                pixels.append(decode(bytes(request.get("data") or request.get("body"))))
            except BadImage as error:
                bad[index] = str(error)
                pixels.append(np.zeros((size, size, 3), np.uint8))
                context.set_response_status(code=400, idx=index)
        for index in range(len(requests)):
            context.set_response_content_type(index, "application/json")
        scores = self.network(pixels)
        return [bad[index].encode() if index in bad else answer(row) for index, row in enumerate(scores)]
