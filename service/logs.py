"""Log lines: one on stderr each, for a console or as JSON.

Whatever a client sent may stand in them: it can neither begin another line nor steer a terminal.
"""

import json
import logging
import sys
import time
from typing import Any

CONSOLE = "%(asctime)s %(levelname)-7s %(process_role)s: %(message)s"


class ConsoleFormatter(logging.Formatter):
    """For people. A traceback follows its line, indented, so that none of it looks like a line of the log."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        return "\n".join(f"    {printable(line)}" for line in super().formatException(ei).split("\n"))


class JsonFormatter(logging.Formatter):
    """One JSON object a line; what was passed as `extra={"fields": …}` becomes keys."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "process": record.__dict__.get("process_role"),
            "pid": record.process,
            "message": record.getMessage(),
            **record.__dict__.get("fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def printable(text: str) -> str:
    """`text` with everything escaped that Unicode calls no printing character: controls, line and text direction."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


def configure(log_format: str, level: str, role: str) -> None:
    """Send this process's log to stderr; `role` says which process speaks."""

    def add_role(record: logging.LogRecord) -> bool:
        record.process_role = role
        return True

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else ConsoleFormatter(CONSOLE))
    handler.addFilter(add_role)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
