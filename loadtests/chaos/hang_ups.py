"""Clients that hang up before their answer.

Each opens a connection, sends a whole request, and closes it at once, or a moment later. Afterwards everything must be
as it was before: no slot taken, nothing waiting, no memory kept, and good requests answered.
"""

import asyncio
import random
from pathlib import Path

import psutil
import uvloop

from loadtests.chaos.finding import Finding
from loadtests.client import Client, post
from loadtests.pictures import photo
from loadtests.running import RunningService, wait_until

AT_ONCE = 100
KEPT_BYTES = 8 * 2**20  # the allocator's to keep


def run(long: bool, cache: Path) -> list[Finding]:
    count = 10_000 if long else 1_000
    request = post("/v1/predict", photo(224, 224, 75), Content_Type="image/jpeg")
    with RunningService(workers=2, cache_dir=cache) as service:
        service.wait_compiled()
        uvloop.run(_hang_up(service.port, request, count // 5))  # what is allocated once
        before = _memory(service)
        uvloop.run(_hang_up(service.port, request, count))
        wait_until(lambda: _gauge(service, "coordserve_slots_used") == 0, 30, "all slots are free")
        after = _memory(service)
        waiting = _gauge(service, "coordserve_queue_images")
        [good] = uvloop.run(_ask(service.port, request))
        dropped = _gauge(service, 'coordserve_dropped_images_total{reason="disconnect"}')
    grown = max(now - then for then, now in zip(before, after, strict=True))
    return [
        Finding(
            f"{count:,} requests whose client hung up: slots, images waiting",
            "0, 0",
            f"0, {waiting:g}; {dropped:,.0f} dropped before they were computed",
            waiting == 0 and dropped > 0,
        ),
        Finding(
            "memory of the engine and of each worker grows by",
            f"less than {KEPT_BYTES / 2**20:g} MiB",
            f"at most {grown / 2**20:.1f} MiB",
            grown < KEPT_BYTES,
        ),
        Finding("the next request is answered", "200", str(good.status), good.status == 200),
        Finding(
            "errors in the log",
            "0",
            str(sum(line["level"] not in ("info", "debug") for line in service.log)),
            all(line["level"] in ("info", "debug") for line in service.log),
        ),
    ]


async def _hang_up(port: int, request: bytes, count: int) -> None:
    generator, at_once = random.Random(0), asyncio.Semaphore(AT_ONCE)

    async def one() -> None:
        async with at_once:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request)
            await writer.drain()
            await asyncio.sleep(generator.choice([0.0, 0.001, 0.005, 0.02]))
            writer.close()

    await asyncio.gather(*(one() for _ in range(count)))


async def _ask(port: int, request: bytes) -> list:
    return await Client("127.0.0.1", port).open_loop(request, [0.0])


def _memory(service: RunningService) -> list[int]:
    processes: list[psutil.Process] = [*service.children("service.engine"), *service.children("service.worker")]
    return [process.memory_info().rss for process in sorted(processes, key=lambda process: process.pid)]


def _gauge(service: RunningService, name: str) -> float:
    lines = service.get("/metrics")[1].decode().splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith(f"{name} "))
