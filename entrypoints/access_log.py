"""One line of JSON a request and an event: ids, sizes, codes and times, never a text."""

import json
import logging
import math
import os
import select
import sys
import time
from datetime import UTC, datetime
from typing import TextIO

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


PATIENCE_MILLISECONDS = 1_000
"""For the reader of a log; meanwhile the whole process waits."""

HURRY_SECONDS = 60.0
"""After a reader that was waited for in vain, for none."""


class HurriedHandler(logging.StreamHandler[TextIO]):
    """Leaves lines out that nobody reads, so that a service does not stand still with its reader.

    Once that one goes on, it is told how many lines were left out.
    """

    def __init__(self, stream: TextIO) -> None:
        stream = _taking_what_it_can(stream)
        super().__init__(stream)
        self._begin()
        self._room = _poll()
        if self._room is not None:
            self._room.register(stream, select.POLLOUT)
            os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        """Know of no lines that were left out, such as those of a process that was forked."""
        self._left_out = 0
        self._hurried_until = -math.inf

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line, or count it."""
        if not self._has_room():
            self._left_out += 1
            return
        if self._left_out:
            before, self._left_out = self._left_out, 0
            super().emit(_gap(before))
            if self._left_out:  # that cannot be written either
                self._left_out = before + 1
                return
        super().emit(record)

    def handleError(self, _record: logging.LogRecord) -> None:  # noqa: N802  # the base class's name
        """Count the line; to print why would wait for the same reader."""
        self._left_out += 1

    def _has_room(self) -> bool:
        if self._room is None or self._room.poll(0):
            return True
        if time.monotonic() < self._hurried_until:
            return False
        if self._room.poll(PATIENCE_MILLISECONDS):
            return True
        self._hurried_until = time.monotonic() + HURRY_SECONDS
        return False


def _gap(lines: int) -> logging.LogRecord:
    said = "lines were left out: %s"
    return logging.LogRecord(__name__, logging.WARNING, __file__, 0, said, (lines,), None)


def _taking_what_it_can(stream: TextIO) -> TextIO:
    """Return a terminal such that writing waits for nobody; anything else as it is.

    Of a pipe it is enough to know that there is room, since that is enough for a line.
    """
    try:
        name = os.ttyname(stream.fileno())
        return os.fdopen(os.open(name, os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK), "w")
    except (AttributeError, OSError):
        return stream


def _poll() -> "select.poll | None":
    """Return what says whether a stream takes more; None where no system call does.

    gevent's would let others run meanwhile, and must not be asked by its hub.
    """
    monkey = sys.modules.get("gevent.monkey")
    made = monkey.get_original("select", "poll") if monkey else getattr(select, "poll", None)
    return made() if made else None


def configure_logging() -> None:
    """Send all logs of the process to standard error, as lines of JSON."""
    handler = HurriedHandler(sys.stderr)
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
