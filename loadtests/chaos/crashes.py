"""Processes that are killed or hang, under load.

Sixteen connections ask without a pause while the engine, a worker, or the supervisor is killed with SIGKILL, again and
again once all is well. The supervisor is started again by us, as Kubernetes would. Only what was in flight may fail.
"""

import asyncio
import time
from pathlib import Path
from statistics import median

import psutil
import uvloop

from loadtests.chaos.finding import Finding
from loadtests.client import LOST, Answer, Client, post
from loadtests.pictures import photo
from loadtests.running import RunningService, wait_until
from service.supervisor import STEADY_SECONDS, STUCK_SECONDS

CONNECTIONS = 16
# A child that ends again sooner is started again later.
PAUSE_SECONDS = STEADY_SECONDS + 1.5
READY = b"GET /readyz HTTP/1.1\r\nHost: load\r\n\r\n"
ASKED_SECONDS = 3.0


def run(long: bool, cache: Path) -> list[Finding]:
    rounds = 10 if long else 1
    findings = []
    with RunningService(workers=2, cache_dir=cache) as service:
        service.wait_compiled()
        for module in ("service.engine", "service.worker"):
            findings += uvloop.run(_kill(service, module, rounds))
        if long:  # tests/service/test_faults.py waits for it, too
            findings += uvloop.run(_hang(service))
    return [*findings, *_kill_supervisor(rounds, cache)]


async def _load(port: int, going: list[bool]) -> list[Answer]:
    request = post("/v1/predict", photo(224, 224, 75), Content_Type="image/jpeg")
    return await Client("127.0.0.1", port).closed_loop(request, CONNECTIONS, lambda: going[0])


async def _ready_again(port: int, started: float) -> float:
    """Seconds from `started` until readiness had failed and came back."""
    failed = False
    while True:
        status = (await Client("127.0.0.1", port).ask(READY, time.monotonic(), 0.0)).status
        if failed and status == 200:
            return time.monotonic() - started
        failed = failed or status == 503
        await asyncio.sleep(0.02)


async def _kill(service: RunningService, module: str, rounds: int) -> list[Finding]:
    going, seconds = [True], []
    load = asyncio.create_task(_load(service.port, going))
    for _ in range(rounds):
        await asyncio.sleep(PAUSE_SECONDS if rounds > 1 else 1.0)
        victim = service.children(module)[0]
        victim.kill()
        killed = time.monotonic()
        if module == "service.engine":
            seconds.append(await asyncio.wait_for(_ready_again(service.port, killed), 60))
        else:
            while len(service.children(module)) < 2:
                await asyncio.sleep(0.02)
            await asyncio.sleep(1.0)
    going[0] = False
    answers = await load
    role = module.rpartition(".")[2]
    loss = 503 if role == "engine" else LOST  # a worker takes its connections with it
    lost = sum(answer.status == loss for answer in answers)
    findings = [
        _right(answers, f"{rounds} x {role} killed", {200, loss}),
        Finding(
            f"{rounds} x {role} killed: requests that failed",
            f"at most those in flight: {CONNECTIONS * rounds}",
            str(lost),
            lost <= CONNECTIONS * rounds,
        ),
    ]
    if seconds:
        findings.append(
            Finding(
                f"{rounds} x engine killed: ready again within (the network was compiled before)",
                f"{ASKED_SECONDS:g} s",
                f"median {median(seconds):.1f}, most {max(seconds):.1f} s",
                max(seconds) < ASKED_SECONDS,
                True,
            )
        )
    return findings


def _right(answers: list[Answer], what: str, allowed: set[int]) -> Finding:
    wrong = [answer for answer in answers if answer.status not in allowed]
    classes = {answer.body.split(b'"index":')[1].split(b",")[0] for answer in answers if answer.status == 200}
    slowest = max(answer.seconds for answer in answers)
    counts = {status: sum(answer.status == status for answer in answers) for status in sorted(allowed)}
    names = {LOST: "connection lost"}
    return Finding(
        f"{what}: no other answer, none wrong, no hang (10 s)",
        " or ".join(str(names.get(status, status)) for status in sorted(allowed, reverse=True)),
        ", ".join(f"{count:,} x {names.get(status, status)}" for status, count in counts.items())
        + f", {len(wrong)} else, {len(classes)} class, slowest {slowest:.1f} s",
        not wrong and len(classes) == 1 and slowest < 10.0,
    )


async def _hang(service: RunningService) -> list[Finding]:
    """An engine that is stopped (SIGSTOP), not ended."""
    going = [True]
    load = asyncio.create_task(_load(service.port, going))
    await asyncio.sleep(PAUSE_SECONDS)
    (engine,) = service.children("service.engine")
    engine.suspend()
    seconds = await asyncio.wait_for(_ready_again(service.port, time.monotonic()), 90)
    going[0] = False
    answers = await load
    statuses = {answer.status for answer in answers}
    return [
        Finding(
            "a stuck engine is replaced",
            f"within {STUCK_SECONDS:g} s of silence, and a start",
            f"{seconds:.1f} s, statuses {sorted(statuses)}",
            statuses <= {200, 503} and not engine.is_running(),
        )
    ]


def _kill_supervisor(rounds: int, cache: Path) -> list[Finding]:
    orphans, again, answers = 0, [], []
    for _ in range(rounds):
        with RunningService(workers=2, cache_dir=cache) as service:
            family = psutil.Process(service.process.pid).children(recursive=True)
            again.append(time.monotonic() - service.started)
            answers += uvloop.run(_until_killed(service))
            _, alive = psutil.wait_procs(family, timeout=5)
            orphans += len(alive)
    lost = sum(answer.status == LOST for answer in answers)
    return [
        Finding(f"{rounds} x supervisor killed: orphans", "0", str(orphans), orphans == 0),
        Finding(
            f"{rounds} x supervisor killed: answers before it",
            "200; what was in flight is lost",
            f"{len(answers) - lost:,} x 200, {lost} lost",
            {answer.status for answer in answers} == {200, LOST},
        ),
        Finding(
            f"{rounds} x supervisor killed: started again and ready within",
            "3 s",
            f"median {median(again):.1f}, most {max(again):.1f} s",
            max(again) < 3.0,
            True,
        ),
    ]


async def _until_killed(service: RunningService) -> list[Answer]:
    going = [True]
    load = asyncio.create_task(_load(service.port, going))
    await asyncio.sleep(1.0)
    service.process.kill()
    wait_until(lambda: service.process.poll() is not None, 5, "it is dead")
    await asyncio.sleep(0.1)
    going[0] = False
    return await load
