"""A plain FastAPI app: threads decode, and one task makes a batch of whatever waits when the network is free.

One process, as most write it, with uvicorn's faster loop and parser, and a ready Response past FastAPI's serialisation.
Two processes, each with its own network, are not in this comparison; on a busy machine they answered 517 requests/s
(301 to 853), one 432 (307 to 466), medians of three runs of 2 s.
"""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response

from loadtests.peers.shared import MAX_BATCH, PORT, BadImage, Network, Pixels, answer, decode

DECODE_THREADS = 2  # one a core

queue: asyncio.Queue[tuple[Pixels, asyncio.Future[bytes]]] = asyncio.Queue()
decoding = ThreadPoolExecutor(DECODE_THREADS)
computing = ThreadPoolExecutor(1)


async def batches() -> None:
    loop = asyncio.get_running_loop()
    network = await loop.run_in_executor(computing, Network)  # warm for the thread that runs it
    while True:
        batch = [await queue.get()]
        while len(batch) < MAX_BATCH and not queue.empty():
            batch.append(queue.get_nowait())
        try:
            scores = await loop.run_in_executor(computing, network, [pixels for pixels, _ in batch])
        except Exception as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            continue
        for (_, future), row in zip(batch, scores, strict=True):
            if not future.done():
                future.set_result(answer(row))


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    batching = asyncio.create_task(batches())
    yield
    batching.cancel()


app = FastAPI(lifespan=lifespan)


@app.post("/predict")
async def predict(request: Request) -> Response:
    loop = asyncio.get_running_loop()
    try:
        pixels = await loop.run_in_executor(decoding, decode, await request.body())
    except BadImage as error:
        raise HTTPException(400, str(error)) from error
    future: asyncio.Future[bytes] = loop.create_future()
    queue.put_nowait((pixels, future))
    return Response(await future, media_type="application/json")


@app.get("/health")
async def health() -> dict[str, bool]:
    return {"alive": True}


if __name__ == "__main__":
    uvicorn.run(app, port=PORT, access_log=False, log_level="warning")
