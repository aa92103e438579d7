"""How many images a second the whole service answers, what of the engine's limit that is, and where the CPU goes."""

import os
import tempfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from loadtests import wrk
from loadtests.bench.engine_alone import EngineAlone
from loadtests.bench.memory import resident
from loadtests.bench.turns import in_turns, ratio, spread, spreads
from loadtests.running import RunningService
from service.settings import Settings, available_cores

Runs = list[dict[str, float]]
RATE = "requests_per_second"


@dataclass(frozen=True)
class Case:
    """What is served to whom, and what its parts do alone."""

    model: Path
    workers: int
    picture: bytes
    ingest_ms: float
    """of a worker's CPU, for the picture"""


def run(cases: list[Case], cache: Path, *, short: bool = False) -> list[dict[str, Any]]:
    """Each case, and its engine alone, in turns; wrk in closed loop on the same cores."""
    rounds, seconds = (1, 1.0) if short else (5, 5.0)
    with tempfile.TemporaryDirectory() as folder:
        served = {case: partial(_served, case, cache, Path(folder), seconds) for case in cases}
        alone = {case.model: partial(_alone, case.model, cache, folder, seconds / 2) for case in cases}
        runs = in_turns({**served, **alone}, rounds)
    return [_summary(case, runs[case], runs[case.model], runs.get(replace(case, workers=1))) for case in cases]


def _alone(model: Path, cache: Path, folder: str, seconds: float) -> dict[str, float]:
    with EngineAlone(Settings(model=model, cache_dir=cache), tempfile.mkdtemp(dir=folder)) as engine:
        engine.rate(seconds / 2)  # warm
        return {RATE: engine.rate(seconds)}


def _served(case: Case, cache: Path, folder: Path, seconds: float) -> dict[str, float]:
    script = wrk.script(folder, case.picture, "image/jpeg")
    with RunningService(model=case.model, cache_dir=cache, workers=case.workers) as service:
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
        RATE: run.requests_per_second,
        "p50_ms": run.p50_ms,
        "p99_ms": run.p99_ms,
        **dict(zip(("worker_us", "engine_us", "client_us"), spent, strict=True)),
        **memory,
    }


def _summary(case: Case, runs: Runs, alone: Runs, one_worker: Runs | None) -> dict[str, Any]:
    cores, ingest = available_cores(), 1000 * case.ingest_ms
    costs = [run["worker_us"] + run["engine_us"] + run["client_us"] for run in runs]
    rates = [run[RATE] for run in runs]
    return {
        "network": case.model.name,
        "image_bytes": len(case.picture),
        "connections": wrk.CONNECTIONS,
        "workers": case.workers,
        "share_of_engine_alone": ratio(rates, [run[RATE] for run in alone]),
        "over_one_worker": ratio(rates, [run[RATE] for run in one_worker]) if one_worker else None,
        # Decoding is taken from what it costs alone; what else a worker does for a request is the rest.
        "ingest_us": round(ingest, 1),
        "request_us": spread([run["worker_us"] - ingest for run in runs], 1),
        "limit_of_cores": spread([1e6 * cores / cost for cost in costs], 1),
        "share_of_limit_of_cores": ratio(rates, [1e6 * cores / cost for cost in costs]),
        **spreads(runs, 1),
    }


def _cpu(processes: list[psutil.Process]) -> float:
    """Seconds."""
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def _reaped() -> float:
    """Seconds of CPU of children that have ended; wrk is the only one that does meanwhile."""
    times = os.times()
    return times.children_user + times.children_system
