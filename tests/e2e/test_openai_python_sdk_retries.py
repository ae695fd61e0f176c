"""The official Python SDK against a live service: clients that ask again and clients that leave."""

import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import httpx2
import pytest
from openai import (
    APITimeoutError,
    ConflictError,
    InternalServerError,
    OpenAI,
    UnprocessableEntityError,
)

from .conftest import Service
from .sdk_provider import PATIENCE_SECONDS, Call, SdkProvider, running_provider
from .sdk_service import MODEL, ask, ended, running_service, url

LEAVING_SECONDS = 7
"""While the provider is silent, chatport looks every 5 s whether its client is still there."""


@pytest.fixture(scope="module")
def upstream() -> Iterator[SdkProvider]:
    with running_provider() as provider:
        yield provider


@pytest.fixture(scope="module")
def service(upstream: SdkProvider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("chatport")
    with running_service(upstream, folder, "--workers", "1") as service:
        yield service


@pytest.fixture
def client(service: Service) -> Iterator[OpenAI]:
    with OpenAI(api_key="sk-unused", base_url=url(service), max_retries=2) as client:
        for _ in range(3):  # so that what fails in these tests is never most of what was asked
            answer(client, "fine")
        yield client


class Left(NamedTuple):
    """A stream that its client has left: the call of the provider, the exchange, and when."""

    call: Call
    request_id: str
    at: float


@pytest.fixture(scope="module", autouse=True)
def left_in_silence(service: Service, upstream: SdkProvider) -> Left:
    """Leave a stream whose provider is silent; that is noticed while the other tests run."""
    with OpenAI(api_key="sk-unused", base_url=url(service)) as client:
        return leave(client, upstream, "falls silent")


def leave(client: OpenAI, upstream: SdkProvider, prompt: str) -> Left:
    with client.chat.completions.create(model=MODEL, messages=ask(prompt), stream=True) as stream:
        # No more than two come from a provider that falls silent. What a client leaves unread
        # would make its system reset the connection, which is easier to notice than its end.
        for _ in zip(range(2), stream, strict=False):
            pass
    [call] = upstream.calls(prompt)
    return Left(call, stream.response.headers["x-request-id"], time.monotonic())


def answer(client: OpenAI, prompt: str, key: str = "", **options: Any) -> Any:
    """Return the raw response of a call, with an `Idempotency-Key` if one is given."""
    headers = {"Idempotency-Key": key} if key else {}
    raw = client.chat.completions.with_raw_response.create(
        model=MODEL, messages=ask(prompt), extra_headers=headers, **options
    )
    raw.http_response.read()
    return raw


def said(raw: Any) -> bytes:
    """Return the bytes of an answer, without the comments that tell of silence."""
    return re.sub(rb"(?m)^:.*\n\n", b"", raw.content)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
def test_what_failed_once_is_asked_again_without_the_client(
    client: OpenAI, upstream: SdkProvider, *, stream: bool
) -> None:
    raw = answer(client, f"error once #{stream}", stream=stream)
    assert raw.status_code == 200
    assert raw.retries_taken == 0
    assert "idempotency-replayed" not in raw.headers
    assert len(upstream.calls(f"error once #{stream}")) == 2


def test_a_key_whose_call_failed_once_counts_both_attempts(
    client: OpenAI, service: Service, upstream: SdkProvider
) -> None:
    raw = answer(client, "error once #key", key="failed once")
    assert raw.retries_taken == 0
    assert "idempotency-replayed" not in raw.headers
    exchange = ended(service, raw.request_id)
    assert (exchange.state, exchange.attempts) == ("completed", 2)
    again = answer(client, "error once #key", key="failed once")
    assert said(again) == said(raw)
    assert again.headers["idempotency-replayed"] == "true"
    assert len(upstream.calls("error once #key")) == 2


def test_what_fails_again_and_again_is_asked_twice_for_each_time_that_the_client_asks(
    client: OpenAI, upstream: SdkProvider
) -> None:
    with pytest.raises(InternalServerError) as caught:
        answer(client.with_options(max_retries=1), "error 500 #again")
    assert (caught.value.status_code, caught.value.code) == (502, "upstream_error")
    assert len(upstream.calls("error 500 #again")) == 4


def test_what_cannot_help_is_not_asked_again(client: OpenAI, upstream: SdkProvider) -> None:
    with pytest.raises(InternalServerError) as caught:
        answer(client, "error 401 #once")
    assert caught.value.code == "upstream_auth_failed"
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert len(upstream.calls("error 401 #once")) == 1


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
def test_a_key_that_was_answered_gets_the_same_bytes_again(
    client: OpenAI, service: Service, upstream: SdkProvider, *, stream: bool
) -> None:
    prompt = f"twice #{stream}"
    first, again = (answer(client, prompt, key=f"key {stream}", stream=stream) for _ in range(2))
    assert said(first) == said(again) != b""
    assert first.headers["content-type"] == again.headers["content-type"]
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert again.request_id
    assert len(upstream.calls(prompt)) == 1
    assert ended(service, first.request_id).state == "completed"


def test_the_sdk_reads_a_replayed_stream_like_any_other(client: OpenAI) -> None:
    heard = []
    for _ in range(2):
        with client.chat.completions.create(
            model=MODEL,
            messages=ask("replayed"),
            stream=True,
            stream_options={"include_usage": True},
            extra_headers={"Idempotency-Key": "replayed"},
        ) as stream:
            heard.append([chunk.to_dict() for chunk in stream])
    assert len(heard[0]) == 6
    assert heard[0] == heard[1]


def test_a_key_whose_call_is_running_is_in_conflict_until_it_has_ended(
    client: OpenAI, upstream: SdkProvider
) -> None:
    prompt, key = "waits #conflict", "conflict"
    with ThreadPoolExecutor() as pool:
        first = pool.submit(answer, client, prompt, key)
        upstream.calls(prompt, at_least=1)
        with pytest.raises(ConflictError) as caught:
            answer(client.with_options(max_retries=0), prompt, key)
        upstream.open(prompt)
        again = answer(client, prompt, key)  # the first may not be through yet: the SDK waits
    error = caught.value
    assert (error.status_code, error.code) == (409, "idempotency_in_progress")
    assert (type(error.type), error.param) == (str, None)
    assert error.request_id
    assert error.response.headers["retry-after"] == "1"
    assert said(again) == said(first.result())
    assert again.headers["idempotency-replayed"] == "true"
    assert len(upstream.calls(prompt)) == 1


def test_ten_calls_at_once_with_one_key_are_one_call_of_the_provider(
    client: OpenAI, upstream: SdkProvider
) -> None:
    with ThreadPoolExecutor(10) as pool:
        raws = list(pool.map(lambda _: answer(client, "stampede", key="stampede"), range(10)))
    assert len({said(raw) for raw in raws}) == 1
    assert sum("idempotency-replayed" not in raw.headers for raw in raws) == 1
    assert len(upstream.calls("stampede")) == 1


def test_a_key_of_another_request_is_refused(client: OpenAI, upstream: SdkProvider) -> None:
    answer(client, "reused #1", key="reused")
    with pytest.raises(UnprocessableEntityError) as caught:
        answer(client, "reused #2", key="reused")
    assert (caught.value.status_code, caught.value.code) == (422, "idempotency_key_reused")
    assert caught.value.type == "invalid_request_error"
    assert caught.value.request_id
    assert upstream.calls("reused #2") == []


def test_a_retry_after_the_clients_own_timeout_joins_the_running_call(
    service: Service, upstream: SdkProvider
) -> None:
    prompt = "waits #joined"
    counts: list[str] = []
    with (
        httpx2.Client(event_hooks={"request": [watch(counts, upstream, prompt)]}) as http,
        OpenAI(
            api_key="sk-unused", base_url=url(service), timeout=1, max_retries=2, http_client=http
        ) as client,
    ):
        raw = answer(client, prompt)
    assert raw.parse().choices[0].message.content == "echo: waits #joined"
    assert raw.retries_taken == 1
    assert counts == ["0", "1"]
    assert len(upstream.calls(prompt)) == 1


def test_a_plain_answer_that_nobody_waited_for_is_kept_for_its_key(
    client: OpenAI, upstream: SdkProvider
) -> None:
    prompt, key = "waits #kept", "kept"
    with pytest.raises(APITimeoutError):
        answer(client.with_options(timeout=0.5, max_retries=0), prompt, key)
    upstream.open(prompt)
    kept = answer(client, prompt, key)
    assert kept.parse().choices[0].message.content == "echo: waits #kept"
    assert kept.headers["idempotency-replayed"] == "true"
    assert len(upstream.calls(prompt)) == 1


def watch(counts: list[str], upstream: SdkProvider, prompt: str) -> Any:
    """Return a hook that notes the count of retries and, once the first is sent, opens the gate."""

    def note(request: httpx2.Request) -> None:
        counts.append(request.headers["x-stainless-retry-count"])
        if counts[-1] == "1":
            request.extensions["trace"] = opener(upstream, prompt)

    return note


def opener(upstream: SdkProvider, prompt: str) -> Any:
    def trace(event: str, _info: dict[str, Any]) -> None:
        if event == "http11.receive_response_headers.started":
            upstream.open(prompt)

    return trace


def test_calls_that_are_no_retries_are_never_merged(client: OpenAI, upstream: SdkProvider) -> None:
    prompt = "waits #apart"
    with ThreadPoolExecutor() as pool:
        both = [pool.submit(answer, client, prompt) for _ in range(2)]
        upstream.calls(prompt, at_least=2)
        upstream.open(prompt)
    assert all("idempotency-replayed" not in raw.result().headers for raw in both)
    assert len(upstream.calls(prompt)) == 2


def test_a_client_that_leaves_a_stream_ends_the_call_of_the_provider(
    client: OpenAI, service: Service, upstream: SdkProvider
) -> None:
    left = leave(client, upstream, "talks for ever")
    assert left.call.left.wait(PATIENCE_SECONDS)
    assert left.call.left_at - left.at < 2
    assert ended(service, left.request_id).state == "cancelled"


def test_a_client_that_leaves_in_silence_is_noticed_too(
    left_in_silence: Left, service: Service
) -> None:
    assert left_in_silence.call.left.wait(PATIENCE_SECONDS)
    assert left_in_silence.call.left_at - left_in_silence.at < LEAVING_SECONDS
    exchange = ended(service, left_in_silence.request_id)
    assert (exchange.state, exchange.reply) == ("cancelled", "")
