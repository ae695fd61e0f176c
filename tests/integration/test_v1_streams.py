"""Streams on OpenAI's wire: the provider's own chunks, and how each of them can end."""

import json
import socket
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from chatport.adapters import MemoryStore, PeeweeStore
from chatport.adapters.transport_limits import TransportLimits
from chatport.domain.model import State, Usage

from .faults import SOON
from .relaying import ASKED, PATH, SEED, STREAMED, WITH_USAGE, Wire, last_error, wire_to
from .upstream import Answer, Then, Upstream
from .wire import (
    DONE,
    EVENTS_HEAD,
    LAST_CHUNK,
    chunk,
    chunks,
    completion,
    event,
    finished,
    json_http,
    said,
)

PING = b": ping\n\n"
READING = pytest.mark.parametrize("read_bytes", [1, 7, 65_536])
FRAGMENTED = "chatport.adapters.upstream_connection.READ_BYTES"

HEAD = b'"id":"c1","object":"chat.completion.chunk","created":1,"model":"m"'
PAYLOADS = (
    b'{%b,"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}'
    % HEAD,
    b'{ %b , "choices" : [ {"index":0,'
    b'"delta":{"content":"Gr\\u00fc\xc3\x9fe \xf0\x9f\x99\x82 \xe2\x80\xa8"}} ] }' % HEAD,
    b'{%b,"choices":[{"index":0,"delta":{},"logprobs":{"x":-0.10},"finish_reason":null}],"new":1e2}'
    % HEAD,
    b'{"choices":[{"index":0,"delta":{"content":"data: [DONE]\\n\\n"},"finish_reason":"stop"}],%b}'
    % HEAD,
)
"""What a provider may write: every byte of it is the client's."""

COUNTS = b'{"choices":[],%b,"usage":{"prompt_tokens":9,"completion_tokens":2,"x":1.0}}' % HEAD


def framed(payloads: tuple[bytes, ...], before: bytes = b"data: ", end: bytes = b"\n") -> bytes:
    return b"".join(before + payload + end + end for payload in payloads)


PLAIN = framed(PAYLOADS) + DONE
WRITINGS = {
    "as OpenAI does": PLAIN,
    "CRLF": framed(PAYLOADS, end=b"\r\n") + b"data: [DONE]\r\n\r\n",
    "CR": framed(PAYLOADS, end=b"\r") + b"data: [DONE]\r\r",
    "no space": framed(PAYLOADS, b"data:") + b"data:[DONE]\n\n",
    "comments": b": hello\n\n" + framed(PAYLOADS, b": a\n:\ndata: ") + b":\n\n" + DONE,
    "other fields": framed(PAYLOADS, b"id: 5\nevent: message\nretry: 9\nx: y\ndata: ") + DONE,
    "fields after": framed(PAYLOADS, end=b"\nid: 7\n").replace(
        b"\nid: 7\n\nid: 7\n", b"\nid: 7\n\n"
    )
    + DONE,
    "a byte order mark": b"\xef\xbb\xbf" + PLAIN,
    "null between": PLAIN.replace(b"data: {", b"data: null\n\ndata: {"),
    "no [DONE]": framed(PAYLOADS),
    "more after [DONE]": PLAIN + framed(PAYLOADS),
}


@pytest.fixture
def wire(upstream: Upstream) -> Iterator[Wire]:
    with wire_to(upstream) as wire:
        yield wire


@pytest.fixture
def read_in_pieces(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Return what makes the gateway see at most so many bytes of the provider's at once."""
    return partial(monkeypatch.setattr, FRAGMENTED)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a heartbeat of a silent provider be 20 ms."""
    limits = partial(TransportLimits, heartbeat=0.02)
    monkeypatch.setattr("chatport.adapters.openai_gateway.TransportLimits", limits)


def told(wire: Wire, body: Any = STREAMED) -> bytes:
    response = wire.ask(body)
    assert response.status_code == 200
    data: bytes = response.data
    return data.replace(PING, b"")


@READING
@pytest.mark.parametrize("writing", WRITINGS.values(), ids=WRITINGS)
def test_the_client_gets_the_bytes_of_each_chunk_however_they_were_written(
    writing: bytes,
    read_bytes: int,
    wire: Wire,
    upstream: Upstream,
    read_in_pieces: Callable[[int], None],
) -> None:
    read_in_pieces(read_bytes)
    upstream.plays(Answer(chunks(writing)))
    assert told(wire) == PLAIN
    stored = wire.stored()
    assert (stored.state, stored.finish_reason) == (State.COMPLETED, "stop")
    assert stored.reply == "Grüße 🙂 \u2028data: [DONE]\n\n"
    assert list(stored.answer) == list(PAYLOADS)


@READING
def test_an_event_of_several_lines_stays_one(
    read_bytes: int, wire: Wire, upstream: Upstream, read_in_pieces: Callable[[int], None]
) -> None:
    read_in_pieces(read_bytes)
    lines = (
        b'data: {"choices": [\r\n: a comment\r\ndata:  {"delta": {"content": "Hi"},\r\nid: 3\r\n'
        b'data:\r\ndata:"finish_reason": "stop"}]}\r\n\r\n'
    )
    upstream.plays(Answer(chunks(lines, DONE)))
    assert told(wire) == (
        b'data: {"choices": [\ndata:  {"delta": {"content": "Hi"},\ndata: \n'
        b'data: "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'
    )
    assert wire.stored().reply == "Hi"


def test_a_stream_has_the_headers_of_one(wire: Wire, upstream: Upstream) -> None:
    upstream.plays(Answer(chunks(PLAIN)))
    response = wire.ask(STREAMED)
    assert response.headers["Content-Type"].split(";")[0] == "text/event-stream"
    assert "no-cache" in response.headers["Cache-Control"]
    assert response.headers["X-Accel-Buffering"] == "no"
    assert "Content-Length" not in response.headers
    assert response.headers["X-Request-Id"] == wire.stored().id


def parsed(stream: bytes) -> list[dict[str, Any]]:
    assert stream.endswith(DONE)
    assert stream.count(b"[DONE]") == 1
    events = stream.removesuffix(DONE).split(b"\n\n")[:-1]
    return [json.loads(data.removeprefix(b"data: ")) for data in events]


def talk(*usages: Any, last: Any = None) -> list[dict[str, Any]]:
    """Return the chunks of `Hello`, each with a usage, or with none where it is `...`."""
    texts = [{"content": "Hel"}, {"content": "lo"}, {}]
    said = [
        {"choices": [{"index": 0, "delta": delta, "finish_reason": None if delta else "stop"}]}
        for delta in texts
    ]
    told = [
        chunk if usage is ... else {**chunk, "usage": usage}
        for chunk, usage in zip(said, usages, strict=True)
    ]
    return told if last is None else [*told, {"choices": [], "usage": last}]


def count(prompt: int, completion: int) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "new": 1.5}


USAGES = {
    "null on all, then a chunk": talk(None, None, None, last=count(9, 2)),
    "absent on all, then a chunk": talk(..., ..., ..., last=count(9, 2)),
    "on the last chunk": talk(..., ..., count(9, 2)),
    "null, then on the last chunk": talk(None, None, count(9, 2)),
    "on every chunk": talk(count(9, 0), count(9, 1), count(9, 2)),
    "on every chunk, then a chunk": talk(count(9, 0), count(9, 1), count(9, 1), last=count(9, 2)),
    "on the first chunk, then a chunk": talk(count(9, 0), ..., ..., last=count(9, 2)),
    "never": talk(..., ..., ...),
    "null on all": talk(None, None, None),
    "null on some": talk(None, ..., None, last=count(9, 2)),
}


def as_stream(said: list[dict[str, Any]]) -> bytes:
    return chunks(b"".join(event(chunk) for chunk in said) + DONE)


@READING
@pytest.mark.parametrize("said", USAGES.values(), ids=USAGES)
def test_who_does_not_ask_for_usage_gets_none(
    *,
    said: list[dict[str, Any]],
    read_bytes: int,
    wire: Wire,
    upstream: Upstream,
    read_in_pieces: Callable[[int], None],
) -> None:
    read_in_pieces(read_bytes)
    upstream.plays(Answer(as_stream(said)))
    assert parsed(told(wire)) == talk(..., ..., ...)


@pytest.mark.parametrize("options", [None, {}, {"include_usage": False}, {"x": 1}], ids=str)
def test_there_are_several_ways_not_to_ask_for_usage(
    options: Any, wire: Wire, upstream: Upstream
) -> None:
    upstream.plays(Answer(as_stream(USAGES["null on all, then a chunk"])))
    body = {**STREAMED, "stream_options": options}
    assert parsed(told(wire, body)) == talk(..., ..., ...)


@READING
@pytest.mark.parametrize("said", USAGES.values(), ids=USAGES)
def test_who_asks_for_usage_gets_all_that_there_is_and_null_elsewhere(
    said: list[dict[str, Any]],
    read_bytes: int,
    wire: Wire,
    upstream: Upstream,
    read_in_pieces: Callable[[int], None],
) -> None:
    read_in_pieces(read_bytes)
    upstream.plays(Answer(as_stream(said)))
    assert parsed(told(wire, WITH_USAGE)) == [{"usage": None, **chunk} for chunk in said]


@READING
@pytest.mark.parametrize("said", USAGES.values(), ids=USAGES)
def test_the_last_usage_is_stored_however_the_chunks_arrive(
    *,
    said: list[dict[str, Any]],
    read_bytes: int,
    wire: Wire,
    upstream: Upstream,
    read_in_pieces: Callable[[int], None],
) -> None:
    read_in_pieces(read_bytes)
    upstream.plays(Answer(as_stream(said)))
    told(wire)
    usage = wire.stored().usage
    assert usage is not None
    if any(chunk.get("usage") for chunk in said):
        assert usage == Usage(prompt_tokens=9, completion_tokens=2)
    else:
        assert usage.estimated


@pytest.mark.parametrize(
    "payload",
    [
        b'{"choices":[{"delta":{"content":"\\"usage\\": {}"}}]}',
        b'{"choices":[{"delta":{"content":"my \\"usage"}}]}',
        b'{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"name":"usage"}}]}}]}',
        b'{"choices":[{"delta":{}}],"x_groq":{"usage":{"queue_time":0.10}}}',
    ],
    ids=["in a text", "at the end of a text", "as a tool's name", "in another object"],
)
def test_the_word_usage_elsewhere_is_no_usage(
    payload: bytes, wire: Wire, upstream: Upstream
) -> None:
    upstream.plays(Answer(chunks(b"data: " + payload + b"\n\n", finished("stop"), DONE)))
    assert told(wire).startswith(b"data: " + payload + b"\n\n")
    asked = parsed(told(wire, WITH_USAGE))
    assert asked[0] == {**json.loads(payload), "usage": None}


@pytest.mark.parametrize(
    "odd", [b'"x":-Infinity', b'"x":18446744073709551616', b'"x":1,"x":2', b'"x":1e999']
)
def test_what_the_gateway_takes_does_not_break_in_the_writing(
    odd: bytes, wire: Wire, upstream: Upstream
) -> None:
    payload = b'{"usage":null,%b,"choices":[{"delta":{"content":"Hi"}}]}' % odd
    upstream.plays(Answer(chunks(b"data: " + payload + b"\n\n", finished("stop"), DONE)))
    assert told(wire).endswith(DONE)
    assert wire.stored().state is State.COMPLETED


def call(index: int, **function: str) -> bytes:
    calls = [{"index": index, "id": "call_1", "type": "function", "function": function}]
    return event({"choices": [{"index": 0, "delta": {"tool_calls": calls}}]})


TOOLS = (call(0, name="f", arguments=""), call(0, arguments='{"a":'), call(0, arguments="1}"))


@READING
@pytest.mark.parametrize("store", [MemoryStore, PeeweeStore])
def test_tool_calls_stream_as_they_came_and_are_stored(
    store: type,
    read_bytes: int,
    upstream: Upstream,
    tmp_path: Any,
    read_in_pieces: Callable[[int], None],
) -> None:
    read_in_pieces(read_bytes)
    opened = store(tmp_path / "log.db") if store is PeeweeStore else store()
    upstream.plays(Answer(chunks(*TOOLS, finished("tool_calls"), DONE)))
    with wire_to(upstream, store=opened) as wire:
        assert told(wire) == b"".join((*TOOLS, finished("tool_calls"), DONE))
        stored = wire.stored()
    opened.close()
    assert (stored.state, stored.reply, stored.finish_reason) == (
        State.COMPLETED,
        "",
        "tool_calls",
    )
    assert [json.loads(payload) for payload in stored.answer] == [
        json.loads(one.removeprefix(b"data: ")) for one in (*TOOLS, finished("tool_calls"))
    ]


def choice(index: int, content: str = "", reason: str | None = None) -> bytes:
    delta = {"content": content} if content else {}
    return event({"choices": [{"index": index, "delta": delta, "finish_reason": reason}]})


TWO = (choice(0, "A"), choice(1, "B"), choice(0, reason="stop"), choice(1, reason="length"))


@READING
def test_of_two_choices_both_are_told_and_the_first_is_the_text(
    read_bytes: int, wire: Wire, upstream: Upstream, read_in_pieces: Callable[[int], None]
) -> None:
    read_in_pieces(read_bytes)
    upstream.plays(Answer(chunks(*TWO, DONE)))
    assert told(wire, {**STREAMED, "n": 2}) == b"".join((*TWO, DONE))
    assert (wire.stored().state, wire.stored().reply) == (State.COMPLETED, "A")


@pytest.mark.parametrize("order", [TWO, (*TWO[:2], TWO[3], TWO[2])], ids=["0 first", "1 first"])
def test_the_finish_reason_that_is_stored_does_not_depend_on_how_chunks_arrive(
    order: tuple[bytes, ...],
    upstream: Upstream,
    read_in_pieces: Callable[[int], None],
) -> None:
    upstream.plays(Answer(chunks(*order, DONE)))
    reasons = []
    for read_bytes in (1, 65_536):
        read_in_pieces(read_bytes)
        with wire_to(upstream) as wire:
            told(wire, {**STREAMED, "n": 2})
            reasons.append(wire.stored().finish_reason)
    assert reasons[0] == reasons[1]


SPOKEN = said("Hel")
TRUNCATED = {
    "no finish reason": (SPOKEN, said("lo"), DONE),
    "no finish reason and no [DONE]": (SPOKEN, said("lo")),
    "one of two choices unfinished": (SPOKEN, choice(1, "x"), finished("stop"), DONE),
    "the second choice alone is finished": (SPOKEN, choice(1, "x"), choice(1, reason="stop"), DONE),
    "half an event": (SPOKEN, finished("stop").rstrip(b"\n")),
    "one line end is missing": (SPOKEN, finished("stop").removesuffix(b"\n")),
    "usage, but no end": (SPOKEN, event({"choices": [], "usage": count(9, 1)}), DONE),
    "a finish reason of null": (SPOKEN, finished(None), DONE),
    "an empty finish reason": (SPOKEN, finished(""), DONE),
    "a tool call that breaks off": (SPOKEN, *TOOLS[:2], DONE),
}


@READING
@pytest.mark.parametrize("events", TRUNCATED.values(), ids=TRUNCATED)
def test_a_stream_that_just_ends_ends_with_an_error_and_not_with_done(
    events: tuple[bytes, ...],
    read_bytes: int,
    wire: Wire,
    upstream: Upstream,
    read_in_pieces: Callable[[int], None],
) -> None:
    read_in_pieces(read_bytes)
    upstream.plays(Answer(chunks(*events)))
    stream = told(wire)
    assert stream.startswith(SPOKEN)
    assert DONE not in stream
    assert last_error(stream)["code"] == "upstream_truncated"
    stored = wire.stored()
    assert (stored.state, stored.error_code) == (State.FAILED, "upstream_truncated")
    assert stored.reply.startswith("Hel")
    assert (stored.finish_reason, stored.attempts) == (None, 1)
    assert stored.answer[0] == SPOKEN.removeprefix(b"data: ").rstrip(b"\n")
    assert stored.usage is not None


KEPT = EVENTS_HEAD + chunk(SPOKEN)
BROKEN: dict[str, tuple[Answer, str]] = {
    "an error event": (
        Answer(chunks(SPOKEN, event({"error": {"message": "canary", "code": 5}}))),
        "upstream_error",
    ),
    "an error event of words": (
        Answer(chunks(SPOKEN, b"event: error\n" + event({"error": "canary"}))),
        "upstream_error",
    ),
    "an error beside choices": (
        Answer(chunks(SPOKEN, event({"choices": [], "error": {"message": "canary"}}), DONE)),
        "upstream_error",
    ),
    "no JSON": (Answer(chunks(SPOKEN, b"data: {canary\n\n", DONE)), "upstream_invalid_response"),
    "a list": (Answer(chunks(SPOKEN, b"data: []\n\n", DONE)), "upstream_invalid_response"),
    "no UTF-8": (
        Answer(chunks(SPOKEN, b'data: {"x":"\xff"}\n\n', DONE)),
        "upstream_invalid_response",
    ),
    "half a surrogate pair in bytes": (
        Answer(chunks(SPOKEN, b'data: {"x":"\xed\xa0\x80"}\n\n', finished("stop"), DONE)),
        "upstream_invalid_response",
    ),
    "UTF-16": (
        Answer(
            chunks(SPOKEN, b"data: " + '{"a":1}'.encode("utf-16-le") + b"\n\n", finished("stop"))
        ),
        "upstream_invalid_response",
    ),
    "a reset": (Answer(KEPT, then=Then.RESET), "upstream_disconnected"),
    "an end within the body": (Answer(KEPT, then=Then.CLOSE), "upstream_disconnected"),
    "broken framing": (Answer(KEPT + b"canary\r\n", then=Then.CLOSE), "upstream_disconnected"),
    "silence": (Answer(KEPT, then=Then.HANG), "upstream_timeout"),
    "comments for ever": (Answer(KEPT, drip=chunk(b": canary\n\n")), "upstream_timeout"),
    "chunks for ever": (Answer(KEPT, drip=chunk(said(""))), "upstream_timeout"),
    "an endless event": (Answer(KEPT, drip=chunk(b"data: canary")), "upstream_timeout"),
}


@pytest.mark.parametrize(("answer", "code"), BROKEN.values(), ids=BROKEN)
def test_a_stream_that_breaks_ends_with_an_error_and_not_with_done(
    answer: Answer, code: str, upstream: Upstream
) -> None:
    upstream.plays(answer)
    with wire_to(upstream, SOON if "timeout" in code else 5.0) as wire:
        stream = told(wire)
        stored = wire.stored()
    assert stream.startswith(SPOKEN)
    assert DONE not in stream
    error = last_error(stream)
    assert (error["type"], error["param"], error["code"]) == ("server_error", None, code)
    assert b"canary" not in stream
    assert (stored.state, stored.error_code, stored.reply) == (State.FAILED, code, "Hel")
    assert stored.finish_reason is None
    assert stored.upstream_request_id == "req_7"
    assert upstream.sees_the_end_of(1, within=1.0)


def test_what_came_before_a_broken_chunk_is_told_although_both_arrive_together(
    wire: Wire, upstream: Upstream
) -> None:
    upstream.plays(Answer(chunks(SPOKEN + said("lo") + b"data: {\n\n")))
    assert told(wire).startswith(SPOKEN + said("lo") + b'data: {"error"')
    assert wire.stored().reply == "Hello"
    assert len(wire.stored().answer) == 2


@pytest.mark.parametrize("kept", [KEPT, EVENTS_HEAD], ids=["after a chunk", "after the head"])
@pytest.mark.usefixtures("impatient")
def test_a_silent_stream_tells_that_it_lives(kept: bytes, upstream: Upstream) -> None:
    upstream.plays(Answer(kept, then=Then.HANG))
    with wire_to(upstream, 1.0) as wire:
        stream = wire.ask(STREAMED).data
    assert stream.count(PING) >= 3
    events = stream.removesuffix(b"\n\n").split(b"\n\n")
    assert {event.split(b" ")[0] for event in events} <= {b":", b"data:"}
    assert last_error(stream)["code"] == "upstream_timeout"


def test_a_stream_that_flows_holds_no_comments(wire: Wire, upstream: Upstream) -> None:
    upstream.plays(Answer(chunks(PLAIN)))
    assert wire.ask(STREAMED).data == PLAIN


@READING
def test_five_streams_use_one_connection(
    read_bytes: int, wire: Wire, upstream: Upstream, read_in_pieces: Callable[[int], None]
) -> None:
    read_in_pieces(read_bytes)
    upstream.plays(Answer(chunks(PLAIN)))
    assert [told(wire) for _ in range(5)] == [PLAIN] * 5
    assert [received.connection for received in upstream.received] == [1] * 5


def test_chunks_have_no_lines_but_data(wire: Wire, upstream: Upstream) -> None:
    upstream.plays(Answer(chunks(WRITINGS["other fields"])))
    lines = wire.ask(STREAMED).data.split(b"\n")
    assert {line.split(b":")[0] for line in lines if line} == {b"data"}


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_client_that_leaves_in_mid_stream_ends_the_call(
    after: int, wire: Wire, upstream: Upstream
) -> None:
    upstream.plays(Answer(KEPT, drip=chunk(said("p"))))
    response = wire.client.post(PATH, json=STREAMED)
    pieces = response.iter_encoded()
    for _ in range(after):
        next(pieces)
    response.close()
    assert upstream.sees_the_end_of(1, within=1.0)
    stored = wire.stored()
    assert (stored.state, stored.error_code, stored.finish_reason) == (State.CANCELLED, None, None)
    assert stored.reply.startswith("Hel" if after else "")
    assert stored.usage is not None
    assert stored.usage.estimated


def of_choices(*deltas: dict[str, Any]) -> bytes:
    """Return an event in which each of the choices says something."""
    choices = [
        {"index": index, "delta": delta, "finish_reason": None}
        for index, delta in enumerate(deltas)
    ]
    return event({"choices": choices})


CALL = {"index": 0, "id": "call_1", "type": "function", "function": {"arguments": "x" * 40}}
SAID: dict[str, tuple[dict[str, Any], ...]] = {
    "words": ({"role": "assistant", "content": "x" * 40},),
    "thoughts": ({"reasoning_content": "x" * 40},),
    "a tool call": ({"tool_calls": [CALL]},),
    "a refusal": ({"refusal": "x" * 40},),
    "thoughts twice": ({"reasoning": "x" * 40, "reasoning_details": [{"text": "x" * 40}]},),
    "sound": ({"audio": {"id": "a", "data": "x" * 90, "transcript": "x" * 39}},),
    "sealed thoughts": (
        {"reasoning_details": [{"type": "reasoning.encrypted", "data": "x" * 40}]},
    ),
    "a call that is no text": ({"tool_calls": [{"function": {"arguments": {"n": [1] * 11}}}]},),
    "words about a picture": ({"content": "data:image/png;base64," + "x" * 18},),
    "a link that is no picture": (
        {"images": [{"image_url": {"url": "data:image/" + "x " * 14 + "x"}}]},
    ),
    "thoughts three times": (
        {
            "reasoning_content": "x" * 40,
            "thinking_blocks": [{"type": "thinking", "thinking": "x" * 40}],
            "provider_specific_fields": {"reasoning_content": "x" * 40},
        },
    ),
    "thoughts with their form": (
        {"reasoning_details": [{"text": "x" * 40, "format": "anthropic-claude-v1", "index": 0}]},
    ),
    "two choices": ({"content": "x" * 20}, {"content": "é" * 10}),
}


@pytest.mark.parametrize("end", ["done", "broken", "left"])
@pytest.mark.parametrize("deltas", SAID.values(), ids=SAID)
def test_whatever_a_model_says_is_estimated_where_no_usage_comes(
    deltas: tuple[dict[str, Any], ...], end: str, wire: Wire, upstream: Upstream
) -> None:
    said = of_choices(*deltas) * 50
    last = of_choices(*[{}] * len(deltas)).replace(b"null", b'"stop"')
    answers = {
        "done": Answer(chunks(said, last, DONE)),
        "broken": Answer(chunks(said)),
        "left": Answer(EVENTS_HEAD + chunk(said), drip=chunk(PING)),
    }
    upstream.plays(answers[end])
    response = wire.client.post(PATH, json=STREAMED)
    if end == "left":
        next(response.iter_encoded())
        response.close()
    else:
        assert response.data
    usage = wire.stored().usage
    assert usage is not None
    assert (usage.completion_tokens, usage.estimated) == (50 * 40 // 4, True)


def test_a_picture_counts_as_one_in_a_prompt(wire: Wire, upstream: Upstream) -> None:
    picture = {"images": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,xx"}}]}
    upstream.plays(Answer(chunks(of_choices(picture), finished("stop"), DONE)))
    assert wire.client.post(PATH, json=STREAMED).data
    usage = wire.stored().usage
    assert usage is not None
    assert usage.completion_tokens == 2_500


def test_what_has_arrived_counts_in_full_where_the_provider_heeds_no_bound(
    wire: Wire, upstream: Upstream
) -> None:
    upstream.plays(Answer(chunks(said("x" * 20_000), finished("stop"), DONE)))
    assert wire.client.post(PATH, json={**STREAMED, "max_completion_tokens": 100}).data
    usage = wire.stored().usage
    assert usage is not None
    assert (usage.completion_tokens, usage.estimated) == (5_000, True)


@pytest.mark.parametrize("end", [(finished("stop"), DONE), ()], ids=["done", "broken"])
def test_what_comes_after_an_early_usage_is_added_to_it(
    end: tuple[bytes, ...], wire: Wire, upstream: Upstream
) -> None:
    early = event({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 1}})
    upstream.plays(Answer(chunks(said("one"), early, *[said("x" * 4)] * 10, *end)))
    assert wire.client.post(PATH, json=STREAMED).data
    found = wire.stored().usage
    assert found is not None
    assert found == Usage(prompt_tokens=9, completion_tokens=1 + 10, estimated=True)


@pytest.mark.parametrize(
    ("first", "counted"),
    [
        ({"choices": [{"index": 0, "delta": {"role": "assistant"}}]}, None),
        ({"choices": [], "usage": {"prompt_tokens": 50, "completion_tokens": 0}}, 50),
        ({"choices": [], "usage": {"prompt_tokens": 50, "completion_tokens": 8}}, 50),
    ],
    ids=["a head", "a count of the prompt", "Anthropic's head"],
)
@pytest.mark.parametrize("path", [PATH, SEED])
def test_before_the_first_word_what_may_be_billed_counts_as_much_as_it_may_be(
    path: str, first: Any, counted: int | None, wire: Wire, upstream: Upstream
) -> None:
    body = STREAMED if path == PATH else {"prompt": "Hi", "stream": True}
    upstream.plays(Answer(chunks(event(first))))
    assert wire.client.post(path, json=body).data
    usage = wire.stored().usage
    assert usage is not None
    assert (usage.completion_tokens, usage.estimated) == (4_096, True)
    assert counted in {None, usage.prompt_tokens}


COUNTED = {"usage": {"prompt_tokens": 50, "completion_tokens": 900}}
LAST = {
    "an error": {"error": {"message": "Oops"}, "choices": [], **COUNTED},
    "no choices": {"choices": "none", **COUNTED},
    "words": {"choices": [{"delta": {"content": "lo"}}, None], **COUNTED},
}


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("last", LAST.values(), ids=LAST)
@pytest.mark.parametrize("path", [PATH, SEED])
def test_counts_in_the_event_that_ends_a_stream_badly_are_kept(
    path: str, last: Any, at_once: bool, wire: Wire, upstream: Upstream
) -> None:
    events = [said("Hel"), event(last)]
    upstream.plays(Answer(chunks(b"".join(events)) if at_once else chunks(*events)))
    body = STREAMED if path == PATH else {"prompt": "Hi", "stream": True}
    assert wire.client.post(path, json=body).data
    stored = wire.stored()
    assert (stored.state, stored.reply) == (State.FAILED, "Hel")
    assert stored.usage == Usage(prompt_tokens=50, completion_tokens=900)


@pytest.mark.parametrize(
    ("last", "completion_tokens"),
    [({"error": {"a": 1}, **COUNTED}, 900), ({"choices": "none", **COUNTED}, 4_096)],
    ids=["an error", "no choices"],
)
def test_the_counts_of_an_error_are_no_heads(
    last: Any, completion_tokens: int, wire: Wire, upstream: Upstream
) -> None:
    upstream.plays(Answer(chunks(event(last))))
    assert wire.client.post(PATH, json=STREAMED).data
    usage = wire.stored().usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (50, completion_tokens)


def test_an_error_that_counts_nothing_costs_nothing(wire: Wire, upstream: Upstream) -> None:
    zeros = {"prompt_tokens": 0, "completion_tokens": 0}
    upstream.plays(Answer(chunks(event({"error": {"a": 1}, "usage": zeros}))))
    assert wire.client.post(PATH, json=STREAMED).data
    assert wire.stored().usage is None


@pytest.mark.parametrize("prompt", [50, 0])
def test_before_the_first_word_no_less_is_billed_than_was_counted(
    prompt: int, wire: Wire, upstream: Upstream
) -> None:
    thoughts = {"prompt_tokens": prompt, "completion_tokens": 9_000}
    upstream.plays(Answer(chunks(event({"choices": [], "usage": thoughts}))))
    assert wire.client.post(SEED, json={"prompt": "Hi", "stream": True}).data
    expected = Usage(prompt_tokens=prompt or 1, completion_tokens=9_000, estimated=True)
    assert wire.stored().usage == expected


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ((5_000, 0), Usage(prompt_tokens=5_000, completion_tokens=2, estimated=True)),
        ((0, 7), Usage(prompt_tokens=1, completion_tokens=7, estimated=True)),
    ],
    ids=["no words", "no prompt"],
)
@pytest.mark.parametrize("stream", [True, False])
def test_of_counts_of_which_one_is_0_the_other_is_believed(
    told: tuple[int, int], expected: Usage, stream: bool, wire: Wire, upstream: Upstream
) -> None:
    usage = {"prompt_tokens": told[0], "completion_tokens": told[1]}
    streamed = chunks(said("Hello"), finished("stop"), event({"choices": [], "usage": usage}), DONE)
    whole = json_http("200 OK", {**completion(), "usage": usage})
    upstream.plays(Answer(streamed if stream else whole))
    assert wire.client.post(SEED, json={"prompt": "Hi", "stream": stream}).data
    found = wire.stored().usage
    assert found is not None
    assert (found.prompt_tokens, found.estimated) == (expected.prompt_tokens, True)
    assert found.completion_tokens >= min(expected.completion_tokens, 1)


def test_a_message_that_is_repeated_beside_each_delta_counts_once(
    wire: Wire, upstream: Upstream
) -> None:
    choices = [
        {"index": 0, "delta": {"content": "x" * 40}, "message": {"content": "x" * 40 * n}}
        for n in range(1, 11)
    ]
    last = {"index": 0, "delta": {}, "message": {"content": "x" * 400}, "finish_reason": "stop"}
    events = [event({"choices": [each]}) for each in [*choices, last]]
    upstream.plays(Answer(chunks(*events, DONE)))
    assert wire.client.post(PATH, json=STREAMED).data
    usage = wire.stored().usage
    assert usage is not None
    assert usage.completion_tokens == 100


def test_what_is_nested_deeper_than_words_are_spoils_no_answer(
    wire: Wire, upstream: Upstream
) -> None:
    deep: Any = "x"
    for _ in range(700):
        deep = {"a": deep}
    answer = completion()
    answer["choices"][0]["message"]["meta"] = deep
    upstream.plays(Answer(json_http("200 OK", answer)))
    assert wire.client.post(PATH, json=ASKED).status_code == 200


def test_a_client_that_leaves_after_the_last_event_has_a_completed_exchange(
    wire: Wire, upstream: Upstream
) -> None:
    upstream.plays(Answer(chunks(PLAIN)))
    response = wire.client.post(PATH, json=STREAMED)
    pieces = response.iter_encoded()
    while next(pieces) != DONE:
        continue
    response.close()
    assert wire.stored().state is State.COMPLETED


@pytest.mark.parametrize(
    ("body", "path"),
    [(STREAMED, PATH), ({"prompt": "Hi", "stream": True}, SEED)],
    ids=["/v1", "/openai-completion"],
)
@pytest.mark.parametrize("leaving", ["close", "reset"])
@pytest.mark.usefixtures("impatient")
def test_a_client_that_leaves_before_the_provider_answers_ends_the_call(
    body: Any, path: str, leaving: str, wire: Wire, upstream: Upstream
) -> None:
    upstream.plays(Answer(then=Then.HANG))
    server, client = connected()
    with server:
        if leaving == "reset":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
        wire.client.post(path, json=body, environ_overrides={"gunicorn.socket": server})
        assert upstream.sees_the_end_of(1, within=1.0)
    stored = wire.stored()
    assert (stored.state, stored.reply, stored.error_code) == (State.CANCELLED, "", None)


@pytest.mark.usefixtures("impatient")
def test_a_client_that_stays_is_waited_for_also_if_it_sends_more(upstream: Upstream) -> None:
    upstream.plays(Answer(then=Then.HANG))
    server, client = connected()
    with server, client, wire_to(upstream, SOON) as wire:
        client.sendall(b"GET / HTTP/1.1\r\n")
        response = wire.client.post(
            PATH, json=STREAMED, environ_overrides={"gunicorn.socket": server}
        )
        assert response.status_code == 504
        assert server.recv(3) == b"GET"
        assert wire.stored().error_code == "upstream_timeout"


@pytest.mark.usefixtures("impatient")
def test_a_plain_call_is_finished_although_the_client_has_left(
    upstream: Upstream,
) -> None:
    upstream.plays(Answer(then=Then.HANG))
    server, client = connected()
    client.close()
    with server, wire_to(upstream, SOON) as wire:
        wire.client.post(PATH, json=ASKED, environ_overrides={"gunicorn.socket": server})
        assert wire.stored().error_code == "upstream_timeout"


def connected() -> tuple[socket.socket, socket.socket]:
    """Return both sides of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    return server, client


def test_a_stream_without_framing_that_is_complete_is_good(wire: Wire, upstream: Upstream) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n\r\n"
    upstream.plays(Answer(head + PLAIN, then=Then.CLOSE))
    assert told(wire) == PLAIN


def test_a_usage_chunk_that_comes_with_the_end_is_counted(wire: Wire, upstream: Upstream) -> None:
    last = b"data: " + COUNTS + b"\n\n" + DONE
    upstream.plays(Answer(EVENTS_HEAD + chunk(framed(PAYLOADS)) + chunk(last) + LAST_CHUNK))
    assert told(wire) == PLAIN
    assert wire.stored().usage == Usage(prompt_tokens=9, completion_tokens=2)
    assert list(wire.stored().answer) == [*PAYLOADS, COUNTS]
