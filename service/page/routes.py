"""The page's files, and the model directory's example pictures, over HTTP."""

from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from starlette.staticfiles import StaticFiles

FILES = Path(__file__).parent / "static"
EXAMPLES = "examples"  # pictures beside config.json that the page offers
EXAMPLE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")

# Nothing from elsewhere, nothing inline; blob: is the picture that was chosen.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # asked again each time, answered 304 from the ETag: a new version is seen at once
}


class _Files(StaticFiles):
    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers.update(HEADERS)
        return response


def router(model: Path) -> APIRouter:
    """The page for the model in a directory."""
    routes = APIRouter(include_in_schema=False)
    files, pictures = _Files(directory=FILES), _Files(directory=model / EXAMPLES, check_dir=False)
    methods = ["GET", "HEAD"]

    @routes.api_route("/", methods=methods)
    async def page(request: Request) -> Response:
        return await files.get_response("index.html", request.scope)

    @routes.api_route("/page/examples", methods=methods)
    async def examples() -> Response:
        return JSONResponse(example_names(model))

    @routes.api_route("/page/examples/{path:path}", methods=methods)
    async def example(request: Request, path: str) -> Response:
        return await pictures.get_response(path, request.scope)

    @routes.api_route("/page/{path:path}", methods=methods)
    async def file(request: Request, path: str) -> Response:
        return await files.get_response(path, request.scope)

    return routes


def example_names(model: Path) -> list[str]:
    """The pictures in the model directory's examples/, sorted; none if there is no such folder."""
    folder = model / EXAMPLES
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if path.suffix.lower() in EXAMPLE_SUFFIXES)
