"""What OpenAPI says of the routes: bodies, answers, errors and examples. Nothing here runs on a request."""

from typing import Any

from fastapi import Security
from fastapi.security import APIKeyHeader, HTTPBearer
from pydantic import BaseModel, Field

from service.api_keys import HEADER as KEY_HEADER
from service.bodies import RAW_TYPES, JsonImages
from service.problems import MEDIA_TYPE


class Prediction(BaseModel):
    """One class of the ranking."""

    index: int
    label: str
    score: float = Field(description="softmax, 0 to 1")


class ProblemDetails(BaseModel):
    """RFC 9457 problem object."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str


class Timing(BaseModel):
    """Where the time of the request went; of several images the longest wait and the largest batch."""

    decode_ms: float
    queue_ms: float
    infer_ms: float
    batch_size: int


class Answer(BaseModel):
    """`predictions` has one entry an image, in order: its ranking, or its problem if it alone was bad."""

    model: str
    request_id: str
    predictions: list[list[Prediction] | ProblemDetails]
    timing: Timing


class BlockMap(BaseModel):
    """A Coordinate Attention block: means over channels of its gates, 0 to 1."""

    name: str
    a_h: list[float] = Field(description="of rows")
    a_w: list[float] = Field(description="of columns")
    map: list[list[float]] = Field(description="of the products of both, rows of columns")


class Explanation(BaseModel):
    """Where the network looked in one image."""

    method: str
    target: Prediction
    blocks: list[BlockMap] = Field(description="from first to last; none with gradcam")
    map: list[list[float]] = Field(description="of the image as the network sees it, rows of columns, 0 to 1")


class Explanations(BaseModel):
    """`explanations` has one entry an image, in order, or its problem if it alone was bad."""

    model: str
    request_id: str
    explanations: list[Explanation | ProblemDetails]


class Card(BaseModel):
    """What is served, where, and how fast."""

    name: str
    description: str
    network: str
    input_size: int
    preprocessing: dict[str, Any]
    labels: list[str]
    parameters: int | None = None
    multiply_adds: int | None = None
    weights_sha256: str | None = None
    device: str | None = None
    dtype: str | None = None
    threads: int | None = None
    form: str | None = Field(None, description="eager, aot or jit; null before the first is ready")
    compile: dict[str, str] | None = None
    batch_cap: int | None = None
    images_per_second: dict[str, float] = Field({}, description="measured at start-up, by batch size")


class Cards(BaseModel):
    models: list[Card]


class Health(BaseModel):
    alive: bool
    reason: str | None = None


class Readiness(BaseModel):
    ready: bool
    reason: str | None = None
    form: str | None = None


_BINARY = {"schema": {"type": "string", "format": "binary"}}


def _problem(text: str, retry: bool = False) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "description": text,
        "content": {MEDIA_TYPE: {"schema": ProblemDetails.model_json_schema()}},
    }
    if retry:
        answer["headers"] = {"Retry-After": {"description": "seconds", "schema": {"type": "integer"}}}
    return answer


# What FastAPI states of a route that needs a key; the check itself is ApiKeys.check.
KEYS = [Security(HTTPBearer(auto_error=False)), Security(APIKeyHeader(name=KEY_HEADER, auto_error=False))]

PREDICT: dict[str, Any] = {
    "summary": "Classify one or more images",
    "responses": {
        200: {"model": Answer, "description": "The rankings"},
        400: _problem("Body or image malformed"),
        401: _problem("No key, or a wrong one, where the service asks for keys"),
        413: _problem("Too many bytes or pixels"),
        415: _problem("Not an image or content type that is read"),
        422: _problem("A parameter out of range"),
        429: _problem("The queue is full", retry=True),
        500: _problem("The network failed"),
        503: _problem("Not ready", retry=True),
        504: _problem("The deadline passed"),
    },
    "openapi_extra": {
        "parameters": [
            {
                "name": "top_k",
                "in": "query",
                "description": "how many classes of each ranking; all if there are fewer",
                "schema": {"type": "integer", "minimum": 1, "default": 5},
            },
            {
                "name": "X-Request-Timeout",
                "in": "header",
                "description": "seconds until the answer is 504",
                "schema": {"type": "number", "exclusiveMinimum": 0, "maximum": 3600},
            },
            {"name": "X-Request-ID", "in": "header", "schema": {"type": "string", "maxLength": 128}},
        ],
        "requestBody": {
            "required": True,
            "content": {
                **dict.fromkeys(RAW_TYPES, _BINARY),
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "required": ["image"],
                        "properties": {"image": {"type": "array", "items": _BINARY["schema"]}},
                    }
                },
                "application/json": {"schema": JsonImages.model_json_schema()},
            },
        },
    },
}
EXPLAIN: dict[str, Any] = {
    "summary": "Show where the network looked in one or more images",
    "responses": {
        **PREDICT["responses"],
        200: {
            "model": Explanations,
            "description": "A map of each image; or, by `Accept: image/png`, one image with its map over it",
            "content": {"image/png": _BINARY},
        },
    },
    "openapi_extra": {
        "parameters": [
            {
                "name": "method",
                "in": "query",
                "description": "the gates of Coordinate Attention (the default, where the network has it), or Grad-CAM",
                "schema": {"type": "string", "enum": ["coordatt", "gradcam"]},
            },
            {
                "name": "target",
                "in": "query",
                "description": "label or index of the class that Grad-CAM explains; the best one if left out",
                "schema": {"type": "string"},
            },
            *PREDICT["openapi_extra"]["parameters"][1:],
        ],
        "requestBody": PREDICT["openapi_extra"]["requestBody"],
    },
}
MODELS: dict[str, Any] = {"summary": "The models served", "response_model": Cards}
MODEL: dict[str, Any] = {
    "summary": "One model's card",
    "response_model": Card,
    "responses": {404: _problem("No such model")},
}
HEALTH: dict[str, Any] = {
    "summary": "Liveness",
    "response_model": Health,
    "responses": {503: {"model": Health, "description": "Only a restart may help"}},
}
READY: dict[str, Any] = {
    "summary": "Readiness",
    "response_model": Readiness,
    "responses": {503: {"model": Readiness, "description": "Not ready, and why"}},
}
METRICS: dict[str, Any] = {
    "summary": "Prometheus metrics",
    "responses": {200: {"content": {"text/plain": {}}, "description": "The Prometheus text format"}},
}
