"""What OpenAIGateway sends, what it understands, and how it uses its connections."""

import json
import time
from contextlib import closing
from typing import Any

import pytest

from chatport.adapters import MemoryStore, OpenAIGateway
from chatport.domain import Completion, Delta, State, Usage
from chatport.domain.errors import (
    UpstreamHungUp,
    UpstreamRateLimited,
    UpstreamTimeout,
)

from .asking import REQUEST, deltas_of, heard, only
from .conftest import OpenGateway
from .faults import KEY
from .upstream import Answer, Then, Upstream
from .wire import (
    DONE,
    HELLO,
    chunks,
    completion,
    event,
    finished,
    http,
    json_http,
    said,
)

PLAIN_HELLO = json_http("200 OK", completion(), "X-Request-Id: req_7")


def test_a_plain_call_asks_for_a_completion(gateway: OpenAIGateway, upstream: Upstream) -> None:
    upstream.plays(Answer(PLAIN_HELLO))
    assert gateway.complete(REQUEST) == Completion(
        text="Hello",
        finish_reason="stop",
        usage=Usage(prompt_tokens=9, completion_tokens=2),
        upstream_request_id="req_7",
    )
    assert json.loads(upstream.received[0].body) == {
        "model": "model-1",
        "messages": [
            {"role": "system", "content": "Be brief. ☃"},
            {"role": "user", "content": "canary-prompt-83b1: what is the weather?"},
        ],
    }


def test_a_stream_asks_for_a_stream_with_usage(gateway: OpenAIGateway, upstream: Upstream) -> None:
    upstream.plays(Answer(chunks(*HELLO)))
    first, *others = deltas_of(gateway)
    assert first == Delta(upstream_request_id="req_7")
    assert "".join(delta.text for delta in others) == "Hello"
    assert [delta.finish_reason for delta in others if delta.finish_reason] == ["stop"]
    usage = Usage(prompt_tokens=9, completion_tokens=2)
    assert [delta.usage for delta in others if delta.usage] == [usage]
    assert json.loads(upstream.received[0].body) == {
        "model": "model-1",
        "messages": [
            {"role": "system", "content": "Be brief. ☃"},
            {"role": "user", "content": "canary-prompt-83b1: what is the weather?"},
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_nothing_is_taken_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, upstream: Upstream
) -> None:
    nowhere = "http://127.0.0.1:1"
    for name, value in {
        "OPENAI_API_KEY": "sk-of-the-environment",
        "OPENAI_BASE_URL": f"{nowhere}/v1",
        "OPENAI_ORG_ID": "org-of-the-environment",
        "OPENAI_PROJECT_ID": "project-of-the-environment",
        "OPENAI_CUSTOM_HEADERS": "X-Of-The-Environment: yes",
        "HTTP_PROXY": nowhere,
        "HTTPS_PROXY": nowhere,
        "ALL_PROXY": nowhere,
        "http_proxy": nowhere,
        "all_proxy": nowhere,
    }.items():
        monkeypatch.setenv(name, value)
    upstream.plays(Answer(PLAIN_HELLO), Answer(chunks(*HELLO)))
    with closing(OpenAIGateway(api_key=KEY, base_url=upstream.url)) as gateway:
        gateway.complete(REQUEST)
        deltas_of(gateway)
    for received in upstream.received:
        assert received.line == "POST /v1/chat/completions HTTP/1.1"
        assert received.headers == {
            "Host": upstream.host,
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "Authorization": "Bearer sk-canary-51a9c0ffee",
            "Content-Type": "application/json",
            "User-Agent": "chatport",
            "Content-Length": str(len(received.body)),
        }


@pytest.mark.parametrize("slashes", ["", "/", "//"])
def test_slashes_after_the_address_change_nothing(slashes: str, upstream: Upstream) -> None:
    upstream.plays(Answer(PLAIN_HELLO))
    with closing(OpenAIGateway(api_key=KEY, base_url=upstream.url + slashes)) as gateway:
        gateway.complete(REQUEST)
    assert upstream.received[0].line == "POST /v1/chat/completions HTTP/1.1"


def test_five_plain_calls_use_one_connection(gateway: OpenAIGateway, upstream: Upstream) -> None:
    upstream.plays(Answer(PLAIN_HELLO))
    assert [gateway.complete(REQUEST).text for _ in range(5)] == ["Hello"] * 5
    assert [received.connection for received in upstream.received] == [1, 1, 1, 1, 1]


def test_five_streams_use_one_connection(gateway: OpenAIGateway, upstream: Upstream) -> None:
    upstream.plays(Answer(chunks(*HELLO)))
    texts = ["".join(delta.text for delta in deltas_of(gateway)) for _ in range(5)]
    assert texts == ["Hello"] * 5
    assert [received.connection for received in upstream.received] == [1, 1, 1, 1, 1]


def test_a_refusal_does_not_cost_the_connection(
    gateway: OpenAIGateway, upstream: Upstream, store: MemoryStore
) -> None:
    upstream.plays(Answer(http("429 Too Many Requests", b"{}")), Answer(chunks(*HELLO)))
    with pytest.raises(UpstreamRateLimited):
        heard(gateway, store)
    assert heard(gateway, store) == "Hello"
    assert upstream.connections == 1


def test_an_idle_connection_that_the_provider_closed_is_replaced(
    gateway: OpenAIGateway, upstream: Upstream
) -> None:
    upstream.plays(Answer(PLAIN_HELLO, then=Then.CLOSE), Answer(PLAIN_HELLO))
    gateway.complete(REQUEST)
    assert upstream.sees_the_end_of(1)
    assert gateway.complete(REQUEST).text == "Hello"
    assert [received.connection for received in upstream.received] == [1, 2]


def test_a_used_connection_that_breaks_is_not_asked_a_second_time(
    gateway: OpenAIGateway, upstream: Upstream
) -> None:
    upstream.plays(Answer(PLAIN_HELLO), Answer(then=Then.RESET), Answer(PLAIN_HELLO))
    gateway.complete(REQUEST)
    with pytest.raises(UpstreamHungUp):
        gateway.complete(REQUEST)
    assert [received.connection for received in upstream.received] == [1, 1]


def test_bytes_after_an_answer_are_not_the_next_answer(
    gateway: OpenAIGateway, upstream: Upstream
) -> None:
    stray = json_http("200 OK", completion(message={"content": "for somebody else"}))
    upstream.plays(Answer(PLAIN_HELLO + stray), Answer(PLAIN_HELLO))
    assert [gateway.complete(REQUEST).text for _ in range(2)] == ["Hello", "Hello"]
    assert [received.connection for received in upstream.received] == [1, 2]


def test_closing_the_gateway_closes_the_connections_that_finish_later(upstream: Upstream) -> None:
    upstream.plays(Answer(chunks(*HELLO)))
    gateway = OpenAIGateway(api_key=KEY, base_url=upstream.url)
    with gateway.stream(REQUEST) as deltas:
        gateway.close()
        assert "".join(delta.text for delta in deltas) == "Hello"
    assert upstream.sees_the_end_of(1, within=1.0)


def test_a_quarter_of_the_timeout_may_pass_in_silence(
    open_gateway: OpenGateway, upstream: Upstream
) -> None:
    upstream.plays(Answer(then=Then.HANG))
    gateway = open_gateway(2.0)
    started = time.monotonic()
    with pytest.raises(UpstreamTimeout):
        gateway.complete(REQUEST)
    assert 0.5 <= time.monotonic() - started < 1.5


@pytest.mark.parametrize("reason", ["length", "content_filter"])
def test_an_answer_that_was_cut_short_on_purpose_is_completed(
    reason: str, gateway: OpenAIGateway, upstream: Upstream, store: MemoryStore
) -> None:
    upstream.plays(
        Answer(chunks(said("Hel"), finished(reason), DONE)),
        Answer(json_http("200 OK", completion(finish_reason=reason))),
    )
    assert heard(gateway, store) == "Hel"
    assert (only(store).state, only(store).finish_reason) == (State.COMPLETED, reason)
    assert gateway.complete(REQUEST).finish_reason == reason


def test_a_refusal_in_words_is_an_answer(gateway: OpenAIGateway, upstream: Upstream) -> None:
    no: dict[str, Any] = {"content": None, "refusal": "No."}
    upstream.plays(
        Answer(json_http("200 OK", completion(message=no))),
        Answer(chunks(event({"choices": [{"delta": no}]}), finished("stop"), DONE)),
    )
    assert gateway.complete(REQUEST).text == "No."
    assert "".join(delta.text for delta in deltas_of(gateway)) == "No."


@pytest.mark.parametrize(
    "usage",
    [
        None,
        [],
        {},
        {"prompt_tokens": 9, "completion_tokens": "2"},
        {"prompt_tokens": -9, "completion_tokens": 2},
        {"prompt_tokens": 9.0, "completion_tokens": 2},
        {"prompt_tokens": True, "completion_tokens": 2},
        {"prompt_tokens": 10**30, "completion_tokens": 2},
    ],
    ids=str,
)
def test_a_usage_that_makes_no_sense_is_none(
    usage: Any, gateway: OpenAIGateway, upstream: Upstream
) -> None:
    upstream.plays(Answer(json_http("200 OK", {**completion(), "usage": usage})))
    assert gateway.complete(REQUEST).usage is None


def test_text_in_any_script_arrives_as_it_was_sent(
    gateway: OpenAIGateway, upstream: Upstream, store: MemoryStore
) -> None:
    text = "Grüße ☃ 🙂 \u202e שלום \u2028 end"
    stream = b'data: {"choices": [{"delta": {"content": "%b"}}]}\n\n' % text.encode()
    upstream.plays(
        Answer(chunks(*(bytes([byte]) for byte in stream), finished("stop"), DONE)),
        Answer(json_http("200 OK", completion(message={"content": text}))),
    )
    assert heard(gateway, store) == text
    assert gateway.complete(REQUEST).text == text
