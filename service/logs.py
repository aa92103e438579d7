"""Log lines: one on stderr each, for a console or as JSON."""

import json
import logging
import sys
import time
from typing import Any

CONSOLE = "%(asctime)s %(levelname)-7s %(process_role)s: %(message)s"


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


def configure(log_format: str, level: str, role: str) -> None:
    """Send this process's log to stderr; `role` says which process speaks."""

    def add_role(record: logging.LogRecord) -> bool:
        record.process_role = role
        return True

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else logging.Formatter(CONSOLE))
    handler.addFilter(add_role)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
