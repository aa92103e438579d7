"""The files of the page, as any HTTP client sees them."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from loadtests.running import RunningService
from models.config import BUNDLED_MODEL
from service.page.routes import FILES, example_names


@pytest.fixture(scope="module")
def client(service: RunningService) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url) as client:
        yield client


@pytest.mark.parametrize("name", sorted(file.name for file in FILES.iterdir()))
def test_every_file_comes_whole_and_under_the_policy(client: httpx.Client, name: str):
    answer = client.get("/" if name == "index.html" else f"/page/{name}")

    assert answer.content == (FILES / name).read_bytes()
    assert answer.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-request-id"]


def test_a_file_that_a_browser_has_is_not_sent_again_and_head_sends_none(client: httpx.Client):
    first = client.get("/")

    again = client.get("/", headers={"If-None-Match": first.headers["etag"]})
    head = client.head("/")

    assert (again.status_code, again.content) == (304, b"")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(first.content))


def test_the_examples_are_pictures_of_the_model_directory(client: httpx.Client):
    names = client.get("/page/examples").json()

    assert names == sorted(path.name for path in (BUNDLED_MODEL / "examples").iterdir())
    for name in names:
        example = client.get(f"/page/examples/{name}").content
        answer = client.post("/v1/predict", content=example, headers={"Content-Type": "image/jpeg"})
        digit = int(name.removesuffix(Path(name).suffix)[-1])
        assert answer.json()["predictions"][0][0]["index"] == digit


def test_a_model_directory_without_examples_has_none(tmp_path: Path):
    assert example_names(tmp_path) == []


@pytest.mark.parametrize(
    "path", ["/page/nothing.js", "/page/examples/..%2fconfig.json", "/page/..%2froutes.py", "/page/%2e%2e/__init__.py"]
)
def test_nothing_beside_the_page_is_served(service: RunningService, path: str):
    status, body = service.get(path)

    assert status == 404
    assert b"urn:coordserve:problem:http-404" in body


def test_the_page_takes_no_posts(client: httpx.Client):
    answer = client.post("/")

    assert answer.status_code == 405
    assert answer.headers["content-type"] == "application/problem+json"
