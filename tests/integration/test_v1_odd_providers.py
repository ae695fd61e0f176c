"""Providers that do as OpenAI does, but for a detail."""

import gzip
import json
from collections.abc import Iterator

import pytest

from chatport.domain.model import State, Usage

from .relaying import ASKED, PATH, SEED, Wire, error_of, last_error, wire_to
from .upstream import Answer, Upstream
from .wire import (
    DONE,
    EVENTS_HEAD,
    LAST_CHUNK,
    chunk,
    chunks,
    completion,
    event,
    finished,
    http,
    json_http,
    said,
)

EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: Text/Event-Stream; charset=utf-8\r\n"


@pytest.fixture
def wire(upstream: Upstream) -> Iterator[Wire]:
    with wire_to(upstream) as wire:
        yield wire


FAILED = {"error": {"code": 502, "message": "canary"}, "finish_reason": "error"}


@pytest.mark.parametrize(
    "error",
    [
        {"error": {"message": "canary"}},
        {"error": "canary"},
        {"object": "error", "message": "canary", "code": 400},
        {"message": "canary", "type": "overloaded_error"},
        {"detail": "canary"},
        {"detail": [{"loc": ["body"], "msg": "canary"}], "usage": None},
        {"code": 401, "msg": "canary"},
        {"status": "error", "errors": ["canary"], "choices": None},
        {"choices": [], "message": "canary"},
        {"choices": [{"index": 0, "delta": {"content": ""}, **FAILED}]},
        {"choices": [{"index": 0, "delta": {"content": "canary"}}, {"index": 1, **FAILED}]},
    ],
    ids=[
        *("OpenAI's", "a text", "older vLLM's", "without a frame", "FastAPI's", "pydantic's"),
        *("a code", "a list", "no choices", "OpenRouter's", "in another choice"),
    ],
)
def test_an_error_inside_a_stream_is_told_in_our_words(
    error: object, wire: Wire, upstream: Upstream
) -> None:
    upstream.plays(Answer(chunks(said("Hi"), b"event: error\n" + event(error))))
    told = wire.ask({**ASKED, "stream": True}).data
    assert last_error(told)["code"] == "upstream_error"
    assert b"canary" not in told
    assert wire.stored().error_code == "upstream_error"


@pytest.mark.parametrize("path", [PATH, SEED])
def test_what_comes_with_the_reason_of_a_broken_off_stream_and_after_it_counts(
    path: str, wire: Wire, upstream: Upstream
) -> None:
    last = {"index": 0, "delta": {"content": " there"}, "finish_reason": "error"}
    used = {"choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": 22}}
    upstream.plays(Answer(chunks(said("Hi"), event({"choices": [last]}), event(used), DONE)))
    asked = ASKED if path == PATH else {"prompt": "Hi"}
    told = wire.ask({**asked, "stream": True}, path).data
    assert b"upstream_error" in told.split(b"\n\n")[-2]
    stored = wire.stored()
    assert (stored.error_code, stored.reply) == ("upstream_error", "Hi there")
    assert stored.usage == Usage(prompt_tokens=11, completion_tokens=22)


@pytest.mark.parametrize("path", [PATH, SEED])
@pytest.mark.parametrize("more", [{}, {"error": None}, {"content_filter_results": {"error": {}}}])
@pytest.mark.parametrize("failed", [True, False])
def test_a_choice_that_failed_is_no_answer(
    failed: bool, more: dict[str, object], path: str, wire: Wire, upstream: Upstream
) -> None:
    answer = completion()
    answer["choices"][0] |= {**more, **(FAILED if failed else {})}
    upstream.plays(Answer(json_http("200 OK", answer)))
    told = wire.ask(ASKED if path == PATH else {"prompt": "Hi"}, path)
    stored = wire.stored()
    assert (stored.error_code == "upstream_error") is failed
    assert (told.status_code, b"canary" in told.data) == (502 if failed else 200, False)
    assert bool(stored.upstream_said) is failed
    assert stored.usage is not None
    assert stored.usage.prompt_tokens


@pytest.mark.parametrize(
    "first",
    [
        {"id": "", "object": "", "choices": [], "prompt_filter_results": [{"prompt_index": 0}]},
        {"choices": [], "detail": None, "errors": [], "message": "", "msg": None},
        {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 3}, "detail": "fine"},
        {"choices": [{"index": 0, "delta": {"content": ""}}], "message": "queued"},
        {"choices": [{"index": 0, "delta": {"content": "", "detail": "low"}, "error": None}]},
        {"type": "ping"},
    ],
    ids=["Azure's", "nothing", "counts", "a message beside a choice", "no error", "a ping"],
)
def test_what_is_odd_in_a_chunk_is_no_error(first: object, wire: Wire, upstream: Upstream) -> None:
    upstream.plays(Answer(chunks(event(first), said("Hi"), finished("stop"))))
    told = wire.ask({**ASKED, "stream": True}).data
    assert told.endswith(b"data: [DONE]\n\n")
    assert wire.stored().state is State.COMPLETED


def test_the_content_type_of_a_stream_is_read_in_any_case(wire: Wire, upstream: Upstream) -> None:
    body = chunk(said("Hi")) + chunk(finished("stop")) + LAST_CHUNK
    upstream.plays(Answer(EVENTS + b"Transfer-Encoding: chunked\r\n\r\n" + body))
    assert wire.ask({**ASKED, "stream": True}).data.endswith(b"data: [DONE]\n\n")


def test_an_end_that_comes_by_itself_is_no_silence(wire: Wire, upstream: Upstream) -> None:
    told = EVENTS_HEAD + chunk(said("Hi")) + chunk(finished("stop"))
    upstream.plays(Answer(told, drip=chunk(b"data: [DONE]\n\n")))
    answer = wire.ask({**ASKED, "stream": True}).data
    assert b": ping" not in answer
    assert answer.endswith(b"data: [DONE]\n\n")


def test_an_encoding_that_changes_nothing_may_be_named(wire: Wire, upstream: Upstream) -> None:
    upstream.plays(Answer(json_http("200 OK", completion(), "Content-Encoding: Identity")))
    assert wire.ask().status_code == 200
    answer = wire.client.post(
        "/v1/chat/completions", json=ASKED, headers={"Content-Encoding": "identity"}
    )
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("status", "ours", "code"),
    [
        ("429 Too Many Requests", 503, "upstream_rate_limited"),
        ("401 Unauthorized", 502, "upstream_auth_failed"),
        ("503 Service Unavailable", 503, "upstream_error"),
    ],
)
def test_of_a_compressed_error_the_status_says_enough(
    status: str, ours: int, code: str, wire: Wire, upstream: Upstream
) -> None:
    page = gzip.compress(b"<html>canary</html>")
    upstream.plays(Answer(http(status, page, "Content-Encoding: gzip")))
    response = wire.ask()
    assert (response.status_code, error_of(response)["code"]) == (ours, code)


def test_a_compressed_error_that_would_be_passed_on_says_nothing(
    wire: Wire, upstream: Upstream
) -> None:
    packed = gzip.compress(json.dumps({"error": {"message": "canary"}}).encode())
    upstream.plays(Answer(http("400 Bad Request", packed, "Content-Encoding: gzip")))
    response = wire.ask()
    assert response.status_code == 400
    assert error_of(response)["message"] == (
        "The provider refused the request, and did not say why."
    )
    assert wire.stored().state is State.FAILED


def test_a_compressed_answer_is_none(wire: Wire, upstream: Upstream) -> None:
    packed = gzip.compress(json.dumps(completion()).encode())
    upstream.plays(Answer(http("200 OK", packed, "Content-Encoding: gzip")))
    assert error_of(wire.ask())["code"] == "upstream_invalid_response"
