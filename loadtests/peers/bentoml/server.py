"""BentoML: one service whose API makes batches by its adaptive batching.

No access log. An async API, because one in threads, and one service for decoding before another for the network, were
slower on a busy machine (three runs of 2 s each).
"""

from pathlib import Path
from typing import Any

import bentoml

from loadtests.peers.shared import MAX_BATCH, BadImage, Network, best, decode

MAX_LATENCY_MS = 30_000  # what would take longer is refused


@bentoml.service(traffic={"timeout": 30}, logging={"access": {"enabled": False}})
class Classifier:
    def __init__(self) -> None:
        self.network = Network()

    @bentoml.api(batchable=True, max_batch_size=MAX_BATCH, max_latency_ms=MAX_LATENCY_MS)
    async def predict(self, images: list[Path]) -> list[dict[str, Any]]:
        try:
            pixels = [decode(image.read_bytes()) for image in images]
        except BadImage as error:
            raise bentoml.exceptions.InvalidArgument(str(error)) from error
        return [best(scores) for scores in self.network(pixels)]
