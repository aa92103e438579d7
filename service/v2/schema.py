"""What OpenAPI says of the routes under /v2. Nothing here runs on a request."""

from typing import Any

from pydantic import BaseModel, Field

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


class InputParameters(BaseModel):
    binary_data_size: int | None = Field(
        None, ge=0, description="bytes of the tensor behind the JSON, in place of data"
    )


class Input(BaseModel):
    """BYTES [n]: encoded pictures, in JSON as base64 or data: URIs. UINT8 [n, height, width, 3]: RGB pixels."""

    name: str = Field(pattern="^image$")
    datatype: str = Field(pattern="^(BYTES|UINT8)$")
    shape: list[int]
    parameters: InputParameters | None = None
    data: list[Any] | None = None


class OutputParameters(BaseModel):
    binary_data: bool | None = None
    classification: int | None = Field(None, ge=1, description="give the best so many as `<value>:<index>:<label>`")


class RequestedOutput(BaseModel):
    name: str = Field(pattern="^(scores|attention)$")
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


def _inlined(model: type[BaseModel]) -> dict[str, Any]:
    """The model's JSON schema with nothing to look up elsewhere."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})

    def resolve(part: Any) -> Any:
        if isinstance(part, dict):
            if "$ref" in part:
                return resolve(definitions[part["$ref"].rpartition("/")[2]])
            return {key: resolve(value) for key, value in part.items()}
        return [resolve(value) for value in part] if isinstance(part, list) else part

    return resolve(schema)


_BINARY = {"schema": {"type": "string", "format": "binary"}}

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
            "content": {"application/octet-stream": _BINARY},
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
            }
        ],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": _inlined(InferRequest)},
                "application/octet-stream": _BINARY,
            },
        },
    },
}
