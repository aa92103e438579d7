"""Has pictures classified by a running server, some at a time, and comes again when it is full."""

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

from service.cli.common import CommandError
from service.cli.predicting import Result

ATTEMPTS = 10
LONGEST_WAIT_SECONDS = 30.0
TIMEOUT_SECONDS = 60.0


class Server:
    """A server at a URL."""

    CONCURRENT = 32

    def __init__(self, url: str, key: str | None, top_k: int) -> None:
        """Raises CommandError for what is no HTTP address, or no key."""
        try:
            parts = urlsplit(url)
        except ValueError:
            parts = urlsplit("")
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise CommandError(f"--url {url!r} is not an address such as http://127.0.0.1:8000")
        if key and not (key.isascii() and key.isprintable()):
            raise CommandError("COORDSERVE_API_KEY holds characters that no header can bear")
        self._url = f"{url.rstrip('/')}/v1/predict?top_k={top_k}"
        self._headers = {"Content-Type": "application/octet-stream"} | ({"X-API-Key": key} if key else {})
        self._threads = ThreadPoolExecutor(self.CONCURRENT)

    def classify(self, pictures: list[tuple[str, bytes]]) -> Iterator[Result]:
        """The result of each picture, in order."""
        return self._threads.map(self._ask, pictures)

    def _ask(self, picture: tuple[str, bytes]) -> Result:
        name, data = picture
        for attempt in range(1, ATTEMPTS + 1):
            try:
                request = urllib.request.Request(self._url, data, self._headers)
                with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:  # nosec B310 # the caller's own --url
                    return Result(name, json.load(answer)["predictions"][0])
            except urllib.error.HTTPError as error:
                if error.code not in (429, 503) or attempt == ATTEMPTS:
                    return Result(name, error=_reason(error))
                time.sleep(_retry_after(error))
            except (OSError, http.client.HTTPException) as error:
                reason = getattr(error, "reason", error)
                if isinstance(reason, BrokenPipeError | ConnectionResetError):
                    reason = "it took no more of the picture, which may be larger than it allows"
                return Result(name, error=f"no answer from {self._url}: {reason}")
            except (ValueError, LookupError, TypeError):
                return Result(name, error=f"{self._url} is no coordserve: its answer has no predictions")
        raise AssertionError("the last attempt returns")


def _retry_after(error: urllib.error.HTTPError) -> float:
    text = error.headers.get("Retry-After") or ""
    return min(LONGEST_WAIT_SECONDS, float(text)) if text.isdecimal() else 1.0


def _reason(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["detail"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {error.code} {error.reason}"
