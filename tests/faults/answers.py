"""What a provider can do wrong in its answer, whole or streamed, and what is odd but right."""

import gzip
import json
import zlib
from typing import Any

from integration.faults import QUOTED, page
from integration.upstream import Answer, Then
from integration.wire import (
    DONE,
    EVENTS_HEAD,
    HELLO,
    LAST_CHUNK,
    USAGE,
    chunk,
    chunks,
    completion,
    event,
    finished,
    http,
    json_http,
    said,
)

from .modes import (
    CHUNKED,
    EVENTS_HEAD_10,
    HEAD,
    HELLO_EVENTS,
    HELLO_JSON,
    Ending,
    Mode,
    broke,
    endless,
    events,
    failed,
    good,
    halves,
    silent,
)

DISCONNECTED = failed("upstream_disconnected"), broke("upstream_disconnected")
TIMEOUT = failed("upstream_timeout"), broke("upstream_timeout")
INVALID = failed("upstream_invalid_response", 200), broke("upstream_invalid_response")
INVALID_TWICE = failed("upstream_invalid_response", 200)
TOO_MUCH = failed("upstream_invalid_response"), broke("upstream_invalid_response")
TRUNCATED = failed("upstream_invalid_response", 200), broke("upstream_truncated")
ERROR = failed("upstream_invalid_response", 200), broke("upstream_error")

HEL = said("Hel")
STOP = finished("stop")
SSE = "Content-Type: text/event-stream"
ONE_OF_99 = HEAD + b"Content-Length: 99\r\n\r\n{"
GOOD = json.dumps(completion()).encode()

BREAKS = (
    halves(
        "closes within the answer",
        Answer(ONE_OF_99, then=Then.CLOSE),
        events(HEL, then=Then.CLOSE),
        *DISCONNECTED,
    ),
    halves(
        "resets within the answer",
        Answer(ONE_OF_99, then=Then.RESET),
        events(then=Then.RESET),
        failed("upstream_disconnected"),
        broke("upstream_disconnected", ""),
    ),
    halves(
        "closes before the last chunk",
        Answer(CHUNKED + chunk(GOOD), then=Then.CLOSE),
        events(HEL, STOP, then=Then.CLOSE),
        *DISCONNECTED,
    ),
    halves(
        "breaks the chunked coding",
        Answer(CHUNKED + b"no size\r\n", then=Then.CLOSE),
        Answer(EVENTS_HEAD + chunk(HEL) + b"no size\r\n", then=Then.CLOSE),
        *DISCONNECTED,
    ),
    halves(
        "sends a chunk of a negative size",
        Answer(CHUNKED + b"-5\r\nhello\r\n", then=Then.CLOSE),
        Answer(EVENTS_HEAD + chunk(HEL) + b"-5\r\nhello\r\n", then=Then.CLOSE),
        *DISCONNECTED,
    ),
    silent(
        "falls silent within the answer",
        Answer(ONE_OF_99, then=Then.HANG),
        events(HEL, then=Then.HANG),
        *TIMEOUT,
    ),
    silent(
        "falls silent after the head",
        Answer(CHUNKED, then=Then.HANG),
        events(then=Then.HANG),
        failed("upstream_timeout"),
        broke("upstream_timeout", ""),
    ),
    endless(
        "drips an endless answer",
        Answer(CHUNKED, drip=chunk(b" ")),
        events(HEL, drip=chunk(b"d")),
        *TIMEOUT,
    ),
    endless(
        "says nothing but comments or spaces",
        Answer(CHUNKED + chunk(b"{"), drip=chunk(b" ")),
        events(drip=chunk(b": wait\n\n")),
        failed("upstream_timeout"),
        broke("upstream_timeout", ""),
    ),
    endless(
        "drips empty events",
        Answer(CHUNKED, drip=chunk(b"\n")),
        events(HEL, drip=chunk(b"data:\n\n")),
        *TIMEOUT,
    ),
    halves(
        "names too short a length",
        HEAD + b"Content-Length: 9\r\n\r\n" + GOOD,
        f"HTTP/1.1 200 OK\r\n{SSE}\r\nContent-Length: {len(HEL)}\r\n\r\n".encode() + HEL + STOP,
        *TRUNCATED,
    ),
    halves(
        "ends the answer early",
        HEAD + b"Content-Length: 9\r\n\r\n" + GOOD[:9],
        chunks(HEL),
        *TRUNCATED,
    ),
    halves(
        "ends early without framing",
        Answer(b"HTTP/1.0 200 OK\r\n\r\n" + GOOD[:-9], then=Then.CLOSE),
        Answer(EVENTS_HEAD_10 + HEL, then=Then.CLOSE),
        *TRUNCATED,
    ),
    halves("ends early with [DONE]", http("200 OK", GOOD[:50]), chunks(HEL, DONE), *TRUNCATED),
    halves("ends within an event", http("200 OK", GOOD[:-1]), chunks(HEL, STOP[:-9]), *TRUNCATED),
    halves("ends before a blank line", http("200 OK", b"{"), chunks(HEL, STOP[:-1]), *TRUNCATED),
    halves(
        "sends an endless line",
        http("200 OK", b"x" * 1_000_000),
        chunks(HEL, b"data: " + b"x" * 1_000_000),
        *TRUNCATED,
    ),
    halves(
        "sends 9 MB", http("200 OK", b" " * 9_000_000), chunks(HEL, b": x\n" * 2_250_000), *TOO_MUCH
    ),
    halves(
        "sends a text of 9 MB",
        json_http("200 OK", completion(message={"content": "x" * 9_000_000})),
        chunks(HEL, said("x" * 9_000_000)),
        *TOO_MUCH,
    ),
    halves(
        "sends a bomb of gzip",
        http("200 OK", gzip.compress(b" " * 9_000_000), "Content-Encoding: gzip"),
        http("200 OK", gzip.compress(HEL * 90_000), SSE, "Content-Encoding: gzip"),
        failed("upstream_invalid_response"),
    ),
    halves(
        "compresses by another name",
        http("200 OK", zlib.compress(GOOD), "Content-Encoding: br, deflate"),
        http("200 OK", zlib.compress(HEL), SSE, "Content-Encoding: DEFLATE"),
        failed("upstream_invalid_response"),
    ),
    halves(
        "compresses and does not say so",
        http("200 OK", gzip.compress(GOOD)),
        http("200 OK", gzip.compress(HEL + STOP), SSE),
        failed("upstream_invalid_response", 200),
        broke("upstream_truncated", ""),
    ),
)


def _odd(name: str, body: Any, *data: bytes, stream: Ending = INVALID[1], **more: Any) -> Mode:
    """Return a mode in which a whole answer or an event within a stream is of no use."""
    encoded = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = http("200 OK", encoded, "Content-Type: application/json")
    within = data or (b"data: " + encoded + b"\n\n",)
    return halves(name, answer, chunks(HEL, *within, STOP, DONE), INVALID[0], stream, **more)


FAILED = {"error": {"message": QUOTED}, "finish_reason": "error"}

ODD = (
    _odd("sends broken JSON", b'{"choices": ['),
    _odd("sends bare words", QUOTED.encode()),
    _odd("sends invalid UTF-8", b'{"choices": "\xff\xfe"}' + QUOTED.encode()),
    _odd("sends UTF-16", GOOD.decode().encode("utf-16")),
    _odd("nests its JSON too deep", b"[" * 100_000),
    _odd("nests an object too deep", b'{"a":' * 100_000),
    _odd("sends a number of 5,000 digits", b'{"choices": ' + b"9" * 5_000 + b"}"),
    _odd("sends a list", [QUOTED]),
    _odd("sends a text", QUOTED),
    _odd("sends a number", 5),
    _odd("sends false", False),
    _odd("sends an error with status 200", {"error": {"message": QUOTED}}, stream=ERROR[1]),
    _odd(
        "names an error",
        {"error": QUOTED},
        b"event: error\n" + event({"error": 1}),
        stream=ERROR[1],
    ),
    _odd("says in a message what is wrong", {"message": QUOTED}, stream=ERROR[1]),
    _odd("ends with an error", {"error": {}}, event({"error": {"code": 5}}), stream=ERROR[1]),
    _odd(
        "says what went wrong beside its answer",
        {**completion(), "error": {"message": QUOTED}},
        stream=ERROR[1],
    ),
    halves(
        "says what went wrong in a choice",
        json_http("200 OK", {"choices": [{**completion()["choices"][0], **FAILED}]}),
        chunks(HEL, event({"choices": [{"index": 0, "delta": {}, **FAILED}]}), STOP, DONE),
        failed("upstream_error", 200),
        ERROR[1],
    ),
    *(
        halves(
            f"breaks off, with {reason!r} as its reason",
            json_http("200 OK", completion(finish_reason=reason)),
            chunks(HEL, finished(reason), DONE),
            failed("upstream_error", 200),
            ERROR[1],
        )
        for reason in ("error", "abort", "insufficient_system_resource")
    ),
    _odd(
        "says in another form what went wrong",
        {"detail": QUOTED, "choices": []},
        stream=ERROR[1],
    ),
    _odd("offers null as its choice", {"choices": [None]}),
    _odd("sends null", None, stream=good("Hel")),
    _odd("sends an empty object", {}, stream=good("Hel")),
    _odd("offers no choices", {"choices": []}, stream=good("Hel")),
    _odd("offers null for choices", {"choices": None}, stream=good("Hel")),
    _odd("offers a text for choices", {"choices": QUOTED}),
    _odd("offers an object for choices", {"choices": {"0": 1}}),
    _odd("offers a choice without a message", completion(message=None), stream=good("Hel")),
    _odd("offers no text", completion(message={"content": None}), stream=good("Hel")),
    _odd("offers a number for text", completion(message={"content": 5}), stream=good("Hel")),
    _odd("offers an object for text", completion(message={"content": {}}), stream=good("Hel")),
)


def _ends(name: str, plain: Any, *data: bytes) -> Mode:
    return halves(name, json_http("200 OK", plain), chunks(*data), *TRUNCATED)


ENDS = (
    _ends("gives no finish reason", completion(finish_reason=None), HEL, finished(None), DONE),
    _ends("gives an empty finish reason", completion(finish_reason=""), HEL, finished(""), DONE),
    _ends("gives a number as finish reason", completion(finish_reason=5), HEL, finished(5), DONE),
    _ends(
        "gives a list as finish reason", completion(finish_reason=["stop"]), HEL, finished([]), DONE
    ),
    halves("sends nothing", http("200 OK"), chunks(), INVALID[0], broke("upstream_truncated", "")),
    halves(
        "says only that it is done",
        http("200 OK", b"[DONE]"),
        chunks(DONE),
        INVALID[0],
        broke("upstream_truncated", ""),
    ),
    halves(
        "says nothing but comments, and ends",
        http("200 OK", b" "),
        chunks(b": nothing\n\n", b": to say\n\n"),
        INVALID[0],
        broke("upstream_truncated", ""),
    ),
    halves("sends a web page", page("200 OK"), page("200 OK"), INVALID_TWICE),
    halves("answers in the other way", HELLO_EVENTS, HELLO_JSON, INVALID_TWICE),
    halves(
        "calls a tool that nobody offered",
        json_http(
            "200 OK", completion(message={"content": None, "tool_calls": [{"id": "call_1"}]})
        ),
        chunks(
            event({"choices": [{"delta": {"tool_calls": [{"index": 0}]}}]}), finished("tool_calls")
        ),
        INVALID[0],
        broke("upstream_invalid_response", ""),
        relayed=(good(""), good("")),
    ),
    halves(
        "begins a second choice and leaves it",
        json_http("200 OK", completion(finish_reason=None)),
        chunks(HEL, event({"choices": [{"index": 1, "delta": {"content": "?"}}]}), STOP, DONE),
        *TRUNCATED,
    ),
    halves(
        "calls its events plain text",
        http("200 OK", b"Hello", "Content-Type: text/plain"),
        http("200 OK", b"".join(HELLO), "Content-Type: text/plain"),
        INVALID_TWICE,
    ),
    halves(
        "names no type of its events",
        http("200 OK", b"Hello"),
        http("200 OK", b"".join(HELLO)),
        INVALID_TWICE,
    ),
)


def _fine(name: str, plain: bytes, stream: bytes, reply: str = "Hello", **more: Any) -> Mode:
    then = more.get("then", Then.KEEP)
    return halves(name, Answer(plain, then=then), Answer(stream, then=then), good(reply))


def _speaks(name: str, text: str, reply: str) -> Mode:
    plain = json_http("200 OK", completion(message={"content": text}))
    return _fine(name, plain, chunks(said(text), STOP, DONE), reply)


def _counts(name: str, usage: Any) -> Mode:
    plain = json_http("200 OK", {**completion(), "usage": usage})
    told = event({"choices": [], "usage": usage})
    return _fine(name, plain, chunks(said("Hello"), STOP, told, DONE))


def _framed(name: str, *data: bytes) -> Mode:
    """Return a mode of strange events, and of JSON with as much space around it."""
    return _fine(name, http("200 OK", b"\r\n\t " + GOOD + b"\r\n"), chunks(*data))


WHOLE = b"".join(HELLO)

FINE = (
    _fine("says 100 first", b"HTTP/1.1 100 Continue\r\n\r\n" + HELLO_JSON,
          b"HTTP/1.1 100 Continue\r\n\r\n" + HELLO_EVENTS),
    _fine("gives early hints", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 9 + HELLO_JSON,
          b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 9 + HELLO_EVENTS),
    _fine("speaks HTTP/1.0", b"HTTP/1.0 200 OK\r\n\r\n" + GOOD, EVENTS_HEAD_10 + WHOLE,
          then=Then.CLOSE),
    _fine("closes after a good answer", HELLO_JSON, HELLO_EVENTS, then=Then.CLOSE),
    _fine("closes after [DONE], before the last chunk", HELLO_JSON, EVENTS_HEAD + chunk(WHOLE),
          then=Then.CLOSE),
    _fine("falls silent after [DONE]", HELLO_JSON, EVENTS_HEAD + chunk(WHOLE), then=Then.HANG),
    _fine("goes on after the answer", HELLO_JSON + b"HTTP/1.1 200 OK\r\n\r\n" + QUOTED.encode(),
          HELLO_EVENTS + b"HTTP/1.1 200 OK\r\n\r\n" + QUOTED.encode()),
    _fine("names chunks and ends with trailers",
          CHUNKED + b"%x;a=b\r\n%b\r\n0\r\nX-T: 1\r\n\r\n" % (len(GOOD), GOOD),
          EVENTS_HEAD + b"%x;a=b\r\n%b\r\n0\r\nX-T: 1\r\n\r\n" % (len(WHOLE), WHOLE)),
    _fine("sends each byte in a chunk",
          CHUNKED + b"".join(chunk(bytes([byte])) for byte in GOOD) + LAST_CHUNK,
          EVENTS_HEAD + b"".join(chunk(bytes([byte])) for byte in WHOLE) + LAST_CHUNK),
    _fine("writes the type in its own way",
          http("200 OK", GOOD, "Content-Type: text/html"),
          http("200 OK", WHOLE, "Content-Type: Text/Event-Stream; charset=utf-8")),
    _framed("ends lines with CR only", WHOLE.replace(b"\n", b"\r")),
    _framed("ends lines with CRLF", WHOLE.replace(b"\n", b"\r\n")),
    _framed("begins with a BOM", b"\xef\xbb\xbf" + WHOLE),
    _framed("leaves out the space", WHOLE.replace(b"data: ", b"data:")),
    _framed("spreads data over lines", WHOLE.replace(b', "', b'\ndata: , "')),
    _framed("adds fields and comments",
            WHOLE.replace(b"data: {", b": hm\nid: 1\nretry: 1\nfoo\ndata: {")),
    _framed("leaves out [DONE]", *HELLO[:-1]),
    _framed("leaves out the usage", *HELLO[:3], DONE),
    _framed("goes on after [DONE]", *HELLO, said("?"), DONE),
    _framed("tells the usage first", USAGE, *HELLO[:3], DONE),
    _framed("streams null", event(None), *HELLO),
    _framed("writes a blank after [DONE]", said("Hello"), STOP, b"data: [DONE] \n\n"),
    *(
        _framed(
            f"numbers its only choice {index!r}",
            event({"choices": [{"index": index, "delta": {"content": "Hello"}}]}),
            event({"choices": [{"index": index, "delta": {}, "finish_reason": "stop"}]}),
            DONE,
        )
        for index in (None, 1, -1, "0")
    ),
    _framed("finishes twice", *HELLO[:3], STOP, DONE),
    _speaks("says a NUL", "a\0b", "a\ufffdb"),
    _speaks("says half a surrogate pair", "a\ud83db", "a\ufffdb"),
    _speaks("says nothing", "", ""),
    _speaks("says a lot at once", "x" * 300_000, "x" * 300_000),
    _speaks("says what looks like an end", "data: [DONE]\n\n", "data: [DONE]\n\n"),
    _fine("is cut short by length", json_http("200 OK", completion(finish_reason="length")),
          chunks(said("Hello"), finished("length"), DONE)),
    _fine("is cut short by a filter",
          json_http("200 OK", completion(finish_reason="content_filter")),
          chunks(said("Hello"), finished("content_filter"), DONE)),
    _fine("gives a reason of 10,000 letters",
          json_http("200 OK", completion(finish_reason="x" * 10_000)),
          chunks(said("Hello"), finished("x" * 10_000), DONE)),
    _fine("offers a choice twice",
          json_http("200 OK", {"choices": completion()["choices"] * 2}),
          chunks(said("Hello"), event({"choices": [
              {"index": n, "delta": {}, "finish_reason": "stop"} for n in (0, 1)]}), DONE)),
    _fine("refuses in words",
          json_http("200 OK", completion(message={"content": None, "refusal": "No."})),
          chunks(event({"choices": [{"index": 0, "delta": {"refusal": "No."}}]}), STOP, DONE),
          "No."),
    *(
        _counts(f"counts {name}", {"prompt_tokens": count, "completion_tokens": 1})
        for name, count in (
            ("below zero", -5), ("beyond all integers", 10**30), ("in fractions", 1.5),
            ("in NaN", float("nan")), ("in infinities", float("inf")), ("in words", QUOTED),
            ("in null", None), ("in booleans", True),
        )
    ),
    _counts("counts in a list", [1, 2]),
)  # fmt: skip  # one mode, one line where it fits


WITHIN = (*BREAKS, *ODD, *ENDS, *FINE)
