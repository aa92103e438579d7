"""Runs in a pod of the cluster: predictions without end, until there is /tmp/stop; then what became of them, as JSON.

Half the clients open a connection for every request and never try again. The others keep theirs, and try once more on a
new one if a kept one was closed before an answer began, as every HTTP client does.
"""

import http.client
import json
import os
import threading
from pathlib import Path

SERVICE, PICTURE = os.environ["SERVICE"], Path("/opt/model/examples/pen-2.jpg").read_bytes()
CLIENTS = 4
counts = {"answered": 0, "tried again": 0}
failures: list[str] = []
lock = threading.Lock()


def ask(connection: http.client.HTTPConnection) -> None:
    connection.request("POST", "/v1/predict", PICTURE, {"Content-Type": "image/jpeg"})
    answer = connection.getresponse()
    body = answer.read()
    if answer.status != 200:
        raise ValueError(f"{answer.status} {body[:200]!r}")


def client(kept: bool) -> None:
    connection, used = http.client.HTTPConnection(SERVICE, timeout=20), False
    while not Path("/tmp/stop").exists():
        try:
            try:
                ask(connection)
            except (ConnectionError, http.client.RemoteDisconnected):
                if not (kept and used):
                    raise
                with lock:
                    counts["tried again"] += 1
                connection.close()
                ask(connection)
            used = kept
            with lock:
                counts["answered"] += 1
        except Exception as error:
            used = False
            with lock:
                failures.append(f"{type(error).__name__}: {error}")
        if not used:
            connection.close()


threads = [threading.Thread(target=client, args=(index % 2 == 1,)) for index in range(CLIENTS)]
for thread in threads:
    thread.start()
print("started", flush=True)
for thread in threads:
    thread.join()
print(json.dumps({**counts, "failed": len(failures), "failures": failures[:20]}))
