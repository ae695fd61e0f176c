"""The contract of LLMGateway, for the adapters that need no network."""

import json
from dataclasses import replace
from typing import Any

import pytest

from chatport.adapters import OfflineGateway, Script, ScriptedGateway
from chatport.domain import (
    Completion,
    CompletionRequest,
    Delta,
    LLMGateway,
    Message,
    ModelCard,
    Usage,
)
from chatport.domain.errors import (
    UpstreamDisconnected,
    UpstreamError,
    UpstreamInvalidResponse,
    UpstreamTimeout,
    UpstreamTruncated,
)

REQUEST = CompletionRequest(
    model="model-1",
    messages=[
        Message("system", "Be brief."),
        Message("user", "My name is Ada."),
        Message("assistant", "Hello Ada."),
        Message("user", "What is my name?"),
    ],
)

RELAYED = CompletionRequest(
    model="model-1",
    body=json.dumps(
        {
            "messages": [
                {"role": message.role, "content": message.text} for message in REQUEST.messages
            ]
        }
    ).encode(),
)


@pytest.fixture(params=["offline", "scripted"])
def gateway(request: pytest.FixtureRequest) -> LLMGateway:
    if request.param == "offline":
        return OfflineGateway()
    usage = Usage(prompt_tokens=12, completion_tokens=3)
    script = Script(chunks=("Your ", "name ", "is Ada."), usage=usage)
    return ScriptedGateway(script, models=[ModelCard(id="model-1", facts={"id": "model-1"})])


def test_a_stream_delivers_what_a_whole_answer_has(gateway: LLMGateway) -> None:
    whole = gateway.complete(REQUEST)
    with gateway.stream(REQUEST) as deltas:
        pieces = list(deltas)
    assert "".join(piece.text for piece in pieces) == whole.text
    assert [p.finish_reason for p in pieces if p.finish_reason] == [whole.finish_reason]
    assert [p.usage for p in pieces if p.usage] == [whole.usage]


def test_a_stream_can_be_left_at_any_time(gateway: LLMGateway) -> None:
    with gateway.stream(REQUEST) as deltas:
        assert next(deltas).text
    assert gateway.complete(REQUEST).text


def test_the_offline_answer_shows_that_it_saw_the_history() -> None:
    assert OfflineGateway().complete(REQUEST) == Completion(
        text="You said: What is my name?\nBefore that you said: My name is Ada.\nEarlier turns: 1",
        finish_reason="stop",
        usage=Usage(prompt_tokens=12, completion_tokens=17),
    )


def test_a_script_plays_in_order_and_its_last_part_for_ever() -> None:
    gateway = ScriptedGateway("first", "second")
    assert [gateway.complete(REQUEST).text for _ in range(3)] == ["first", "second", "second"]
    assert gateway.calls == [REQUEST, REQUEST, REQUEST]


def test_a_script_fails_before_or_after_its_chunks() -> None:
    gateway = ScriptedGateway(
        Script(raises=UpstreamTimeout()), Script(chunks=("half",), raises=UpstreamTimeout())
    )
    with pytest.raises(UpstreamTimeout), gateway.stream(REQUEST):
        pytest.fail("entering must raise")
    with gateway.stream(REQUEST) as deltas:
        assert next(deltas) == Delta(text="half")
        with pytest.raises(UpstreamTimeout):
            next(deltas)
    assert gateway.open_streams == 0


def test_a_script_without_a_finish_reason_is_truncated() -> None:
    with pytest.raises(UpstreamTruncated):
        ScriptedGateway(Script(chunks=("half",), finish_reason=None)).complete(REQUEST)


# Requests that are passed on as they are


def test_a_prompt_is_answered_without_the_providers_own_bytes(gateway: LLMGateway) -> None:
    assert gateway.complete(REQUEST).body is None
    with gateway.stream(REQUEST) as deltas:
        assert [event for delta in deltas for event in delta.events] == []


def test_a_relay_is_answered_as_the_same_messages_are_and_in_the_providers_bytes(
    gateway: LLMGateway,
) -> None:
    whole = gateway.complete(RELAYED)
    assert replace(whole, body=None) == gateway.complete(REQUEST)
    assert whole.body is not None
    answer = json.loads(whole.body)
    assert answer["object"] == "chat.completion"
    [choice] = answer["choices"]
    assert choice["message"] == {"role": "assistant", "content": whole.text}
    assert choice["finish_reason"] == "stop"
    assert whole.usage is not None
    assert answer["usage"]["prompt_tokens"] == whole.usage.prompt_tokens
    assert answer["usage"]["completion_tokens"] == whole.usage.completion_tokens


def test_a_streamed_relay_delivers_what_a_whole_one_has_in_events(gateway: LLMGateway) -> None:
    whole = gateway.complete(RELAYED)
    with gateway.stream(RELAYED) as deltas:
        pieces = list(deltas)
    assert "".join(piece.text for piece in pieces) == whole.text
    assert [p.finish_reason for p in pieces if p.finish_reason] == ["stop"]
    assert [p.usage for p in pieces if p.usage] == [whole.usage]
    chunks = [json.loads(event) for piece in pieces for event in piece.events]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    choices = [chunk["choices"][0] for chunk in chunks if chunk["choices"]]
    assert "".join(choice["delta"].get("content", "") for choice in choices) == whole.text
    assert [choice["delta"].get("role") for choice in choices] == [
        *("assistant",),
        *[None] * (len(choices) - 1),
    ]
    assert [choice["finish_reason"] for choice in choices] == [None] * (len(choices) - 1) + ["stop"]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["total_tokens"] > 0


def test_a_streamed_relay_can_be_left_at_any_time(gateway: LLMGateway) -> None:
    with gateway.stream(RELAYED) as deltas:
        assert next(deltas).events
    assert gateway.complete(RELAYED).body


def test_the_models_come_with_their_ids(gateway: LLMGateway) -> None:
    cards = gateway.models()
    assert cards
    assert all(card.facts["id"] == card.id for card in cards)


def said(content: Any) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": content}]}).encode()


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (said("Hello"), "You said: Hello"),
        (said([{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]), "one two"),
        (said([{"type": "image_url", "image_url": {"url": "data:"}}]), "You said: "),
        (said([{"text": 1}, {"text": None}, "text", 7]), "You said: "),
        (said(None), "You said: "),
        (b'{"messages":[{"role":"system","content":"Be brief."}]}', "You said: "),
        (b'{"messages":[{"role":"user"}]}', "You said: "),
    ],
)
def test_the_offline_provider_reads_content_of_every_shape(body: bytes, text: str) -> None:
    request = CompletionRequest(model="any", body=body)
    assert OfflineGateway().complete(request).text.endswith(text)


def test_the_offline_provider_has_one_model_and_names_it_in_its_answers() -> None:
    [card] = OfflineGateway().models()
    assert card == ModelCard(
        id="offline",
        facts={"id": "offline", "object": "model", "created": 0, "owned_by": "chatport"},
    )
    answer = OfflineGateway().complete(RELAYED).body
    assert answer is not None
    assert json.loads(answer)["model"] == "offline"


def test_a_scripted_answer_is_given_byte_for_byte_and_read_like_a_providers() -> None:
    body = b'{"choices":[{"message":{"tool_calls":[{}]},"finish_reason":"tool_calls"}],  "x":1}'
    completion = ScriptedGateway(Script(body=body, upstream_request_id="req_1")).complete(RELAYED)
    assert completion == Completion(
        text="", finish_reason="tool_calls", body=body, upstream_request_id="req_1"
    )
    with pytest.raises(UpstreamInvalidResponse):
        ScriptedGateway(Script(body=b'{"choices":[]}')).complete(RELAYED)


def chunk(text: str, finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish_reason}
    return json.dumps({"choices": [choice]}).encode()


def test_scripted_events_are_given_one_by_one_and_read_like_a_providers() -> None:
    events = (chunk("one"), chunk("two", "length"))
    gateway = ScriptedGateway(Script(events=events, upstream_request_id="req_1"))
    with gateway.stream(RELAYED) as deltas:
        assert list(deltas) == [
            Delta(upstream_request_id="req_1"),
            Delta(text="one", events=events[:1], said_bytes=3),
            Delta(text="two", events=events[1:], finish_reason="length", said_bytes=3),
        ]


@pytest.mark.parametrize(
    ("script", "fault"),
    [
        (Script(events=(chunk("one"),)), UpstreamTruncated),
        (Script(events=(chunk("one"),), raises=UpstreamDisconnected()), UpstreamDisconnected),
        (Script(events=(chunk("one"), b'{"error":{"message":"no"}}')), UpstreamError),
        (Script(events=(chunk("one"), b"[]")), UpstreamInvalidResponse),
    ],
)
def test_scripted_events_break_where_they_should(
    script: Script, fault: type[UpstreamError]
) -> None:
    gateway = ScriptedGateway(script)
    with gateway.stream(RELAYED) as deltas:
        assert next(deltas).text == "one"
        with pytest.raises(fault):
            next(deltas)
    assert gateway.open_streams == 0


def test_a_scripted_provider_counts_how_often_its_models_were_asked_for() -> None:
    gateway = ScriptedGateway("one", models=[ModelCard(id="a/b", facts={"id": "a/b"})])
    assert [card.id for card in (*gateway.models(), *gateway.models())] == ["a/b", "a/b"]
    assert gateway.model_calls == 2
