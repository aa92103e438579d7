"""The OpenAPI document: FastAPI's, and what it cannot know of bodies that the routes read and write themselves."""

from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

COMPONENTS = "#/components/schemas/{model}"
BINARY = {"schema": {"type": "string", "format": "binary"}}
REQUEST_ID = {"description": "the request's own, or one made for it; in every answer", "schema": {"type": "string"}}


def content(model: type[BaseModel], example: Any = None) -> dict[str, Any]:
    """A body of a model that `describe` is told of."""
    schema = {"schema": {"$ref": COMPONENTS.format(model=model.__name__)}}
    return schema if example is None else {**schema, "example": example}


def describe(app: FastAPI, models: Iterable[type[BaseModel]]) -> None:
    """Have `app.openapi()` give the whole document; it is made when it is first asked for.

    models: those that hand-written `content` refers to.
    """

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _completed(FastAPI.openapi(app), models)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]  # as FastAPI's documentation extends it


def _completed(document: dict[str, Any], models: Iterable[type[BaseModel]]) -> dict[str, Any]:
    _, ours = models_json_schema([(model, "validation") for model in models], ref_template=COMPONENTS)
    components = document["components"]
    components["schemas"] = {**ours["$defs"], **components["schemas"]}
    components["headers"] = {"X-Request-ID": REQUEST_ID}
    for unused in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(unused, None)
    for path in document["paths"].values():
        for operation in path.values():
            responses = operation["responses"]
            if "HTTPValidationError" in str(responses.get("422")):  # FastAPI's own guess, never given
                del responses["422"]
            for response in responses.values():
                response.setdefault("headers", {})["X-Request-ID"] = {"$ref": "#/components/headers/X-Request-ID"}
    return document
