"""The HTTP routes: what a request meets in a front-end worker, from its parameters to its answer."""

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Path, Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from models.config import ModelConfig
from service import __version__, openapi, problems, schema
from service.answers import AnswerWriter
from service.api_keys import ApiKeys
from service.bodies import Reception, pictures
from service.explain import PNG, ExplanationWriter, question, wants_png
from service.intake import Intake
from service.metrics import WorkerMetrics
from service.observe import Observe
from service.overlay import overlay
from service.page import routes as page
from service.parameters import Asked, asked, top_k
from service.problems import Problem
from service.settings import Settings
from service.slots import ServiceStatus, SlotPool
from service.v2 import routes as v2
from service.v2 import schema as v2_schema
from service.v2.protocol import HEADER

if TYPE_CHECKING:
    from service.tracing import RequestSpans

log = logging.getLogger(__name__)

PREDICT_PATH, EXPLAIN_PATH = "/v1/predict", "/v1/explain"


def create_app(
    settings: Settings,
    config: ModelConfig,
    pool: SlotPool,
    status: ServiceStatus,
    counters: WorkerMetrics,
    scrape: Callable[[], bytes],
    spans: "RequestSpans | None" = None,
) -> ASGIApp:
    """The application of one worker."""
    app = FastAPIOffline(
        redoc_url=None,
        redirect_slashes=False,  # it would redirect to whatever host the client named
        title="coordserve",
        version=__version__,
        summary="Image classification with Coordinate Attention networks.",
        license_info={"name": "Apache 2.0", "identifier": "Apache-2.0"},
        generate_unique_id_function=lambda route: route.name,
    )
    openapi.describe(app, [*schema.MODELS_OF_BODIES, *v2_schema.MODELS_OF_BODIES])
    writer = AnswerWriter(config.name, config.labels)
    explainer = ExplanationWriter(config)
    intake = Intake(settings, config.preprocessing, pool, counters, spans)
    keys = ApiKeys(settings.api_keys_file) if settings.api_keys_file else None

    @app.post(PREDICT_PATH, dependencies=schema.KEYS if keys else [], **schema.PREDICT)
    async def predict(request: Request) -> Response:
        how = asked(request, settings.request_timeout)
        if keys:
            keys.check(request.headers)
        classes = top_k(request)
        with intake.reception(how.urgency) as reception:
            found = await received(request, how, reception)
            async with intake.computed(found, how, some=len(found) > 1) as answer:
                predictions: list[str | Problem] = [
                    answer.refused.get(index) or writer.ranking(answer.scores(index), classes)
                    for index in range(len(found))
                ]
        return Response(
            writer.answer(request.scope["request_id"], predictions, answer.timing), media_type="application/json"
        )

    @app.post(EXPLAIN_PATH, dependencies=schema.KEYS if keys else [], **schema.EXPLAIN)
    async def explain(request: Request) -> Response:
        how = asked(request, settings.request_timeout)
        if keys:
            keys.check(request.headers)
        what = question(request, config)
        with intake.reception(how.urgency) as reception:
            found = await received(request, how, reception)
            as_png = wants_png(request, len(found))
            async with intake.computed(found, how, some=len(found) > 1, question=what) as answer:
                if as_png:
                    loop = asyncio.get_running_loop()
                    png = await loop.run_in_executor(None, overlay, answer.seen[0], answer.explanation(0).map)
                    return Response(png, media_type=PNG)
                explanations: list[str | Problem] = [
                    answer.refused.get(index) or explainer.one(answer.explanation(index), answer.scores(index), what)
                    for index in range(len(found))
                ]
        return Response(explainer.answer(request.scope["request_id"], explanations), media_type="application/json")

    async def received(request: Request, how: Asked, reception: Reception) -> list[bytes | Problem]:
        """The pictures of a request."""
        body = await reception.read(request, how.deadline)
        return pictures(request.headers.get("content-type", ""), body, intake.max_images)

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
    async def model(name: Annotated[str, Path(examples=[config.name])]) -> Response:
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

    @app.get("/metrics", dependencies=schema.KEYS if keys and settings.protect_metrics else [], **schema.METRICS)
    async def metrics(request: Request) -> Response:
        if keys and settings.protect_metrics:
            keys.check(request.headers)
        text = await asyncio.get_running_loop().run_in_executor(None, scrape)
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    app.include_router(v2.router(settings, config, intake, status, keys))
    app.include_router(page.router(settings.model))

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
            if scope.get("method") != "HEAD":
                await app(scope, receive, send)
                return
            # As GET, of whose answer the connection leaves out the body (RFC 9110, section 9.3.2).
            get = {**scope, "method": "GET"}
            await app(get, receive, send)
            scope["route"] = get.get("route")
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

    inner: ASGIApp = straight
    if settings.cors_origins:
        inner = CORSMiddleware(
            straight,
            allow_origins=[origin.strip() for origin in settings.cors_origins.split(",")],
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["X-Request-ID", "Retry-After", HEADER],
        )
    observed = Observe(inner, counters, status, settings.access_log)
    return spans.around(observed) if spans else observed


def _response(request: Request, problem: Problem) -> Response:
    if v2.owns(request.scope["path"]):
        return v2.error(problem)
    return Response(
        problem.json(request.scope["request_id"]),
        problem.status,
        problem.headers,
        media_type=problems.MEDIA_TYPE,
    )
