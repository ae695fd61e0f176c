"""The bytes of HTTP, of server-sent events, and of OpenAI's chat completions."""

import json
from typing import Any

EVENTS_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
    b"X-Request-Id: req_7\r\nTransfer-Encoding: chunked\r\n\r\n"
)
LAST_CHUNK = b"0\r\n\r\n"


def http(status: str, body: bytes = b"", *headers: str) -> bytes:
    """Return a whole response."""
    lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}"]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def json_http(status: str, body: Any, *headers: str) -> bytes:
    """Return a whole response whose body is JSON."""
    return http(status, json.dumps(body).encode(), "Content-Type: application/json", *headers)


def chunk(data: bytes) -> bytes:
    """Return one piece of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def chunks(*events: bytes) -> bytes:
    """Return a whole response of events, each in a chunk of its own."""
    return EVENTS_HEAD + b"".join(map(chunk, events)) + LAST_CHUNK


def event(data: Any) -> bytes:
    """Return one event whose data is JSON."""
    return b"data: %b\n\n" % json.dumps(data).encode()


def said(text: str) -> bytes:
    """Return the event of a piece of text."""
    return event({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]})


def finished(reason: Any) -> bytes:
    """Return the event that ends an answer."""
    return event({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})


def completion(**changes: Any) -> dict[str, Any]:
    """Return a whole answer, `Hello` unless changed."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": "Hello"},
        "finish_reason": "stop",
    }
    usage = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}
    return {"id": "chatcmpl-1", "choices": [{**choice, **changes}], "usage": usage}


USAGE = event({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 2}})
DONE = b"data: [DONE]\n\n"
HELLO = (said("Hel"), said("lo"), finished("stop"), USAGE, DONE)
"""The events of a good answer."""
