"""The contract of ConversationStore for requests that come again."""

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from chatport.domain import ConversationStore, Exchange, HistoryBounds, LogQuery, State
from chatport.domain.errors import ConversationBusy, ExchangeLost, IdempotencyInProgress
from chatport.domain.relay import Once, RequestText

from .conftest import NOON

Make = Callable[..., Exchange]
Open = Callable[[], ConversationStore]
BOUNDS = HistoryBounds()
MICROSECOND = timedelta(microseconds=1)
LONG_AGO = NOON - timedelta(days=1)

REQUEST = RequestText(messages=['{"role":"user"}'], parameters="{}")
WITH_KEY = {"idempotency_key": "key-1", "request_hash": "hash-1"}
BY_KEY = Once(request_hash="hash-1", key="key-1")
BY_HASH = Once(request_hash="hash-1", retry=True)

OUTCOMES = [State.COMPLETED, State.FAILED, State.CANCELLED, State.INTERRUPTED]


def earlier(
    store: ConversationStore, once: Once, caller: str = "anonymous", **times: Any
) -> Exchange | None:
    return store.earlier(caller, once, **{"now": NOON, "since": LONG_AGO, **times})


def id_of(exchange: Exchange | None) -> str | None:
    return exchange.id if exchange else None


@pytest.fixture(params=["prompt", "relay"])
def make(request: pytest.FixtureRequest, make_exchange: Make) -> Make:
    """Return a maker of exchanges of each kind."""
    extra = {"request": REQUEST} if request.param == "relay" else {}

    def make(**fields: Any) -> Exchange:
        return make_exchange(**extra, **fields)

    return make


# What a request repeats


def test_in_an_empty_store_every_request_is_new(store: ConversationStore) -> None:
    assert earlier(store, BY_KEY) is None
    assert earlier(store, BY_HASH) is None


@pytest.mark.parametrize("once", [BY_KEY, BY_HASH])
def test_what_is_repeated_is_found_whole_while_open_and_after(
    store: ConversationStore, open_store: Open, make: Make, completed: Make, once: Once
) -> None:
    exchange = make(**WITH_KEY)
    store.begin(exchange, BOUNDS)
    other = open_store()
    assert earlier(other, once) == replace(exchange, number=1)
    store.checkpoint(replace(exchange, reply="half", answer=(b"half",)))
    assert earlier(other, once) == replace(exchange, number=1, reply="half", answer=(b"half",))
    outcome = completed(exchange, "whole", answer=(b"who", b"le"), final=True)
    store.finish(outcome)
    assert earlier(other, once) == replace(outcome, number=1)


@pytest.mark.parametrize("state", OUTCOMES)
def test_every_outcome_is_found(
    store: ConversationStore, make: Make, completed: Make, state: State
) -> None:
    exchange = make(**WITH_KEY)
    store.begin(exchange, BOUNDS)
    store.finish(completed(exchange, state=state))
    for once in (BY_KEY, BY_HASH):
        found = earlier(store, once)
        assert found is not None
        assert found.state is state


def test_another_callers_key_or_hash_is_never_found(store: ConversationStore, make: Make) -> None:
    store.begin(make(**WITH_KEY), BOUNDS)
    for caller in ("other", "Anonymous", "anonymous ", ""):
        assert earlier(store, BY_KEY, caller) is None
        assert earlier(store, BY_HASH, caller) is None


def test_another_key_or_hash_is_never_found(store: ConversationStore, make: Make) -> None:
    store.begin(make(**WITH_KEY), BOUNDS)
    for text in ("KEY-1", "key-1 ", "key-%", "key_1", "hash-1"):
        assert earlier(store, Once(request_hash="hash-1", key=text)) is None
    for text in ("HASH-1", "hash-1 ", "hash-%", "key-1", ""):
        assert earlier(store, Once(request_hash=text, retry=True)) is None


def test_a_key_is_found_whatever_was_asked_with_it_and_however_long_ago(
    store: ConversationStore, make: Make, completed: Make
) -> None:
    exchange = make(**WITH_KEY)
    store.begin(exchange, BOUNDS)
    store.finish(completed(exchange))
    once = Once(request_hash="another", key="key-1")
    years_later = NOON + timedelta(days=3650)
    assert id_of(earlier(store, once, now=years_later, since=years_later)) == "exchange-0"


def test_a_request_with_a_key_does_not_repeat_one_without(
    store: ConversationStore, make: Make
) -> None:
    store.begin(make(request_hash="hash-1"), BOUNDS)
    assert earlier(store, Once(request_hash="hash-1", key="key-1", retry=True)) is None


def test_without_a_key_only_a_retry_repeats_anything(store: ConversationStore, make: Make) -> None:
    store.begin(make(**WITH_KEY), BOUNDS)
    assert earlier(store, Once(request_hash="hash-1", retry=False)) is None


def test_by_hash_only_what_is_open_or_ended_recently_is_found(
    store: ConversationStore, make: Make, completed: Make
) -> None:
    exchange = make(request_hash="hash-1")
    store.begin(exchange, BOUNDS)
    assert id_of(earlier(store, BY_HASH, since=exchange.lease_until)) == "exchange-0"
    store.finish(completed(exchange))
    end = exchange.started_at + timedelta(seconds=1)
    assert id_of(earlier(store, BY_HASH, since=end)) == "exchange-0"
    assert earlier(store, BY_HASH, since=end + MICROSECOND) is None


def test_by_hash_the_newest_open_one_is_found_or_else_the_one_that_ended_last(
    store: ConversationStore, make_exchange: Make, completed: Make
) -> None:
    fields = {"request": REQUEST, "request_hash": "hash-1"}
    first, second, third = (make_exchange(**fields) for _ in range(3))
    another = make_exchange(request=REQUEST, request_hash="hash-2")
    for exchange in (first, second, third, another):
        store.begin(exchange, BOUNDS)
    assert id_of(earlier(store, BY_HASH)) == "exchange-2"
    store.finish(completed(third, finished_at=NOON + timedelta(seconds=30)))
    assert id_of(earlier(store, BY_HASH)) == "exchange-1"
    store.finish(completed(second, finished_at=NOON + timedelta(seconds=50)))
    assert id_of(earlier(store, BY_HASH)) == "exchange-0"
    store.finish(completed(first, finished_at=NOON + timedelta(seconds=40)))
    assert id_of(earlier(store, BY_HASH)) == "exchange-1"
    end = NOON + timedelta(seconds=50)
    assert id_of(earlier(store, BY_HASH, since=end)) == "exchange-1"
    assert earlier(store, BY_HASH, since=end + MICROSECOND) is None


@pytest.mark.parametrize("once", [BY_KEY, BY_HASH])
def test_what_was_abandoned_comes_back_as_it_will_be(
    store: ConversationStore, make: Make, once: Once
) -> None:
    exchange = make(**WITH_KEY)
    store.begin(exchange, BOUNDS)
    store.checkpoint(replace(exchange, reply="half", answer=(b"half",)))
    found = earlier(store, once, now=exchange.lease_until - MICROSECOND)
    assert found is not None
    assert found.state is State.OPEN
    found = earlier(store, once, now=exchange.lease_until)
    assert found == replace(
        exchange,
        number=1,
        reply="half",
        answer=(b"half",),
        state=State.INTERRUPTED,
        error_code="interrupted",
        finished_at=exchange.lease_until,
    )
    stored = store.find(exchange.id)
    assert stored is not None
    assert stored.state is State.OPEN


def test_what_was_abandoned_hides_neither_a_living_nor_a_finished_one(
    store: ConversationStore, make_exchange: Make, completed: Make
) -> None:
    fields = {"request": REQUEST, "request_hash": "hash-1"}
    alive = make_exchange(**fields, lease_until=NOON + timedelta(hours=2))
    abandoned = make_exchange(**fields, lease_until=NOON + timedelta(hours=1))
    store.begin(alive, BOUNDS)
    store.begin(abandoned, BOUNDS)
    now = abandoned.lease_until
    assert id_of(earlier(store, BY_HASH, now=now)) == alive.id
    store.finish(completed(alive, finished_at=now))
    assert id_of(earlier(store, BY_HASH, now=now, since=now)) == alive.id
    found = earlier(store, BY_HASH, now=now, since=now + MICROSECOND)
    assert found is not None
    assert (found.id, found.state) == (abandoned.id, State.INTERRUPTED)


# A key that is in use


@pytest.mark.parametrize("final", [False, True])
@pytest.mark.parametrize("state", [State.OPEN, *OUTCOMES])
def test_another_exchange_cannot_take_a_key_and_nothing_is_written(
    store: ConversationStore,
    open_store: Open,
    make_exchange: Make,
    completed: Make,
    state: State,
    *,
    final: bool,
) -> None:
    first = make_exchange(request=REQUEST, **WITH_KEY)
    store.begin(first, BOUNDS)
    if state is not State.OPEN:
        store.finish(completed(first, state=state, final=final))
    before = store.find(first.id)
    with pytest.raises(IdempotencyInProgress) as refused:
        open_store().begin(make_exchange(user_id="bob", **WITH_KEY), BOUNDS)
    assert refused.value.retry_after_seconds == 1.0
    assert [exchange.id for exchange in store.search(LogQuery())] == [first.id]
    assert store.find(first.id) == before


def test_the_same_exchange_cannot_begin_again_while_it_is_alive(
    store: ConversationStore, open_store: Open, make: Make, completed: Make
) -> None:
    exchange = make(**WITH_KEY)
    store.begin(exchange, BOUNDS)
    for begun_at in (exchange.started_at, exchange.lease_until - MICROSECOND):
        with pytest.raises(IdempotencyInProgress):
            open_store().begin(replace(exchange, started_at=begun_at), BOUNDS)
    store.finish(completed(exchange))


@pytest.mark.parametrize("state", OUTCOMES)
def test_what_ended_for_good_is_not_begun_again(
    store: ConversationStore, make: Make, completed: Make, state: State
) -> None:
    exchange = make(**WITH_KEY)
    store.begin(exchange, BOUNDS)
    store.finish(completed(exchange, "first", state=state, answer=(b"first",), final=True))
    before = store.find(exchange.id)
    with pytest.raises(IdempotencyInProgress):
        store.begin(replace(exchange, started_at=exchange.lease_until), BOUNDS)
    assert store.find(exchange.id) == before


@pytest.mark.parametrize("state", OUTCOMES)
def test_what_ended_but_not_for_good_is_replaced_by_its_next_attempt(
    store: ConversationStore, make: Make, completed: Make, state: State
) -> None:
    first = make(**WITH_KEY)
    store.begin(first, BOUNDS)
    store.finish(completed(first, "vixen", state=state, answer=(b"half",)))
    second = replace(first, started_at=NOON + timedelta(seconds=9), attempts=1)
    assert not store.begin(second, BOUNDS).turns
    found = store.find(first.id)
    assert found is not None
    assert found == replace(second, number=found.number)
    assert earlier(store, BY_KEY) == found
    assert store.search(LogQuery(text="vixen")) == []
    outcome = completed(second, "badger", attempts=2, final=True)
    store.finish(outcome)
    assert [(e.id, e.reply, e.attempts) for e in store.search(LogQuery())] == [
        ("exchange-0", "badger", 2)
    ]
    assert len(store.search(LogQuery(text="badger"))) == 1
    assert store.erase("anonymous", "ada") == 1


def test_an_abandoned_attempt_is_replaced_by_the_next(
    store: ConversationStore, open_store: Open, make: Make, completed: Make
) -> None:
    first = make(**WITH_KEY)
    store.begin(first, BOUNDS)
    store.checkpoint(replace(first, reply="half", answer=(b"half",)))
    second = replace(
        first, started_at=first.lease_until, lease_until=first.lease_until + timedelta(seconds=9)
    )
    open_store().begin(second, BOUNDS)
    [found] = store.search(LogQuery())
    assert (found.id, found.state, found.reply) == ("exchange-0", State.OPEN, "")
    store.finish(completed(second, "whole"))
    [found] = store.search(LogQuery(text="whole"))
    assert found.state is State.COMPLETED


@pytest.mark.parametrize("late", ["finish", "checkpoint"])
def test_an_attempt_that_was_given_up_cannot_write_into_the_next_one(
    store: ConversationStore, open_store: Open, make: Make, completed: Make, late: str
) -> None:
    first = make(**WITH_KEY)
    store.begin(first, BOUNDS)
    second = replace(
        first, started_at=first.lease_until, lease_until=first.lease_until + timedelta(seconds=9)
    )
    open_store().begin(second, BOUNDS)
    if late == "finish":
        with pytest.raises(ExchangeLost):
            store.finish(completed(first, "of the first"))
    else:
        store.checkpoint(replace(first, reply="of the first", answer=(b"first",)))
    found = store.find(first.id)
    assert found is not None
    assert (found.state, found.reply) == (State.OPEN, "")
    store.finish(completed(second, "of the second"))
    found = store.find(first.id)
    assert found is not None
    assert found.reply == "of the second"


def test_the_same_exchange_and_key_with_another_request_is_no_next_attempt(
    store: ConversationStore, make: Make, completed: Make
) -> None:
    first = make(**WITH_KEY)
    store.begin(first, BOUNDS)
    store.finish(completed(first, state=State.FAILED))
    before = store.find(first.id)
    with pytest.raises(IdempotencyInProgress):
        store.begin(replace(first, request_hash="hash-2", prompt="another"), BOUNDS)
    assert store.find(first.id) == before


def test_a_next_attempt_that_finds_the_conversation_busy_leaves_the_one_before(
    store: ConversationStore, open_store: Open, make_exchange: Make, completed: Make
) -> None:
    first = make_exchange(**WITH_KEY)
    store.begin(first, BOUNDS)
    store.finish(completed(first, "vixen", state=State.FAILED))
    before = store.find(first.id)
    turn = make_exchange()
    store.begin(turn, BOUNDS)
    with pytest.raises(ConversationBusy):
        open_store().begin(replace(first, started_at=turn.started_at), BOUNDS)
    assert store.find(first.id) == before
    assert len(store.search(LogQuery(text="vixen"))) == 1
    store.finish(completed(turn))
    store.begin(replace(first, started_at=turn.lease_until), BOUNDS)


def test_an_abandoned_attempt_that_cannot_be_replaced_stays_as_it_is(
    store: ConversationStore, make_exchange: Make, completed: Make
) -> None:
    first = make_exchange(**WITH_KEY)
    store.begin(first, BOUNDS)
    turn = make_exchange(started_at=first.lease_until, lease_until=NOON + timedelta(hours=1))
    store.begin(turn, BOUNDS)
    with pytest.raises(ConversationBusy):
        store.begin(replace(first, started_at=first.lease_until), BOUNDS)
    found = store.find(first.id)
    assert found is not None
    assert found.state is State.INTERRUPTED
    store.finish(completed(turn))


def test_callers_use_the_same_key_apart_and_no_key_is_nobodys(
    store: ConversationStore, make: Make
) -> None:
    store.begin(make(**WITH_KEY), BOUNDS)
    store.begin(make(caller="other", **WITH_KEY), BOUNDS)
    for user_id in ("bob", "eve"):
        store.begin(make(user_id=user_id, request_hash="hash-1"), BOUNDS)
    assert len(store.search(LogQuery())) == 4
    assert id_of(earlier(store, BY_KEY, "other")) == "exchange-1"


def test_a_key_is_free_again_once_its_user_is_erased(
    store: ConversationStore, make: Make, completed: Make
) -> None:
    first = make(**WITH_KEY)
    store.begin(first, BOUNDS)
    store.finish(completed(first, final=True))
    assert store.erase("anonymous", "ada") == 1
    assert earlier(store, BY_KEY) is None
    assert earlier(store, BY_HASH) is None
    store.begin(make(**WITH_KEY), BOUNDS)


@pytest.mark.parametrize(
    "text",
    ["'", "' OR '1'='1", "'; DROP TABLE exchange; --", '"?', ":caller", "%", "~" * 255],
)
def test_hostile_keys_and_hashes_are_only_text(
    store: ConversationStore, make_exchange: Make, text: str
) -> None:
    store.begin(make_exchange(user_id="bob", idempotency_key="plain", request_hash="plain"), BOUNDS)
    exchange = make_exchange(idempotency_key=text, request_hash=text * 400)
    store.begin(exchange, BOUNDS)
    assert earlier(store, Once(request_hash="", key=text)) == replace(exchange, number=2)
    once = Once(request_hash=text * 400, retry=True)
    assert earlier(store, once) == replace(exchange, number=2)
    with pytest.raises(IdempotencyInProgress):
        store.begin(
            make_exchange(user_id="eve", idempotency_key=text, request_hash="other"), BOUNDS
        )


def test_of_many_threads_with_one_key_exactly_one_begins(
    store: ConversationStore, open_store: Open, make_exchange: Make
) -> None:
    stores = [store, open_store()]
    exchanges = [make_exchange(request=REQUEST, **WITH_KEY) for _ in range(32)]
    outcomes: list[str] = []
    start = threading.Barrier(len(exchanges))

    def attempt(n: int) -> None:
        start.wait()
        try:
            stores[n % 2].begin(exchanges[n], BOUNDS)
            outcomes.append("begun")
        except IdempotencyInProgress:
            outcomes.append("in progress")

    threads = [threading.Thread(target=attempt, args=(n,)) for n in range(len(exchanges))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["begun"] + ["in progress"] * 31
    assert len(store.search(LogQuery())) == 1


def test_of_many_threads_exactly_one_makes_the_next_attempt(
    store: ConversationStore, open_store: Open, make: Make, completed: Make
) -> None:
    first = make(**WITH_KEY)
    store.begin(first, BOUNDS)
    store.finish(completed(first, state=State.FAILED))
    stores = [store, open_store()]
    outcomes: list[str] = []
    start = threading.Barrier(16)

    def attempt(n: int) -> None:
        start.wait()
        try:
            stores[n % 2].begin(replace(first, attempts=1), BOUNDS)
            outcomes.append("begun")
        except IdempotencyInProgress:
            outcomes.append("in progress")

    threads = [threading.Thread(target=attempt, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["begun"] + ["in progress"] * 15
    assert len(store.search(LogQuery())) == 1
