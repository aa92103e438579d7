"""The engine's queue: order, caps, deadlines and cancellation, without an engine."""

import socket

import pytest

from service.batcher import BatchQueue, Entry
from service.doorbell import ORDER, Line


@pytest.fixture
def line() -> Line:
    return Line(socket.socketpair()[0], ORDER)


def filled(line: Line, count: int, deadline: float = 100.0) -> BatchQueue:
    queue = BatchQueue()
    for slot in range(count):
        queue.push(Entry(line, slot, sent=float(slot), deadline=deadline))
    return queue


def cut(queue: BatchQueue, now: float, cap: int) -> tuple[list[Entry], list[Entry]]:
    return queue.cut(now, cap, lambda others: cap)


def slots(entries: list[Entry]) -> list[int]:
    return [entry.slot for entry in entries]


def test_batches_are_cut_in_order_of_arrival_up_to_the_cap(line: Line):
    queue = filled(line, 5)

    assert slots(cut(queue, now=10, cap=3)[0]) == [0, 1, 2]
    assert slots(cut(queue, now=10, cap=3)[0]) == [3, 4]
    assert cut(queue, now=10, cap=3) == ([], [])


def test_cancelled_entries_are_skipped_and_leave_room_for_others(line: Line):
    queue = filled(line, 4)

    cancelled = queue.cancel(1)

    assert cancelled
    assert cancelled.slot == 1
    assert len(queue) == 3
    assert slots(cut(queue, now=10, cap=3)[0]) == [0, 2, 3]


def test_what_is_computed_already_cannot_be_cancelled(line: Line):
    queue = filled(line, 1)
    cut(queue, now=10, cap=1)

    assert queue.cancel(0) is None


def test_a_slot_cancelled_and_used_again_is_computed_once_for_its_new_owner(line: Line):
    queue = filled(line, 1)
    queue.cancel(0)
    again = Entry(line, 0, sent=5.0, deadline=100.0)
    queue.push(again)

    assert cut(queue, now=10, cap=8) == ([again], [])


def test_expired_entries_come_apart_and_take_no_place_in_the_batch(line: Line):
    queue = filled(line, 2, deadline=9.0)
    queue.push(Entry(line, 7, sent=2.0, deadline=100.0))

    batch, expired = cut(queue, now=10, cap=1)

    assert slots(batch) == [7]
    assert slots(expired) == [0, 1]


def test_a_batch_is_due_at_once_without_a_delay(line: Line):
    assert BatchQueue().wait(now=0, cap=8, max_delay=0) is None
    assert filled(line, 1).wait(now=0, cap=8, max_delay=0) == 0


def test_the_delay_counts_from_the_oldest_waiting_arrival(line: Line):
    queue = filled(line, 3)  # sent at 0, 1 and 2

    assert queue.wait(now=2, cap=8, max_delay=5) == 3
    queue.cancel(0)
    assert queue.wait(now=2, cap=8, max_delay=5) == 4
    assert queue.wait(now=2, cap=2, max_delay=5) == 0


def test_a_lost_line_takes_its_entries_with_it(line: Line):
    queue = filled(line, 2)
    other = Line(socket.socketpair()[0], ORDER)
    queue.push(Entry(other, 9, sent=0.0, deadline=100.0))

    assert queue.disconnect(line) == 2
    assert slots(cut(queue, now=1, cap=8)[0]) == [9]


def with_urgencies(line: Line, *urgencies: int) -> BatchQueue:
    queue = BatchQueue()
    for slot, urgency in enumerate(urgencies):
        queue.push(Entry(line, slot, sent=float(slot), deadline=100.0, urgency=urgency))
    return queue


def test_the_more_urgent_come_first_and_among_them_the_older(line: Line):
    queue = with_urgencies(line, 3, 7, 0, 3, 0)

    assert slots(cut(queue, now=10, cap=3)[0]) == [2, 4, 0]
    assert slots(cut(queue, now=10, cap=3)[0]) == [3, 1]


def test_background_work_joins_others_only_up_to_its_own_cap(line: Line):
    queue = with_urgencies(line, 7, 7, 7, 7, 3, 3, 3)

    batch, _ = queue.cut(now=10, cap=8, background_cap=lambda others: {3: 4, 0: 2}[others])
    assert slots(batch) == [4, 5, 6, 0]
    batch, _ = queue.cut(now=10, cap=8, background_cap=lambda others: {3: 4, 0: 2}[others])
    assert slots(batch) == [1, 2]


def test_the_delay_counts_from_the_oldest_of_all_urgencies(line: Line):
    assert with_urgencies(line, 7, 0).wait(now=2, cap=8, max_delay=5) == 3
