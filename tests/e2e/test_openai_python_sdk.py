"""The official Python SDK against a live service: what is asked and answered reaches its end."""

from collections.abc import Iterator
from typing import Any

import pytest
from openai import NotFoundError, OpenAI
from pydantic import BaseModel

from .conftest import Service
from .sdk_answers import MADE_UP
from .sdk_provider import SdkProvider, running_provider
from .sdk_service import MODEL, ask, ended, running_service, streamed, url

PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9Q"
    "DwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


class Person(BaseModel):
    name: str
    born: int


@pytest.fixture(scope="module")
def upstream() -> Iterator[SdkProvider]:
    with running_provider() as provider:
        yield provider


@pytest.fixture(scope="module")
def service(upstream: SdkProvider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running_service(upstream, tmp_path_factory.mktemp("chatport")) as service:
        yield service


@pytest.fixture
def client(service: Service) -> Iterator[OpenAI]:
    with OpenAI(api_key="sk-of-the-caller", base_url=url(service), max_retries=0) as client:
        yield client


def test_a_completion_is_the_providers_own(client: OpenAI) -> None:
    said = client.chat.completions.create(model=MODEL, messages=ask("plain"))
    assert (said.id, said.object, said.created) == ("chatcmpl-sdk", "chat.completion", 1790000000)
    assert said.model == "vendor/echo-1"
    [choice] = said.choices
    assert (choice.index, choice.finish_reason) == (0, "stop")
    assert (choice.message.role, choice.message.content) == ("assistant", "echo: plain")
    assert said.usage is not None
    assert said.usage.to_dict() == {
        "prompt_tokens": 9,
        "completion_tokens": 4,
        "total_tokens": 13,
        "prompt_tokens_details": {"cached_tokens": 3},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }


@pytest.mark.parametrize("stream", [False, True])
def test_the_request_id_names_the_exchange_in_the_log(
    client: OpenAI, service: Service, *, stream: bool
) -> None:
    answer = client.chat.completions.with_raw_response.create(
        model=MODEL, messages=ask("logged"), stream=stream
    )
    assert answer.status_code == 200
    answer.http_response.read()
    assert answer.request_id == answer.headers["x-request-id"] != "req_upstream"
    exchange = ended(service, answer.request_id)
    assert (exchange.state, exchange.route) == ("completed", "/v1/chat/completions")
    assert (exchange.model, exchange.finish_reason) == ("vendor/echo-1", "stop")
    assert (exchange.attempts, exchange.upstream_request_id) == (1, "req_upstream")
    assert exchange.usage is not None
    assert (exchange.usage.prompt_tokens, exchange.usage.completion_tokens) == (9, 4)


def test_a_raw_response_has_the_headers_and_the_answer_its_request_id(client: OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=ask("raw"))
    assert raw.headers["content-type"] == "application/json"
    assert raw.headers["cache-control"] == "no-store"
    assert raw.parse()._request_id == raw.request_id == raw.headers["x-request-id"]


def test_tools_are_called_and_their_results_sent_back(
    client: OpenAI, upstream: SdkProvider
) -> None:
    messages = ask("tools")
    said = client.chat.completions.create(model=MODEL, messages=messages, tools=[WEATHER])
    assert said.choices[0].finish_reason == "tool_calls"
    message = said.choices[0].message
    assert calls_in(message) == [
        ("call_0", "weather", '{"city": "Paris"}'),
        ("call_1", "weather", '{"city": "São Paulo"}'),
    ]
    result = {"role": "tool", "tool_call_id": "call_0", "content": "21 °C"}
    messages = [*messages, message, result]
    said = client.chat.completions.create(model=MODEL, messages=messages, tools=[WEATHER])
    assert said.choices[0].message.content == "The tool said 21 °C."
    sent = upstream.calls("tools")[1].body
    assert sent["tools"] == [WEATHER]
    assert sent["messages"][1]["tool_calls"][1]["function"]["arguments"] == '{"city": "São Paulo"}'
    assert sent["messages"][2] == result


def test_the_sdk_puts_streamed_tool_calls_together(client: OpenAI) -> None:
    with client.chat.completions.stream(
        model=MODEL, messages=ask("streamed tools"), tools=[WEATHER]
    ) as stream:
        kinds = {event.type for event in stream}
        [choice] = stream.get_final_completion().choices
    assert "tool_calls.function.arguments.done" in kinds
    assert choice.finish_reason == "tool_calls"
    assert calls_in(choice.message) == [
        ("call_0", "weather", '{"city": "Paris"}'),
        ("call_1", "weather", '{"city": "São Paulo"}'),
    ]


def test_answers_are_parsed_by_a_schema(client: OpenAI, upstream: SdkProvider) -> None:
    said = client.chat.completions.parse(
        model=MODEL, messages=ask("schema"), response_format=Person
    )
    assert said.choices[0].message.parsed == Person(name="Ada", born=1815)
    asked = upstream.calls("schema")[0].body["response_format"]
    assert asked["type"] == "json_schema"
    assert asked["json_schema"]["schema"]["required"] == ["name", "born"]
    with client.chat.completions.stream(
        model=MODEL, messages=ask("streamed schema"), response_format=Person
    ) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.parsed == Person(name="Ada", born=1815)


def test_what_chatport_does_not_know_reaches_the_provider(
    client: OpenAI, upstream: SdkProvider
) -> None:
    parts: Any = [
        {"type": "text", "text": "image"},
        {"type": "image_url", "image_url": {"url": PIXEL, "detail": "low"}},
    ]
    unknown = {"of_tomorrow": {"deep": [None, True, 2.5, "é", "\U0001f600"]}, "top_k": 40}
    client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": parts}],
        max_tokens=7,
        max_completion_tokens=8,
        seed=0,
        metadata={"trace": "1"},
        extra_body=unknown,
    )
    [call] = upstream.calls("image")
    assert call.headers["authorization"] == "Bearer sk-canary-key"
    assert b"sk-of-the-caller" not in call.raw
    assert call.body == {
        "model": "vendor/echo-1",
        "messages": [{"role": "user", "content": parts}],
        "max_tokens": 7,
        "max_completion_tokens": 8,
        "seed": 0,
        "metadata": {"trace": "1"},
        **unknown,
    }


def test_what_chatport_does_not_know_reaches_the_client(client: OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model=MODEL, messages=ask("unknown"), logprobs=True
    )
    assert MADE_UP in raw.http_response.text
    said = raw.parse()
    expected = {"price": 2.5, "deep": [100.0, None, "é"]}
    assert (said.model_extra or {})["made_up"] == expected
    [choice] = said.choices
    assert (choice.message.model_extra or {})["reasoning_content"] == "It wants an echo."
    assert choice.logprobs is not None
    assert [token.logprob for token in choice.logprobs.content or []] == [-0.25]
    chunks = streamed(client, "unknown", logprobs=True)
    assert [(chunk.model_extra or {})["made_up"] for chunk in chunks] == [expected] * 5
    thought = chunks[1].choices[0]
    assert (thought.delta.model_extra or {})["reasoning_content"] == "It wants an echo."
    assert thought.logprobs is not None


def test_the_users_own_name_stays_here(client: OpenAI, upstream: SdkProvider) -> None:
    for name in [{"user": "ada.lovelace"}, {"safety_identifier": "ada.lovelace"}, {"user": "bob"}]:
        client.chat.completions.create(model=MODEL, messages=ask("user"), extra_body=name)
    calls = upstream.calls("user", at_least=3)
    assert not [call for call in calls if b"ada.lovelace" in call.raw or b"bob" in call.raw]
    ada, again, bob = [stand_in(call.body) for call in calls]
    assert ada == again != bob
    assert 16 <= len(ada) <= 64


def stand_in(body: dict[str, Any]) -> str:
    """Return the name that the provider got for the user, in the new field or in the old one."""
    return str(body.get("safety_identifier") or body["user"])


def test_models_are_listed_and_found(client: OpenAI) -> None:
    [model] = [model for model in client.models.list() if model.id == "vendor/echo-1"]
    assert (model.object, type(model.created), type(model.owned_by)) == ("model", int, str)
    assert client.models.retrieve("vendor/echo-1") == model
    with pytest.raises(NotFoundError) as caught:
        client.models.retrieve("vendor/nope")
    assert caught.value.code == "model_not_found"
    assert caught.value.type == "invalid_request_error"
    assert caught.value.request_id


def calls_in(message: Any) -> list[tuple[str, str, str]]:
    return [(tool.id, tool.function.name, tool.function.arguments) for tool in message.tool_calls]
