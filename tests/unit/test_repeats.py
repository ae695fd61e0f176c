"""Requests that come again: answered once, paid for once."""

import threading
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from chatport.adapters import LimitsCounter, MemoryStore, Script, ScriptedGateway, WindowTable
from chatport.domain import (
    ChatRequest,
    ChatService,
    ChatStream,
    Delta,
    Exchange,
    History,
    HistoryBounds,
    Limit,
    LogQuery,
    RateLimiter,
    State,
    Usage,
    errors,
)
from chatport.domain.callers import Caller
from chatport.domain.errors import (
    CallerGone,
    ChatportError,
    ContentFiltered,
    ContextLengthExceeded,
    ConversationBusy,
    IdempotencyInProgress,
    IdempotencyKeyReused,
    InvalidField,
    InvalidIdempotencyKey,
    ModelNotAllowed,
    RateLimited,
    StorageBusy,
    StorageFull,
    UpstreamAuthFailed,
    UpstreamDisconnected,
    UpstreamError,
    UpstreamHungUp,
    UpstreamInvalidResponse,
    UpstreamModelUnavailable,
    UpstreamOverloaded,
    UpstreamQuotaExhausted,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamTruncated,
    UpstreamUnreachable,
)
from chatport.domain.relay import Once, Relay, RequestText
from chatport.domain.repeats import FINAL
from chatport.domain.spending import NO_CLAIM, Claim

MakeService = Callable[..., ChatService]
pytestmark = pytest.mark.usefixtures("leases_of_records")
Ask = Callable[..., ChatRequest]

BODY = b'{"model":"model-1","messages":[{"role":"user","content":"Hello"}]}'
RELAY = Relay(
    model="model-1",
    body=BODY,
    text=RequestText(messages=['{"role":"user","content":"Hello"}'], parameters="{}"),
)
USAGE = Usage(prompt_tokens=9, completion_tokens=3)
SCRIPT = Script(chunks=("one ", "two ", "three"), usage=USAGE, upstream_request_id="req_1")
BROKEN = Script(chunks=("one ", "two "), raises=UpstreamDisconnected(upstream_request_id="req_2"))

BILLED = [
    UpstreamTimeout,
    UpstreamHungUp,
    UpstreamDisconnected,
    UpstreamTruncated,
    UpstreamInvalidResponse,
]
NOT_BILLED = [
    UpstreamError,
    UpstreamUnreachable,
    UpstreamAuthFailed,
    UpstreamModelUnavailable,
    UpstreamRejected,
    UpstreamRateLimited,
    UpstreamQuotaExhausted,
    UpstreamOverloaded,
    ContentFiltered,
    ContextLengthExceeded,
    KeyError,
]


@pytest.fixture(params=["prompt", "relay"])
def asked(request: pytest.FixtureRequest) -> Ask:
    """Return a maker of requests of each kind; they name their request as `key-1` if they may."""
    extra = {"relay": RELAY} if request.param == "relay" else {}

    def make(**fields: Any) -> ChatRequest:
        defaults: dict[str, Any] = {"prompt": "Hello", "user_id": "ada", "once": with_key()}
        return ChatRequest(**{**defaults, **extra, **fields})

    return make


def with_key(request_hash: str = "hash-1", key: str = "key-1") -> Once:
    return Once(request_hash=request_hash, key=key)


FIRST = Once(request_hash="hash-1")
RETRY = Once(request_hash="hash-1", retry=True)


def log(store: MemoryStore) -> list[Exchange]:
    return list(store.search(LogQuery(oldest_first=True)))


def one_a_minute() -> RateLimiter:
    counter = LimitsCounter(WindowTable(slots=64, monotonic=lambda: 0.0))
    return RateLimiter(counter, user=[Limit(amount=1, window_seconds=60)])


def play(stream: ChatStream) -> list[tuple[str, bytes]]:
    """Return the pieces that a client would see: text, and events one by one."""
    pieces: list[tuple[str, bytes]] = []
    while (delta := stream.next_delta()) is not None:
        if delta.events:
            pieces += [("", event) for event in delta.events]
        elif delta.text:
            pieces.append((delta.text, b""))
    return pieces


def play_to_its_fault(stream: ChatStream) -> tuple[list[tuple[str, bytes]], ChatportError]:
    pieces: list[tuple[str, bytes]] = []
    while True:
        try:
            delta = stream.next_delta()
        except ChatportError as error:
            return pieces, error
        assert delta is not None, "the stream has to break"
        pieces += [("", event) for event in delta.events] or [(delta.text, b"")]


# The same key again


def test_the_same_key_gets_the_same_answer_without_a_call_or_a_charge(
    make_service: MakeService, store: MemoryStore, asked: Ask
) -> None:
    gateway = ScriptedGateway(SCRIPT, "another")
    service = make_service(gateway, limiter=one_a_minute())
    first = service.reply(asked(request_id="request-1"))
    assert (first.text, first.replayed) == ("one two three", False)
    for _ in range(3):
        again = service.reply(asked(request_id="request-2"))
        assert again == replace(first, allowances=(), replayed=True)
    assert (again.exchange_id, len(gateway.calls), len(log(store))) == ("request-1", 1, 1)
    with pytest.raises(RateLimited):
        service.reply(asked(once=with_key(key="key-2")))


def test_a_relayed_answer_is_said_again_byte_for_byte(make_service: MakeService) -> None:
    body = b'{ "choices": [{"message": {"content": "caf\xc3\xa9 \\u0000"},\r\n'
    body += b'"finish_reason": "stop"}], "later": 1e999}'
    service = make_service(ScriptedGateway(Script(body=body), "another"))
    request = ChatRequest(prompt="", user_id="ada", relay=RELAY, once=with_key())
    assert service.reply(request).answer == body
    assert service.reply(request).answer == body


def test_the_same_key_gets_the_same_stream_piece_by_piece(
    make_service: MakeService, store: MemoryStore, asked: Ask
) -> None:
    gateway = ScriptedGateway(SCRIPT, "another")
    service = make_service(gateway, limiter=one_a_minute())
    first = service.stream(asked())
    pieces = play(first)
    assert len(pieces) >= 3
    again = service.stream(asked())
    assert (first.replayed, again.replayed) == (False, True)
    assert (again.exchange_id, again.user_id) == (first.exchange_id, "ada")
    assert (again.allowances, again.reply) == ((), None)
    assert play(again) == pieces
    assert first.reply is not None
    assert again.reply is not None
    assert (again.reply.text, again.reply.usage) == ("one two three", USAGE)
    assert (again.reply.finish_reason, again.reply.replayed) == ("stop", True)
    again.close()
    again.close()
    assert (len(gateway.calls), len(log(store))) == (1, 1)


def test_a_repeated_stream_has_the_pieces_of_the_first_also_where_they_cut_a_character(
    make_service: MakeService,
) -> None:
    service = make_service(ScriptedGateway(Script(chunks=("a\ud83d", "\ude00", "\x00b"))))
    request = ChatRequest(prompt="Hello", user_id="ada", once=with_key())
    first, again = service.stream(request), None
    assert list(first) == ["a\ud83d", "\ude00", "\x00b"]
    again = service.stream(request)
    assert list(again) == ["a\ud83d", "\ude00", "\x00b"]
    assert again.reply is not None
    assert again.reply.text == "a😀\ufffdb"


def test_heartbeats_are_not_said_again(make_service: MakeService) -> None:
    class Silent(ScriptedGateway):
        def stream(self, request: Any) -> Any:
            silence = [Delta(), Delta(text="word"), Delta(), Delta(finish_reason="stop")]
            outer = super().stream(request)

            class Entered:
                def __enter__(self) -> Any:
                    outer.__enter__()
                    return iter(silence)

                def __exit__(self, *error: object) -> None:
                    outer.__exit__(None, None, None)

            return Entered()

    service = make_service(Silent("x"))
    request = ChatRequest(prompt="Hello", user_id="ada", once=with_key())
    assert list(service.stream(request)) == ["", "word", ""]
    assert list(service.stream(request)) == ["word"]


def test_a_repeated_stream_that_is_closed_says_no_more(make_service: MakeService) -> None:
    service = make_service(ScriptedGateway(SCRIPT))
    request = ChatRequest(prompt="Hello", user_id="ada", once=with_key())
    list(service.stream(request))
    again = service.stream(request)
    assert next(again) == "one "
    again.close()
    assert list(again) == []


def test_an_answer_is_said_again_also_after_days(
    make_service: MakeService, clock: Any, asked: Ask
) -> None:
    gateway = ScriptedGateway(SCRIPT)
    service = make_service(gateway)
    service.reply(asked())
    clock.passed += 30 * 86400
    assert service.reply(asked()).replayed is True
    assert len(gateway.calls) == 1


def test_a_key_belongs_to_its_caller(make_service: MakeService, asked: Ask) -> None:
    gateway = ScriptedGateway("mine", "theirs")
    service = make_service(gateway)
    assert service.reply(asked(caller=Caller(name="one"))).text == "mine"
    assert service.reply(asked(caller=Caller(name="other"))).text == "theirs"
    assert service.reply(asked(caller=Caller(name="one"))).text == "mine"


def test_a_user_id_that_was_made_for_the_first_call_is_given_again(
    make_service: MakeService, asked: Ask
) -> None:
    service = make_service(ScriptedGateway("one"))
    first = service.reply(asked(user_id=None))
    assert first.user_id.startswith("id-")
    assert service.reply(asked(user_id=None)).user_id == first.user_id


def test_an_answer_said_again_is_no_second_turn(make_service: MakeService) -> None:
    gateway = ScriptedGateway("one", "two")
    service = make_service(gateway)
    request = ChatRequest(prompt="Hello", user_id="ada", once=with_key())
    service.reply(request)
    service.reply(request)
    service.reply(ChatRequest(prompt="And now?", user_id="ada"))
    assert [message.text for message in gateway.calls[1].messages] == ["Hello", "one", "And now?"]


# Failures


@pytest.mark.parametrize("kind", BILLED, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("how", ["reply", "stream"])
def test_a_failure_that_may_be_billed_is_said_again_without_a_call(
    make_service: MakeService,
    store: MemoryStore,
    asked: Ask,
    kind: type[UpstreamError],
    how: str,
) -> None:
    error = kind(upstream_status=504, upstream_request_id="req_7")
    gateway = ScriptedGateway(Script(raises=error), "fine")
    service = make_service(gateway, limiter=one_a_minute())
    with pytest.raises(kind) as first:
        getattr(service, how)(asked(request_id="request-1"))
    assert first.value.replayed is False
    for _ in range(2):
        with pytest.raises(kind) as again:
            getattr(service, how)(asked())
        assert again.value is not first.value
        assert (type(again.value), str(again.value)) == (kind, str(error))
        assert (again.value.code, again.value.may_be_billed) == (kind.code, True)
        assert (again.value.upstream_status, again.value.upstream_request_id) == (504, "req_7")
        assert (again.value.exchange_id, again.value.replayed) == ("request-1", True)
        assert again.value.allowances == ()
    assert len(gateway.calls) == 1
    assert [(e.state, e.error_code, e.attempts) for e in log(store)] == [
        (State.FAILED, kind.code, 1)
    ]


def test_a_stream_that_broke_in_the_middle_breaks_there_again(
    make_service: MakeService, store: MemoryStore, asked: Ask
) -> None:
    gateway = ScriptedGateway(BROKEN, "fine")
    service = make_service(gateway)
    pieces, fault = play_to_its_fault(service.stream(asked(request_id="request-1")))
    assert len(pieces) == 2
    again = service.stream(asked())
    assert again.replayed is True
    pieces_again, fault_again = play_to_its_fault(again)
    assert pieces_again == pieces
    assert (type(fault_again), fault_again.replayed) == (UpstreamDisconnected, True)
    assert (fault_again.exchange_id, fault.exchange_id) == ("request-1", "request-1")
    assert fault_again.upstream_request_id == "req_2"
    assert again.reply is None
    again.close()
    assert (len(gateway.calls), len(log(store))) == (1, 1)


def test_a_stream_that_just_ended_ends_so_again(make_service: MakeService, asked: Ask) -> None:
    gateway = ScriptedGateway(Script(chunks=("half",), finish_reason=None), "fine")
    service = make_service(gateway)
    pieces, fault = play_to_its_fault(service.stream(asked()))
    assert isinstance(fault, UpstreamTruncated)
    pieces_again, fault_again = play_to_its_fault(service.stream(asked()))
    assert isinstance(fault_again, UpstreamTruncated)
    assert (pieces_again, len(gateway.calls)) == (pieces, 1)


@pytest.mark.parametrize("kind", NOT_BILLED, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("how", ["reply", "stream"])
def test_any_other_failure_is_tried_anew_as_the_same_exchange(
    make_service: MakeService, store: MemoryStore, asked: Ask, kind: type[Exception], how: str
) -> None:
    gateway = ScriptedGateway(Script(raises=kind()), Script(raises=kind()), "fine")
    service = make_service(gateway)
    for attempts in (1, 2):
        with pytest.raises(kind):
            getattr(service, how)(asked(request_id=f"request-{attempts}"))
        [failed] = log(store)
        assert (failed.id, failed.attempts, failed.final) == ("request-1", attempts, False)
    reply = service.reply(asked(request_id="request-3"))
    assert (reply.text, reply.exchange_id, reply.replayed) == ("fine", "request-1", False)
    [exchange] = log(store)
    assert (exchange.state, exchange.attempts, exchange.error_code) == (State.COMPLETED, 3, None)
    assert service.reply(asked()).replayed is True
    assert len(gateway.calls) == 3


def test_the_next_attempt_is_charged_like_any_request(
    make_service: MakeService, store: MemoryStore, asked: Ask
) -> None:
    gateway = ScriptedGateway(Script(raises=UpstreamRateLimited()), "fine")
    service = make_service(gateway, limiter=one_a_minute())
    with pytest.raises(UpstreamRateLimited):
        service.reply(asked())
    with pytest.raises(RateLimited):
        service.reply(asked())
    assert (len(gateway.calls), log(store)[0].state) == (1, State.FAILED)


def test_what_the_client_left_is_tried_anew_as_the_same_exchange(
    make_service: MakeService, store: MemoryStore, asked: Ask
) -> None:
    gateway = ScriptedGateway(SCRIPT, "fine")
    service = make_service(gateway)
    stream = service.stream(asked(user_id=None))
    stream.next_delta()
    stream.next_delta()
    stream.close()
    [cancelled] = log(store)
    assert (cancelled.state, cancelled.final, cancelled.attempts) == (State.CANCELLED, False, 1)
    again = service.stream(asked(user_id=None))
    assert (again.replayed, again.exchange_id) == (False, cancelled.id)
    assert again.user_id == cancelled.user_id
    play(again)
    [exchange] = log(store)
    assert (exchange.state, exchange.reply, exchange.attempts) == (State.COMPLETED, "fine", 2)


def test_what_was_interrupted_is_tried_anew_as_the_same_exchange(
    make_service: MakeService, store: MemoryStore, asked: Ask
) -> None:
    service = make_service(ScriptedGateway(Script(raises=SystemExit()), "fine"))
    with pytest.raises(SystemExit):
        service.reply(asked(request_id="request-1"))
    assert log(store)[0].state is State.INTERRUPTED
    assert service.reply(asked()).exchange_id == "request-1"
    [exchange] = log(store)
    assert (exchange.state, exchange.attempts) == (State.COMPLETED, 2)


def test_what_was_abandoned_is_tried_anew_once_its_lease_is_over(
    make_service: MakeService, store: MemoryStore, clock: Any, asked: Ask
) -> None:
    service = make_service(ScriptedGateway(SCRIPT, "fine"), lease_seconds=100)
    given_up = service.stream(asked(request_id="request-1"))
    clock.passed = 99.9
    with pytest.raises(IdempotencyInProgress):
        service.reply(asked())
    clock.passed = 100
    assert service.reply(asked()).exchange_id == "request-1"
    given_up.close()
    [exchange] = log(store)
    assert (exchange.state, exchange.reply) == (State.COMPLETED, "fine")


def test_an_answer_that_could_not_be_kept_is_not_said_again_as_if_it_were(
    make_service: MakeService, asked: Ask
) -> None:
    class Full(MemoryStore):
        def finish(self, exchange: Exchange) -> None:
            raise StorageFull

    gateway = ScriptedGateway("one")
    service = make_service(gateway, store=Full())
    with pytest.raises(StorageFull) as full:
        service.reply(asked(request_id="request-1"))
    assert (full.value.may_be_billed, full.value.exchange_id) == (True, "request-1")
    with pytest.raises(IdempotencyInProgress):
        service.reply(asked())
    assert len(gateway.calls) == 1


# A key that is in use, and one that stays free


@pytest.mark.parametrize("how", ["reply", "stream"])
def test_a_key_that_was_used_for_another_request_is_refused(
    make_service: MakeService, store: MemoryStore, asked: Ask, how: str
) -> None:
    gateway = ScriptedGateway(SCRIPT)
    service = make_service(gateway, limiter=one_a_minute())
    stream = service.stream(asked())
    another = asked(prompt="another", once=with_key("hash-2"))
    with pytest.raises(IdempotencyKeyReused):
        getattr(service, how)(another)
    play(stream)
    with pytest.raises(IdempotencyKeyReused) as refused:
        getattr(service, how)(another)
    assert refused.value.allowances == ()
    assert (len(gateway.calls), len(log(store))) == (1, 1)


@pytest.mark.parametrize("how", ["reply", "stream"])
def test_a_key_that_is_in_flight_is_refused(
    make_service: MakeService, store: MemoryStore, asked: Ask, how: str
) -> None:
    gateway = ScriptedGateway(SCRIPT)
    service = make_service(gateway, limiter=one_a_minute())
    stream = service.stream(asked())
    with pytest.raises(IdempotencyInProgress) as refused:
        getattr(service, how)(asked())
    assert (refused.value.retry_after_seconds, refused.value.allowances) == (1.0, ())
    play(stream)
    assert service.reply(asked()).replayed is True
    assert (len(gateway.calls), len(log(store))) == (1, 1)


@pytest.mark.parametrize("key", ["", "x" * 256, "é", "a\nb", "a\x00", "a\x7f", "\ud800", "😀"])
def test_a_key_is_at_most_255_printable_ascii_characters(key: str) -> None:
    with pytest.raises(InvalidIdempotencyKey) as refused:
        Once(request_hash="hash-1", key=key)
    assert refused.value.code == "invalid_idempotency_key"


@pytest.mark.parametrize("key", [" ", "~", "x" * 255, "'; DROP TABLE exchange; --"])
def test_any_other_key_is_taken(make_service: MakeService, asked: Ask, key: str) -> None:
    service = make_service(ScriptedGateway("one"))
    service.reply(asked(once=with_key(key=key)))
    assert service.reply(asked(once=with_key(key=key))).replayed is True


def test_a_request_that_is_not_valid_leaves_its_key_unused(
    make_service: MakeService, store: MemoryStore
) -> None:
    service = make_service(ScriptedGateway("one"), max_prompt_bytes=5, allowed_models=["model-2"])
    with pytest.raises(InvalidField):
        service.reply(ChatRequest(prompt="too long", user_id="ada", once=with_key("hash-0")))
    with pytest.raises(ModelNotAllowed):
        service.reply(ChatRequest(prompt="x", user_id="ada", relay=RELAY, once=with_key("hash-1")))
    assert log(store) == []
    service.reply(ChatRequest(prompt="short", user_id="ada", once=with_key("hash-2")))


def test_a_refusal_by_a_limit_leaves_the_key_unused(
    make_service: MakeService, store: MemoryStore, asked: Ask
) -> None:
    service = make_service(ScriptedGateway("one"), limiter=one_a_minute())
    service.reply(asked(once=None))
    with pytest.raises(RateLimited):
        service.reply(asked())
    assert len(log(store)) == 1
    service.reply(asked(user_id="bob", once=with_key("hash-2")))


def test_a_busy_conversation_leaves_the_key_unused(
    make_service: MakeService, store: MemoryStore
) -> None:
    service = make_service(ScriptedGateway(SCRIPT, "fine"))
    stream = service.stream(ChatRequest(prompt="first", user_id="ada"))
    with pytest.raises(ConversationBusy):
        service.reply(ChatRequest(prompt="second", user_id="ada", once=with_key("hash-1")))
    stream.close()
    assert len(log(store)) == 1
    other = ChatRequest(prompt="another", user_id="ada", once=with_key("hash-2"))
    assert service.reply(other).text == "fine"


def test_a_busy_store_leaves_the_key_unused(make_service: MakeService, asked: Ask) -> None:
    class BusyAtFirst(MemoryStore):
        begun = 0

        def begin(
            self, exchange: Exchange, bounds: HistoryBounds, claim: Claim = NO_CLAIM
        ) -> History:
            self.begun += 1
            if self.begun == 1:
                raise StorageBusy
            return super().begin(exchange, bounds, claim)

    gateway = ScriptedGateway("one")
    service = make_service(gateway, store=BusyAtFirst())
    with pytest.raises(StorageBusy) as busy:
        service.reply(asked())
    assert (busy.value.retry_after_seconds, len(gateway.calls)) == (1.0, 0)
    assert service.reply(asked(once=with_key("hash-2"))).text == "one"


def test_whoever_finds_the_key_taken_at_the_last_moment_is_refused(
    make_service: MakeService, asked: Ask
) -> None:
    """Two processes find the key unused, and both begin."""

    class Blind(MemoryStore):
        def earlier(self, *_: object, **__: object) -> None:
            return None

    gateway = ScriptedGateway("one")
    service = make_service(gateway, store=Blind(), limiter=None)
    service.reply(asked())
    with pytest.raises(IdempotencyInProgress):
        service.reply(asked())
    assert len(gateway.calls) == 1


def test_of_many_threads_with_one_key_one_calls_the_provider(
    make_service: MakeService, store: MemoryStore
) -> None:
    gateway = ScriptedGateway(SCRIPT)
    ids = count()
    service = make_service(gateway, new_id=lambda: f"id-{next(ids)}")
    outcomes: list[str] = []
    start = threading.Barrier(32)

    def call() -> None:
        start.wait()
        try:
            request = ChatRequest(prompt="", user_id="ada", relay=RELAY, once=with_key())
            outcomes.append(service.reply(request).text)
        except IdempotencyInProgress:
            outcomes.append("one two three")

    threads = [threading.Thread(target=call) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == ["one two three"] * 32
    assert (len(gateway.calls), len(log(store))) == (1, 1)


# Retries without a key


def test_a_retry_joins_the_call_that_is_still_running(
    make_service: MakeService,
    store: MemoryStore,
    clock: Any,
    asked: Ask,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gateway = ScriptedGateway(SCRIPT, "another")
    service = make_service(gateway, limiter=one_a_minute())
    running = service.stream(asked(once=FIRST))
    pieces: list[tuple[str, bytes]] = []
    looks: list[float] = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        clock.passed += seconds
        if len(looks) == 8:
            pieces.extend(play(running))

    monkeypatch.setattr(clock, "sleep", sleep)
    joined = service.stream(asked(once=RETRY))
    assert looks == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0]
    assert (joined.replayed, joined.exchange_id) == (True, running.exchange_id)
    assert play(joined) == pieces
    assert (len(gateway.calls), len(log(store))) == (1, 1)


def test_a_retry_joins_a_call_that_then_fails_and_may_be_billed(
    make_service: MakeService, clock: Any, asked: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = ScriptedGateway(BROKEN, "fine")
    service = make_service(gateway)
    running = service.stream(asked(once=FIRST))
    monkeypatch.setattr(clock, "sleep", lambda _: play_to_its_fault(running))
    pieces, fault = play_to_its_fault(service.stream(asked(once=RETRY)))
    assert (len(pieces), type(fault), fault.replayed) == (2, UpstreamDisconnected, True)
    assert len(gateway.calls) == 1


def test_a_retry_of_a_call_that_ends_without_an_answer_is_a_new_call(
    make_service: MakeService,
    store: MemoryStore,
    clock: Any,
    asked: Ask,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gateway = ScriptedGateway(SCRIPT, "fine")
    service = make_service(gateway)
    running = service.stream(asked(once=FIRST))
    monkeypatch.setattr(clock, "sleep", lambda _: running.close())
    assert service.reply(asked(once=RETRY)).text == "fine"
    assert [(e.state, e.attempts) for e in log(store)] == [
        (State.CANCELLED, 1),
        (State.COMPLETED, 1),
    ]
    assert log(store)[0].id != log(store)[1].id


def test_a_retry_waits_for_an_abandoned_call_until_its_lease_is_over(
    make_service: MakeService, clock: Any, asked: Ask
) -> None:
    gateway = ScriptedGateway(SCRIPT, "fine")
    service = make_service(gateway, lease_seconds=100)
    service.stream(asked(once=FIRST))
    reply = service.reply(asked(once=RETRY))
    assert (reply.text, reply.replayed) == ("fine", False)
    assert 100 <= clock.passed < 101


def test_an_abandoned_call_does_not_hide_a_finished_one(
    make_service: MakeService, clock: Any
) -> None:
    gateway = ScriptedGateway(SCRIPT, "second", "third")
    service = make_service(gateway, lease_seconds=100)
    service.stream(ChatRequest(prompt="", user_id="ada", relay=RELAY, once=FIRST))
    retry = ChatRequest(prompt="", user_id="ada", relay=RELAY, once=RETRY)
    clock.passed = 100
    assert service.reply(retry).text == "second"
    again = service.reply(retry)
    assert (again.text, again.replayed, len(gateway.calls)) == ("second", True, 2)


@pytest.mark.parametrize(("seconds", "replayed"), [(0, True), (60, True), (60.000001, False)])
def test_a_retry_gets_the_answer_of_a_call_that_ended_within_the_last_minute(
    make_service: MakeService, clock: Any, asked: Ask, seconds: float, *, replayed: bool
) -> None:
    gateway = ScriptedGateway("one", "two")
    service = make_service(gateway, limiter=one_a_minute() if replayed else None)
    first = service.reply(asked(once=FIRST))
    clock.passed += seconds
    again = service.reply(asked(once=RETRY))
    assert (again.text, again.replayed) == (("one", True) if replayed else ("two", False))
    assert (again.exchange_id == first.exchange_id) is replayed


def test_a_retry_within_a_minute_of_a_failure_that_may_be_billed_hears_of_it_again(
    make_service: MakeService, clock: Any, asked: Ask
) -> None:
    gateway = ScriptedGateway(Script(raises=UpstreamTimeout()), "fine")
    service = make_service(gateway)
    with pytest.raises(UpstreamTimeout):
        service.reply(asked(once=FIRST))
    with pytest.raises(UpstreamTimeout) as again:
        service.reply(asked(once=RETRY))
    assert (again.value.replayed, len(gateway.calls)) == (True, 1)
    clock.passed += 61
    assert service.reply(asked(once=RETRY)).text == "fine"


def test_a_retry_after_any_other_failure_is_a_new_call_and_a_new_exchange(
    make_service: MakeService, store: MemoryStore, asked: Ask
) -> None:
    gateway = ScriptedGateway(Script(raises=UpstreamOverloaded()), "fine")
    service = make_service(gateway)
    with pytest.raises(UpstreamOverloaded):
        service.reply(asked(once=FIRST, request_id="request-1"))
    reply = service.reply(asked(once=RETRY, request_id="request-2"))
    assert (reply.exchange_id, reply.replayed) == ("request-2", False)
    assert [(e.id, e.state, e.attempts) for e in log(store)] == [
        ("request-1", State.FAILED, 1),
        ("request-2", State.COMPLETED, 1),
    ]


def test_a_first_try_is_never_merged(
    make_service: MakeService, store: MemoryStore, asked: Ask
) -> None:
    gateway = ScriptedGateway("one", "two")
    service = make_service(gateway)
    assert service.reply(asked(once=FIRST)).text == "one"
    assert service.reply(asked(once=FIRST)).text == "two"
    assert len(log(store)) == 2


def test_a_first_try_does_not_wait_for_an_equal_call(make_service: MakeService, clock: Any) -> None:
    service = make_service(ScriptedGateway(SCRIPT, "two"))
    request = ChatRequest(prompt="", user_id="ada", relay=RELAY, once=FIRST)
    running = service.stream(request)
    assert service.reply(request).text == "two"
    assert clock.passed == 0
    play(running)


def test_a_retry_is_not_merged_with_another_callers_call(
    make_service: MakeService, clock: Any, asked: Ask
) -> None:
    service = make_service(ScriptedGateway("mine", "theirs"))
    service.reply(asked(caller=Caller(name="one"), once=FIRST))
    assert service.reply(asked(caller=Caller(name="other"), once=RETRY)).text == "theirs"


def test_strangers_who_say_the_same_do_not_get_to_share_a_user_id(
    make_service: MakeService,
) -> None:
    service = make_service(ScriptedGateway("one"))
    mine = service.reply(ChatRequest(prompt="Hello", once=FIRST))
    theirs = service.reply(ChatRequest(prompt="Hello", once=RETRY))
    assert theirs.user_id != mine.user_id
    assert theirs.replayed is False


def test_a_request_that_says_nothing_of_repetition_costs_no_look_into_the_store(
    make_service: MakeService, asked: Ask
) -> None:
    class Unasked(MemoryStore):
        def earlier(self, *_: object, **__: object) -> None:
            pytest.fail("nobody has asked")

    service = make_service(ScriptedGateway("one"), store=Unasked())
    service.reply(asked(once=None))
    service.reply(asked(once=FIRST))


# Nobody waits any more


def test_a_caller_who_left_before_the_stream_began_cancels_it(
    make_service: MakeService, store: MemoryStore
) -> None:
    gateway = ScriptedGateway(Script(raises=CallerGone()), "fine", "next")
    service = make_service(gateway)
    request = ChatRequest(prompt="Hello", user_id="ada", once=with_key(), request_id="request-1")
    with pytest.raises(CallerGone) as gone:
        service.stream(request)
    assert gone.value.exchange_id == "request-1"
    [exchange] = log(store)
    assert (exchange.state, exchange.error_code, exchange.reply) == (State.CANCELLED, None, "")
    assert service.reply(request).text == "fine"
    [exchange] = log(store)
    assert (exchange.id, exchange.state, exchange.attempts) == ("request-1", State.COMPLETED, 2)


def test_a_caller_who_left_is_no_history(make_service: MakeService) -> None:
    gateway = ScriptedGateway(Script(raises=CallerGone()), "fine")
    service = make_service(gateway)
    with pytest.raises(CallerGone):
        service.stream(ChatRequest(prompt="gone", user_id="ada"))
    service.reply(ChatRequest(prompt="here", user_id="ada"))
    assert [message.text for message in gateway.calls[1].messages] == ["here"]


def test_a_retry_whose_client_leaves_waits_no_longer(
    make_service: MakeService, store: MemoryStore, clock: Any, asked: Ask
) -> None:
    gateway = ScriptedGateway(SCRIPT)
    service = make_service(gateway)
    running = service.stream(asked(once=FIRST))
    with pytest.raises(CallerGone):
        service.stream(asked(once=RETRY, still_wanted=lambda: clock.passed < 0.1))
    assert clock.passed == pytest.approx(0.15)
    assert (len(gateway.calls), len(log(store))) == (1, 1)
    running.close()


def test_an_attempt_whose_process_died_counts(
    make_service: MakeService, store: MemoryStore, clock: Any, asked: Ask
) -> None:
    service = make_service(ScriptedGateway(SCRIPT), lease_seconds=10)
    service.stream(asked())
    clock.passed = 11
    play(service.stream(asked()))
    [exchange] = log(store)
    assert (exchange.state, exchange.attempts) == (State.COMPLETED, 2)


def test_the_failures_that_are_final_are_those_that_may_be_billed() -> None:
    kinds = [getattr(errors, name) for name in errors.__all__]
    assert set(FINAL) == {kind for kind in kinds if kind.may_be_billed}
    assert len({kind.code for kind in FINAL}) == len(FINAL)
