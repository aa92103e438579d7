"""A server between the load and the service that gets something wrong on purpose."""

import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Sent:
    """What goes one way: to the service, or back."""

    status: int
    headers: dict[str, str]
    body: bytes


Forward = Callable[[bytes | None], Sent]
"""Asks the service the same with this body."""


@contextmanager
def between(
    url: str,
    answer: Callable[[str, bytes, Forward], Sent],
    get: Callable[[Forward], Sent] = lambda forward: forward(None),
) -> Iterator[str]:
    """The address of a server that answers every POST by `answer(path, body, forward)`, and every GET by `get`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._send(get(self._forward))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self._send(answer(self.path, body, self._forward))

        def log_message(self, *_: object) -> None:
            pass

        def _forward(self, body: bytes | None) -> Sent:
            headers = {name: value for name, value in self.headers.items() if name not in ("Host", "Content-Length")}
            request = urllib.request.Request(url + self.path, body, headers)
            try:
                with urllib.request.urlopen(request) as found:
                    return Sent(found.status, dict(found.headers), found.read())
            except urllib.error.HTTPError as error:
                return Sent(error.code, dict(error.headers), error.read())

        def _send(self, sent: Sent) -> None:
            self.send_response(sent.status)
            for name, value in sent.headers.items():
                if name.lower() not in ("content-length", "date", "server", "connection"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(sent.body)))
            self.end_headers()
            self.wfile.write(sent.body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
