"""The pipeline: admit, begin, call, finish."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from pytest_mock import MockerFixture

from chatport.adapters import LimitsCounter, MemoryStore, Script, ScriptedGateway, WindowTable
from chatport.domain import (
    ChatRequest,
    ChatService,
    Exchange,
    HistoryBounds,
    Limit,
    LogQuery,
    Message,
    RateLimiter,
    State,
    Unit,
    Usage,
)
from chatport.domain.callers import Caller
from chatport.domain.errors import (
    ChatportError,
    ContentFiltered,
    ConversationBusy,
    ExchangeLost,
    InvalidField,
    InvalidUserId,
    RateLimited,
    StorageFull,
    StorageLost,
    StorageUnavailable,
    UpstreamInvalidResponse,
    UpstreamRateLimited,
    UpstreamTimeout,
)
from chatport.domain.spending import NO_CLAIM, Claim

MakeService = Callable[..., ChatService]


def ask(service: ChatService, prompt: str = "Hello", user_id: str | None = "ada") -> str:
    return service.reply(ChatRequest(prompt=prompt, user_id=user_id)).text


def log(store: MemoryStore) -> list[Exchange]:
    return list(store.search(LogQuery(oldest_first=True)))


def limiter(**limits: Any) -> RateLimiter:
    return RateLimiter(LimitsCounter(WindowTable(slots=64, monotonic=lambda: 0.0)), **limits)


def test_a_reply_is_stored_whole(make_service: MakeService, store: MemoryStore) -> None:
    usage = Usage(prompt_tokens=9, completion_tokens=3)
    script = Script(chunks=("Hello Ada",), usage=usage, upstream_request_id="req_1")
    reply = make_service(ScriptedGateway(script)).reply(
        ChatRequest(prompt="Hello", user_id="ada", route="/r", request_id="request-1")
    )
    assert (reply.text, reply.user_id, reply.exchange_id) == ("Hello Ada", "ada", "request-1")
    assert (reply.usage, reply.finish_reason) == (usage, "stop")
    [exchange] = log(store)
    assert (exchange.id, exchange.route, exchange.model) == ("request-1", "/r", "model-1")
    assert (exchange.state, exchange.reply) == (State.COMPLETED, "Hello Ada")
    assert (exchange.usage, exchange.finish_reason) == (usage, "stop")
    assert (exchange.attempts, exchange.upstream_request_id) == (1, "req_1")
    assert exchange.turn_tokens == 12


def test_the_next_prompt_carries_system_prompt_and_history(make_service: MakeService) -> None:
    gateway = ScriptedGateway("one", "two", "three")
    service = make_service(gateway, system_prompt="Be brief.")
    for prompt in ["first", "second", "third"]:
        ask(service, prompt)
    assert gateway.calls[2].model == "model-1"
    assert gateway.calls[2].messages == [
        Message("system", "Be brief."),
        Message("user", "first"),
        Message("assistant", "one"),
        Message("user", "second"),
        Message("assistant", "two"),
        Message("user", "third"),
    ]


def test_history_is_cut_by_the_providers_own_counts(make_service: MakeService) -> None:
    usage = Usage(prompt_tokens=100, completion_tokens=50)
    gateway = ScriptedGateway(Script(chunks=("answer",), usage=usage))
    service = make_service(gateway, history=HistoryBounds(tokens=150))
    for prompt in ["first", "secon", "third"]:
        ask(service, prompt)
    assert [m.text for m in gateway.calls[1].messages] == ["first", "answer", "secon"]
    assert [m.text for m in gateway.calls[2].messages] == ["secon", "answer", "third"]


def test_a_user_without_an_id_gets_one_and_can_go_on_with_it(make_service: MakeService) -> None:
    gateway = ScriptedGateway("one")
    service = make_service(gateway)
    reply = service.reply(ChatRequest(prompt="Hello"))
    assert reply.user_id == "id-2"
    assert ask(service, "again", reply.user_id) == "one"
    assert len(gateway.calls[1].messages) == 3


def test_the_exchange_is_open_while_the_provider_is_called(
    make_service: MakeService, store: MemoryStore
) -> None:
    seen: list[State] = []

    class Watching(ScriptedGateway):
        def complete(self, request: Any) -> Any:
            seen.extend(exchange.state for exchange in log(store))
            return super().complete(request)

    ask(make_service(Watching("one")))
    assert seen == [State.OPEN]


@pytest.mark.parametrize(
    ("error", "code", "upstream_status"),
    [
        (UpstreamTimeout(), "upstream_timeout", None),
        (
            UpstreamRateLimited(retry_after_seconds=7, upstream_status=429),
            "upstream_rate_limited",
            429,
        ),
        (ContentFiltered(upstream_status=400, upstream_request_id="req_9"), "content_filter", 400),
    ],
)
def test_a_failure_is_an_outcome_and_leaves_no_half_turn(
    make_service: MakeService,
    store: MemoryStore,
    error: ChatportError,
    code: str,
    upstream_status: int | None,
) -> None:
    gateway = ScriptedGateway(Script(raises=error), "fine")
    service = make_service(gateway)
    with pytest.raises(type(error)):
        ask(service, "fails")
    [failed] = log(store)
    assert (failed.state, failed.error_code) == (State.FAILED, code)
    assert (failed.upstream_status, failed.attempts) == (upstream_status, 1)
    assert failed.finished_at is not None
    ask(service, "works")
    assert gateway.calls[1].messages == [Message("user", "works")]


def test_a_defect_of_a_gateway_is_an_outcome_too(
    make_service: MakeService, store: MemoryStore
) -> None:
    service = make_service(ScriptedGateway(Script(raises=KeyError("x"))))
    with pytest.raises(KeyError):
        ask(service)
    assert (log(store)[0].state, log(store)[0].error_code) == (State.FAILED, "internal_error")


def test_an_exit_of_the_process_interrupts_the_exchange(
    make_service: MakeService, store: MemoryStore
) -> None:
    service = make_service(ScriptedGateway(Script(raises=SystemExit())))
    with pytest.raises(SystemExit):
        ask(service)
    assert (log(store)[0].state, log(store)[0].error_code) == (State.INTERRUPTED, "server_shutdown")


def test_without_counts_from_the_provider_tokens_are_estimated_and_say_so(
    make_service: MakeService, store: MemoryStore
) -> None:
    ask(make_service(ScriptedGateway("x" * 40)), "y" * 80)
    assert log(store)[0].usage == Usage(prompt_tokens=20, completion_tokens=10, estimated=True)


def test_text_that_no_database_keeps_is_replaced_and_flagged(
    make_service: MakeService, store: MemoryStore
) -> None:
    assert ask(make_service(ScriptedGateway("a\x00b\ud800c"))) == "a�b�c"
    assert log(store)[0].sanitized is True


def test_halves_of_a_surrogate_pair_are_joined(make_service: MakeService) -> None:
    assert ask(make_service(ScriptedGateway("\ud83d\ude00"))) == "😀"


def test_a_prompt_that_is_too_long_is_refused_before_anything_is_stored(
    make_service: MakeService, store: MemoryStore
) -> None:
    gateway = ScriptedGateway("one")
    service = make_service(gateway, max_prompt_bytes=4)
    assert ask(service, "éé") == "one"
    with pytest.raises(InvalidField, match=r"^prompt is longer than 4 bytes\.$"):
        ask(service, "ééé")
    assert (len(log(store)), len(gateway.calls)) == (1, 1)


def test_a_limit_refuses_names_its_rule_and_stores_nothing(
    make_service: MakeService, store: MemoryStore
) -> None:
    gateway = ScriptedGateway("one")
    service = make_service(gateway, limiter=limiter(user=[Limit(amount=2, window_seconds=60)]))
    ask(service)
    ask(service)
    with pytest.raises(RateLimited) as refused:
        ask(service)
    sentence = "The user limit of 2 requests per minute is reached; try again in 61 s."
    assert str(refused.value) == sentence
    assert refused.value.rule == "user 2 requests per minute"
    assert refused.value.retry_after_seconds == pytest.approx(60.001)
    assert (len(log(store)), len(gateway.calls)) == (2, 2)
    assert sum(store.refusals.values()) == 1
    assert ask(service, user_id="bob") == "one"


def test_what_is_left_of_each_limit_is_reported_with_the_reply(make_service: MakeService) -> None:
    limits = limiter(
        user=[Limit(amount=5, window_seconds=60)], total=[Limit(amount=3, window_seconds=7)]
    )
    service = make_service(ScriptedGateway("one"), limiter=limits)
    user, total = service.reply(ChatRequest(prompt="Hello")).allowances
    assert (user.charge.rule, user.remaining) == ("user", 4)
    assert (total.charge.rule, total.remaining) == ("total", 2)
    assert str(total.charge.limit) == "3 requests per 7 seconds"


def test_errors_after_admission_carry_what_is_left_of_the_limits(make_service: MakeService) -> None:
    limits = limiter(user=[Limit(amount=5, window_seconds=60)])
    service = make_service(ScriptedGateway(Script(raises=UpstreamTimeout())), limiter=limits)
    with pytest.raises(UpstreamTimeout) as failed:
        ask(service)
    assert failed.value.allowances
    assert failed.value.allowances[0].remaining == 4


def test_without_limits_nothing_is_counted(make_service: MakeService) -> None:
    service = make_service(ScriptedGateway("one"), limiter=limiter())
    assert service.reply(ChatRequest(prompt="Hello")).allowances == ()


def test_a_second_prompt_at_the_same_time_is_refused_without_a_call(
    make_service: MakeService, store: MemoryStore
) -> None:
    gateway = ScriptedGateway("one")
    service = make_service(gateway, limiter=limiter(user=[Limit(amount=5, window_seconds=60)]))
    stream = service.stream(ChatRequest(prompt="first", user_id="ada"))
    with pytest.raises(ConversationBusy) as busy:
        ask(service, "second")
    assert not busy.value.allowances  # nothing was taken
    assert (len(gateway.calls), len(log(store))) == (1, 1)
    stream.close()
    assert ask(service, "third") == "one"


class FullStore(MemoryStore):
    """A store that cannot write an outcome."""

    def finish(self, exchange: Exchange) -> None:
        raise StorageFull


def test_an_answer_that_cannot_be_kept_is_not_acknowledged(make_service: MakeService) -> None:
    service = make_service(ScriptedGateway("one"), store=FullStore())
    with pytest.raises(StorageFull):
        ask(service)


def test_an_answer_to_an_erased_conversation_is_not_acknowledged(
    make_service: MakeService, store: MemoryStore
) -> None:
    class Erasing(ScriptedGateway):
        def complete(self, request: Any) -> Any:
            assert service.erase("anonymous", "ada") == 1
            return super().complete(request)

    service = make_service(Erasing("one"))
    with pytest.raises(ExchangeLost):
        ask(service)
    assert log(store) == []


def test_a_conversation_is_read_and_erased_by_its_user_id(make_service: MakeService) -> None:
    service = make_service(ScriptedGateway("one"))
    ask(service, "first")
    ask(service, "second")
    page = service.conversation("anonymous", "ada", limit=1)
    assert [exchange.prompt for exchange in page] == ["second"]
    with pytest.raises(InvalidUserId):
        service.conversation("anonymous", "../ada")
    with pytest.raises(InvalidUserId):
        service.erase("anonymous", "")
    assert service.erase("anonymous", "ada") == 2
    assert service.conversation("anonymous", "ada") == []


def test_words_of_the_provider_are_stored_clean_and_not_longer_than_needed(
    make_service: MakeService, store: MemoryStore
) -> None:
    script = Script(chunks=("x",), finish_reason="s\x00" * 99, upstream_request_id="r\ud800" * 99)
    ask(make_service(ScriptedGateway(script)))
    [exchange] = log(store)
    assert exchange.finish_reason == "s�" * 64
    assert exchange.upstream_request_id == "r�" * 64


class Choosy(MemoryStore):
    """A store with a defect: it cannot write some outcomes."""

    def finish(self, exchange: Exchange) -> None:
        if exchange.reply:
            raise OverflowError
        super().finish(exchange)


def test_a_defect_of_a_store_does_not_leave_the_exchange_open(make_service: MakeService) -> None:
    choosy = Choosy()
    with pytest.raises(OverflowError):
        ask(make_service(ScriptedGateway("one"), store=choosy))
    assert (log(choosy)[0].state, log(choosy)[0].error_code) == (State.FAILED, "internal_error")


class Stop(BaseException):
    """What a server ends a request with, as gevent's GreenletExit."""

    exchange_id = ""


class InterruptedStore(MemoryStore):
    """A store whose user presses Ctrl-C once it has written, or before."""

    def __init__(self, *, at: str, before: bool, end: type[BaseException]) -> None:
        super().__init__()
        self._at, self._before, self._end = at, before, end

    def _interrupt(self, at: str, *, before: bool) -> None:
        if (at, before) == (self._at, self._before):
            self._at = ""
            raise self._end

    def begin(self, exchange: Exchange, bounds: HistoryBounds, claim: Claim = NO_CLAIM) -> Any:
        self._interrupt("begin", before=True)
        history = super().begin(exchange, bounds, claim)
        self._interrupt("begin", before=False)
        return history

    def finish(self, exchange: Exchange) -> None:
        self._interrupt("finish", before=True)
        super().finish(exchange)
        self._interrupt("finish", before=False)


@pytest.mark.parametrize(
    ("at", "before", "states"),
    [
        ("begin", True, []),
        ("begin", False, [State.INTERRUPTED]),
        ("finish", True, [State.COMPLETED]),
        ("finish", False, [State.COMPLETED]),
    ],
)
def test_an_interrupt_while_the_store_writes_leaves_nothing_open(
    make_service: MakeService, at: str, states: list[State], *, before: bool
) -> None:
    interrupted = InterruptedStore(at=at, before=before, end=KeyboardInterrupt)
    service = make_service(ScriptedGateway("one"), store=interrupted)
    with pytest.raises(KeyboardInterrupt):
        ask(service)
    assert [exchange.state for exchange in log(interrupted)] == states
    assert ask(service, "again") == "one"


@pytest.mark.parametrize("before", [True, False])
def test_a_stop_while_the_answer_is_written_takes_it_from_nobody(
    make_service: MakeService, *, before: bool
) -> None:
    interrupted = InterruptedStore(at="finish", before=before, end=Stop)
    assert ask(make_service(ScriptedGateway("one"), store=interrupted)) == "one"
    assert [exchange.state for exchange in log(interrupted)] == [State.COMPLETED]


@pytest.mark.parametrize("before", [True, False])
def test_a_stop_while_the_end_of_a_stream_is_written_lets_it_end_well(
    make_service: MakeService, *, before: bool
) -> None:
    interrupted = InterruptedStore(at="finish", before=before, end=Stop)
    stream = make_service(ScriptedGateway("one"), store=interrupted).stream(ChatRequest(prompt="?"))
    assert "".join(stream) == "one"
    assert [exchange.state for exchange in log(interrupted)] == [State.COMPLETED]


@pytest.mark.parametrize(
    ("fault", "unread"), [(ExchangeLost, False), (ExchangeLost, True), (StorageUnavailable, False)]
)
def test_a_stop_while_an_answer_is_written_that_cannot_be_kept_is_told_with_its_exchange(
    fault: type[ChatportError], unread: bool, make_service: MakeService, mocker: MockerFixture
) -> None:
    interrupted = InterruptedStore(at="finish", before=False, end=Stop)
    service = make_service(ScriptedGateway("one"), store=interrupted)
    mocker.patch.object(interrupted, "finish", side_effect=[Stop, fault])
    if unread:
        mocker.patch.object(interrupted, "find", side_effect=StorageUnavailable)
    with pytest.raises(Stop) as stopped:
        ask(service)
    assert stopped.value.exchange_id == log(interrupted)[0].id


@pytest.mark.parametrize("fault", [StorageUnavailable, StorageLost])
def test_a_stop_acknowledges_nothing_that_the_store_does_not(
    fault: type[ChatportError], make_service: MakeService, mocker: MockerFixture
) -> None:
    store = MemoryStore()
    finish = store.finish

    def written_into_a_file_that_is_away(exchange: Exchange) -> None:
        finish(exchange)
        mocker.patch.object(store, "finish", side_effect=fault)
        raise Stop

    mocker.patch.object(store, "finish", written_into_a_file_that_is_away)
    with pytest.raises(Stop):
        ask(make_service(ScriptedGateway("one"), store=store))


class TroubledStore(MemoryStore):
    """A store that takes exchanges, but neither checkpoints nor counts."""

    def checkpoint(self, exchange: Exchange) -> None:
        raise StorageFull

    def count_refusal(self, caller: str, rule: str, at: Any) -> None:
        raise StorageFull


def test_a_checkpoint_that_fails_does_not_end_a_healthy_stream(make_service: MakeService) -> None:
    gateway = ScriptedGateway(Script(chunks=("a" * 5000, "b")))
    stream = make_service(gateway, store=TroubledStore()).stream(ChatRequest(prompt="Hello"))
    assert "".join(stream) == "a" * 5000 + "b"


def test_a_refusal_that_cannot_be_counted_is_still_a_refusal(make_service: MakeService) -> None:
    limits = limiter(user=[Limit(amount=1, window_seconds=60)])
    service = make_service(ScriptedGateway("one"), store=TroubledStore(), limiter=limits)
    ask(service)
    with pytest.raises(RateLimited):
        ask(service)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (None, Usage(prompt_tokens=2, completion_tokens=4_096, estimated=True)),
        ((0, 0), Usage(prompt_tokens=2, completion_tokens=4_096, estimated=True)),
        ((20, 0), Usage(prompt_tokens=20, completion_tokens=0)),
        ((20, 7), Usage(prompt_tokens=20, completion_tokens=7)),
        ((20, 30_000), Usage(prompt_tokens=20, completion_tokens=30_000)),
        ((0, 30_000), Usage(prompt_tokens=2, completion_tokens=30_000, estimated=True)),
    ],
)
def test_an_answer_that_is_of_no_use_has_used_what_the_provider_counted(
    make_service: MakeService,
    store: MemoryStore,
    told: tuple[int, int] | None,
    expected: Usage,
) -> None:
    error = UpstreamInvalidResponse()
    error.usage = Usage(prompt_tokens=told[0], completion_tokens=told[1]) if told else None
    with pytest.raises(UpstreamInvalidResponse):
        make_service(ScriptedGateway(Script(raises=error))).reply(ChatRequest(prompt="Hello"))
    assert log(store)[0].usage == expected


def test_an_answer_that_cannot_be_kept_has_used_what_it_used(make_service: MakeService) -> None:
    limits = limiter(total=[Limit(amount=5000, window_seconds=60, unit=Unit.TOKENS)])
    service = make_service(ScriptedGateway("one"), store=FullStore(), limiter=limits)
    for user_id in ("ada", "bob"):  # there is no room for what may be used by both
        with pytest.raises(StorageFull):
            ask(service, user_id=user_id)


def test_a_prompt_that_is_too_long_takes_nothing_from_the_limits(make_service: MakeService) -> None:
    limits = limiter(user=[Limit(amount=1, window_seconds=60)])
    service = make_service(ScriptedGateway("one"), limiter=limits, max_prompt_bytes=4)
    with pytest.raises(InvalidField):
        ask(service, "too long")
    assert ask(service, "ok") == "one"


def test_callers_are_limited_apart_also_for_users_of_the_same_name() -> None:
    limits = limiter(user=[Limit(amount=1, window_seconds=60)])
    limits.admit(Caller(name="one"), "ada", 1)
    limits.admit(Caller(name="other"), "ada", 1)
    with pytest.raises(RateLimited):
        limits.admit(Caller(name="one"), "ada", 1)


def test_times_come_from_the_clock_alone(
    make_service: MakeService, store: MemoryStore, clock: Any
) -> None:
    class Slow(ScriptedGateway):
        def complete(self, request: Any) -> Any:
            clock.passed += 7
            return super().complete(request)

    began = clock.now()
    ask(make_service(Slow("one"), lease_seconds=99))
    [exchange] = log(store)
    assert (exchange.started_at, exchange.lease_until, exchange.finished_at) == (
        began,
        began + timedelta(seconds=99),
        began + timedelta(seconds=7),
    )
