"""The official Python SDK against a live service: streams, whole and broken, and many at once."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from openai import NOT_GIVEN, APIError, AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionChunk

from .conftest import Service
from .sdk_answers import MADE_UP
from .sdk_provider import SdkProvider, running_provider
from .sdk_service import MODEL, ask, ended, running_service, streamed, text, url


@pytest.fixture(scope="module")
def upstream() -> Iterator[SdkProvider]:
    with running_provider() as provider:
        yield provider


@pytest.fixture(scope="module")
def service(upstream: SdkProvider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("chatport")
    # One process, since each has connections to the provider of its own.
    with running_service(upstream, folder, "--workers", "1") as service:
        yield service


@pytest.fixture
def client(service: Service) -> Iterator[OpenAI]:
    with OpenAI(api_key="sk-unused", base_url=url(service), max_retries=0) as client:
        yield client


@pytest.mark.parametrize("options", [NOT_GIVEN, {"include_usage": False}, {}])
@pytest.mark.parametrize("kind", ["usage unwanted", "merged", "compact"])
def test_a_stream_has_no_usage_unless_it_was_asked_for(
    client: OpenAI, upstream: SdkProvider, kind: str, options: Any
) -> None:
    prompt = f"{kind} #{options}"
    chunks = streamed(client, prompt, stream_options=options)
    assert text(chunks) == f"echo: {prompt}"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == "stop"
    # The provider was asked for usage, since chatport wants to know it, and has sent it.
    [call] = upstream.calls(prompt)
    assert call.body["stream_options"]["include_usage"] is True
    assert [len(chunk.choices) for chunk in chunks] == [1] * 5
    assert not [chunk for chunk in chunks if "usage" in chunk.model_fields_set]


@pytest.mark.parametrize("prompt", ["usage wanted", "terse", "compact"])
def test_a_stream_ends_with_the_usage_that_was_asked_for(
    client: OpenAI, upstream: SdkProvider, prompt: str
) -> None:
    options = {"include_usage": True, "include_obfuscation": False}
    chunks = streamed(client, prompt, stream_options=options)
    assert text(chunks) == f"echo: {prompt}"
    assert upstream.calls(prompt)[0].body["stream_options"] == options
    assert [len(chunk.choices) for chunk in chunks] == [1, 1, 1, 1, 1, 0]
    # A provider that is terse leaves out `usage: null`; OpenAI does not, nor does chatport.
    assert all("usage" in chunk.model_fields_set for chunk in chunks)
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * 5
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 13
    assert chunks[-1].usage.prompt_tokens_details is not None
    assert chunks[-1].usage.prompt_tokens_details.cached_tokens == 3
    heads = {(chunk.id, chunk.created, chunk.model, chunk.object) for chunk in chunks}
    assert heads == {("chatcmpl-sdk", 1790000000, "vendor/echo-1", "chat.completion.chunk")}


def test_the_bytes_of_a_stream_are_plain_server_sent_events(client: OpenAI) -> None:
    with client.chat.completions.with_streaming_response.create(
        model=MODEL, messages=ask("bytes"), stream=True
    ) as answer:
        lines = [line for line in answer.iter_lines() if line and not line.startswith(":")]
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-accel-buffering"] == "no"
    assert answer.headers["cache-control"] in {"no-cache", "no-store", "no-cache, no-store"}
    assert {line.split(":")[0] for line in lines} == {"data"}
    assert len(lines) == 6
    assert lines[-1] == "data: [DONE]"
    assert all(MADE_UP in line for line in lines[:-1])


def test_a_stream_arrives_piece_by_piece(client: OpenAI, upstream: SdkProvider) -> None:
    prompt = "waits #pieces"
    stream = client.chat.completions.create(model=MODEL, messages=ask(prompt), stream=True)
    assert next(stream).choices[0].delta.role == "assistant"  # the provider has not gone on yet
    upstream.open(prompt)
    assert text(list(stream)) == "echo: waits #pieces"


def test_text_that_looks_like_the_wire_comes_through_as_it_is(client: OpenAI) -> None:
    for hard in [
        '{"choices":[],"usage":null}',
        "\ndata: [DONE]\n\n",
        ": ping\r\n\r\n",
        "\u2028é\U0001f600",
    ]:
        prompt = f"hard {hard}"
        assert text(streamed(client, prompt)) == f"echo: {prompt}"
        chunks = streamed(client, prompt, stream_options={"include_usage": True})
        assert [chunk.usage is None for chunk in chunks] == [True] * 5 + [False]
        assert text(chunks) == f"echo: {prompt}"


def test_five_streams_one_after_the_other_share_one_connection_to_the_provider(
    client: OpenAI, upstream: SdkProvider
) -> None:
    for _ in range(5):
        assert text(streamed(client, "ends slowly")) == "echo: ends slowly"
    calls = upstream.calls("ends slowly", at_least=5)
    assert len({call.connection for call in calls}) == 1


def test_twenty_calls_at_once_each_get_their_own_answer(service: Service) -> None:
    async def call(client: AsyncOpenAI, number: int) -> str:
        messages = ask(f"nonce {number}")
        if number % 2:
            said = await client.chat.completions.create(model=MODEL, messages=messages)
            return said.choices[0].message.content or ""
        stream = await client.chat.completions.create(model=MODEL, messages=messages, stream=True)
        return text([chunk async for chunk in stream])

    async def all_of_them() -> list[str]:
        async with AsyncOpenAI(api_key="sk-unused", base_url=url(service)) as client:
            return await asyncio.gather(*(call(client, number) for number in range(20)))

    assert asyncio.run(all_of_them()) == [f"echo: nonce {number}" for number in range(20)]


@pytest.mark.parametrize(
    ("prompt", "code"),
    [
        ("error event", "upstream_error"),
        ("ends early", "upstream_truncated"),
        ("breaks off", "upstream_disconnected"),
    ],
)
def test_a_stream_that_breaks_raises_instead_of_ending_quietly(
    client: OpenAI, service: Service, prompt: str, code: str
) -> None:
    stream = client.chat.completions.create(model=MODEL, messages=ask(prompt), stream=True)
    heard: list[ChatCompletionChunk] = []
    with pytest.raises(APIError) as caught:
        heard.extend(stream)
    assert text(heard) == ("echo: " + prompt)[: len("echo: " + prompt) // 2]
    assert caught.value.code == code
    assert (type(caught.value.type), caught.value.param) == (str, None)
    assert "upstream-canary" not in str(caught.value.body)
    exchange = ended(service, stream.response.headers["x-request-id"])
    assert (exchange.state, exchange.error_code) == ("failed", code)
    assert exchange.reply == text(heard)


@pytest.mark.parametrize("prompt", ["error event", "ends early", "breaks off"])
def test_a_stream_that_breaks_never_says_that_it_is_done(client: OpenAI, prompt: str) -> None:
    with client.chat.completions.with_streaming_response.create(
        model=MODEL, messages=ask(prompt), stream=True
    ) as answer:
        events = [line for line in answer.iter_lines() if line.startswith("data:")]
    assert events[-1].startswith('data: {"error":')
    assert "[DONE]" not in "".join(events)
