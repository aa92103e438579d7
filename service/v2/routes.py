"""The routes under /v2, and what they say when they fail."""

import time
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, Path, Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute

from models.config import ModelConfig
from service import __version__, problems
from service.api_keys import ApiKeys
from service.explain import usual_question
from service.intake import Intake
from service.parameters import asked
from service.problems import Problem
from service.schema import KEYS
from service.settings import Settings
from service.slots import ServiceStatus
from service.v2 import protocol, schema

PREFIX = "/v2"
VERSION = "1"
PLATFORM = "pytorch"
EXTENSIONS = ["binary_tensor_data", "classification", "schedule_policy"]
MODEL, VERSIONED = "/models/{name}", "/models/{name}/versions/{version}"


def router(
    settings: Settings, config: ModelConfig, intake: Intake, status: ServiceStatus, keys: ApiKeys | None
) -> APIRouter:
    """The protocol's routes for the one model served."""
    routes = APIRouter(prefix=PREFIX, tags=["Open Inference Protocol v2"], generate_unique_id_function=_operation_id)

    security = KEYS if keys else []
    size = config.preprocessing.input_size
    usual = usual_question(config)

    async def check_name(name: Annotated[str, Path(examples=[config.name])]) -> None:
        if name != config.name:
            raise problems.from_http_status(404, f"no model {name!r}; this service has {config.name!r}")

    async def check_version(version: Annotated[str, Path(examples=[VERSION])]) -> None:
        if version != VERSION:
            raise problems.from_http_status(404, f"no version {version!r} of {config.name!r}; there is {VERSION!r}")

    named = [Depends(check_name)]
    versioned = [*named, Depends(check_version)]

    def serving() -> bool:
        return status.ready and not status.draining

    @routes.get("", **schema.SERVER)
    @routes.get("/", include_in_schema=False)
    async def server() -> Response:
        return JSONResponse({"name": "coordserve", "version": __version__, "extensions": EXTENSIONS})

    @routes.get("/health/live", **schema.LIVE)
    async def live() -> Response:
        return JSONResponse({"live": not status.failed}, 503 if status.failed else 200)

    @routes.get("/health/ready", **schema.READY)
    async def ready() -> Response:
        return JSONResponse({"ready": serving()}, 200 if serving() else 503)

    @routes.get(MODEL, dependencies=named, **schema.MODEL)
    @routes.get(VERSIONED, dependencies=versioned, **schema.MODEL)
    async def model() -> Response:
        tensors = {
            "inputs": [{"name": protocol.INPUT, "datatype": "BYTES", "shape": [-1]}],
            "outputs": [
                {"name": protocol.SCORES, "datatype": "FP32", "shape": [-1, config.num_classes]},
                {"name": protocol.ATTENTION, "datatype": "FP32", "shape": [-1, size, size]},
            ],
        }
        return JSONResponse({"name": config.name, "versions": [VERSION], "platform": PLATFORM, **tensors})

    @routes.get(f"{MODEL}/ready", dependencies=named, **schema.MODEL_READY)
    @routes.get(f"{VERSIONED}/ready", dependencies=versioned, **schema.MODEL_READY)
    async def model_ready() -> Response:
        return JSONResponse({"name": config.name, "ready": serving()}, 200 if serving() else 503)

    @routes.post(f"{MODEL}/infer", dependencies=[*named, *security], **schema.INFER)
    @routes.post(f"{VERSIONED}/infer", dependencies=[*versioned, *security], **schema.INFER)
    async def infer(request: Request) -> Response:
        how = asked(request, settings.request_timeout)
        if keys:
            keys.check(request.headers)
        with intake.reception(how.urgency) as reception:
            received = time.monotonic()
            body = await reception.read(request, how.deadline)
            found = protocol.parse(body, request.headers.get(protocol.HEADER))
            if len(found.images) > intake.max_images:
                raise protocol.ProtocolError(f"{len(found.images)} images in one request; at most {intake.max_images}")
            if found.timeout:
                how = replace(how, deadline=min(how.deadline, received + found.timeout))
            if found.urgency is not None:
                how = replace(how, urgency=found.urgency)
            explained = any(output.name == protocol.ATTENTION for output in found.outputs)
            async with intake.computed(found.images, how, question=usual if explained else None) as answer:
                indices = range(len(found.images))
                values = {protocol.SCORES: np.stack([answer.scores(index) for index in indices])}
                if explained:
                    maps = np.stack([answer.explanation(index).map for index in indices])
                    values[protocol.ATTENTION] = np.divide(maps, 255, dtype=np.float32)
        content, json_length = protocol.answer(config.name, VERSION, found, values, config.labels)
        if json_length is None:
            return Response(content, media_type="application/json")
        return Response(content, headers={protocol.HEADER: str(json_length)}, media_type="application/octet-stream")

    return routes


def _operation_id(route: APIRoute) -> str:
    return f"v2_{route.name}_version" if "{version}" in route.path else f"v2_{route.name}"


def owns(path: str) -> bool:
    """Whether errors on `path` are the protocol's."""
    return path == PREFIX or path.startswith(f"{PREFIX}/")


def error(problem: Problem) -> Response:
    """The protocol's error object; every status that says what the request was is 400 there."""
    body: dict[str, Any] = {"error": problem.body["detail"]}
    status = 503 if problem.status == 429 else problem.status  # no room: unavailable
    return JSONResponse(body, status if status in (401, 404, 405, 500, 501, 503, 504) else 400, problem.headers)
