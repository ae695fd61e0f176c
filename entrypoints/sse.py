"""Answering with server-sent events."""

import json
import logging
import time
from collections.abc import Callable, Iterator

from flask import Response, g

from chatport.domain.errors import ChatportError
from chatport.domain.model import Delta
from chatport.domain.stream import HEARTBEAT as SILENCE
from chatport.domain.stream import ChatStream

from .access_log import AccessLine
from .faults import Fault, fault_of
from .idempotency import mark_replayed
from .limit_headers import limit_headers

logger = logging.getLogger(__name__)

HEARTBEAT = b": ping\n\n"
"""A comment. A server notices that the client has left only when it writes."""


QUIET_SECONDS = 2.0
"""How long pieces may come that the client is not shown, such as thoughts, before a heartbeat."""


def event(name: str, data: dict[str, object]) -> bytes:
    """Return an event. ASCII, since a piece may hold half of a surrogate pair."""
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode("ascii")


def pieces(
    stream: ChatStream, shown: Callable[[Delta], bytes], still_wanted: Callable[[], bool]
) -> Iterator[bytes]:
    """Yield what the client is shown of each piece, and a heartbeat where that is nothing.

    Ends when the stream does, which has its `reply` then, or when nobody wants it any more.
    """
    quiet_since = time.monotonic()
    while (delta := stream.next_delta()) is not None:
        data = shown(delta)
        if not data:
            if delta != SILENCE and time.monotonic() - quiet_since < QUIET_SECONDS:
                continue
            if not still_wanted():
                return
        yield data or HEARTBEAT
        quiet_since = time.monotonic()


def answer(
    stream: ChatStream, events: Iterator[bytes], error_event: Callable[[Fault], bytes]
) -> Response:
    """Return the answer that sends the events of a stream, and closes it whatever happens.

    Args:
        stream: Has been opened.
        events: What it says, in the wire format of the route.
        error_event: Writes what went wrong, as the last event.
    """
    g.line.request_id = stream.exchange_id
    response = Response(with_error(events, g.line, error_event), content_type="text/event-stream")
    response.headers["X-Accel-Buffering"] = "no"  # tells nginx to pass each event on at once
    response.headers.update(limit_headers(stream.allowances))
    mark_replayed(response, replayed=stream.replayed)
    g.closing.callback(_close, stream)
    return response


def _close(stream: ChatStream) -> None:
    """Close a stream; that its outcome could not be kept is for the log, since nobody listens."""
    try:
        stream.close()
    except ChatportError as error:
        logger.warning("the outcome of %s was not kept: %s", stream.exchange_id, error.code)


def with_error(
    events: Iterator[bytes], line: AccessLine, error_event: Callable[[Fault], bytes]
) -> Iterator[bytes]:
    """Yield the events, and as the last one what went wrong, if something did."""
    try:
        yield from events
    except GeneratorExit:
        raise
    except BaseException as error:  # noqa: BLE001  # after `200 OK`, this event is the only answer left
        fault = fault_of(error)
        line.code = fault.code
        yield error_event(fault)  # and no more: an answer that is cut by a stop has its end too
