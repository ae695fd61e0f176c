"""What a provider can do wrong in an answer that is streamed."""

from chatport.domain.errors import (
    UpstreamDisconnected,
    UpstreamError,
    UpstreamInvalidResponse,
    UpstreamTruncated,
)

from .faults import FAULTS, QUOTED, Fault, endless, page
from .upstream import Answer, Then
from .wire import (
    DONE,
    EVENTS_HEAD,
    chunk,
    chunks,
    completion,
    event,
    finished,
    http,
    json_http,
    said,
)

HEL = EVENTS_HEAD + chunk(said("Hel"))
UNFRAMED = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + said("Hel")
STOP = finished("stop").removesuffix(b"\n\n")


def _no_stream(name: str, data: bytes) -> Fault:
    """Return the fault of an answer of status 200 that is no stream of events."""
    return Fault(name, Answer(data), UpstreamInvalidResponse, 200)


def _broken(name: str, data: bytes, error: type[UpstreamError] = UpstreamInvalidResponse) -> Fault:
    """Return the fault of a stream with something in it that is no piece of an answer."""
    answer = Answer(chunks(said("Hel"), data, finished("stop"), DONE))
    return Fault(name, answer, error, partial="Hel")


def _cut(name: str, *events: bytes) -> Fault:
    """Return the fault of a stream that ends politely before the answer does."""
    answer = Answer(chunks(said("Hel"), *events))
    return Fault(name, answer, UpstreamTruncated, partial="Hel")


STREAM_FAULTS = (
    *FAULTS,
    _no_stream("answers with JSON", json_http("200 OK", completion())),
    _no_stream("answers with a web page", page("200 OK")),
    _no_stream("answers with nothing", http("200 OK")),
    _broken("streams an error", event({"error": {"message": QUOTED}}), UpstreamError),
    _broken("names an error", b"event: error\n" + event({"error": QUOTED}), UpstreamError),
    _broken("streams broken JSON", b'data: {"choices"\n\n'),
    _broken("streams invalid UTF-8", b'data: {"x": "\xff\xfe"}\n\n'),
    _broken("nests its JSON too deep", b"data: " + b"[" * 100_000 + b"\n\n"),
    _broken("streams a list", event([])),
    _broken("streams a number", event(5)),
    _broken("streams a text", event(QUOTED)),
    _cut("ends early"),
    _cut("ends early with [DONE]", DONE),
    _cut("ends within an event", STOP),
    _cut("ends before the blank line", STOP + b"\n"),
    _cut("ends before the blank line, with CRLF", STOP + b"\r\n"),
    _cut("ends with a comment", b": still here\n\n"),
    _cut("gives null as finish reason", finished(None), DONE),
    _cut("gives a number as finish reason", finished(5), DONE),
    _cut("gives a list as finish reason", finished(["stop"]), DONE),
    Fault(
        "streams comments only",
        Answer(chunks(b": nothing\n\n", b": to say\n\n")),
        UpstreamTruncated,
    ),
    Fault("streams nothing", Answer(chunks()), UpstreamTruncated),
    Fault(
        "ends early without framing",
        Answer(UNFRAMED, then=Then.CLOSE),
        UpstreamTruncated,
        partial="Hel",
    ),
    Fault(
        "closes within the stream",
        Answer(HEL, then=Then.CLOSE),
        UpstreamDisconnected,
        partial="Hel",
    ),
    Fault(
        "breaks the chunked coding of the stream",
        Answer(HEL + b"no size\r\n", then=Then.CLOSE),
        UpstreamDisconnected,
        partial="Hel",
    ),
    endless("falls silent within the stream", Answer(HEL, then=Then.HANG), "Hel"),
    endless("streams comments for ever", Answer(HEL, drip=chunk(b": wait\n\n")), "Hel"),
    endless("drips an endless event", Answer(HEL, drip=chunk(b"d")), "Hel"),
    Fault(
        "streams over 8 MB of comments",
        Answer(chunks(b": 1234567\n" * 800_001)),
        UpstreamInvalidResponse,
    ),
    Fault(
        "streams an event of over 8 MB",
        Answer(chunks(b"data: " + b"x" * 8_000_000)),
        UpstreamInvalidResponse,
    ),
    Fault(
        "compresses the stream",
        Answer(http("200 OK", b"", "Content-Type: text/event-stream", "Content-Encoding: gzip")),
        UpstreamInvalidResponse,
    ),
    Fault(
        "closes within the body of a refusal",
        Answer(b"HTTP/1.1 500 Oops\r\nContent-Length: 99\r\n\r\n{", then=Then.CLOSE),
        UpstreamError,
        status=500,
    ),
)
