"""How many images a second the whole service answers, what of the engine's limit that is, and where the CPU goes."""

import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from loadtests import wrk
from loadtests.bench.memory import resident
from loadtests.bench.turns import in_turns, spread, spreads
from loadtests.running import RunningService
from service.settings import available_cores


@dataclass(frozen=True)
class Case:
    """What is served to whom, and what its parts do alone."""

    model: Path
    workers: int | None
    """None: as many as the service takes by itself"""
    picture: bytes
    ingest_ms: float
    """of a worker's CPU, for the picture"""
    engine_alone: float
    """images/s"""


def run(cases: Iterable[Case], cache: Path, *, short: bool = False) -> list[dict[str, Any]]:
    """Each case in turns, wrk in closed loop on the same cores."""
    rounds, seconds = (1, 1.0) if short else (5, 5.0)
    with tempfile.TemporaryDirectory() as folder:
        ways = {case: partial(_served, case, cache, Path(folder), seconds) for case in cases}
        return [_summary(case, runs) for case, runs in in_turns(ways, rounds).items()]


def _served(case: Case, cache: Path, folder: Path, seconds: float) -> dict[str, float]:
    settings = {} if case.workers is None else {"workers": case.workers}
    script = wrk.script(folder, case.picture, "image/jpeg")
    with RunningService(model=case.model, cache_dir=cache, **settings) as service:
        service.wait_compiled()
        memory = resident(service)
        workers, engine = service.children("service.worker"), service.children("service.engine")
        url = f"{service.url}/v1/predict"
        wrk.run(url, script, max(1.0, seconds / 2))  # warm
        before = _cpu(workers), _cpu(engine), _reaped()
        run = wrk.run(url, script, seconds)
        after = _cpu(workers), _cpu(engine), _reaped()
    assert run.errors == 0, run
    spent = [1e6 * (end - start) / run.requests for start, end in zip(before, after, strict=True)]
    return {
        "requests_per_second": run.requests_per_second,
        "p50_ms": run.p50_ms,
        "p99_ms": run.p99_ms,
        **dict(zip(("worker_us", "engine_us", "client_us"), spent, strict=True)),
        "workers": len(workers),
        **memory,
    }


def _summary(case: Case, runs: list[dict[str, float]]) -> dict[str, Any]:
    cores, ingest = available_cores(), 1000 * case.ingest_ms
    costs = [run["worker_us"] + run["engine_us"] + run["client_us"] for run in runs]
    return {
        "network": case.model.name,
        "image_bytes": len(case.picture),
        "connections": wrk.CONNECTIONS,
        "workers_by_default": case.workers is None,
        "share_of_engine_alone": spread([run["requests_per_second"] / case.engine_alone for run in runs], 3),
        # Decoding is taken from what it costs alone; what else a worker does for a request is the rest.
        "ingest_us": round(ingest, 1),
        "request_us": spread([run["worker_us"] - ingest for run in runs], 1),
        "limit_of_cores": spread([1e6 * cores / cost for cost in costs], 1),
        "share_of_limit_of_cores": spread(
            [run["requests_per_second"] * cost / 1e6 / cores for run, cost in zip(runs, costs, strict=True)], 3
        ),
        **spreads(runs, 1),
    }


def _cpu(processes: list[psutil.Process]) -> float:
    """Seconds."""
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def _reaped() -> float:
    """Seconds of CPU of children that have ended; wrk is the only one that does meanwhile."""
    times = os.times()
    return times.children_user + times.children_system
