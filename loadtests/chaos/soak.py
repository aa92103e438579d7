"""Hours in minutes: mixed load, and workers that die.

Good pictures of several sizes, several in one request, explanations, bad pictures, short deadlines and clients that
hang up; now and then a worker is killed. Then nothing may have grown: memory, threads, files, slots, files of metrics.
"""

import asyncio
import random
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import linear_regression

import psutil
import uvloop

from loadtests.chaos.finding import Finding
from loadtests.client import Client, post
from loadtests.pictures import photo
from loadtests.running import RunningService

CONNECTIONS = 8
MIB = 2**20
# After so much of the time what is allocated once has been.
WARM = 0.3
GROWTH_MIB_PER_HOUR = 30.0


@dataclass(frozen=True)
class Sample:
    """Of one process: at what second, resident bytes, threads, open files."""

    at: float
    rss: int
    threads: int
    files: int


def run(long: bool, cache: Path) -> list[Finding]:
    seconds, kills = (1200.0, 50) if long else (4.0, 1)
    with RunningService(workers=2, cache_dir=cache) as service:
        service.wait_compiled()
        directory = _metrics_directory(service)
        files, arena = len(list(directory.iterdir())), _arena_bytes(service)
        samples, statuses = uvloop.run(_load(service, seconds, kills))
        idle = _slots_used(service)
        after_files, after_arena = len(list(directory.iterdir())), _arena_bytes(service)
    findings = [
        Finding(
            f"{sum(statuses.values()):,} requests in {seconds:g} s: statuses",
            "200, 400, 415, 504, and connections lost with their workers",
            ", ".join(f"{count:,} x {status}" for status, count in sorted(statuses.items())),
            set(statuses) <= {200, 400, 415, 504, 0} and statuses[200] > 0,
        ),
        Finding(f"files of metrics after {kills} ends of workers", str(files), str(after_files), after_files == files),
        Finding("the arena", f"{arena:,} bytes", f"{after_arena:,} bytes", after_arena == arena),
        Finding("slots taken afterwards", "0", f"{idle:g}", idle == 0),
    ]
    for role in ("supervisor", "engine"):
        findings += _flat(role, [one for one in samples[role] if one.at > WARM * seconds], long)
    workers = [one for one in samples["worker"] if one.at > WARM * seconds]
    most = max(one.rss for one in workers) / MIB
    findings.append(
        Finding("the largest worker, whenever", "less than 250 MiB", f"{most:.0f} MiB", most < 250, timed=not long)
    )
    return findings


def _flat(role: str, samples: list[Sample], long: bool) -> list[Finding]:
    slope = linear_regression([one.at for one in samples], [one.rss / MIB for one in samples]).slope * 3600
    threads, files = {one.threads for one in samples}, {one.files for one in samples}
    return [
        Finding(
            f"{role}: resident memory grows by",
            f"less than {GROWTH_MIB_PER_HOUR:g} MiB an hour",
            f"{slope:+.1f} MiB an hour, at {samples[-1].rss / MIB:.0f} MiB",
            slope < GROWTH_MIB_PER_HOUR,
            timed=not long,  # too short a time for a slope
        ),
        Finding(
            f"{role}: threads and open files",
            "as many at the end",
            f"{min(threads)} to {max(threads)}, {min(files)} to {max(files)}",
            samples[-1].threads <= samples[0].threads and samples[-1].files <= samples[0].files + 2,
        ),
    ]


async def _load(service: RunningService, seconds: float, kills: int) -> tuple[dict[str, list[Sample]], dict[int, int]]:
    start = time.monotonic()
    statuses: dict[int, int] = {}
    samples: dict[str, list[Sample]] = {"supervisor": [], "engine": [], "worker": []}
    end = start + seconds

    async def ask(seed: int) -> None:
        generator, client = random.Random(seed), Client("127.0.0.1", service.port)
        requests = _requests()
        while time.monotonic() < end:
            answer = await client.ask(generator.choice(requests), start, time.monotonic() - start)
            statuses[answer.status] = statuses.get(answer.status, 0) + 1
            await asyncio.sleep(0.01)

    async def hang_up() -> None:
        while time.monotonic() < end:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", service.port)
                writer.write(requests_of_a_picture)
                await writer.drain()
                writer.close()
            except OSError:
                pass
            await asyncio.sleep(0.05)

    async def kill() -> None:
        for index in range(kills):
            await asyncio.sleep(max(0.0, start + seconds * (index + 1) / (kills + 1) - time.monotonic()))
            if workers := service.children("service.worker"):
                workers[0].kill()

    async def watch() -> None:
        while time.monotonic() < end:
            at = time.monotonic() - start
            roles = [("supervisor", [psutil.Process(service.process.pid)])]
            roles += [(role, service.children(f"service.{role}")) for role in ("engine", "worker")]
            for role, processes in roles:
                for process in processes:
                    try:
                        samples[role].append(
                            Sample(at, process.memory_info().rss, process.num_threads(), process.num_fds())
                        )
                    except psutil.NoSuchProcess:
                        continue
            await asyncio.sleep(min(5.0, seconds / 50))

    requests_of_a_picture = _requests()[0]
    await asyncio.gather(*(ask(seed) for seed in range(CONNECTIONS)), hang_up(), kill(), watch())
    await asyncio.sleep(2.0)
    return samples, statuses


def _requests() -> list[bytes]:
    small, large = photo(224, 224, 75), photo(1200, 900, 85)
    form = b"".join(
        b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\n' + picture + b"\r\n"
        for picture in (small, small[: len(small) // 2], small)
    )
    jpeg = {"Content_Type": "image/jpeg"}
    return [
        post("/v1/predict", small, **jpeg),
        post("/v1/predict", small, **jpeg),
        post("/v1/predict", large, **jpeg),
        post("/v1/predict", form + b"--b--\r\n", Content_Type="multipart/form-data; boundary=b"),
        post("/v1/predict", small, Priority="u=6", **jpeg),
        post("/v2/models/digits/infer", small, Inference_Header_Content_Length="0"),
        post("/v1/explain", small, **jpeg),
        post("/v1/predict", small[:500], **jpeg),
        post("/v1/predict", b"no picture", **jpeg),
        post("/v1/predict", small, X_Request_Timeout="0.002", **jpeg),
    ]


def _metrics_directory(service: RunningService) -> Path:
    (engine,) = service.children("service.engine")
    return Path(engine.environ()["PROMETHEUS_MULTIPROC_DIR"])


def _arena_bytes(service: RunningService) -> int:
    """Of the one memfd that the service has."""
    folder = Path(f"/proc/{service.process.pid}/fd")
    sizes = [entry.stat().st_size for entry in folder.iterdir() if entry.readlink().name.startswith("memfd:")]
    return sum(sizes)


def _slots_used(service: RunningService) -> float:
    lines = service.get("/metrics")[1].decode().splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith("coordserve_slots_used "))
