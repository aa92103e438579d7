"""Twice the load that it can carry.

A Poisson process of requests, in open loop, at twice the capacity that 64 connections in closed loop found before it;
probes go beside it ten times a second. What is too much must be refused at once, what is accepted answered in time.
"""

import asyncio
import tempfile
import time
from pathlib import Path

import uvloop

from loadtests.chaos.finding import Finding
from loadtests.client import Answer, Client, for_seconds, hurry, percentile, poisson, post
from loadtests.networks import compiled, imagenet_sized
from loadtests.pictures import photo
from loadtests.running import RunningService

CONNECTIONS = 64
PROBE_SECONDS = 0.1
PROBES = (b"GET /healthz HTTP/1.1\r\nHost: load\r\n\r\n", b"GET /readyz HTTP/1.1\r\nHost: load\r\n\r\n")
SOON = 0.05


def run(long: bool, cache: Path) -> list[Finding]:
    if not long:
        return _overload("bundled network", 2.0, cache)
    with tempfile.TemporaryDirectory() as folder:
        model = imagenet_sized(Path(folder))
        compiled(model, cache)
        return [
            *_overload("MobileNetV2+CA 1.0 at 224", 60.0, cache, model=model),
            *_overload("bundled network", 60.0, cache),
        ]


def _overload(name: str, seconds: float, cache: Path, **settings: object) -> list[Finding]:
    request = post("/v1/predict", photo(224, 224, 75), Content_Type="image/jpeg")
    with RunningService(workers=2, cache_dir=cache, **settings) as service:
        service.wait_compiled()
        card = service.card()
        batch_seconds = card["batch_cap"] / card["images_per_second"][str(card["batch_cap"])]
        with hurry():
            capacity, answers, probes = uvloop.run(_drive(service, request, seconds))
    accepted = [answer for answer in answers if answer.status == 200]
    refused = [answer for answer in answers if answer.status in (429, 503)]
    best = {answer.body.split(b'"index":')[1].split(b",")[0] for answer in accepted}
    rate = len(accepted) / max(answer.due + answer.seconds for answer in answers)
    bound = 512 / capacity + batch_seconds
    p99, latest = percentile((answer.seconds for answer in accepted), 99), max(one.seconds for one in refused)
    slowest = max(probe.seconds for probe in probes)
    return [
        Finding(
            f"{name}: {len(answers):,} requests in {seconds:g} s, capacity {capacity:.0f}/s: all are answered",
            "200, 429 or 503, with the same class",
            f"{len(accepted):,} accepted, {len(refused):,} refused, "
            f"{len(answers) - len(accepted) - len(refused)} else, {len(best)} class",
            len(accepted) + len(refused) == len(answers) and len(best) == 1,
        ),
        Finding(
            f"{name}: refused requests are told when to come again",
            "Retry-After in all",
            f"{sum(b'retry-after: ' in one.head for one in refused):,}",
            all(b"retry-after: " in one.head for one in refused),
        ),
        Finding(
            f"{name}: answered, of capacity", "at least 90 %", f"{rate / capacity:.0%}", rate > 0.9 * capacity, True
        ),
        Finding(
            f"{name}: refused within",
            "50 ms",
            f"p50 {percentile((one.seconds for one in refused), 50) * 1e3:.0f}, p99 "
            f"{percentile((one.seconds for one in refused), 99) * 1e3:.0f}, last {latest * 1e3:.0f} ms",
            latest < SOON,
            True,
        ),
        Finding(
            f"{name}: accepted within (p99)",
            f"{bound * 1e3:.0f} ms: the queue's bound over capacity, and a batch",
            f"{p99 * 1e3:.0f} ms",
            p99 < bound,
            True,
        ),
        Finding(f"{name}: probes within", "50 ms", f"{slowest * 1e3:.0f} ms, {len(probes)}", slowest < SOON, True),
        Finding(
            f"{name}: probes say that it is alive and ready",
            "200",
            ", ".join(map(str, sorted({probe.status for probe in probes}))),
            {probe.status for probe in probes} == {200},
        ),
    ]


async def _drive(service: RunningService, request: bytes, seconds: float) -> tuple[float, list[Answer], list[Answer]]:
    """Capacity in requests/s, and the answers at twice that, and of the probes."""
    client, prober = Client("127.0.0.1", service.port), Client("127.0.0.1", service.port)
    closed_seconds = min(5.0, seconds)
    closed = await client.closed_loop(request, CONNECTIONS, for_seconds(closed_seconds))
    capacity = len(closed) / closed_seconds
    probes: list[Answer] = []

    async def probe() -> None:
        while True:
            for one in PROBES:
                probes.append(await prober.ask(one, time.monotonic(), 0.0))
            await asyncio.sleep(PROBE_SECONDS)

    probing = asyncio.create_task(probe())
    answers = await client.open_loop(request, poisson(2 * capacity, seconds))
    probing.cancel()
    return capacity, answers, probes
