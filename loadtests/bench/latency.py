"""How long an answer takes, by how much is asked: open loop, Poisson, up to what the service can do."""

from pathlib import Path
from typing import Any

import uvloop

from loadtests.bench.turns import spread, spreads
from loadtests.client import Answer, Client, for_seconds, hurry, percentile, poisson, post
from loadtests.running import RunningService

SHARES = 0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 1.0
CONNECTIONS = 64


def run(model: Path, picture: bytes, cache: Path, *, short: bool = False) -> dict[str, Any]:
    """Latencies by share of the closed loop's capacity, which is measured at the start of every round."""
    shares, rounds, seconds = ((0.5, 0.8), 1, 0.5) if short else (SHARES, 3, 5.0)
    request = post("/v1/predict", picture, Content_Type="image/jpeg")
    with RunningService(model=model, cache_dir=cache) as service:
        service.wait_compiled()
        with hurry():
            found = [uvloop.run(_round(service.port, request, shares, seconds, seed)) for seed in range(rounds)]
    return {
        "network": model.name,
        "image_bytes": len(picture),
        "connections": CONNECTIONS,
        "seconds": seconds,
        "lone": spreads([one["lone"] for one in found]),
        "capacity": spread([one["capacity"] for one in found], 1),
        "loads": [
            {"share": share, **spreads([one["loads"][index] for one in found])} for index, share in enumerate(shares)
        ],
    }


async def _round(port: int, request: bytes, shares: tuple[float, ...], seconds: float, seed: int) -> dict[str, Any]:
    client = Client("127.0.0.1", port)
    await client.closed_loop(request, CONNECTIONS, for_seconds(1.0))  # warm, at every batch size
    alone = _figures(await client.closed_loop(request, 1, for_seconds(seconds / 2)))
    capacity = len(await client.closed_loop(request, CONNECTIONS, for_seconds(seconds))) / seconds
    loads = []
    for share in shares:
        answers = await client.open_loop(request, poisson(share * capacity, seconds, seed))
        figures = _figures(answers)
        over_lone = figures["p99_ms"] / alone["p50_ms"]
        loads.append({"offered": share * capacity, **figures, "p99_over_lone": over_lone})
    return {"lone": alone, "capacity": capacity, "loads": loads}


def _figures(answers: list[Answer]) -> dict[str, float]:
    """Of those that were not refused."""
    assert {answer.status for answer in answers} <= {200, 429}, answers
    times = [1000 * answer.seconds for answer in answers if answer.status == 200]
    return {
        "p50_ms": percentile(times, 50),
        "p99_ms": percentile(times, 99),
        "refused_percent": 100 * (1 - len(times) / len(answers)),
    }
