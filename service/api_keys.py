"""Who may ask for predictions: keys from a mounted file, read again when it changes."""

import hashlib
import hmac
import logging
import time
from pathlib import Path

from starlette.datastructures import Headers

from service import problems

log = logging.getLogger(__name__)

HEADER, BEARER = "x-api-key", "bearer"  # RFC 6750, section 2.1; the scheme's case does not matter
LOOK_SECONDS = 1.0  # how soon a changed file is noticed


class ApiKeysError(Exception):
    """A file of keys that cannot be used; the message says what to do."""


class ApiKeys:
    """The keys of a file, one a line; blank lines and lines that begin with # are passed over.

    Kubernetes replaces a mounted secret as a whole, so that the file is looked at again about every
    second. One that has become unreadable or empty is logged, and the last keys that were read here stay: none
    in a worker that was started afterwards.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._version, self._digests = (0, 0, 0), list[bytes]()
        self._look_again()

    def check(self, headers: Headers) -> None:
        """Raise Problem 401 unless `Authorization: Bearer KEY` or `X-API-Key: KEY` bears a key."""
        if time.monotonic() >= self._look_at:
            self._look_again()
        scheme, *key = headers.get("authorization", "").split(maxsplit=1) or [""]
        given = [text.strip() for text in (headers.get(HEADER, ""), *key * (scheme.lower() == BEARER)) if text]
        if not given:
            raise problems.unauthorized("send a key as Authorization: Bearer KEY, or as X-API-Key: KEY")
        digests = map(_digest, given)
        # Of equal length, and every one compared: the time taken tells nothing about the keys.
        if not sum(hmac.compare_digest(digest, known) for digest in digests for known in self._digests):
            raise problems.unauthorized("the key is not one of this service's")

    def _look_again(self) -> None:
        self._look_at = time.monotonic() + LOOK_SECONDS
        try:
            if _version(self._path) != self._version:
                self._version, self._digests = read(self._path)
                log.info("read %d API keys from %s", len(self._digests), self._path)
        except (OSError, ApiKeysError) as error:
            log.error("the API keys stay as they were: %s", error)


def read(path: Path) -> tuple[tuple[int, int, int], list[bytes]]:
    """Which file it was, and the digests of its keys. Raises ApiKeysError."""
    try:
        version = _version(path)
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ApiKeysError(f"cannot read the API keys in {path}: {error}") from error
    numbered = enumerate((line.strip() for line in lines), 1)
    keys = {number: line for number, line in numbered if line and not line.startswith("#")}
    for number, key in keys.items():
        if not (key.isascii() and key.isprintable()):
            raise ApiKeysError(f"line {number} of {path} is no key: only printable ASCII characters can be sent as one")
    if not keys:
        raise ApiKeysError(f"{path} has no API key; write one a line, such as openssl rand -hex 32 prints")
    return version, [_digest(key) for key in keys.values()]


def _version(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_mtime_ns, status.st_size


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
