"""What a log line looks like, whatever is in it."""

import json
import logging
import sys

import pytest

from service.logs import CONSOLE, ConsoleFormatter, JsonFormatter, printable

HOSTILE = "a\r\n2026 INFO forged\x1b[31m\x9b2J\x85\u2028\u202e\x00\x7f\udc80 é 数"


def record(message: str, *, raising: str | None = None) -> logging.LogRecord:
    made = logging.LogRecord("a", logging.ERROR, "a.py", 1, "says %s", (message,), None)
    made.process_role = "worker 0"
    if raising:
        try:
            raise ValueError(raising)
        except ValueError:
            made.exc_info = sys.exc_info()
    return made


@pytest.mark.parametrize("formatter", [ConsoleFormatter(CONSOLE), JsonFormatter()])
def test_whatever_is_logged_is_one_line_that_steers_no_terminal(formatter: logging.Formatter):
    assert formatter.format(record(HOSTILE)).isprintable()


def test_what_prints_stays_as_it_is():
    assert printable("é 数 \\") == "é 数 \\"
    assert printable(HOSTILE).startswith("a\\r\\n2026 INFO forged\\x1b[31m\\x9b2J\\x85\\u2028")


def test_no_line_of_a_traceback_looks_like_a_line_of_the_log():
    first, *rest = ConsoleFormatter(CONSOLE).format(record("x", raising=HOSTILE)).split("\n")

    assert first.endswith("worker 0: says x")
    assert len(rest) >= 4
    assert all(line.startswith("    ") and line.isprintable() for line in rest)


def test_a_traceback_stays_within_its_json_object():
    line = JsonFormatter().format(record("x", raising=HOSTILE))

    assert line.isprintable()
    assert HOSTILE in json.loads(line)["exception"]
