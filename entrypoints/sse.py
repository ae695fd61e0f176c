"""Writing server-sent events."""

import json

HEADERS = {"X-Accel-Buffering": "no"}
"""Tells nginx to pass each event on at once."""

HEARTBEAT = b": ping\n\n"
"""A comment. A server notices that the client has left only when it writes."""


def event(name: str, data: dict[str, object]) -> bytes:
    """Return an event. ASCII, since a piece may hold half of a surrogate pair."""
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode("ascii")
