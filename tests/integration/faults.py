"""What a provider can do wrong whether it streams or not, and which error each fault must become.

Whatever it says in these answers quotes the key and the prompt back, as some providers do.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from chatport.domain import errors

from .upstream import Answer, Then
from .wire import http, json_http

KEY = "sk-canary-51a9c0ffee"
PROMPT = "canary-prompt-83b1: what is the weather?"
QUOTED = f"You sent {PROMPT} with {KEY}"

AMPLE_SECONDS = 10.0
SOON = 0.4
"""Seconds after which a call is over that would otherwise go on for ever."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        name: Continues "the provider ...".
        status: The error's `upstream_status`.
        retry_after: The error's `retry_after_seconds`.
        partial: What the user was told before, if the answer is streamed.
    """

    name: str
    answer: Answer
    error: type[errors.ChatportError]
    status: int | None = None
    retry_after: float | None = None
    partial: str = ""
    timeout_seconds: float = AMPLE_SECONDS


def page(status: str, *headers: str) -> bytes:
    """Return a whole response that is a web page."""
    return http(status, f"<h1>{QUOTED}</h1>".encode(), "Content-Type: text/html", *headers)


def refusal(status: str, *headers: str, code: Any = None) -> bytes:
    """Return a whole response as OpenAI words its errors."""
    error = {"message": QUOTED, "type": "some_error", "param": None, "code": code}
    return json_http(status, {"error": error}, *headers)


def endless(name: str, answer: Answer, partial: str = "") -> Fault:
    """Return the fault of an answer that only a deadline ends."""
    return Fault(name, answer, errors.UpstreamTimeout, partial=partial, timeout_seconds=SOON)


CONNECTIONS = (
    Fault("closes before it answers", Answer(then=Then.CLOSE), errors.UpstreamHungUp),
    Fault("resets before it answers", Answer(then=Then.RESET), errors.UpstreamHungUp),
    Fault(
        "closes within the head",
        Answer(b"HTTP/1.1 200 OK\r\nContent-", then=Then.CLOSE),
        errors.UpstreamHungUp,
    ),
    endless("never answers", Answer(then=Then.HANG)),
    endless("falls silent within the head", Answer(b"HTTP/1.1 200 OK\r\nX-", then=Then.HANG)),
    endless("drips an endless head", Answer(b"HTTP/1.1 200 OK\r\n", drip=b"X: y\r\n")),
    Fault(
        "speaks no HTTP",
        Answer(b"\x15\x03\x01\x02\x28" + QUOTED.encode() + b"\r\n\r\n", then=Then.CLOSE),
        errors.UpstreamInvalidResponse,
    ),
    Fault(
        "sends a header of 200 kB",
        Answer(http("200 OK", b"{}", f"X-Long: {'x' * 200_000}")),
        errors.UpstreamInvalidResponse,
    ),
    Fault(
        "contradicts itself about the length",
        Answer(http("200 OK", b"{}", "Content-Length: 1")),
        errors.UpstreamInvalidResponse,
    ),
)

STATUSES: tuple[tuple[str, type[errors.ChatportError], float | None], ...] = (
    ("301 Moved Permanently", errors.UpstreamRejected, None),
    ("302 Found", errors.UpstreamRejected, None),
    ("307 Temporary Redirect", errors.UpstreamRejected, None),
    ("308 Permanent Redirect", errors.UpstreamRejected, None),
    ("400 Bad Request", errors.UpstreamRejected, None),
    ("401 Unauthorized", errors.UpstreamAuthFailed, None),
    ("402 Payment Required", errors.UpstreamQuotaExhausted, None),
    ("403 Forbidden", errors.UpstreamAuthFailed, None),
    ("404 Not Found", errors.UpstreamModelUnavailable, None),
    ("405 Method Not Allowed", errors.UpstreamRejected, None),
    ("408 Request Timeout", errors.UpstreamError, None),
    ("409 Conflict", errors.UpstreamError, None),
    ("413 Content Too Large", errors.UpstreamRejected, None),
    ("418 I'm a teapot", errors.UpstreamRejected, None),
    ("422 Unprocessable Content", errors.UpstreamRejected, None),
    ("429 Too Many Requests", errors.UpstreamRateLimited, 1.0),
    ("500 Internal Server Error", errors.UpstreamError, None),
    ("502 Bad Gateway", errors.UpstreamError, None),
    ("503 Service Unavailable", errors.UpstreamOverloaded, 1.0),
    ("504 Gateway Timeout", errors.UpstreamError, None),
    ("529 Overloaded", errors.UpstreamOverloaded, 1.0),
)

CODES: tuple[tuple[str, Any, type[errors.ChatportError], float | None], ...] = (
    ("400 Bad Request", "content_filter", errors.ContentFiltered, None),
    ("400 Bad Request", "content_policy_violation", errors.ContentFiltered, None),
    ("400 Bad Request", "context_length_exceeded", errors.ContextLengthExceeded, None),
    ("429 Too Many Requests", "insufficient_quota", errors.UpstreamQuotaExhausted, None),
    ("429 Too Many Requests", "rate_limit_exceeded", errors.UpstreamRateLimited, 20.0),
    ("429 Too Many Requests", 429, errors.UpstreamRateLimited, 20.0),
    ("401 Unauthorized", [KEY], errors.UpstreamAuthFailed, None),
    ("401 Unauthorized", {"key": KEY}, errors.UpstreamAuthFailed, None),
)

WAITS = (
    ("7", 7.0),
    ("2.5", 2.5),
    ("0.2", 1.0),
    ("-3", 1.0),
    ("3600", 3600.0),
    ("86400", 3600.0),
    ("nan", 1.0),
    ("inf", 1.0),
    ("", 1.0),
    ("Wed, 21 Oct 2015 07:28:00 GMT", 1.0),
)


def _refusals() -> Iterator[Fault]:
    for line, error, wait in STATUSES:
        for kind, worded in (("JSON", refusal), ("HTML", page)):
            answer = Answer(worded(line, "Location: /v1/elsewhere"))
            yield Fault(f"says {line} in {kind}", answer, error, int(line[:3]), wait)
    for line, code, error, wait in CODES:
        answer = Answer(refusal(line, "Retry-After: 20", code=code))
        yield Fault(f"says {line} with the code {code!r}", answer, error, int(line[:3]), wait)
    for header, wait in WAITS:
        answer = Answer(refusal("429 Too Many Requests", f"Retry-After: {header}"))
        yield Fault(f"says 429, wait {header!r}", answer, errors.UpstreamRateLimited, 429, wait)
        answer = Answer(page("503 Service Unavailable", f"Retry-After: {header}"))
        yield Fault(f"says 503, wait {header!r}", answer, errors.UpstreamOverloaded, 503, wait)
    for body in (QUOTED, [QUOTED], None, {"error": QUOTED}, {"error": None}, {"error": [QUOTED]}):
        answer = Answer(json_http("401 Unauthorized", body))
        yield Fault(f"says 401 with {body!r}", answer, errors.UpstreamAuthFailed, 401)


FAULTS = (*CONNECTIONS, *_refusals())
