"""Requests that are passed on as they are, through the same pipeline as prompts."""

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from chatport.adapters import LimitsCounter, MemoryStore, Script, ScriptedGateway, WindowTable
from chatport.domain import (
    ChatRequest,
    ChatService,
    Exchange,
    Limit,
    LogQuery,
    RateLimiter,
    State,
    Usage,
)
from chatport.domain.errors import (
    ChatportError,
    ExchangeLost,
    InvalidUnicode,
    ModelNotAllowed,
    RateLimited,
    UpstreamDisconnected,
    UpstreamRejected,
    UpstreamTimeout,
)
from chatport.domain.relay import Once, Relay, RequestText

MakeService = Callable[..., ChatService]

TEXT = RequestText(messages=['{"role":"user","content":"Hello"}'], parameters='{"n":1}')
BODY = b'{"model":"gpt-x","messages":[{"role":"user","content":"Hello"}],"n":1}'
ANSWER = b'{"choices":[{"message":{"content":"Hi"},"finish_reason":"stop"}], "x": "\\u0000"}'


def relay(model: str = "gpt-x", body: bytes = BODY) -> Relay:
    return Relay(model=model, body=body, text=TEXT)


def request(prompt: str = "Hello", **fields: Any) -> ChatRequest:
    return ChatRequest(prompt=prompt, user_id="ada", **{"relay": relay(), **fields})


def only(store: MemoryStore) -> Exchange:
    [listed] = store.search(LogQuery())
    exchange = store.find(listed.id)
    assert exchange is not None
    return exchange


def event(**delta: object) -> bytes:
    return json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}).encode()


END = b'{"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}'


def test_the_provider_gets_the_body_and_the_client_its_answer(
    make_service: MakeService, store: MemoryStore
) -> None:
    script = Script(body=ANSWER, upstream_request_id="req_1")
    gateway = ScriptedGateway(script)
    reply = make_service(gateway, system_prompt="Be brief.").reply(request())
    assert (reply.answer, reply.text, reply.finish_reason) == (ANSWER, "Hi", "stop")
    [call] = gateway.calls
    assert (call.model, call.body, call.messages) == ("gpt-x", BODY, ())
    exchange = only(store)
    assert (exchange.model, exchange.request, exchange.answer) == ("gpt-x", TEXT, (ANSWER,))
    assert (exchange.prompt, exchange.reply, exchange.turn_tokens) == ("Hello", "Hi", 0)
    assert (exchange.state, exchange.final, exchange.attempts) == (State.COMPLETED, True, 1)
    assert exchange.upstream_request_id == "req_1"


def test_a_relay_neither_gets_nor_becomes_history(make_service: MakeService) -> None:
    gateway = ScriptedGateway("one", "two", "three")
    service = make_service(gateway)
    service.reply(ChatRequest(prompt="first", user_id="ada"))
    service.reply(request("second"))
    service.reply(ChatRequest(prompt="third", user_id="ada"))
    assert gateway.calls[1].messages == ()
    assert [m.text for m in gateway.calls[2].messages] == ["first", "one", "third"]


def test_many_relays_of_one_user_run_at_once_beside_a_prompt(
    make_service: MakeService, store: MemoryStore
) -> None:
    service = make_service(ScriptedGateway("one"))
    streams = [service.stream(request()) for _ in range(3)]
    streams.append(service.stream(ChatRequest(prompt="Hello", user_id="ada")))
    streams += [service.stream(request()) for _ in range(3)]
    assert {exchange.state for exchange in store.search(LogQuery())} == {State.OPEN}
    for stream in streams:
        assert list(stream) == ["one"]
    assert {exchange.state for exchange in store.search(LogQuery())} == {State.COMPLETED}


@pytest.mark.parametrize("prompt", ["", " ", "\n", "x" * 200_000])
def test_the_prompt_of_a_relay_may_be_empty_or_long(
    make_service: MakeService, store: MemoryStore, prompt: str
) -> None:
    make_service(ScriptedGateway("one")).reply(request(prompt))
    assert only(store).prompt == prompt


@pytest.mark.parametrize("prompt", ["a\x00b", "\ud800", "x\udfff"])
def test_the_prompt_of_a_relay_is_text_that_every_database_keeps(prompt: str) -> None:
    with pytest.raises(InvalidUnicode):
        request(prompt)


@pytest.mark.parametrize("text", ["a\x00b", "\ud800", "x\udfff"])
def test_the_texts_of_a_relay_are_text_that_every_database_keeps(text: str) -> None:
    with pytest.raises(InvalidUnicode):
        RequestText(messages=["fine", text], parameters="{}")
    with pytest.raises(InvalidUnicode):
        RequestText(messages=[], parameters=text)


def test_tokens_that_the_provider_did_not_count_are_estimated_from_the_body(
    make_service: MakeService, store: MemoryStore
) -> None:
    make_service(ScriptedGateway("x" * 40)).reply(request(relay=relay(body=b"y" * 81)))
    assert only(store).usage == Usage(prompt_tokens=21, completion_tokens=10, estimated=True)


def test_a_stream_keeps_its_events_as_they_came(
    make_service: MakeService, store: MemoryStore
) -> None:
    events = (event(role="assistant", content="Hi"), event(tool_calls=[{"index": 0}]), END)
    stream = make_service(ScriptedGateway(Script(events=events))).stream(request())
    seen: list[bytes] = []
    while (delta := stream.next_delta()) is not None:
        seen += delta.events
    assert tuple(seen) == events
    assert stream.reply is not None
    assert stream.reply.text == "Hi"
    exchange = only(store)
    assert (exchange.answer, exchange.reply) == (events, "Hi")
    assert (exchange.finish_reason, exchange.final) == ("tool_calls", True)


def test_a_stream_that_breaks_keeps_the_events_that_came(
    make_service: MakeService, store: MemoryStore
) -> None:
    events = (event(content="Hi"), event(content=" Ada"))
    script = Script(events=events, raises=UpstreamDisconnected())
    stream = make_service(ScriptedGateway(script)).stream(request())
    stream.next_delta()
    stream.next_delta()
    with pytest.raises(UpstreamDisconnected):
        stream.next_delta()
    exchange = only(store)
    assert (exchange.state, exchange.reply, exchange.answer) == (State.FAILED, "Hi Ada", events)
    assert exchange.final is True


def test_a_stream_that_the_client_left_keeps_the_events_that_came(
    make_service: MakeService, store: MemoryStore
) -> None:
    events = (event(content="Hi"), event(content=" Ada"), END)
    stream = make_service(ScriptedGateway(Script(events=events))).stream(request())
    stream.next_delta()
    stream.close()
    exchange = only(store)
    assert (exchange.state, exchange.answer) == (State.CANCELLED, events[:1])
    assert exchange.final is False


def test_a_long_answer_without_text_is_written_down_on_its_way(
    make_service: MakeService, store: MemoryStore, clock: Any
) -> None:
    events = tuple(event(tool_calls=[{"index": 0, "n": n}]) for n in range(4))
    stream = make_service(ScriptedGateway(Script(events=(*events, END)))).stream(request())
    stream.next_delta()
    assert only(store).answer == ()
    clock.passed += 2
    stream.next_delta()
    assert only(store).answer == events[:2]
    clock.passed += 1.9
    stream.next_delta()
    assert only(store).answer == events[:2]
    stream.close()
    assert only(store).answer == events[:3]


def test_text_is_written_down_with_its_events(
    make_service: MakeService, store: MemoryStore
) -> None:
    events = (event(content="a" * 4096), event(content="b"), END)
    stream = make_service(ScriptedGateway(Script(events=events))).stream(request())
    stream.next_delta()
    exchange = only(store)
    assert (exchange.state, exchange.reply) == (State.OPEN, "a" * 4096)
    assert exchange.answer == events[:1]
    stream.close()


def test_the_answer_to_a_prompt_is_kept_twice_only_if_it_may_be_asked_for_again(
    make_service: MakeService, store: MemoryStore
) -> None:
    service = make_service(ScriptedGateway(Script(chunks=("one ", "two"))))
    list(service.stream(ChatRequest(prompt="Hello", user_id="ada")))
    assert only(store).answer == ()
    service.erase("anonymous", "ada")
    once = Once(request_hash="hash-1")
    list(service.stream(ChatRequest(prompt="Hello", user_id="ada", once=once)))
    assert only(store).answer == (b"one ", b"two")


def test_a_refusal_in_the_providers_own_words_is_kept_as_the_answer(
    make_service: MakeService, store: MemoryStore
) -> None:
    error = UpstreamRejected(upstream_status=400)
    error.passed_on = b'{"error": {"message": "no"}}'
    with pytest.raises(UpstreamRejected):
        make_service(ScriptedGateway(Script(raises=error))).reply(request())
    exchange = only(store)
    assert exchange.answer == (b'{"error": {"message": "no"}}',)
    assert (exchange.state, exchange.final, exchange.upstream_status) == (State.FAILED, False, 400)


@pytest.mark.parametrize("how", ["reply", "stream"])
def test_a_failed_relay_is_an_outcome_with_its_request(
    make_service: MakeService, store: MemoryStore, how: str
) -> None:
    service = make_service(ScriptedGateway(Script(raises=UpstreamTimeout())))
    with pytest.raises(UpstreamTimeout) as failed:
        getattr(service, how)(request(request_id="request-1"))
    assert failed.value.exchange_id == "request-1"
    exchange = only(store)
    assert (exchange.state, exchange.error_code) == (State.FAILED, "upstream_timeout")
    unseen = Usage(prompt_tokens=18, completion_tokens=4096, estimated=True)  # it may be billed
    assert (exchange.request, exchange.answer, exchange.usage) == (TEXT, (), unseen)


@pytest.mark.parametrize("how", ["reply", "stream"])
def test_a_model_that_is_not_allowed_is_refused_before_limits_and_store(
    make_service: MakeService, store: MemoryStore, how: str
) -> None:
    gateway = ScriptedGateway("one")
    limits = RateLimiter(
        LimitsCounter(WindowTable(slots=64, monotonic=lambda: 0.0)),
        user=[Limit(amount=1, window_seconds=60)],
    )
    service = make_service(gateway, limiter=limits, allowed_models=["gpt-x", "maker/gpt-y"])
    for model in ("gpt-z", "GPT-X", "gpt-x ", ""):
        with pytest.raises(ModelNotAllowed) as refused:
            getattr(service, how)(request(relay=relay(model=model)))
        assert (refused.value.field, refused.value.allowances) == ("model", ())
    assert (gateway.calls, list(store.search(LogQuery())), sum(store.refusals.values())) == (
        *([], []),
        0,
    )
    assert service.reply(request(relay=relay(model="maker/gpt-y"))).text == "one"
    with pytest.raises(RateLimited):
        service.reply(request())


def test_the_list_of_allowed_models_is_no_matter_of_prompts(make_service: MakeService) -> None:
    service = make_service(ScriptedGateway("one"), allowed_models=["gpt-x"])
    assert service.reply(ChatRequest(prompt="Hello", user_id="ada")).text == "one"


def test_without_a_list_every_model_is_passed_on(make_service: MakeService) -> None:
    gateway = ScriptedGateway("one")
    make_service(gateway).reply(request(relay=relay(model="any/thing")))
    assert gateway.calls[0].model == "any/thing"


def test_the_gateway_can_ask_whether_somebody_still_waits(make_service: MakeService) -> None:
    gateway = ScriptedGateway("one")
    service = make_service(gateway)
    service.stream(request(still_wanted=lambda: False)).close()
    service.stream(request()).close()
    service.stream(ChatRequest(prompt="x", user_id="ada", still_wanted=lambda: False)).close()
    assert [call.still_wanted() for call in gateway.calls] == [False, True, False]


def test_an_answer_to_an_erased_relay_is_not_acknowledged(make_service: MakeService) -> None:
    class Erasing(ScriptedGateway):
        def complete(self, request: Any) -> Any:
            assert service.erase("anonymous", "ada") == 1
            return super().complete(request)

    service = make_service(Erasing("one"))
    with pytest.raises(ExchangeLost) as lost:
        service.reply(request(request_id="request-1"))
    assert (lost.value.exchange_id, lost.value.may_be_billed) == ("request-1", True)


def test_a_relay_is_listed_with_the_users_conversation_and_erased_with_it(
    make_service: MakeService,
) -> None:
    service = make_service(ScriptedGateway("one"))
    service.reply(ChatRequest(prompt="first", user_id="ada"))
    service.reply(request("second"))
    assert [e.prompt for e in service.conversation("anonymous", "ada")] == ["first", "second"]
    assert service.erase("anonymous", "ada") == 2


# Pseudonyms


def test_a_pseudonym_is_stable_and_depends_on_caller_user_and_store(
    make_service: MakeService,
) -> None:
    service = make_service(ScriptedGateway("one"))
    another = make_service(ScriptedGateway("one"), store=MemoryStore())
    names = [
        service.pseudonym("anonymous", "zoe"),
        service.pseudonym("anonymous", "bob"),
        service.pseudonym("anonymous", "ZOE"),
        service.pseudonym("other", "zoe"),
        another.pseudonym("anonymous", "zoe"),
    ]
    assert all(left != right for left, right in pairwise(sorted(names)))
    assert all(len(name) == 64 and set(name) <= set("0123456789abcdef") for name in names)
    assert service.pseudonym("anonymous", "zoe") == names[0]
    assert make_service(ScriptedGateway("one")).pseudonym("anonymous", "zoe") == names[0]
    assert "zoe" not in names[0]


def test_the_key_of_the_pseudonyms_is_asked_for_once(make_service: MakeService) -> None:
    class Counting(MemoryStore):
        asked = 0

        def pseudonym_key(self) -> bytes:
            self.asked += 1
            return super().pseudonym_key()

    counting = Counting()
    service = make_service(ScriptedGateway("one"), store=counting)
    assert counting.asked == 0
    for user_id in ("ada", "bob", "ada"):
        service.pseudonym("anonymous", user_id)
    assert counting.asked == 1


def test_every_error_after_the_begin_names_its_exchange(make_service: MakeService) -> None:
    service = make_service(ScriptedGateway(Script(raises=KeyError("x"))))
    with pytest.raises(KeyError) as failed:
        service.reply(request(request_id="request-1"))
    assert failed.value.exchange_id == "request-1"  # type: ignore[attr-defined]  # any exception can carry it
    assert ChatportError().exchange_id is None
