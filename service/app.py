"""The HTTP routes: what a request meets in a front-end worker, from its parameters to its answer."""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from models.config import ModelConfig
from models.images import ImageError, Picture
from service import __version__, problems, schema
from service.answers import AnswerWriter
from service.bodies import pictures, read_body
from service.metrics import WorkerMetrics
from service.observe import Observe
from service.problems import Problem
from service.settings import Settings
from service.slots import ServiceStatus, SlotPool, Ticket

log = logging.getLogger(__name__)

PREDICT_PATH = "/v1/predict"
DEFAULT_TOP_K = 5
MAX_TIMEOUT_SECONDS = 3600.0
TIMEOUT_HEADER = "x-request-timeout"
# Up to here (about 2 ms of decoding) handing an image to a thread costs more than it saves the event loop.
INLINE_PIXELS = 400_000
DECODE_THREADS = 2


def create_app(
    settings: Settings,
    config: ModelConfig,
    pool: SlotPool,
    status: ServiceStatus,
    counters: WorkerMetrics,
    scrape: Callable[[], bytes],
) -> ASGIApp:
    """The application of one worker."""
    app = FastAPI(
        title="coordserve",
        version=__version__,
        summary="Image classification with Coordinate Attention networks.",
    )
    writer = AnswerWriter(config.name, config.labels)
    threads = ThreadPoolExecutor(DECODE_THREADS, "decode")

    async def decode_into(ticket: Ticket, index: int, data: bytes) -> None:
        """Write the pixels of an encoded picture into its slot. Raises ImageError."""
        picture = Picture(data, settings.max_pixels)
        width, height = picture.size
        if width * height <= INLINE_PIXELS:
            pixels = picture.pixels(config.preprocessing)
        else:
            loop = asyncio.get_running_loop()
            pixels = await loop.run_in_executor(threads, picture.pixels, config.preprocessing)
        np.copyto(ticket.pixels(index), pixels)

    @app.post(PREDICT_PATH, **schema.PREDICT)
    async def predict(request: Request) -> Response:
        started = time.perf_counter()
        top_k = _top_k(request)
        timeout = _timeout(request, settings.request_timeout)
        body = await read_body(request, settings.max_body_bytes)
        found = pictures(request.headers.get("content-type", ""), body, min(settings.max_images, pool.count))
        try:
            ticket = pool.take(len(found))
        except Problem as problem:
            counters.shed(len(found))
            raise problem
        with ticket:
            decode_started = time.perf_counter()
            refused: dict[int, Problem] = {}
            for index, data in enumerate(found):
                try:
                    if isinstance(data, Problem):
                        raise data
                    await decode_into(ticket, index, data)
                except (ImageError, Problem) as error:
                    refused[index] = problems.of_image(error) if isinstance(error, ImageError) else error
                    if len(found) == 1:
                        raise refused[index] from error
            decode_seconds = time.perf_counter() - decode_started
            accepted = [index for index in range(len(found)) if index not in refused]
            replies = await ticket.infer(accepted, timeout - (time.perf_counter() - started)) if accepted else []
            predictions: list[str | Problem] = [
                refused.get(index) or writer.ranking(ticket.scores(index), top_k) for index in range(len(found))
            ]
        queue_us = max((reply.queue_us for reply in replies), default=0)
        infer_us = max((reply.infer_us for reply in replies), default=0)
        batch_size = max((reply.batch_size for reply in replies), default=0)
        counters.decode.observe(decode_seconds)
        counters.queue.observe(queue_us / 1e6)
        counters.infer.observe(infer_us / 1e6)
        return Response(
            writer.answer(request.scope["request_id"], predictions, decode_seconds, queue_us, infer_us, batch_size),
            media_type="application/json",
        )

    def card() -> dict[str, Any]:
        return {
            "name": config.name,
            "description": config.description,
            "network": config.network.name,
            "input_size": config.preprocessing.input_size,
            "preprocessing": config.preprocessing.model_dump(),
            "labels": config.labels,
            **status.card,
        }

    @app.get("/v1/models", **schema.MODELS)
    async def models() -> Response:
        return JSONResponse({"models": [card()]})

    @app.get("/v1/models/{name}", **schema.MODEL)
    async def model(name: str) -> Response:
        if name != config.name:
            raise problems.from_http_status(404, f"no model {name!r}; this service has {config.name!r}")
        return JSONResponse(card())

    @app.get("/healthz", **schema.HEALTH)
    async def healthz() -> Response:
        if status.failed:
            return JSONResponse({"alive": False, "reason": status.reason}, 503)
        return JSONResponse({"alive": True})

    @app.get("/readyz", **schema.READY)
    async def readyz() -> Response:
        if status.draining or not status.ready:
            reason = "draining" if status.draining else status.reason
            return JSONResponse({"ready": False, "reason": reason}, 503)
        return JSONResponse({"ready": True, "form": status.card["form"]})

    @app.get("/metrics", **schema.METRICS)
    async def prometheus() -> Response:
        text = await asyncio.get_running_loop().run_in_executor(None, scrape)
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    @app.exception_handler(Problem)
    async def on_problem(request: Request, error: Problem) -> Response:
        return _response(request, error)

    @app.exception_handler(HTTPException)
    async def on_http_exception(request: Request, error: HTTPException) -> Response:
        return _response(request, problems.from_http_status(error.status_code, error.detail, dict(error.headers or {})))

    @app.exception_handler(Exception)
    async def on_defect(request: Request, error: Exception) -> Response:
        return _response(request, problems.internal_error())

    [predict_route] = [route for route in app.routes if isinstance(route, APIRoute) and route.path == PREDICT_PATH]

    async def straight(scope: Scope, receive: Receive, send: Send) -> None:
        """Predictions past the layers that FastAPI puts around a route, which cost a tenth of the whole request."""
        if scope["type"] != "http" or scope["path"] != PREDICT_PATH or scope["method"] != "POST":
            await app(scope, receive, send)
            return
        scope["route"] = predict_route
        request = Request(scope, receive)
        try:
            response = await predict(request)
        except Problem as problem:
            response = _response(request, problem)
        except ClientDisconnect:
            return
        except Exception:
            log.exception("a defect in answering request %s", scope["request_id"])
            response = _response(request, problems.internal_error())
        await response(scope, receive, send)

    return Observe(straight, counters)


def _response(request: Request, problem: Problem) -> Response:
    return Response(
        problem.json(request.scope["request_id"]),
        problem.status,
        problem.headers,
        media_type=problems.MEDIA_TYPE,
    )


def _top_k(request: Request) -> int:
    text = request.query_params.get("top_k") if request.scope["query_string"] else None
    if text is None:
        return DEFAULT_TOP_K
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) > 0):
        raise problems.out_of_range(f"top_k is {text!r}; it must be a whole number from 1")
    return int(text)


def _timeout(request: Request, default: float) -> float:
    text = request.headers.get(TIMEOUT_HEADER)
    if text is None:
        return default
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= MAX_TIMEOUT_SECONDS:  # also when it is NaN
        raise problems.out_of_range(
            f"X-Request-Timeout is {text!r}; it must be seconds above 0 and at most {MAX_TIMEOUT_SECONDS:g}"
        )
    return seconds
