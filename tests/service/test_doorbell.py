"""The records between workers and engine, over a real socketpair."""

import socket

from service.doorbell import ORDER, REPLY, Command, Line, Order, Reply, Status


def test_records_survive_being_cut_anywhere():
    ours, theirs = socket.socketpair()
    line = Line(ours, ORDER)
    sent = [Order(slot, Command.PREDICT, 3, slot / 7, slot / 3) for slot in range(3)]
    data = b"".join(ORDER.pack(*order) for order in sent)

    received = []
    for start in range(0, len(data), 5):
        theirs.sendall(data[start : start + 5])
        received += [Order(*record) for record in line.receive() or ()]

    assert received == sent


def test_nothing_to_read_is_not_the_end():
    ours, theirs = socket.socketpair()
    line = Line(ours, REPLY)

    assert list(line.receive() or ()) == []
    theirs.close()
    assert line.receive() is None


def test_what_a_full_socket_refuses_is_kept_and_sent_later():
    ours, theirs = socket.socketpair()
    sender, receiver = Line(ours, ORDER), Line(theirs, REPLY)
    replies = [Reply(slot, Status.OK, 1, 2, 3) for slot in range(100_000)]

    done = sender.send(b"".join(REPLY.pack(*reply) for reply in replies))
    assert not done
    received = []
    while len(received) < len(replies):
        received += [Reply(*record) for record in receiver.receive() or ()]
        done = sender.send(b"")

    assert done
    assert received == replies
