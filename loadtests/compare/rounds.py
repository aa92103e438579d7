"""Measures servers in turns, each alone with the machine: in closed loop (wrk), in open loop (a Poisson process)."""

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import uvloop

from loadtests import wrk
from loadtests.client import Answer, Client, hurry, percentile, poisson
from loadtests.compare.servers import OURS, Server
from loadtests.running import wait_until

WARM_SECONDS = 1.0
IDLE_SECONDS = 3.0
# A server that takes more of a core while nobody asks is stopped while others are measured.
RESTLESS = 0.01
# What a server is said to sustain, of its requests/s in closed loop.
SUSTAINED = 0.8
QUIET_SECONDS = 1.0
PATIENCE = 5.0  # seconds until a client in open loop gives up


def restless_of(idle_cores: dict[str, float]) -> list[str]:
    """Who is stopped while others are measured; never the service, which takes a stop for a fault of its engine."""
    return [name for name, cores in idle_cores.items() if cores > RESTLESS and name != OURS]


class Turns:
    """Servers that run beside each other, of which one is measured at a time."""

    def __init__(self, servers: list[Server]) -> None:
        self.servers = servers
        self.idle_cores = {server.name: server.idle_cores(IDLE_SECONDS) for server in servers}

    @contextlib.contextmanager
    def alone(self, server: Server) -> Iterator[None]:
        """The restless ones among the others do not run meanwhile."""
        names = restless_of(self.idle_cores)
        restless = [one for one in self.servers if one is not server and one.name in names]
        for one in restless:
            one.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            for one in restless:
                one.signal(signal.SIGCONT)

    def measure(self, rounds: int, turn: Callable[[Server], dict[str, float]]) -> list[dict[str, dict[str, float]]]:
        """What `turn` finds, by server, for each round; every other round begins at the other end."""
        found = []
        for number in range(rounds):
            now = {}
            for server in self.servers if number % 2 == 0 else self.servers[::-1]:
                with self.alone(server):
                    now[server.name] = turn(server)
            found.append(now)
        return found


def closed(server: Server, picture: bytes, seconds: float, folder: Path) -> dict[str, float]:
    """wrk's figures, and what they cost the server."""
    script = wrk.script(folder, *server.body(picture))
    wrk.run(server.url, script, WARM_SECONDS)
    before = server.cpu_seconds()
    run = wrk.run(server.url, script, seconds)
    return {
        "requests_per_second": run.requests_per_second,
        "p50_ms": run.p50_ms,
        "p99_ms": run.p99_ms,
        "cpu_seconds_per_thousand": 1000 * (server.cpu_seconds() - before) / max(run.requests, 1),
        "memory_mb": server.memory_mb(),
        "errors": run.errors,
    }


def opened(server: Server, picture: bytes, rate: float, seconds: float) -> dict[str, float]:
    """Latency from when a request was due; one that is not answered with 2xx in time counts as PATIENCE."""
    answers = ask(server, picture, rate, seconds)
    wait_quiet(server)  # the next one's turn is its own
    good = [answer for answer in answers if 200 <= answer.status < 300]
    latencies = [answer.seconds for answer in good] + [PATIENCE] * (len(answers) - len(good))
    return {
        "open_p50_ms": percentile(latencies, 50) * 1e3,
        "open_p99_ms": percentile(latencies, 99) * 1e3,
        "unanswered": len(answers) - len(good),
    }


def ask(server: Server, picture: bytes, rate: float, seconds: float) -> list[Answer]:
    client, request = Client("127.0.0.1", server.port), server.request(picture)

    async def load() -> list[Answer]:
        await client.open_loop(request, poisson(rate, WARM_SECONDS, seed=1), PATIENCE)
        return await client.open_loop(request, poisson(rate, seconds), PATIENCE)

    with hurry():
        return uvloop.run(load())


def wait_quiet(server: Server) -> None:
    """Until its network has been idle for a while: what clients gave up may still be computed."""
    seen, since = server.computed(), time.monotonic()

    def quiet() -> bool:
        nonlocal seen, since
        if server.computed() != seen:
            seen, since = server.computed(), time.monotonic()
        return time.monotonic() > since + QUIET_SECONDS

    wait_until(quiet, 120, f"{server.name} is idle")


def figures(setting: dict[str, Any], server: str, name: str) -> list[float]:
    """A figure of a server, of every round that has it."""
    return [one[server][name] for one in [*setting["closed"], *setting["open"]] if name in one.get(server, {})]
