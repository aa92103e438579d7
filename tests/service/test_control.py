"""Messages between the supervisor and its children: what was said before an end is heard."""

from service import control


def test_the_last_words_of_a_process_that_left_messages_unread_are_heard():
    supervisor, child = control.pair()
    control.send(supervisor, "connect", worker=0)
    control.send(child, "alive")
    control.send(child, "fatal", message="no weights")
    child.close()

    heard = [control.receive(supervisor) for _ in range(3)]

    assert [message.kind for message in heard[:2]] == ["alive", "fatal"]
    assert heard[1].fields == {"message": "no weights"}
    assert heard[2] is None
    assert not control.send(supervisor, "stop")


def test_descriptors_arrive_and_are_not_inherited(tmp_path):
    supervisor, child = control.pair()
    with (tmp_path / "file").open("w+") as file:
        file.write("hello")
        file.flush()
        control.send(supervisor, "start", [file.fileno()], size=5)

    message = control.receive(child)

    assert message.fields == {"size": 5}
    with open(message.fds[0]) as received:
        received.seek(0)
        assert received.read() == "hello"
