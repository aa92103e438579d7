"""Background work beside people who wait.

Interactive requests come as a Poisson process, once with the service to themselves and once while a bulk client, whose
requests say `Priority: u=7`, keeps 64 connections busy; in turns.
"""

import asyncio
import tempfile
import time
from pathlib import Path
from statistics import median

import uvloop

from loadtests.chaos.finding import Finding
from loadtests.client import Answer, Client, hurry, percentile, poisson, post
from loadtests.networks import compiled, imagenet_sized
from loadtests.pictures import photo
from loadtests.running import RunningService

BULK_CONNECTIONS = 64
PER_SECOND = 20.0
ASKED = 1.5


def run(long: bool, cache: Path) -> list[Finding]:
    if not long:
        return _beside("bundled network", 1.5, 1, cache)
    with tempfile.TemporaryDirectory() as folder:
        model = imagenet_sized(Path(folder))
        compiled(model, cache)
        return [
            *_beside("MobileNetV2+CA 1.0 at 224", 10.0, 5, cache, model=model),
            *_beside("bundled network", 10.0, 5, cache),
        ]


def _beside(name: str, seconds: float, turns: int, cache: Path, **settings: object) -> list[Finding]:
    picture = photo(224, 224, 75)
    request = post("/v1/predict", picture, Content_Type="image/jpeg")
    bulk = post("/v1/predict", picture, Content_Type="image/jpeg", Priority="u=7")
    alone: list[list[Answer]] = []
    beside: list[list[Answer]] = []
    bulk_rates: list[float] = []
    with RunningService(workers=2, cache_dir=cache, **settings) as service:
        service.wait_compiled()

        async def turn() -> None:
            client, other = Client("127.0.0.1", service.port), Client("127.0.0.1", service.port)
            alone.append(await client.open_loop(request, poisson(PER_SECOND, seconds)))
            going = True
            bulky = asyncio.create_task(other.closed_loop(bulk, BULK_CONNECTIONS, lambda: going))
            await asyncio.sleep(0.5)
            started = time.monotonic()
            beside.append(await client.open_loop(request, poisson(PER_SECOND, seconds, seed=1)))
            going = False
            done = await bulky
            bulk_rates.append(sum(one.status == 200 for one in done) / (time.monotonic() - started + 0.5))

        with hurry():
            for _ in range(turns):
                uvloop.run(turn())
    statuses = {answer.status for answers in (*alone, *beside) for answer in answers}
    p99 = [[percentile((answer.seconds for answer in answers), 99) for answers in kind] for kind in (alone, beside)]
    ratio = median(loaded / unloaded for unloaded, loaded in zip(*p99, strict=True))
    return [
        Finding(
            f"{name}: interactive requests are answered beside bulk",
            "200",
            f"{sorted(statuses)}, bulk {median(bulk_rates):.0f}/s",
            statuses == {200} and min(bulk_rates) > 0,
        ),
        Finding(
            f"{name}: their p99 beside bulk over that alone (median of {turns} turns)",
            f"at most {ASKED}",
            f"{ratio:.2f} ({median(p99[1]) * 1e3:.0f} over {median(p99[0]) * 1e3:.0f} ms)",
            ratio <= ASKED,
            True,
        ),
    ]
