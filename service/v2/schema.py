"""What OpenAPI says of the routes under /v2. Nothing here runs on a request."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from service.openapi import BINARY, content
from service.schema import EXAMPLE_PICTURE, SERVING_HEADERS
from service.v2.protocol import HEADER


class Error(BaseModel):
    """Why a request failed."""

    error: str


class Server(BaseModel):
    name: str
    version: str
    extensions: list[str]


class Live(BaseModel):
    live: bool


class Ready(BaseModel):
    ready: bool


class ModelReady(BaseModel):
    name: str
    ready: bool


class TensorMetadata(BaseModel):
    name: str
    datatype: str
    shape: list[int] = Field(description="-1: any length")


class ModelMetadata(BaseModel):
    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class Input(BaseModel):
    """BYTES [n]: encoded pictures, in JSON as base64 or data: URIs. UINT8 [n, height, width, 3]: RGB pixels.

    In the binary tensor extension `parameters.binary_data_size` stands in place of `data`.
    """

    name: Literal["image"]
    datatype: Literal["BYTES", "UINT8"]
    shape: list[Annotated[int, Field(ge=0)]]
    data: list[Any]


class OutputParameters(BaseModel):
    binary_data: bool | None = None
    classification: int | None = Field(None, ge=1, description="give the best so many as `<value>:<index>:<label>`")


class RequestedOutput(BaseModel):
    name: Literal["scores", "attention"]
    parameters: OutputParameters | None = None


class InferParameters(BaseModel):
    binary_data_output: bool | None = None
    priority: int | None = Field(None, ge=0)
    timeout: int | None = Field(None, ge=0, description="microseconds; 0 for the service's own")


class InferRequest(BaseModel):
    id: str | None = None
    parameters: InferParameters | None = None
    inputs: list[Input] = Field(min_length=1, max_length=1)
    outputs: list[RequestedOutput] | None = None


class Output(BaseModel):
    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] | None = None
    data: list[Any] | None = None


class InferResponse(BaseModel):
    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[Output]


def _errors(*statuses: int) -> dict[int | str, Any]:
    texts = {
        400: "The request is wrong",
        401: "No key, or a wrong one, where the service asks for keys",
        404: "No such model or version",
        500: "The network failed",
        503: "Not ready, or no room",
        504: "The deadline passed",
    }
    return {status: {"model": Error, "description": texts[status]} for status in statuses}


# Those that only the hand-written body below refers to.
MODELS_OF_BODIES = (InferRequest,)

EXAMPLE_REQUEST = {
    "id": "1",
    "inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": [EXAMPLE_PICTURE]}],
    "outputs": [{"name": "scores", "parameters": {"classification": 2}}],
}
EXAMPLE_RESPONSE = {
    "model_name": "digits",
    "model_version": "1",
    "id": "1",
    "outputs": [
        {"name": "scores", "datatype": "BYTES", "shape": [1, 2], "data": ["0.944983:7:seven", "0.013774:1:one"]}
    ],
}

SERVER: dict[str, Any] = {"summary": "Server metadata", "response_model": Server}
LIVE: dict[str, Any] = {"summary": "Server liveness", "response_model": Live, "responses": {503: {"model": Live}}}
READY: dict[str, Any] = {"summary": "Server readiness", "response_model": Ready, "responses": {503: {"model": Ready}}}
MODEL: dict[str, Any] = {"summary": "Model metadata", "response_model": ModelMetadata, "responses": _errors(404)}
MODEL_READY: dict[str, Any] = {
    "summary": "Model readiness",
    "response_model": ModelReady,
    "responses": {**_errors(404), 503: {"model": ModelReady}},
}
INFER: dict[str, Any] = {
    "summary": "Classify one or more images",
    "response_model": InferResponse,
    "responses": {
        200: {
            "description": "The outputs, in JSON or behind it",
            "headers": {HEADER: {"description": "bytes of the JSON, if tensors follow", "schema": {"type": "integer"}}},
            "content": {"application/json": {"example": EXAMPLE_RESPONSE}, "application/octet-stream": BINARY},
        },
        **_errors(400, 401, 404, 500, 503, 504),
    },
    "openapi_extra": {
        "parameters": [
            {
                "name": HEADER,
                "in": "header",
                "description": "bytes of the JSON before the tensors; 0 for a body that is one encoded picture",
                "schema": {"type": "integer", "minimum": 0},
            },
            *SERVING_HEADERS,
        ],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": content(InferRequest, EXAMPLE_REQUEST),
                "application/octet-stream": BINARY,
            },
        },
    },
}
