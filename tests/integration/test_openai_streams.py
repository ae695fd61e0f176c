"""Streams of OpenAIGateway: every way to write one, to end one, and to leave one."""

import time
from itertools import islice

import pytest

from chatport.adapters import MemoryStore, OpenAIGateway
from chatport.domain import Delta, State, Usage
from chatport.domain.errors import UpstreamError

from .asking import REQUEST, heard, only, started
from .conftest import OpenGateway
from .faults import SOON
from .upstream import Answer, Then, Upstream
from .wire import DONE, EVENTS_HEAD, HELLO, chunk, chunks, event, finished, http, said

BYTES_OF_HELLO = b"".join(HELLO)
KEPT_OPEN = EVENTS_HEAD + chunk(BYTES_OF_HELLO)


@pytest.mark.parametrize(
    "stream",
    [
        chunks(*HELLO),
        chunks(BYTES_OF_HELLO),
        chunks(*(bytes([byte]) for byte in BYTES_OF_HELLO)),
        chunks(BYTES_OF_HELLO.replace(b"\n", b"\r\n")),
        chunks(*(bytes([byte]) for byte in BYTES_OF_HELLO.replace(b"\n", b"\r\n"))),
        chunks(BYTES_OF_HELLO.replace(b"\n", b"\r")),
        chunks(BYTES_OF_HELLO.replace(b"data: ", b"data:")),
        chunks(b"\xef\xbb\xbf" + BYTES_OF_HELLO),
        chunks(b": wait\n\n", said("Hel"), b": wait\n\n", *HELLO[1:]),
        chunks(b"retry: 5\nid: 1\nevent: message\n" + HELLO[0], *HELLO[1:]),
        chunks(event(None), HELLO[0], event(None), *HELLO[1:]),
        chunks(event({"choices": []}), event({}), *HELLO),
        chunks(event({"choices": [{"delta": {"role": "assistant"}}]}), *HELLO),
        chunks(event({"choices": [{"delta": {"role": "assistant", "content": ""}}]}), *HELLO),
        chunks(*HELLO[:-1]),
        chunks(*HELLO, said(" after the end")),
        b"HTTP/1.1 100 Continue\r\n\r\n" + chunks(*HELLO),
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + chunks(*HELLO),
        http("200 OK", BYTES_OF_HELLO, "Content-Type: text/event-stream; charset=utf-8"),
    ],
    ids=[
        "an event a chunk",
        "all events in a chunk",
        "a byte a chunk",
        "CRLF",
        "CRLF and a byte a chunk",
        "CR",
        "no space after the colon",
        "a byte order mark",
        "comments",
        "other fields",
        "null",
        "no choices",
        "a role",
        "an empty text",
        "no [DONE]",
        "text after [DONE]",
        "100 Continue",
        "103 Early Hints",
        "a content length",
    ],
)
def test_every_way_to_write_a_stream_is_read_alike(
    stream: bytes, gateway: OpenAIGateway, upstream: Upstream, store: MemoryStore
) -> None:
    upstream.plays(Answer(stream))
    assert heard(gateway, store) == "Hello"
    stored = only(store)
    assert (stored.state, stored.reply, stored.finish_reason) == (
        State.COMPLETED,
        "Hello",
        "stop",
    )
    assert stored.usage == Usage(prompt_tokens=9, completion_tokens=2)


def test_an_event_may_have_several_lines_of_data(
    gateway: OpenAIGateway, upstream: Upstream, store: MemoryStore
) -> None:
    lines = b'data: {"choices": [\r\ndata: {"delta": {"content": "Hello"}}]}\r\n\r\n'
    upstream.plays(Answer(chunks(lines, finished("stop"), DONE)))
    assert heard(gateway, store) == "Hello"


@pytest.mark.parametrize(
    "ending",
    [
        Answer(KEPT_OPEN, then=Then.CLOSE),
        Answer(KEPT_OPEN, then=Then.RESET),
        Answer(KEPT_OPEN, then=Then.HANG),
        Answer(KEPT_OPEN, drip=chunk(b": still here\n\n")),
        Answer(KEPT_OPEN + b"no size\r\n", then=Then.CLOSE),
    ],
    ids=["closes", "resets", "falls silent", "drips comments", "breaks the chunked coding"],
)
def test_what_a_provider_does_after_the_end_of_an_answer_does_not_spoil_it(
    ending: Answer, open_gateway: OpenGateway, upstream: Upstream, store: MemoryStore
) -> None:
    upstream.plays(ending)
    assert heard(open_gateway(SOON), store) == "Hello"
    assert only(store).state is State.COMPLETED
    assert upstream.sees_the_end_of(1, within=1.0)


def test_leaving_a_stream_closes_its_connection_at_once(
    gateway: OpenAIGateway, upstream: Upstream, store: MemoryStore
) -> None:
    upstream.plays(Answer(EVENTS_HEAD + chunk(said("Hel")), drip=chunk(said("p"))))
    stream = started(gateway, store)
    while next(stream) != "Hel":
        pass
    stream.close()
    assert upstream.sees_the_end_of(1, within=1.0)
    assert (only(store).state, only(store).reply) == (State.CANCELLED, "Hel")


def test_a_stream_that_is_never_iterated_is_closed_too(
    gateway: OpenAIGateway, upstream: Upstream
) -> None:
    upstream.plays(Answer(EVENTS_HEAD, then=Then.HANG))
    with gateway.stream(REQUEST):
        pass
    assert upstream.sees_the_end_of(1, within=1.0)


def test_a_stream_without_usage_is_estimated(
    gateway: OpenAIGateway, upstream: Upstream, store: MemoryStore
) -> None:
    upstream.plays(Answer(chunks(said("Hello"), finished("stop"), DONE)))
    heard(gateway, store)
    usage = only(store).usage
    assert usage is not None
    assert usage.estimated


def test_a_failed_stream_keeps_what_the_provider_calls_it(
    gateway: OpenAIGateway, upstream: Upstream, store: MemoryStore
) -> None:
    upstream.plays(Answer(chunks(said("Hel"), event({"error": {"message": "Oops"}}))))
    with pytest.raises(UpstreamError):
        heard(gateway, store)
    assert only(store).upstream_request_id == "req_7"


def test_the_provider_is_silent_while_it_sends_only_comments(
    open_gateway: OpenGateway, upstream: Upstream
) -> None:
    upstream.plays(Answer(EVENTS_HEAD, drip=chunk(b": processing\n\n")))
    heard_at = []
    with open_gateway(10.0).stream(REQUEST) as deltas:
        for delta in islice(deltas, 3):
            heard_at.append(time.monotonic())
            assert delta in {Delta(upstream_request_id="req_7"), Delta()}
    assert heard_at[-1] - heard_at[0] < 4.5
    assert heard_at[2] - heard_at[1] > 0.2  # a comment came every 20 ms
