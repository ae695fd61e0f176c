"""One line of JSON a request and an event: ids, sizes, codes and times, never a text."""

import json
import logging
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime

from flask import g, request

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


def log_request(status: int) -> Callable[[], None]:
    """Return what logs the present request once its answer is finished."""
    fields = {
        "request_id": g.request_id,
        "method": request.method,
        "route": request.url_rule.rule if request.url_rule else None,
        "status": status,
        "bytes_in": request.content_length or 0,
    }
    outcome = g._get_current_object()  # noqa: SLF001  # the object itself outlives the request

    def log() -> None:
        milliseconds = round((time.monotonic() - outcome.started) * 1000, 1)
        fields.update(code=outcome.error_code, duration_ms=milliseconds)
        logger.info("request", extra={"fields": fields})

    return log
