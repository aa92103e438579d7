"""A worker's slots against an engine that the test plays itself, over a real arena and socketpair."""

import asyncio
import socket
from collections import Counter

import numpy as np
import pytest

from service.arena import Arena
from service.doorbell import DEFAULT_URGENCY, LEAST_URGENCY, ORDER, REPLY, Command, Line, Order, Reply, Status
from service.problems import Problem
from service.slots import EngineState, ServiceStatus, SlotPool, Ticket

SLOTS = 4
LONG = 1e9  # a deadline


class PlayedEngine:
    """The other end of the line, answering only when told to."""

    def __init__(self, arena: Arena) -> None:
        self.arena = arena
        self.socket, theirs = socket.socketpair()
        self.line = Line(theirs, ORDER)
        self.dropped: Counter[str] = Counter()

    def count_dropped(self, reason: str, images: int) -> None:
        self.dropped[reason] += images

    async def orders(self, count: int) -> list[Order]:
        received: list[Order] = []
        while len(received) < count:
            await asyncio.sleep(0)
            received += [Order(*record) for record in self.line.receive() or ()]
        return received

    def reply(self, slot: int, status: Status = Status.OK) -> None:
        self.arena.scores[slot] = slot
        self.line.send(REPLY.pack(slot, status, 1, 10, 20))


def new_pool(status: ServiceStatus | None = None) -> tuple[SlotPool, PlayedEngine]:
    arena = Arena.create(SLOTS, size=8, classes=3)
    engine = PlayedEngine(arena)
    pool = SlotPool(arena, 0, SLOTS, status or ServiceStatus(ready=True), engine.count_dropped)
    pool.connect(engine.socket)
    return pool, engine


def pool_of_two(states: list[EngineState]) -> tuple[SlotPool, ServiceStatus, list[PlayedEngine]]:
    """With 8 slots, and a line to both engines."""
    arena = Arena.create(2 * SLOTS, size=8, classes=3)
    status = ServiceStatus(ready="ready" in states, recovering="recovering" in states, engines=states)
    engines = [PlayedEngine(arena), PlayedEngine(arena)]
    pool = SlotPool(arena, 0, 2 * SLOTS, status, engines[0].count_dropped, engines=2)
    for index, engine in enumerate(engines):
        pool.connect(engine.socket, index)
    return pool, status, engines


async def infer(pool: SlotPool, images: int) -> list[Reply]:
    with pool.take(images, DEFAULT_URGENCY) as ticket:
        return await ticket.infer(list(range(images)), LONG)


def free_slots(pool: SlotPool) -> int:
    taken: list[Ticket] = []
    try:
        while True:
            taken.append(pool.take(1, DEFAULT_URGENCY))
    except Problem:
        return len(taken)
    finally:
        for ticket in taken:
            ticket.__exit__(None, None, None)


def test_an_answer_is_that_of_its_own_slot():
    async def run() -> None:
        pool, engine = new_pool()
        with pool.take(2, DEFAULT_URGENCY) as first, pool.take(1, DEFAULT_URGENCY) as second:
            waiting = asyncio.gather(first.infer([0, 1], LONG), second.infer([0], LONG))
            orders = await engine.orders(3)
            for order in reversed(orders):
                engine.reply(order.slot)
            replies = await waiting
            assert [reply.slot for reply in replies[0]] == first.slots
            assert [float(first.scores(index)[0]) for index in (0, 1)] == [float(slot) for slot in first.slots]
            assert float(second.scores(0)[0]) == second.slots[0]
        assert free_slots(pool) == SLOTS

    asyncio.run(run())


def test_a_jpeg_that_the_device_cannot_decode_is_asked_for_again_as_pixels():
    async def run() -> None:
        pool, engine = new_pool()
        with pool.take(2, DEFAULT_URGENCY) as ticket:
            ticket.jpegs.add(ticket.slots[1])
            waiting = asyncio.create_task(ticket.infer([0, 1], LONG))
            orders = await engine.orders(2)
            assert [(order.slot, order.command) for order in orders] == [
                (ticket.slots[0], Command.PREDICT),
                (ticket.slots[1], Command.DECODE),
            ]
            engine.reply(orders[0].slot)
            engine.reply(orders[1].slot, Status.UNDECODED)
            assert [reply.status for reply in await waiting] == [Status.OK, Status.UNDECODED]

            waiting = asyncio.create_task(ticket.infer([1], LONG))
            [order] = await engine.orders(1)
            assert (order.slot, order.command) == (ticket.slots[1], Command.PREDICT)
            engine.reply(order.slot)
            assert [reply.status for reply in await waiting] == [Status.OK]
        assert free_slots(pool) == SLOTS

    asyncio.run(run())


def test_jpegs_are_passed_on_where_the_engine_says_so():
    async def run() -> None:
        status = ServiceStatus(ready=True)
        pool, _ = new_pool(status)
        assert not pool.jpegs_as_they_are
        status.card = {"decode": "cpu"}
        assert not pool.jpegs_as_they_are
        status.card = {"decode": "gpu"}
        assert pool.jpegs_as_they_are

    asyncio.run(run())


def test_a_full_pool_refuses_at_once_and_takes_nothing():
    async def run() -> None:
        pool, _ = new_pool()
        with pool.take(3, DEFAULT_URGENCY):
            with pytest.raises(Problem) as refusal:
                pool.take(2, DEFAULT_URGENCY)
            assert refusal.value.status == 429
            assert refusal.value.headers["Retry-After"] == "1"
            assert free_slots(pool) == 1
        assert free_slots(pool) == SLOTS

    asyncio.run(run())


def test_an_expired_request_gets_its_slot_back_only_with_the_reply():
    async def run() -> None:
        pool, engine = new_pool()
        with pytest.raises(TimeoutError), pool.take(1, DEFAULT_URGENCY) as ticket:
            async with asyncio.timeout(0.01):
                await ticket.infer([0], LONG)
        order, cancel = await engine.orders(2)
        assert (cancel.slot, cancel.command) == (order.slot, Command.CANCEL)
        assert free_slots(pool) == SLOTS - 1  # the engine may still be reading it
        assert not engine.dropped["deadline"]

        engine.reply(order.slot, Status.CANCELLED)
        await asyncio.sleep(0.01)
        assert free_slots(pool) == SLOTS
        assert engine.dropped["deadline"] == 1

    asyncio.run(run())


def test_background_work_leaves_slots_to_others():
    async def run() -> None:
        pool, engine = new_pool()
        with pytest.raises(Problem) as refusal:
            pool.take(SLOTS, LEAST_URGENCY)
        assert refusal.value.status == 429
        with pool.take(SLOTS - 1, LEAST_URGENCY), pool.take(1, DEFAULT_URGENCY):
            assert engine.dropped == {"shed": SLOTS}

    asyncio.run(run())


def test_what_never_reached_the_engine_is_counted_when_its_client_goes():
    async def run() -> None:
        pool, engine = new_pool()
        with pytest.raises(asyncio.CancelledError), pool.take(2, DEFAULT_URGENCY):
            raise asyncio.CancelledError
        assert free_slots(pool) == SLOTS
        assert engine.dropped["disconnect"] == 2

    asyncio.run(run())


def test_a_cancelled_request_leaves_its_slot_to_the_engine_until_the_reply():
    async def run() -> None:
        pool, engine = new_pool()

        async def request() -> list[Reply]:
            with pool.take(1, DEFAULT_URGENCY) as ticket:
                return await ticket.infer([0], LONG)

        task = asyncio.create_task(request())
        (order,) = await engine.orders(1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert free_slots(pool) == SLOTS - 1
        engine.reply(order.slot)  # it had been computed before the cancellation came
        await asyncio.sleep(0.01)
        assert free_slots(pool) == SLOTS
        assert not engine.dropped["disconnect"]

    asyncio.run(run())


def test_a_lost_engine_fails_what_it_held_and_frees_every_slot():
    async def run() -> None:
        pool, engine = new_pool()

        async def request() -> list[Reply]:
            with pool.take(2, DEFAULT_URGENCY) as ticket:
                return await ticket.infer([0, 1], LONG)

        task = asyncio.create_task(request())
        await engine.orders(2)
        engine.line.close()
        with pytest.raises(Problem) as refusal:
            await task
        assert refusal.value.status == 503
        assert free_slots(pool) == SLOTS

    asyncio.run(run())


def test_images_wait_for_the_engine_that_is_to_come():
    async def run() -> None:
        status = ServiceStatus(ready=True)
        pool, engine = new_pool(status)

        async def request() -> list[Reply]:
            with pool.take(1, DEFAULT_URGENCY) as ticket:
                return await ticket.infer([0], LONG)

        engine.line.close()
        await asyncio.sleep(0.01)
        status.ready, status.recovering, status.engines = False, True, ["recovering"]
        pool.check_hope()
        task = asyncio.create_task(request())
        await asyncio.sleep(0.01)
        successor = PlayedEngine(engine.arena)
        pool.connect(successor.socket)
        (order,) = await successor.orders(1)
        successor.reply(order.slot)
        assert len(await task) == 1
        assert free_slots(pool) == SLOTS

    asyncio.run(run())


def test_images_that_wait_for_an_engine_fail_when_there_is_no_more_hope():
    async def run() -> None:
        status = ServiceStatus(recovering=True)
        pool, engine = new_pool(status)
        engine.line.close()
        await asyncio.sleep(0.01)

        async def request() -> list[Reply]:
            with pool.take(1, DEFAULT_URGENCY) as ticket:
                return await ticket.infer([0], LONG)

        task = asyncio.create_task(request())
        await asyncio.sleep(0.01)
        status.recovering, status.engines = False, ["away"]
        pool.check_hope()
        with pytest.raises(Problem) as refusal:
            await task
        assert refusal.value.status == 503
        with pytest.raises(Problem) as refusal:
            pool.take(1, DEFAULT_URGENCY)
        assert refusal.value.status == 503
        status.ready = True
        assert free_slots(pool) == SLOTS

    asyncio.run(run())


@pytest.mark.parametrize(("status", "code"), [(Status.FAILED, 500), (Status.NOT_FINITE, 500), (Status.EXPIRED, 504)])
def test_one_bad_slot_fails_its_request_alone(status: Status, code: int):
    async def run() -> None:
        pool, engine = new_pool()

        async def request(count: int) -> list[Reply]:
            with pool.take(count, DEFAULT_URGENCY) as ticket:
                return await ticket.infer(list(range(count)), LONG)

        bad, good = asyncio.create_task(request(2)), asyncio.create_task(request(1))
        orders = await engine.orders(3)
        engine.reply(orders[0].slot, status)
        engine.reply(orders[1].slot)
        engine.reply(orders[2].slot)
        with pytest.raises(Problem) as refusal:
            await bad
        assert refusal.value.status == code
        assert len(await good) == 1
        assert free_slots(pool) == SLOTS

    asyncio.run(run())


def test_images_are_shared_out_between_engines_by_what_each_has_to_do():
    async def run() -> None:
        pool, _, (first, second) = pool_of_two(["ready", "ready"])
        whole = asyncio.create_task(infer(pool, 4))
        orders = await first.orders(2), await second.orders(2)
        for order in orders[1]:
            second.reply(order.slot)
        await asyncio.sleep(0.01)

        more = asyncio.create_task(infer(pool, 2))
        for order in await second.orders(2):  # it has nothing to do, and the first has two
            second.reply(order.slot)
        assert len(await more) == 2
        for order in orders[0]:
            first.reply(order.slot)
        assert len(await whole) == 4
        assert free_slots(pool) == 2 * SLOTS

    asyncio.run(run())


def test_engines_that_have_nothing_to_do_take_turns():
    async def run() -> None:
        pool, _, engines = pool_of_two(["ready", "ready"])
        for engine in [*engines, *engines]:
            task = asyncio.create_task(infer(pool, 1))
            (order,) = await engine.orders(1)
            engine.reply(order.slot)
            await task

    asyncio.run(run())


def test_a_cancellation_goes_to_the_engine_that_has_the_image():
    async def run() -> None:
        pool, _, engines = pool_of_two(["ready", "ready"])
        tasks = [asyncio.create_task(infer(pool, 1)) for _ in engines]
        ordered = [(await engine.orders(1))[0] for engine in engines]
        for task in tasks:
            task.cancel()
        for engine, order in zip(engines, ordered, strict=True):
            (cancel,) = await engine.orders(1)
            assert (cancel.slot, cancel.command) == (order.slot, Command.CANCEL)

    asyncio.run(run())


def test_a_lost_engine_takes_what_it_held_and_the_next_images_go_to_the_other():
    async def run() -> None:
        pool, status, (first, second) = pool_of_two(["ready", "ready"])
        on_first, on_second = asyncio.create_task(infer(pool, 1)), asyncio.create_task(infer(pool, 1))
        await first.orders(1)
        (order,) = await second.orders(1)
        first.line.close()
        with pytest.raises(Problem) as refusal:
            await on_first
        assert refusal.value.status == 503

        tasks = [asyncio.create_task(infer(pool, 1)) for _ in range(3)]  # before the supervisor has said anything
        orders = [order, *await second.orders(3)]
        status.engines = ["recovering", "ready"]
        pool.check_hope()
        tasks += [asyncio.create_task(infer(pool, 1)) for _ in range(3)]
        orders += await second.orders(3)
        for order in orders:
            second.reply(order.slot)
        assert all(len(replies) == 1 for replies in await asyncio.gather(on_second, *tasks))
        assert free_slots(pool) == 2 * SLOTS

    asyncio.run(run())


def test_an_engine_that_starts_gets_nothing_before_it_answers():
    async def run() -> None:
        pool, status, (first, second) = pool_of_two(["away", "ready"])
        tasks = [asyncio.create_task(infer(pool, 1)) for _ in range(2)]
        orders = await second.orders(2)
        status.engines = ["ready", "ready"]
        tasks.append(asyncio.create_task(infer(pool, 1)))
        (late,) = await first.orders(1)
        first.reply(late.slot)
        for order in orders:
            second.reply(order.slot)
        assert len(await asyncio.gather(*tasks)) == 3

    asyncio.run(run())


@pytest.mark.parametrize("known", ["ready", "recovering"], ids=["the supervisor has not said so yet", "it has"])
def test_images_wait_for_the_engine_that_comes_back_and_not_for_the_other(known: EngineState):
    async def run() -> None:
        pool, status, (first, second) = pool_of_two(["away", known])
        first.line.close()
        second.line.close()
        await asyncio.sleep(0.01)
        task = asyncio.create_task(infer(pool, 2))
        await asyncio.sleep(0.01)
        status.engines = ["away", "recovering"]
        pool.check_hope()
        successor = PlayedEngine(second.arena)
        pool.connect(successor.socket, 1)
        for order in await successor.orders(2):
            successor.reply(order.slot)
        assert len(await task) == 2

    asyncio.run(run())


def test_the_arena_is_one_memory_for_every_mapping():
    arena = Arena.create(SLOTS, size=8, classes=3)
    other = Arena(arena.fd, SLOTS, 8, 3)

    arena.pixels[2] = 7
    other.scores[1] = np.array([0.1, 0.2, 0.7], np.float32)

    assert (other.pixels[2] == 7).all()
    assert not other.pixels[1].any()
    assert arena.scores[1].tolist() == pytest.approx([0.1, 0.2, 0.7])
