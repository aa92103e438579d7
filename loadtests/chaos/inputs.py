"""Hostile input.

Thousands of mutated pictures, bombs and files that are several things at once, through every door that takes pictures;
JSON that is deep, long or wrong; and good pictures in the company of bad ones, which must not notice.
"""

import asyncio
import base64
import json
import random
import struct
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import uvloop

from loadtests.chaos.bodies import bombs
from loadtests.chaos.finding import Finding
from loadtests.chaos.mutated import good, mutated
from loadtests.client import LOST, Answer, Client, post
from loadtests.running import RunningService

CONNECTIONS = 8
HANGS = 10.0  # seconds
SLOW = 5.0  # the largest pictures take half a second, one at a time, and each connection may send one
MIB = 2**20
# Large pictures leave the allocator room to keep, once; what leaks would come on top with every picture.
GROWTH_MIB = 48.0
DOCUMENTED = {"/v1": {200, 400, 413, 415, 422}, "/v2": {200, 400}}
SAME_SCORE = 1e-3
PREDICT, INFER = "/v1/predict", "/v2/models/digits/infer"


@dataclass
class Seen:
    """What became of the requests."""

    statuses: dict[str, Counter[int]] = field(default_factory=lambda: {door: Counter() for door in DOCUMENTED})
    hung: int = 0
    slowest: float = 0.0
    memory: list[list[int]] = field(default_factory=list)
    """resident bytes of each worker, now and then; the least of a while is what it keeps"""


def run(long: bool, cache: Path) -> list[Finding]:
    count = 10_000 if long else 150
    with RunningService(workers=2, cache_dir=cache) as service:
        service.wait_compiled()
        workers = service.children("service.worker")
        pictures = uvloop.run(_load(service.port, _requests(mutated(0, count)), workers))
        texts = uvloop.run(_load(service.port, bombs(), workers))
        company = uvloop.run(_poisoned(service.port, 40 if long else 2))
        survived = {one.pid for one in service.children("service.worker")} == {one.pid for one in workers}
        errors = [line for line in service.log if line["level"] not in ("info", "debug")]
    third = len(pictures.memory) // 3
    first, last = pictures.memory[:third], pictures.memory[-third:]
    grown = max(
        min(now) - min(then) for then, now in zip(zip(*first, strict=True), zip(*last, strict=True), strict=True)
    )
    return [
        *_answered(f"{count:,} hostile pictures", pictures),
        *_answered("bodies of JSON that are deep, long or wrong", texts),
        Finding("workers that died", "none", "none" if survived else "some", survived),
        Finding("warnings and errors in the log", "0", str(len(errors)), not errors),
        Finding(
            "what a worker keeps of memory, from the first third of the pictures to the last",
            f"less than {GROWTH_MIB:g} MiB more",
            f"{grown / MIB:+.1f} MiB",
            grown < GROWTH_MIB * MIB,
            timed=not long,  # so few pictures are what is allocated once
        ),
        company,
    ]


def _answered(what: str, seen: Seen) -> list[Finding]:
    counts = {door: {status: found[status] for status in sorted(found)} for door, found in seen.statuses.items()}
    told = "; ".join(
        f"{door}: " + (", ".join(f"{count:,} x {status or 'lost'}" for status, count in found.items()) or "none")
        for door, found in counts.items()
    )
    return [
        Finding(
            f"{what}: statuses",
            "/v1: 200, 400, 413, 415, 422; /v2: 200, 400; no connection lost",
            told,
            all(set(found) <= DOCUMENTED[door] for door, found in counts.items()),
        ),
        Finding(f"{what}: without an answer after {HANGS:g} s", "0", str(seen.hung), seen.hung == 0),
        Finding(
            f"{what}: the slowest answer",
            f"less than {SLOW:g} s",
            f"{seen.slowest:.2f} s",
            seen.slowest < SLOW,
            timed=True,
        ),
    ]


async def _load(port: int, requests: Iterable[tuple[str, bytes]], workers: list[psutil.Process]) -> Seen:
    """As many requests at a time as CONNECTIONS, each a path and its bytes."""
    seen, waiting, done = Seen(), iter(requests), False

    async def ask() -> None:
        client, start = Client("127.0.0.1", port), time.monotonic()
        for path, request in waiting:
            try:
                answer = await asyncio.wait_for(client.ask(request, start, time.monotonic() - start), HANGS)
            except TimeoutError:
                seen.hung += 1
                client = Client("127.0.0.1", port)
                continue
            seen.statuses[path[:3]][answer.status] += 1
            seen.slowest = max(seen.slowest, answer.seconds)

    async def watch() -> None:
        while not done:
            seen.memory.append([worker.memory_info().rss for worker in workers])
            await asyncio.sleep(0.05)

    watching = asyncio.create_task(watch())
    await asyncio.gather(*(ask() for _ in range(CONNECTIONS)))
    done = True
    await watching
    return seen


def _requests(pictures: Iterator[bytes]) -> Iterator[tuple[str, bytes]]:
    """The pictures in requests of every kind, most of them alone."""
    generator = random.Random(1)
    for picture in pictures:
        kind = generator.random()
        others = generator.sample(good(), generator.choice((0, 1, 3)))
        others.insert(generator.randrange(len(others) + 1), picture)
        if kind < 0.7:
            media = generator.choice(("image/jpeg", "image/png", "image/webp", "application/octet-stream"))
            yield PREDICT, post(PREDICT, picture, Content_Type=media)
        elif kind < 0.8:
            yield PREDICT, form(others)
        elif kind < 0.9:
            yield PREDICT, in_json(others)
        else:
            yield INFER, binary(others)


def form(pictures: list[bytes]) -> bytes:
    """A request of several, as a browser sends them."""
    head = b'--b0undary\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n'
    body = b"".join(head + picture + b"\r\n" for picture in pictures) + b"--b0undary--\r\n"
    return post(PREDICT, body, Content_Type="multipart/form-data; boundary=b0undary")


def in_json(pictures: list[bytes]) -> bytes:
    body = json.dumps({"images": [base64.b64encode(picture).decode() for picture in pictures]}).encode()
    return post(PREDICT, body, Content_Type="application/json")


def binary(pictures: list[bytes]) -> bytes:
    """A request of the Open Inference Protocol with its tensor behind the JSON."""
    tensor = b"".join(struct.pack("<I", len(picture)) + picture for picture in pictures)
    one = {"name": "image", "datatype": "BYTES", "shape": [len(pictures)]}
    text = json.dumps({"inputs": [{**one, "parameters": {"binary_data_size": len(tensor)}}]}).encode()
    return post(INFER, text + tensor, Inference_Header_Content_Length=str(len(text)))


async def _poisoned(port: int, rounds: int) -> Finding:
    """Good pictures alone; then while bad ones come on other connections; then in one request with bad ones."""
    pictures, client, start = good()[:32], Client("127.0.0.1", port), time.monotonic()
    bad = [one for one in mutated(2, 390) if len(one) < 100_000]

    async def ask(request: bytes) -> Answer:
        return await client.ask(request, start, time.monotonic() - start)

    async def alone(picture: bytes) -> Any:
        return _predictions(await ask(post(PREDICT, picture, Content_Type="image/png")))[0]

    expected = [await alone(picture) for picture in pictures]
    compared, different = 0, 0
    for number in range(rounds):
        generator = random.Random(number)
        beside = asyncio.gather(
            *(ask(post(PREDICT, one, Content_Type="image/png")) for one in generator.sample(bad, 64))
        )
        found = await asyncio.gather(*(alone(picture) for picture in pictures))
        await beside
        # A bad one before each good one: whatever it writes into its slot, and whoever has that slot next.
        mixed = [one for picture in pictures for one in (generator.choice(bad), picture)]
        for request in (form(mixed), in_json(mixed)):
            found += _predictions(await ask(request))[1::2]
        for index, one in enumerate(found):
            compared += 1
            different += not _same(one, expected[index % len(pictures)])
    return Finding(
        f"{compared:,} good pictures beside bad ones, and in one request with them: answers unlike those alone",
        f"0 (another class, or scores that differ by {SAME_SCORE:g})",
        str(different),
        compared > 0 and different == 0,
    )


def _predictions(answer: Answer) -> list[Any]:
    if answer.status == LOST:
        return [None]
    return json.loads(answer.body).get("predictions", [None])


def _same(found: Any, expected: Any) -> bool:
    """Whether two rankings have the same class first, and the same scores."""
    if not isinstance(found, list) or not isinstance(expected, list):
        return False
    scores, others = ({one["label"]: one["score"] for one in ranking} for ranking in (found, expected))
    return found[0]["label"] == expected[0]["label"] and all(
        abs(scores[label] - others[label]) <= SAME_SCORE for label in scores.keys() & others.keys()
    )
