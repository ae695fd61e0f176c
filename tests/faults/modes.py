"""The form of the table of what a provider can do wrong, and of what must become of each call."""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from integration.faults import AMPLE_SECONDS, SOON
from integration.upstream import Answer, Then
from integration.wire import EVENTS_HEAD, HELLO, chunk, chunks, completion, json_http

ELSEWHERE = b"elsewhere.invalid:80"
"""In an answer, this stands for a listener that nobody may connect to."""

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
EVENTS_HEAD_10 = b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"

HELLO_JSON = json_http("200 OK", completion())
HELLO_EVENTS = chunks(*HELLO)

STATUS = {
    "upstream_timeout": 504,
    "upstream_unreachable": 502,
    "upstream_disconnected": 502,
    "upstream_truncated": 502,
    "upstream_invalid_response": 502,
    "upstream_error": 502,
    "upstream_auth_failed": 502,
    "upstream_model_unavailable": 502,
    "upstream_rejected": 502,
    "upstream_rate_limited": 503,
    "upstream_quota_exhausted": 503,
    "upstream_unavailable": 503,
    "content_filter": 400,
    "context_length_exceeded": 400,
}
"""What a client sees of each code, unless the answer has begun."""


class Place(Enum):
    """Where the provider is looked for."""

    HERE = auto()
    CLOSED_PORT = auto()
    FULL_PORT = auto()
    NO_TLS = auto()
    NO_NAME = auto()
    SLOW_NO_NAME = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """What must become of a call.

    Attributes:
        code: None where it must succeed.
        status: The client's.
        upstream_status: As it is stored.
        calls: How often the provider was asked, which is stored as `attempts`.
        reply: What is stored of the answer.
    """

    code: str | None
    status: int
    upstream_status: int | None = None
    calls: int = 1
    reply: str = ""


def good(reply: str = "Hello", *, calls: int = 1) -> Ending:
    """Return the end of a call that succeeds."""
    return Ending(code=None, status=200, calls=calls, reply=reply)


def failed(code: str, upstream_status: int | None = None, *, calls: int = 1) -> Ending:
    """Return the end of a call whose answer has not begun."""
    status = 503 if (code, upstream_status) in OVERLOADED else STATUS[code]
    return Ending(code=code, status=status, upstream_status=upstream_status, calls=calls)


OVERLOADED = {("upstream_error", 503), ("upstream_error", 529)}
"""The provider can be asked again soon: the client's status says so too."""


def broke(code: str, reply: str = "Hel") -> Ending:
    """Return the end of a stream whose `200 OK` was out already."""
    return Ending(code=code, status=200, reply=reply)


@dataclass(frozen=True, slots=True, kw_only=True)
class Half:
    """What the provider plays to one way of asking, and what must become of it."""

    script: tuple[Answer, ...]
    ending: Ending


@dataclass(frozen=True, slots=True, kw_only=True)
class Mode:
    """One thing that a provider does wrong, to those who want a stream and to those who do not.

    Attributes:
        name: Continues "the provider ...".
        timeout_seconds: The gateway's; a quarter of it may pass in silence.
        within: Seconds after which the client has its answer.
        relayed: The endings on `/v1`, plain and streamed, where they are others.
    """

    name: str
    plain: Half
    stream: Half
    place: Place = Place.HERE
    timeout_seconds: float = AMPLE_SECONDS
    within: float = AMPLE_SECONDS
    relayed: tuple[Ending, Ending] | None = None


def halves(
    name: str, plain: bytes | Answer, stream: bytes | Answer, *endings: Ending, **more: Any
) -> Mode:
    """Return a mode with an answer for each way of asking, and one ending or two."""
    return Mode(
        name=name,
        plain=Half(script=(_answer(plain),), ending=endings[0]),
        stream=Half(script=(_answer(stream),), ending=endings[-1]),
        **more,
    )


def both(name: str, answer: bytes | Answer, ending: Ending, **more: Any) -> Mode:
    """Return a mode that is the same for both ways of asking."""
    return halves(name, answer, answer, ending, **more)


def endless(name: str, plain: Answer, stream: Answer, *endings: Ending) -> Mode:
    """Return a mode that only a deadline ends."""
    return halves(name, plain, stream, *endings, timeout_seconds=SOON, within=SOON + 1)


def silent(name: str, plain: Answer, stream: Answer, *endings: Ending) -> Mode:
    """Return a mode that ends with its silence, long before the deadline of the whole call."""
    return halves(name, plain, stream, *endings, timeout_seconds=1.2, within=1.1)


def once(name: str, answer: Answer) -> Mode:
    """Return a mode that is over when the provider is asked again."""
    ending = good(calls=2)
    return Mode(
        name=name,
        plain=Half(script=(answer, Answer(HELLO_JSON)), ending=ending),
        stream=Half(script=(answer, Answer(HELLO_EVENTS)), ending=ending),
    )


def events(*data: bytes, then: Then = Then.KEEP, drip: bytes = b"") -> Answer:
    """Return the beginning of a stream, each event in a chunk of its own."""
    return Answer(EVENTS_HEAD + b"".join(map(chunk, data)), then=then, drip=drip)


def _answer(answer: bytes | Answer) -> Answer:
    return answer if isinstance(answer, Answer) else Answer(answer)
