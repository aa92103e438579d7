"""An end under load, and a rolling restart.

Sixteen connections ask without a pause when SIGTERM comes. Then two instances behind HAProxy are stopped and started
again, one after the other, while clients ask through it; HAProxy asks /readyz five times a second.
"""

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil
import uvloop

from loadtests.chaos.finding import Finding
from loadtests.client import Answer, Client, post
from loadtests.pictures import photo
from loadtests.running import RunningService, free_port, wait_until

CONNECTIONS = 16
GRACE = 2.0
HAPROXY = """
defaults
    mode http
    timeout connect 2s
    timeout client 30s
    timeout server 30s
frontend all
    bind 127.0.0.1:{port}
    default_backend instances
backend instances
    balance roundrobin
    option httpchk GET /readyz
    default-server check inter 200ms fall 1 rise 1
    server one 127.0.0.1:{one}
    server two 127.0.0.1:{two}
"""


def run(long: bool, cache: Path) -> list[Finding]:
    findings = [_stop(cache) for _ in range(5 if long else 1)]
    together = [row for rows in zip(*findings, strict=True) for row in [_worst(list(rows))]]
    if shutil.which("haproxy"):
        together.append(_rolling_restart(8 if long else 1, cache))
    return together


def _worst(same: list[Finding]) -> Finding:
    """Of the same finding, made several times."""
    return next((one for one in same if not one.held), same[-1])


def _stop(cache: Path) -> list[Finding]:
    request = post("/v1/predict", photo(224, 224, 75), Content_Type="image/jpeg")
    with (
        tempfile.TemporaryDirectory() as scratch,
        RunningService(
            workers=2, cache_dir=cache, shutdown_grace=GRACE, environment={**os.environ, "TMPDIR": scratch}
        ) as service,
    ):
        service.wait_compiled()
        family = psutil.Process(service.process.pid).children(recursive=True)
        answers, unready, last_accepted = uvloop.run(_load_and_stop(service, request))
        code = service.process.wait(60)
        left = list(Path(scratch).iterdir())
        orphans = [process for process in family if process.is_running()]
    lost = [answer for answer in answers if answer.status != 200]
    return [
        Finding("readiness fails after SIGTERM within", "0.5 s", f"{unready:.2f} s", unready < 0.5, True),
        Finding(
            "new connections are served to the end of the grace",
            f"{GRACE:g} s",
            f"{last_accepted:.2f} s",
            last_accepted >= GRACE - 0.2,
        ),
        Finding(
            "every request that was sent is answered",
            "200",
            f"{len(answers):,}, {len(lost)} not" if lost else f"{len(answers):,}, all 200",
            not lost,
        ),
        Finding(
            "nothing is left",
            "exit 0, no process, no file",
            f"exit {code}, {len(orphans)} processes, {len(left)} files",
            code == 0 and not orphans and not left,
        ),
    ]


async def _load_and_stop(service: RunningService, request: bytes) -> tuple[list[Answer], float, float]:
    """All answers; seconds after the signal of the first failing readiness and of the last connection accepted."""
    going = True
    client = Client("127.0.0.1", service.port)
    load = asyncio.create_task(client.closed_loop(request, CONNECTIONS, lambda: going))
    await asyncio.sleep(1.0)
    service.process.send_signal(signal.SIGTERM)
    signalled = time.monotonic()
    unready = last = 0.0
    while time.monotonic() < signalled + GRACE + 10:
        prober = Client("127.0.0.1", service.port)  # a new connection each time
        probe = await prober.ask(b"GET /readyz HTTP/1.1\r\nHost: load\r\n\r\n", time.monotonic(), 0.0)
        now = time.monotonic() - signalled
        if probe.status == 0:
            break
        if probe.status == 503 and not unready:
            unready = now
        last = now
        if now > GRACE - 0.1:  # those who ask on are told to go elsewhere, as they are by a balancer
            going = False
        await asyncio.sleep(0.02)
    going = False
    return await load, unready, last


def _rolling_restart(restarts: int, cache: Path) -> Finding:
    """Of one instance, then the other, then the first again."""
    request = post("/v1/predict", photo(224, 224, 75), Content_Type="image/jpeg")
    ports = [free_port() for _ in range(3)]
    settings = {"workers": 1, "cache_dir": cache, "shutdown_grace": GRACE}
    with tempfile.TemporaryDirectory() as folder:
        configuration = Path(folder, "haproxy.cfg")
        configuration.write_text(HAPROXY.format(port=ports[0], one=ports[1], two=ports[2]))
        instances = [RunningService(port=port, **settings).__enter__() for port in ports[1:]]
        balancer = subprocess.Popen(["haproxy", "-db", "-f", str(configuration)], stderr=subprocess.DEVNULL)
        try:
            answers = uvloop.run(_load_and_restart(restarts, request, ports, instances, settings))
        finally:
            balancer.terminate()
            balancer.wait()
            for instance in instances:
                instance.process.send_signal(signal.SIGINT)  # nobody asks any more: without the grace
            for instance in instances:
                instance.process.wait(60)
    statuses = Counter(answer.status for answer in answers)
    return Finding(
        f"{restarts} restarts of two instances behind HAProxy under load: failed requests",
        "0",
        f"{len(answers) - statuses[200]} of {len(answers):,}"
        + "".join(f", {count} x {status}" for status, count in statuses.items() if status != 200),
        set(statuses) == {200},
    )


async def _load_and_restart(
    restarts: int, request: bytes, ports: list[int], instances: list[RunningService], settings: dict
) -> list[Answer]:
    going = True
    client = Client("127.0.0.1", ports[0])
    loop = asyncio.get_running_loop()

    async def ready() -> None:
        while (await client.ask(b"GET /readyz HTTP/1.1\r\nHost: load\r\n\r\n", time.monotonic(), 0.0)).status != 200:
            await asyncio.sleep(0.05)

    await asyncio.wait_for(ready(), 30)
    load = asyncio.create_task(client.closed_loop(request, CONNECTIONS, lambda: going))
    try:
        for number in range(restarts):
            index = number % 2
            await asyncio.sleep(1.0)
            await loop.run_in_executor(None, instances[index].stop)
            instances[index] = RunningService(port=ports[1 + index], **settings)
            await loop.run_in_executor(None, instances[index].__enter__)
            await loop.run_in_executor(
                None, wait_until, lambda here=instances[index]: here.get("/readyz")[0] == 200, 60, "it is ready"
            )
        await asyncio.sleep(1.0)
    finally:
        going = False
    return await load
