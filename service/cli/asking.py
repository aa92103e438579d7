"""Has pictures classified by a running server, some at a time, and comes again when it is full."""

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

from service.cli.common import CommandError
from service.cli.predicting import KEY_VARIABLE, Result

ATTEMPTS = 10
LONGEST_WAIT_SECONDS = 30.0
TIMEOUT_SECONDS = 60.0


class Server:
    """A server at a URL."""

    CONCURRENT = 32

    def __init__(self, url: str, key: str | None, top_k: int) -> None:
        """Raises CommandError for what is no HTTP address."""
        if not _is_address(url):
            raise CommandError(f"--url {url!r} is not an address such as http://127.0.0.1:8000")
        if key and not (key.isascii() and key.isprintable()):
            raise CommandError(f"{KEY_VARIABLE} has characters that no key has: only printable ASCII ones can be sent")
        self._url = f"{url.rstrip('/')}/v1/predict?top_k={top_k}"
        self._headers = {"Content-Type": "application/octet-stream"} | ({"X-API-Key": key} if key else {})
        self._opener = urllib.request.build_opener(_Http, _Https)
        self._threads = ThreadPoolExecutor(self.CONCURRENT)

    def classify(self, pictures: list[tuple[str, bytes]]) -> Iterator[Result]:
        """The result of each picture, in order."""
        return self._threads.map(self._ask, pictures)

    def _ask(self, picture: tuple[str, bytes]) -> Result:
        name, data = picture
        for attempt in range(1, ATTEMPTS + 1):
            try:
                request = urllib.request.Request(self._url, data, self._headers)
                with self._opener.open(request, timeout=TIMEOUT_SECONDS) as answer:
                    return Result(name, json.load(answer)["predictions"][0])
            except urllib.error.HTTPError as error:
                if error.code not in (429, 503) or attempt == ATTEMPTS:
                    return Result(name, error=_reason(error))
                time.sleep(_retry_after(error))
            except (BrokenPipeError, ConnectionResetError):
                reason = f"{len(data):,} bytes may be more than it takes"
                return Result(name, error=f"no answer from {self._url}, which closed the connection: {reason}")
            except (OSError, http.client.HTTPException) as error:
                return Result(name, error=f"no answer from {self._url}: {getattr(error, 'reason', error)}")
            except (ValueError, LookupError, TypeError):
                return Result(name, error=f"{self._url} is no coordserve: its answer has no predictions")
        raise AssertionError("the last attempt returns")


class _Listening(http.client.HTTPConnection):
    """Reads the answer to a body that the server did not take in full, such as 413."""

    def send(self, data: Any) -> None:
        try:
            super().send(data)
        except (BrokenPipeError, ConnectionResetError):
            if self.sock is None:  # nothing can have come
                raise


class _ListeningTls(_Listening, http.client.HTTPSConnection):
    pass


class _Http(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Listening, req)


class _Https(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_ListeningTls, req)


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of a host or a port
        return False


def _retry_after(error: urllib.error.HTTPError) -> float:
    text = error.headers.get("Retry-After") or ""
    return min(LONGEST_WAIT_SECONDS, float(text)) if text.isdecimal() else 1.0


def _reason(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["detail"])
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return f"HTTP {error.code} {error.reason}"
