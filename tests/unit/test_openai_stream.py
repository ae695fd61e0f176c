"""A streamed answer as it is written: the provider's chunks, and what is done about `usage`."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatport.adapters import Script, ScriptedGateway
from chatport.domain.errors import UpstreamDisconnected
from chatport.domain.model import ChatRequest, Delta, Usage
from chatport.domain.relay import Relay, RequestText
from chatport.domain.reply import Reply
from chatport.domain.stream import ChatStream
from chatport.entrypoints import sse
from chatport.entrypoints.access_log import AccessLine
from chatport.entrypoints.openai_stream import chunk, error_event, events
from chatport.entrypoints.sse import with_error

from .conftest import MakeService

PATIENT = settings(deadline=None)
"""A busy machine may take its time for one example."""

SAYS = b'{"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":null}]}'
STOPS = b'{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}'
COUNTS = b'{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2}}'
USAGE = Usage(prompt_tokens=0, completion_tokens=0)
REPLY = Reply(exchange_id="x", user_id="x", text="", finish_reason="stop", usage=USAGE)
RELAY = Relay(model="m", body=b"{}", text=RequestText(messages=["{}"], parameters="{}"))


class Silence(ChatStream):
    """A stream of one heartbeat."""

    def __init__(self, *deltas: Delta) -> None:
        self.exchange_id = self.user_id = "x"
        self._deltas = iter(deltas)

    def next_delta(self) -> Delta | None:
        delta = next(self._deltas, None)
        if delta is None:
            self.reply = REPLY
        return delta

    def close(self) -> None:
        return


def written(make_service: MakeService, *script: bytes, usage: bool, **options: Any) -> bytes:
    service = make_service(ScriptedGateway(Script(events=script, **options)))
    stream = service.stream(ChatRequest(prompt="x", relay=RELAY))
    told = events(stream, wants_usage=usage)
    return b"".join(with_error(told, AccessLine("id"), error_event))


@pytest.mark.parametrize(
    "data",
    [
        SAYS,
        b' { "choices" : [ ] , "x" : 1.10 } ',
        b'{"choices":[{"delta":{"content":"\\u00e9 \xc3\xa9 \xf0\x9f\x99\x82"}}],"s":-0,"x":1e2}',
        b'{"choices":[{"delta":{"content":"the \\"usage\\" of words"}}]}',
        b'{"choices":[{"delta":{"content":"say \\"usage"}}]}',
        b'{"choices":[{"delta":{"content":",\\"usage\\":null}"}}]}',
        b'{"choices":[{"delta":{"tool_calls":[{"function":{"name":"usage","arguments":""}}]}}]}',
        b'{"choices":[],"x_groq":{"usage":{"queue_time":0.1}}}',
        b'{"choices":[],"a":[{"usage":null}]}',
    ],
)
def test_a_chunk_without_usage_is_not_changed_for_who_wants_none(data: bytes) -> None:
    assert chunk(data, wants_usage=False) == b"data: " + data + b"\n\n"


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b'{"choices":[{"delta":{}}],"usage":null}', b'{"choices":[{"delta":{}}]}'),
        (b'{"choices":[{"delta":{}}], "usage" : null }', b'{"choices":[{"delta":{}}] }'),
        (b'{"usage":null,"choices":[{"delta":{}}]}', b'{"choices":[{"delta":{}}]}'),
        (b'{"a":1.10,"usage":null,"b":1e2}', b'{"a":1.10,"b":1e2}'),
        (
            b'{"choices":[{"delta":{}}],"usage":{"x":[1,{}]},"b":2}',
            b'{"choices":[{"delta":{}}],"b":2}',
        ),
        (b'{"choices":[{"usage":null}],"usage":{"usage":1}}', b'{"choices":[{"usage":null}]}'),
        (b'{"choices":[],"usage":null}', b'{"choices":[]}'),
        (b'{"us\\u0061ge":{"a":1},"choices":[{"delta":{}}]}', b'{"choices":[{"delta":{}}]}'),
        (b'{"usage":1,"x":[{}],"usage":null}', b'{"x": [{}]}'),
        (b'{"usage":1,"x":2,"usage":3,"choices":[4],"usage":5}', b'{"x": 2, "choices": [4]}'),
        (
            b'{"choices":[{"delta":{"content":"\\"usage"}}],"usage":null}',
            b'{"choices":[{"delta":{"content":"\\"usage"}}]}',
        ),
    ],
)
def test_usage_is_taken_out_for_who_wants_none_and_the_rest_stays(
    data: bytes, shown: bytes
) -> None:
    assert chunk(data, wants_usage=False) == b"data: " + shown + b"\n\n"


@pytest.mark.parametrize(
    "data",
    [
        COUNTS,
        b'{"usage":{"prompt_tokens":9},"choices":[]}',
        b'{"\\u0075\\u0073\\u0061\\u0067\\u0065":{"prompt_tokens":9},"choices":[]}',
        b'{"choices":[], "usage": {"a": 1} }\n',
    ],
)
def test_a_chunk_that_holds_only_usage_is_not_shown_to_who_wants_none(data: bytes) -> None:
    assert chunk(data, wants_usage=False) == b""


@pytest.mark.parametrize(
    "data",
    [
        COUNTS,
        b'{"choices":[{"delta":{}}],"usage":null}',
        b'{ "usage" : {"prompt_tokens":9} , "choices":[{"delta":{}}]}',
    ],
)
def test_a_chunk_that_has_usage_is_not_changed_for_who_wants_it(data: bytes) -> None:
    assert chunk(data, wants_usage=True) == b"data: " + data + b"\n\n"


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (SAYS, SAYS[:-1] + b',"usage":null}'),
        (b'{"a":1.10}', b'{"a":1.10,"usage":null}'),
        (b'{"a":1}  ', b'{"a":1,"usage":null}  '),
        (b"{}", b'{"usage":null}'),
        (b'{"a":"\\"usage"}', b'{"a":"\\"usage","usage":null}'),
        (b'{"a":{"usage":1}}', b'{"a":{"usage":1},"usage":null}'),
        (b'{"a":[{"name":"usage"}]}', b'{"a":[{"name":"usage"}],"usage":null}'),
    ],
    ids=[
        "a chunk",
        "a number",
        "white space at the end",
        "an empty object",
        "the word at the end of a text",
        "the name in another object",
        "a tool of that name",
    ],
)
def test_every_chunk_has_a_usage_for_who_wants_it(data: bytes, shown: bytes) -> None:
    event = chunk(data, wants_usage=True)
    assert json.loads(event.removeprefix(b"data: ")) == json.loads(shown)
    assert event.startswith(b"data: " + shown.split(b'"usage":null')[0].rstrip(b","))


@pytest.mark.parametrize(
    ("usage", "head", "shown"),
    [
        (True, b"", {"s": "\ud800", "b": 2, "usage": None}),
        (False, b'"usage":{"a":1},"choices":[1],', {"choices": [1], "s": "\ud800", "b": 2}),
    ],
)
def test_a_chunk_that_says_the_same_a_thousand_times_is_written_anew(
    usage: bool, head: bytes, shown: dict[str, Any]
) -> None:
    data = b'{%b"s":"\\ud800"%b}' % (head, b',"b":2' * 100_000)
    event = chunk(data, wants_usage=usage)
    assert json.loads(event.removeprefix(b"data: ")) == shown
    assert len(event) < 100


@pytest.mark.parametrize("usage", [True, False])
def test_a_chunk_of_several_lines_has_a_field_for_each(*, usage: bool) -> None:
    data = b'{\n"choices": [],\n\n "usage": null,\n"a": 1}'
    lines = chunk(data, wants_usage=usage).removesuffix(b"\n\n").split(b"\n")
    assert all(line.startswith(b"data: ") for line in lines)
    told = json.loads(b"\n".join(line.removeprefix(b"data: ") for line in lines))
    assert told == ({"choices": [], "usage": None, "a": 1} if usage else {"choices": [], "a": 1})


@pytest.mark.parametrize("name", ['"logprob":-Infinity', '"n":18446744073709551616', '"a":1,"a":2'])
def test_what_the_provider_may_write_and_a_client_may_not_does_not_end_a_stream(
    name: str, make_service: MakeService
) -> None:
    odd = b'{"usage":null,"choices":[{"delta":{"content":"Hi"}}],%b}' % name.encode()
    told = written(make_service, odd, STOPS, usage=False)
    assert told.endswith(b"data: [DONE]\n\n")
    assert name.encode() in told


VALUES = st.recursive(
    st.none() | st.integers(-9, 9) | st.sampled_from(["usage", 'x"usage', ',"usage":null}', "é"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["usage", "choices", "a", '"usage"']), inner, max_size=3)
    ),
    max_leaves=6,
)
CHUNKS = st.dictionaries(
    st.sampled_from(["usage", "choices", "a", 'x"usage']), VALUES, min_size=1, max_size=4
)
SEPARATORS = st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", " :\t")])


@PATIENT
@given(CHUNKS, SEPARATORS, st.booleans())
def test_who_wants_no_usage_gets_the_rest_of_every_chunk(
    data: dict[str, Any], separators: tuple[str, str], ascii_only: bool
) -> None:
    text = json.dumps(data, separators=separators, ensure_ascii=ascii_only)
    event = chunk(text.encode(), wants_usage=False)
    rest = {name: value for name, value in data.items() if name != "usage"}
    if not data.get("choices") and data.get("usage") is not None:
        assert event == b""
    else:
        assert json.loads(event.replace(b"\ndata: ", b"\n").removeprefix(b"data: ")) == rest


@PATIENT
@given(CHUNKS, SEPARATORS, st.booleans())
def test_who_wants_usage_gets_all_of_every_chunk_and_a_usage(
    data: dict[str, Any], separators: tuple[str, str], ascii_only: bool
) -> None:
    text = json.dumps(data, separators=separators, ensure_ascii=ascii_only)
    event = chunk(text.encode(), wants_usage=True)
    told = json.loads(event.replace(b"\ndata: ", b"\n").removeprefix(b"data: "))
    assert told == {"usage": None, **data}


def test_a_good_stream_ends_with_done(make_service: MakeService) -> None:
    told = written(make_service, SAYS, STOPS, COUNTS, usage=False)
    assert told == b"data: %b\n\ndata: %b\n\ndata: [DONE]\n\n" % (SAYS, STOPS)


def test_a_stream_that_breaks_ends_with_an_error_and_not_with_done(
    make_service: MakeService,
) -> None:
    told = written(make_service, SAYS, usage=False, raises=UpstreamDisconnected())
    first, last = told.removesuffix(b"\n\n").split(b"\n\n")
    assert first == b"data: " + SAYS
    assert json.loads(last.removeprefix(b"data: ")) == {
        "error": {
            "message": "The connection to the provider broke before the answer was complete.",
            "type": "server_error",
            "param": None,
            "code": "upstream_disconnected",
        }
    }


def test_a_defect_in_mid_stream_is_told_without_its_words(make_service: MakeService) -> None:
    told = written(make_service, SAYS, usage=False, raises=RuntimeError("canary"))
    last = told.removesuffix(b"\n\n").split(b"\n\n")[-1]
    assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "internal_error"
    assert b"canary" not in told


def test_a_silence_is_a_comment() -> None:
    silence = Silence(Delta(), Delta(text="", events=()), Delta(events=(SAYS,)))
    told = list(events(silence, wants_usage=False))
    assert told == [b": ping\n\n", b": ping\n\n", b"data: " + SAYS + b"\n\n", b"data: [DONE]\n\n"]


def test_what_is_not_shown_is_no_empty_event() -> None:
    hidden = Silence(Delta(upstream_request_id="req_7"), Delta(events=(COUNTS,)))
    told = list(events(hidden, wants_usage=False))
    assert told == [b"data: [DONE]\n\n"]


@pytest.mark.parametrize("hidden", [Delta(said_bytes=9), Delta(usage=USAGE, events=(COUNTS,))])
def test_who_is_shown_nothing_for_long_gets_a_heartbeat(
    hidden: Delta, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "QUIET_SECONDS", 0)
    told = list(events(Silence(hidden, hidden), wants_usage=False))
    assert told == [b": ping\n\n", b": ping\n\n", b"data: [DONE]\n\n"]


def test_a_thought_is_a_piece_without_text() -> None:
    assert list(Silence(Delta(said_bytes=9), Delta(upstream_request_id="req_7"))) == [""]


def test_who_leaves_while_nothing_is_shown_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "QUIET_SECONDS", 0)
    thoughts = Silence(Delta(said_bytes=9), Delta(events=(SAYS,)))
    assert list(events(thoughts, wants_usage=False, still_wanted=lambda: False)) == []
    assert thoughts.next_delta() is not None
