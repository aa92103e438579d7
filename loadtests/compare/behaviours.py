"""What servers do beside the usual: too much load, clients that hang up, a bad picture, an end under load."""

import asyncio
import random
import signal
import time
from collections import Counter
from typing import Any

import psutil
import uvloop

from loadtests.client import LATE, LOST, Answer, Client, hurry, percentile, poisson
from loadtests.compare.rounds import PATIENCE, Turns, wait_quiet
from loadtests.compare.servers import STOP_SECONDS, Server

OVERLOAD = 2.0
PROBE_SECONDS, PROBE_PATIENCE = 0.1, 1.0
HANG_UPS, AT_ONCE = 1000, 100
HELD_SECONDS = (0.0, 0.001, 0.005, 0.02)
NEIGHBOURS, BAD_ROUNDS = 15, 10
STOPPED_CONNECTIONS, LOADED_SECONDS = 16, 5.0


def all_of(turns: Turns, picture: bytes, rates: dict[str, float], overload_seconds: float) -> dict[str, dict[str, Any]]:
    """Findings by server; afterwards the servers have ended. rates: the requests/s of each in closed loop."""
    found: dict[str, dict[str, Any]] = {}
    for server in turns.servers:
        with turns.alone(server):
            found[server.name] = {
                **bad_picture(server, picture),
                **hang_ups(server, picture),
                **overload(server, picture, OVERLOAD * rates[server.name], overload_seconds),
            }
    for server in turns.servers:
        with turns.alone(server):
            found[server.name] |= stop(server, picture)
    return found


def bad_picture(server: Server, picture: bytes) -> dict[str, Any]:
    """Half a JPEG among good ones that come with it: statuses, and how many of the good ones failed."""
    good, bad = server.request(picture), server.request(picture[: len(picture) // 2])

    async def together() -> tuple[int, list[int]]:
        client = Client("127.0.0.1", server.port)
        requests = [good] * (NEIGHBOURS // 2) + [bad] + [good] * (NEIGHBOURS - NEIGHBOURS // 2)
        answers = await asyncio.gather(*(client.open_loop(one, [0.0], PATIENCE) for one in requests))
        statuses = [answer.status for [answer] in answers]
        return statuses.pop(NEIGHBOURS // 2), statuses

    rounds = [uvloop.run(together()) for _ in range(BAD_ROUNDS)]
    return {
        "bad_statuses": sorted({status for status, _ in rounds}),
        "neighbours": NEIGHBOURS * BAD_ROUNDS,
        "neighbours_failed": sum(status != 200 for _, statuses in rounds for status in statuses),
    }


def hang_ups(server: Server, picture: bytes) -> dict[str, Any]:
    """How many requests are computed although their clients hung up, at once or some milliseconds after they asked."""
    request, at_once, generator = server.request(picture), asyncio.Semaphore(AT_ONCE), random.Random(0)

    async def one() -> None:
        async with at_once:
            _, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(request)
            await writer.drain()
            await asyncio.sleep(generator.choice(HELD_SECONDS))
            writer.close()

    async def all_of_them() -> None:
        await asyncio.gather(*(one() for _ in range(HANG_UPS)))

    before = server.computed()
    uvloop.run(all_of_them())
    wait_quiet(server)
    return {"hung_up": HANG_UPS, "computed_nevertheless": server.computed() - before}


def overload(server: Server, picture: bytes, rate: float, seconds: float) -> dict[str, Any]:
    """What becomes of more requests than it can carry, and whether it still says that it is alive."""
    request = server.request(picture)
    probe = f"GET {server.how.health} HTTP/1.1\r\nHost: load\r\n\r\n".encode()

    async def load() -> tuple[list[Answer], list[Answer]]:
        client, prober = Client("127.0.0.1", server.port), Client("127.0.0.1", server.port)
        probes: list[Answer] = []

        async def ask() -> None:
            while True:
                probes.extend(await prober.open_loop(probe, [0.0], PROBE_PATIENCE))
                await asyncio.sleep(PROBE_SECONDS)

        probing = asyncio.create_task(ask())
        answers = await client.open_loop(request, poisson(rate, seconds), PATIENCE)
        probing.cancel()
        return answers, probes

    computed = server.computed()
    with hurry():
        answers, probes = uvloop.run(load())
    wait_quiet(server)
    accepted = [answer.seconds for answer in answers if 200 <= answer.status < 300]
    refused = [answer.seconds for answer in answers if answer.status in (429, 503)]
    statuses = Counter(answer.status for answer in answers)
    return {
        "asked": len(answers),
        "answered": len(accepted),
        "refused": len(refused),
        "late": statuses[LATE],
        "lost": statuses[LOST],
        "accepted_p99_ms": percentile(accepted, 99) * 1e3,
        "refused_p99_ms": percentile(refused, 99) * 1e3,
        "computed_in_vain": max(0, server.computed() - computed - len(accepted)),
        "probes": len(probes),
        "probes_failed": sum(probe.status != 200 for probe in probes),
        "slowest_probe_ms": max(probe.seconds for probe in probes) * 1e3,
    }


def stop(server: Server, picture: bytes) -> dict[str, Any]:
    """SIGTERM to its first process under load: what was sent before and not answered, and what is left."""
    request = server.request(picture)
    server.tree()

    async def load() -> tuple[list[Answer], float, float]:
        going, client = True, Client("127.0.0.1", server.port)
        loading = asyncio.create_task(client.closed_loop(request, STOPPED_CONNECTIONS, lambda: going, PATIENCE))
        started = time.monotonic()
        await asyncio.sleep(1.0)
        server.process.send_signal(signal.SIGTERM)
        signalled = time.monotonic() - started
        while server.process.poll() is None and time.monotonic() < started + signalled + STOP_SECONDS:
            await asyncio.sleep(0.02)
            going = time.monotonic() < started + signalled + LOADED_SECONDS
        stopped = time.monotonic() - started - signalled
        going = False
        return await loading, signalled, stopped

    answers, signalled, stopped = uvloop.run(load())
    before = [answer for answer in answers if answer.due < signalled]
    after = [answer.due - signalled for answer in answers if answer.due >= signalled and answer.status == 200]
    _, left = psutil.wait_procs(server.tree(), 1.0)
    server.signal(signal.SIGKILL)
    return {
        "pending_failed": sum(answer.status != 200 for answer in before),
        "pending": sum(answer.due + answer.seconds >= signalled for answer in before),
        "served_on_seconds": max(after, default=0.0),
        "exit": server.process.poll(),
        "stop_seconds": stopped,
        "processes_left": len(left),
    }
