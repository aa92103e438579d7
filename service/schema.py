"""What OpenAPI says of the routes: bodies, answers, errors and examples. Nothing here runs on a request."""

from typing import Any

from fastapi import Security
from fastapi.responses import PlainTextResponse
from fastapi.security import APIKeyHeader, HTTPBearer
from pydantic import BaseModel, Field

from service.api_keys import HEADER as KEY_HEADER
from service.bodies import RAW_TYPES, JsonImages
from service.observe import REQUEST_ID
from service.openapi import BINARY, content
from service.parameters import MAX_TIMEOUT_SECONDS
from service.problems import MEDIA_TYPE, TYPE_PREFIX


class Prediction(BaseModel):
    """One class of the ranking."""

    index: int
    label: str
    score: float = Field(description="softmax, 0 to 1")


class ProblemDetails(BaseModel):
    """RFC 9457 problem object."""

    type: str = Field(description="a stable name of this kind of problem")
    title: str
    status: int
    detail: str = Field(description="what was wrong, and what to do")
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
    decode: str | None = Field(None, description="where baseline JPEGs are decoded: cpu or gpu")
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


class Form(BaseModel):
    """Pictures as an HTML form sends them; parts of other names are passed over."""

    image: list[bytes] = Field(min_length=1)


# Those that only the hand-written bodies below refer to.
MODELS_OF_BODIES = (Form, JsonImages, ProblemDetails)

# A seven, 32x32 pixels.
EXAMPLE_PICTURE = (
    "iVBORw0KGgoAAAANSUhEUgAAACAAAAAgAQAAAABbAUdZAAAAPklEQVR42mP8z8DAwMSAk2hkYmBiYPgP4TL8///xP0z2E1zdE1RtJ+CK5f8j"
    "S/xXgLH+OcCU/PgPUcKIyxkA8GcTs6PM8TQAAAAASUVORK5CYII="
)
EXAMPLE_ID = "cda99d8efd5f9a660c39f9fb748c8168"
EXAMPLE_ANSWER = {
    "model": "digits",
    "request_id": EXAMPLE_ID,
    "predictions": [
        [{"index": 7, "label": "seven", "score": 0.944983}, {"index": 1, "label": "one", "score": 0.0137742}]
    ],
    "timing": {"decode_ms": 0.636, "queue_ms": 0.23, "infer_ms": 4.477, "batch_size": 1},
}
EXAMPLE_EXPLANATION = {
    "model": "digits",
    "request_id": EXAMPLE_ID,
    "explanations": [
        {
            "method": "coordatt",
            "target": {"index": 7, "label": "seven", "score": 0.944983},
            "blocks": [
                {"name": "features.2", "a_h": [0.48, 0.51], "a_w": [0.5, 0.53], "map": [[0.24, 0.25], [0.26, 0.27]]}
            ],
            "map": [[0, 0.251], [0.502, 1]],
        }
    ],
}


def _problem(status: int, type_: str, title: str, detail: str, retry: bool = False) -> dict[int | str, Any]:
    example = {"type": TYPE_PREFIX + type_, "title": title, "status": status, "detail": detail}
    answer: dict[str, Any] = {
        "description": title,
        "content": {MEDIA_TYPE: content(ProblemDetails, {**example, "request_id": EXAMPLE_ID})},
    }
    if retry:
        answer["headers"] = {"Retry-After": {"description": "seconds", "schema": {"type": "integer"}}}
    return {status: answer}


# What FastAPI states of a route that needs a key; the check itself is ApiKeys.check.
KEYS = [Security(HTTPBearer(auto_error=False)), Security(APIKeyHeader(name=KEY_HEADER, auto_error=False))]

UNAUTHORIZED = _problem(401, "unauthorized", "A key is needed", "the key is not one of this service's")
UNAUTHORIZED[401]["headers"] = {"WWW-Authenticate": {"description": "RFC 6750", "schema": {"type": "string"}}}
ERRORS = {
    **_problem(400, "malformed-image", "The image or the request is broken", "broken JPEG image: it ends too soon"),
    **UNAUTHORIZED,
    **_problem(408, "body-too-slow", "The request body did not come in time", "the deadline passed while it was …"),
    **_problem(413, "body-too-large", "Too many bytes or pixels", "a body may have at most 16,777,216 bytes"),
    **_problem(
        415, "unsupported-image", "Not an image or content type that is read", "this is no JPEG, PNG or WebP image"
    ),
    **_problem(422, "out-of-range", "A parameter is out of range", "top_k is '0'; it must be a whole number from 1"),
    **_problem(429, "queue-full", "The queue is full", "as many images as … are waiting; try again in 1 s", retry=True),
    **_problem(500, "inference-failed", "The network failed on this image", "it returned NaN or infinity"),
    **_problem(503, "not-ready", "The service cannot answer now", "starting; try again in 1 s", retry=True),
    **_problem(504, "deadline-exceeded", "The deadline passed", "no answer before the deadline; …"),
}
PREDICTING, OPERATING = "Predicting", "Operating"
SERVING_HEADERS: list[dict[str, Any]] = [
    {
        "name": "X-Request-Timeout",
        "in": "header",
        "description": "seconds until the answer is 504",
        "schema": {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_TIMEOUT_SECONDS, "examples": [2.5]},
    },
    {
        "name": "Priority",
        "in": "header",
        "description": "RFC 9218: `u=0` is served first, `u=3` is the default, `u=4` to `u=7` are background work",
        "schema": {"type": "string", "examples": ["u=5"]},
    },
    {
        "name": "X-Request-ID",
        "in": "header",
        "description": "names the request in its answer and in the log, if it is all of "
        f"`{REQUEST_ID.pattern.decode()}`; any other is replaced",
        "schema": {"type": "string", "examples": [EXAMPLE_ID]},
    },
]
PICTURES: dict[str, Any] = {
    "required": True,
    "description": "one picture as it is, several as a form, or JSON; JPEG, PNG or WebP, whatever the type says",
    "content": {
        **dict.fromkeys(sorted(RAW_TYPES), BINARY),
        "multipart/form-data": content(Form),
        "application/json": content(JsonImages, {"images": [EXAMPLE_PICTURE]}),
    },
}
PREDICT: dict[str, Any] = {
    "summary": "Classify one or more images",
    "tags": [PREDICTING],
    "responses": {
        200: {
            "model": Answer,
            "description": "The rankings",
            "content": {"application/json": {"example": EXAMPLE_ANSWER}},
        },
        **ERRORS,
    },
    "openapi_extra": {
        "parameters": [
            {
                "name": "top_k",
                "in": "query",
                "description": "how many classes of each ranking; all if there are fewer",
                "schema": {"type": "integer", "minimum": 1, "maximum": 999_999_999, "default": 5},
            },
            *SERVING_HEADERS,
        ],
        "requestBody": PICTURES,
    },
}
EXPLAIN: dict[str, Any] = {
    "summary": "Show where the network looked in one or more images",
    "tags": [PREDICTING],
    "responses": {
        200: {
            "model": Explanations,
            "description": "A map of each image; or, by `Accept: image/png`, one image with its map over it",
            "content": {"application/json": {"example": EXAMPLE_EXPLANATION}, "image/png": BINARY},
        },
        **ERRORS,
    },
    "openapi_extra": {
        "parameters": [
            {
                "name": "method",
                "in": "query",
                "description": "the gates of Coordinate Attention (the default where the network has it and nothing is "
                "targeted), or Grad-CAM",
                "schema": {"type": "string", "enum": ["coordatt", "gradcam"]},
            },
            {
                "name": "target",
                "in": "query",
                "description": "label or index of the class to explain, by Grad-CAM; the best one if left out",
                "schema": {"type": "string", "minLength": 1, "examples": ["0"]},
            },
            *SERVING_HEADERS,
        ],
        "requestBody": PICTURES,
    },
}
MODELS: dict[str, Any] = {"summary": "The models served", "tags": [PREDICTING], "response_model": Cards}
MODEL: dict[str, Any] = {
    "summary": "One model's card",
    "tags": [PREDICTING],
    "response_model": Card,
    "responses": _problem(404, "http-404", "No such model", "no model 'cats'; this service has 'digits'"),
}
HEALTH: dict[str, Any] = {
    "summary": "Liveness",
    "tags": [OPERATING],
    "response_model": Health,
    "responses": {503: {"model": Health, "description": "Only a restart may help"}},
}
READY: dict[str, Any] = {
    "summary": "Readiness",
    "tags": [OPERATING],
    "response_model": Readiness,
    "responses": {503: {"model": Readiness, "description": "Not ready, and why"}},
}
METRICS: dict[str, Any] = {
    "summary": "Prometheus metrics",
    "tags": [OPERATING],
    "response_class": PlainTextResponse,
    "responses": {
        200: {
            "description": "The Prometheus text format",
            "content": {
                "text/plain": {"example": 'coordserve_http_requests_total{code="200",route="/v1/predict"} 9.0'}
            },
        },
        **UNAUTHORIZED,
    },
}
