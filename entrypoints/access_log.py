"""One line of JSON a request and an event: ids, sizes, codes and times, never a text."""

import json
import logging
import sys
import time
from datetime import UTC, datetime

from flask import Request

logger = logging.getLogger("chatport.access")

QUIET = ("openai", "httpx2", "httpcore2", "peewee", "filelock", "gunicorn.access")
"""Below WARNING, these log headers, bodies or SQL with its values."""


class JSONFormatter(logging.Formatter):
    """Writes a record as one line, whatever it holds; never an exception's own text."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[0]:
            line["exception"] = record.exc_info[0].__name__
        return json.dumps(line)


def configure_logging() -> None:
    """Send all logs of the process to standard error, as lines of JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JSONFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


class AccessLine:
    """The line of one request; it is written when the answer is finished, also a streamed one.

    Attributes:
        request_id: The id of the request, and of its exchange.
        code: What went wrong, if something did.
        caller: Who asked, once that is known.
    """

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.code: str | None = None
        self.caller: str | None = None
        self._started = time.monotonic()
        self._facts: dict[str, object] = {}

    def describe(self, request: Request, status: int) -> None:
        """Take what is known when the answer begins."""
        self._facts = {
            "method": request.method,
            "route": request.url_rule.rule if request.url_rule else None,
            "status": status,
            "bytes_in": request.content_length or 0,
        }

    def write(self) -> None:
        """Write the line."""
        milliseconds = round((time.monotonic() - self._started) * 1000, 1)
        end = {"caller": self.caller, "code": self.code, "duration_ms": milliseconds}
        fields = {"request_id": self.request_id, **self._facts, **end}
        logger.info("request", extra={"fields": fields})
