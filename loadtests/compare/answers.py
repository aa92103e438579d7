"""Whether servers say the same about the same pictures, so that what is compared is one work."""

from typing import Any

from loadtests.compare.servers import Server


class OtherAnswers(Exception):
    """A server that says something else than the service; the message says what."""


def ranking(server: Server, picture: bytes) -> dict[int, float]:
    """Scores by class, the best first. Raises OtherAnswers."""
    answer = server.ask(picture)
    if answer.status_code != 200:
        raise OtherAnswers(f"status {answer.status_code}: {answer.text[:200]}")
    body: Any = answer.json()
    if isinstance(body, list):  # who makes batches of inputs answers with a list of outputs
        [body] = body
    return {entry["index"]: entry["score"] for entry in body["predictions"][0]}


def difference(one: Server, other: Server, pictures: list[bytes], tolerance: float) -> float:
    """The largest difference of a best score, as a part of it, over all pictures.

    Raises OtherAnswers if it is more than `tolerance`, or where another class is best by more than that.
    """
    worst = 0.0
    for number, picture in enumerate(pictures):
        here, there = ranking(one, picture), ranking(other, picture)
        best = next(iter(here))
        if best not in there or len(here) != len(there):
            raise OtherAnswers(f"picture {number}: {one.name} says {here}, {other.name} {there}")
        highest = max(here[best], there[best])
        worst = max(worst, abs(here[best] - there[best]) / highest, (max(there.values()) - there[best]) / highest)
    if worst > tolerance:
        raise OtherAnswers(f"{other.name}'s scores are up to {worst:.2g} of the highest away, more than {tolerance:g}")
    return worst
