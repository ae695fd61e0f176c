"""The contract of LLMGateway, for the adapters that need no network."""

import pytest

from chatport.adapters import OfflineGateway, Script, ScriptedGateway
from chatport.domain import Completion, CompletionRequest, Delta, LLMGateway, Message, Usage
from chatport.domain.errors import UpstreamTimeout, UpstreamTruncated

REQUEST = CompletionRequest(
    model="model-1",
    messages=[
        Message("system", "Be brief."),
        Message("user", "My name is Ada."),
        Message("assistant", "Hello Ada."),
        Message("user", "What is my name?"),
    ],
)


@pytest.fixture(params=["offline", "scripted"])
def gateway(request: pytest.FixtureRequest) -> LLMGateway:
    if request.param == "offline":
        return OfflineGateway()
    usage = Usage(prompt_tokens=12, completion_tokens=3)
    return ScriptedGateway(Script(chunks=("Your ", "name ", "is Ada."), usage=usage))


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
