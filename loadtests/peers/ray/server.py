"""Ray Serve: one deployment that decodes where it is asked and batches with serve.batch.

Of its performance guide: no access log, throughput-optimised mode, and max_ongoing_requests above the batch size, which
its default of 5 would bound. No dashboard. HAProxy in front of it was not tried; decoding in threads was slower on a
busy machine (two runs of 3 s, not in turns).
"""

import asyncio
import os
import signal

os.environ["RAY_SERVE_THROUGHPUT_OPTIMIZED"] = "1"

import numpy as np
import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from loadtests.peers.shared import MAX_BATCH, PORT, BadImage, Network, Pixels, answer, decode

BATCH_WAIT_SECONDS = 0.005
ONGOING = 256


@serve.deployment(max_ongoing_requests=ONGOING, logging_config={"enable_access_log": False})
class Classifier:
    def __init__(self) -> None:
        self.network = Network()

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=BATCH_WAIT_SECONDS)
    async def scores(self, images: list[Pixels]) -> list[np.ndarray]:
        return list(self.network(images))

    async def __call__(self, request: Request) -> Response:
        try:
            pixels = decode(await request.body())
        except BadImage as error:
            return Response(str(error), 400)
        return Response(answer(await self.scores(pixels)), media_type="application/json")


async def until_told() -> None:
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    await told.wait()


if __name__ == "__main__":
    ray.init(include_dashboard=False)
    serve.start(http_options={"host": "127.0.0.1", "port": PORT})
    serve.run(Classifier.bind(), route_prefix="/predict")
    asyncio.run(until_told())
    serve.shutdown()
