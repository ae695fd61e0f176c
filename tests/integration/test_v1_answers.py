"""Whole answers on OpenAI's wire: the provider's own bytes, or an error."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from chatport.adapters import MemoryStore, PeeweeStore
from chatport.domain.model import State, Usage

from .faults import Fault
from .plain_faults import NO_COMPLETIONS
from .relaying import ASKED, PATH, SEED, Wire, error_of, wire_to
from .upstream import Answer, Then, Upstream
from .wire import LAST_CHUNK, chunk, chunks, completion, finished, http, json_http

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1.0}'}}
SAID = '"message":{"role":"assistant","content":"Hi"},"finish_reason":"stop"'


@pytest.fixture
def wire(upstream: Upstream) -> Iterator[Wire]:
    with wire_to(upstream) as wire:
        yield wire


def body_http(body: bytes, *headers: str) -> bytes:
    return http("200 OK", body, "Content-Type: application/json", *headers)


BODIES = {
    "compact": f'{{"choices":[{{{SAID}}}]}}',
    "spaces": f'\n\t{{ "choices" : [ {{ {SAID} }} ]\r\n}}  \n',
    "another order": f'{{"x":1,"usage":null,"choices":[{{{SAID}}}],"id":"z","object":"y"}}',
    "numbers": f'{{"a":1.10,"b":1e2,"c":-0,"d":18446744073709551616,"choices":[{{{SAID}}}]}}',
    "escapes": f'{{"a":"\\u00e9\\/\\ud83d\\ude00","b":"é🙂\u2028","choices":[{{{SAID}}}]}}',
    "unknown fields": f'{{"choices":[{{{SAID},"x":{{"y":[[]]}}}}],"new":{{"z":1.0}}}}',
    "logprobs": f'{{"choices":[{{{SAID},"logprobs":{{"content":[{{"token":"Hi","logprob":-0.10,'
    '"bytes":[72,105],"top_logprobs":[]}]}}]}',
    "details of usage": f'{{"choices":[{{{SAID}}}],"usage":{{"prompt_tokens":9,'
    '"completion_tokens":2,"total_tokens":11,"prompt_tokens_details":{"cached_tokens":3},"queue_time":0.10}}',
    "two choices": f'{{"choices":[{{"index":0,{SAID}}},{{"index":1,{SAID}}}]}}',
    "choices backwards": f'{{"choices":[{{"index":1,{SAID}}},{{"index":0,{SAID}}}]}}',
    "a key twice": f'{{"x":1,"x":2,"choices":[{{{SAID}}}]}}',
    "latin text in escapes": f'{{"choices":[{{{SAID}}}],"x":"\\ud800"}}',
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_the_client_gets_the_providers_bytes(body: str, wire: Wire, upstream: Upstream) -> None:
    upstream.plays(Answer(body_http(body.encode())))
    response = wire.ask()
    assert response.status_code == 200
    assert response.data == body.encode()
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers["Content-Length"] == str(len(body.encode()))
    assert response.headers["Cache-Control"] == "no-store"
    stored = wire.stored()
    assert response.headers["X-Request-Id"] == stored.id
    assert (stored.state, stored.reply, stored.finish_reason) == (State.COMPLETED, "Hi", "stop")
    assert list(stored.answer) == [body.encode()]


MESSAGES: dict[str, tuple[dict[str, Any], str, str]] = {
    "tool calls": ({"role": "assistant", "content": None, "tool_calls": [CALL]}, "", "tool_calls"),
    "tool calls without content": ({"role": "assistant", "tool_calls": [CALL]}, "", "tool_calls"),
    "an empty text": ({"role": "assistant", "content": ""}, "", "length"),
    "a refusal": ({"role": "assistant", "content": None, "refusal": "No."}, "No.", "stop"),
    "audio": (
        {"role": "assistant", "content": None, "audio": {"id": "a", "data": "QQ=="}},
        "",
        "stop",
    ),
    "a function call": (
        {"role": "assistant", "content": None, "function_call": {"name": "f"}},
        "",
        "x",
    ),
    "reasoning": ({"role": "assistant", "content": None, "reasoning_content": "Hm"}, "", "length"),
    "text and tool calls": ({"content": "Wait.", "tool_calls": [CALL]}, "Wait.", "tool_calls"),
    "a filter": ({"role": "assistant", "content": "Half"}, "Half", "content_filter"),
    "nothing, since all went into thinking": ({"role": "assistant", "content": None}, "", "length"),
    "nothing, since a filter cut it": ({"role": "assistant"}, "", "content_filter"),
    "parts": ({"role": "assistant", "content": [{"type": "text", "text": "Hi"}]}, "", "stop"),
}


@pytest.mark.parametrize(("message", "text", "reason"), MESSAGES.values(), ids=MESSAGES)
def test_whatever_a_message_says_is_an_answer(
    message: dict[str, Any], text: str, reason: str, wire: Wire, upstream: Upstream
) -> None:
    body = json.dumps(completion(message=message, finish_reason=reason)).encode()
    upstream.plays(Answer(body_http(body, "X-Request-Id: req_7")))
    response = wire.ask()
    assert (response.status_code, response.data) == (200, body)
    stored = wire.stored()
    assert (stored.state, stored.reply, stored.finish_reason) == (State.COMPLETED, text, reason)
    assert stored.usage == Usage(prompt_tokens=9, completion_tokens=2)
    assert (stored.upstream_request_id, stored.attempts) == ("req_7", 1)


@pytest.mark.parametrize(
    "framed",
    [
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n%b" + LAST_CHUNK,
        HEAD + b"Connection: close\r\n\r\n%b",
        b"HTTP/1.1 103 Early Hints\r\n\r\n"
        + HEAD
        + b"Transfer-Encoding: chunked\r\n\r\n%b"
        + LAST_CHUNK,
    ],
    ids=["chunked", "until the end", "after early hints"],
)
def test_the_framing_of_an_answer_changes_nothing(
    framed: bytes, wire: Wire, upstream: Upstream
) -> None:
    body = json.dumps(completion()).encode()
    pieces = [body[:7], body[7:]]
    said = body if b"close" in framed else b"".join(map(chunk, pieces))
    upstream.plays(Answer(framed % said, then=Then.CLOSE))
    response = wire.ask()
    assert (response.status_code, response.data) == (200, body)
    assert response.headers["Content-Length"] == str(len(body))


def test_an_answer_of_almost_8_mb_is_passed_on(wire: Wire, upstream: Upstream) -> None:
    body = json.dumps(completion(message={"content": "x" * 7_000_000})).encode()
    upstream.plays(Answer(body_http(body)))
    assert wire.ask().data == body


@pytest.mark.parametrize("fault", NO_COMPLETIONS, ids=lambda one: one.name)
def test_what_is_no_completion_is_502(fault: Fault, wire: Wire, upstream: Upstream) -> None:
    upstream.plays(fault.answer)
    response = wire.ask()
    assert response.status_code == 502
    assert error_of(response) == {
        "message": "The provider sent an answer that cannot be understood.",
        "type": "server_error",
        "param": None,
        "code": "upstream_invalid_response",
    }
    assert response.headers["x-should-retry"] == "false"
    stored = wire.stored()
    assert (stored.state, stored.error_code) == (State.FAILED, "upstream_invalid_response")
    assert (stored.upstream_status, list(stored.answer)) == (200, [])


@pytest.mark.parametrize(
    "message", [{"role": "assistant", "content": None}, {"role": "assistant"}, {}, [], "Hi", None]
)
def test_a_message_that_says_nothing_is_502(message: Any, wire: Wire, upstream: Upstream) -> None:
    upstream.plays(Answer(json_http("200 OK", completion(message=message))))
    assert wire.ask().status_code == 502


@pytest.mark.parametrize("reason", ["length", "content_filter"])
@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_that_was_cut_to_nothing_is_one(
    reason: str, wire: Wire, upstream: Upstream, *, stream: bool
) -> None:
    whole = json_http("200 OK", completion(message={"content": None}, finish_reason=reason))
    upstream.plays(Answer(chunks(finished(reason)) if stream else whole))
    response = wire.client.post(SEED, json={"prompt": "Hi", "stream": stream})
    assert (response.status_code, b"error" in response.data) == (200, False)
    stored = wire.stored()
    assert (stored.state, stored.reply, stored.finish_reason) == (State.COMPLETED, "", reason)


@pytest.mark.parametrize("path", ["/v1/chat/completions", SEED])
@pytest.mark.parametrize(
    "body",
    [
        json.dumps(completion()).encode("utf-16"),
        json.dumps(completion()).encode("utf-32"),
        json.dumps(completion()).encode().replace(b"Hello", b"Hel\xed\xa0\x80lo"),
        json.dumps(completion()).encode().replace(b"Hello", b"Hel\xfflo"),
    ],
    ids=["UTF-16", "UTF-32", "half a surrogate pair in bytes", "no UTF-8 at all"],
)
def test_an_answer_that_is_not_utf_8_is_502(
    body: bytes, path: str, wire: Wire, upstream: Upstream
) -> None:
    upstream.plays(Answer(body_http(body)))
    response = wire.ask({"prompt": "Hi"} if path == SEED else ASKED, path=path)
    assert response.status_code == 502
    assert wire.stored().error_code == "upstream_invalid_response"


@pytest.mark.parametrize("store", [MemoryStore, PeeweeStore])
def test_what_no_database_can_keep_of_a_text_is_passed_on_and_marked(
    store: type, upstream: Upstream, tmp_path: Any
) -> None:
    body = b'{"choices":[{"message":{"content":"a\\u0000b\\ud800"},"finish_reason":"stop"}]}'
    upstream.plays(Answer(body_http(body)))
    opened = store(tmp_path / "log.db") if store is PeeweeStore else store()
    with wire_to(upstream, store=opened) as wire:
        assert wire.ask().data == body
        stored = wire.stored()
    opened.close()
    assert (stored.reply, stored.sanitized) == ("a\ufffdb\ufffd", True)
    assert list(stored.answer) == [body]


def test_an_answer_without_usage_is_estimated(wire: Wire, upstream: Upstream) -> None:
    upstream.plays(Answer(body_http(BODIES["compact"].encode())))
    assert b"usage" not in wire.ask().data
    usage = wire.stored().usage
    assert usage is not None
    assert usage.estimated


OF_NO_USE = {
    "an empty stop": completion(message={"role": "assistant"}),
    "no end": completion(finish_reason=None),
    "an error beside it": {**completion(), "error": {"message": "Oops"}},
    "an error in it": completion(error={"message": "Oops"}),
    "no choices": {},
}


@pytest.mark.parametrize("answer", OF_NO_USE.values(), ids=OF_NO_USE)
@pytest.mark.parametrize("path", [PATH, SEED])
def test_what_is_counted_of_an_answer_that_is_of_no_use_is_used(
    path: str, answer: dict[str, Any], wire: Wire, upstream: Upstream
) -> None:
    usage = {"prompt_tokens": 20_000, "completion_tokens": 30_000}
    upstream.plays(Answer(json_http("200 OK", {**answer, "usage": usage})))
    assert wire.ask(ASKED if path == PATH else {"prompt": "Hi"}, path).status_code == 502
    assert wire.stored().usage == Usage(prompt_tokens=20_000, completion_tokens=30_000)


@pytest.mark.parametrize(
    ("answer", "words", "estimated"),
    [({"choices": []}, 0, False), (completion(finish_reason=None), 2, True)],
    ids=["nothing", "a text"],
)
def test_of_an_answer_of_no_use_without_a_count_of_its_words_their_size_counts(
    answer: dict[str, Any], words: int, estimated: bool, wire: Wire, upstream: Upstream
) -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 0, "total_tokens": 10}
    upstream.plays(Answer(json_http("200 OK", {**answer, "usage": usage})))
    assert wire.ask({**ASKED, "max_completion_tokens": 100_000}).status_code == 502
    used = Usage(prompt_tokens=10, completion_tokens=words, estimated=estimated)
    assert wire.stored().usage == used


def test_five_answers_use_one_connection(wire: Wire, upstream: Upstream) -> None:
    upstream.plays(Answer(json_http("200 OK", completion())))
    assert [wire.ask().status_code for _ in range(5)] == [200] * 5
    assert [received.connection for received in upstream.received] == [1] * 5
