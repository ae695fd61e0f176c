"""The contract of ConversationStore about what is old: purging, erasing, tidying."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from chatport.adapters import MemoryStore, PeeweeStore
from chatport.domain import (
    Claim,
    ConversationStore,
    Exchange,
    HistoryBounds,
    LogQuery,
    State,
    Usage,
)
from chatport.domain.errors import ConversationBusy, ExchangeLost
from chatport.domain.relay import Once, RequestText
from chatport.domain.retention import Purged, PurgeSpan
from chatport.domain.rules import Budget, Period, Scope, Unit
from chatport.domain.spending import ceilings

from .conftest import NOON, MakeExchange, OpenStore

BOUNDS = HistoryBounds()
ALL = 1_000_000
REQUEST = RequestText(messages=['{"role":"user"}', '{"role":"tool"}'], parameters='{"n":1}')
EVERYTHING = PurgeSpan(until=ALL)
CONTENT = PurgeSpan(until=ALL, content_only=True)
HELD = Claim(
    ceilings=ceilings(
        [
            (scope, Budget(amount=1_000, unit=Unit.TOKENS, period=period))
            for scope in Scope
            for period in Period
        ]
    )
)

Put = Callable[..., Exchange]


@pytest.fixture
def put(store: ConversationStore, make_exchange: MakeExchange, completed: MakeExchange) -> Put:
    """Return what puts a completed exchange into the store."""

    def put(reply: str = "reply", *, claim: Claim | None = None, **fields: Any) -> Exchange:
        exchange = make_exchange(**fields)
        store.begin(exchange, BOUNDS, claim or Claim())
        ended = completed(exchange, reply)
        store.finish(ended)
        return ended

    return put


def numbers(store: ConversationStore) -> list[int]:
    return [exchange.number for exchange in store.search(LogQuery(oldest_first=True, limit=500))]


def test_the_last_number_before_a_time_is_that_of_the_last_that_started_sooner(
    store: ConversationStore, put: Put
) -> None:
    assert store.last_before(NOON) == 0
    for _ in range(3):
        put()
    assert store.last_before(NOON) == 0
    assert store.last_before(NOON + timedelta(microseconds=1)) == 1
    assert store.last_before(NOON + timedelta(seconds=2)) == 2
    assert store.last_before(NOON + timedelta(days=1)) == 3


def test_the_last_number_is_found_behind_many_younger_ones(
    store: ConversationStore, put: Put
) -> None:
    put()
    put()
    for _ in range(3):
        put(started_at=NOON + timedelta(days=1), lease_until=NOON + timedelta(days=2))
    assert store.last_before(NOON + timedelta(hours=1)) == 2


def test_a_purge_deletes_the_lowest_numbers_first_and_says_how_far_it_came(
    store: ConversationStore, put: Put
) -> None:
    for _ in range(5):
        put()
    assert store.purge(PurgeSpan(until=4), limit=2) == Purged(count=2, until=2)
    assert numbers(store) == [3, 4, 5]
    assert store.purge(PurgeSpan(after=2, until=4), limit=2) == Purged(count=2, until=4)
    assert numbers(store) == [5]
    assert store.purge(PurgeSpan(until=4), limit=2) == Purged(count=0, until=4)


def test_a_purge_of_as_many_as_there_are_is_done(store: ConversationStore, put: Put) -> None:
    put()
    put()
    assert store.purge(PurgeSpan(until=7), limit=2) == Purged(count=2, until=7)


def test_a_purge_leaves_numbers_outside_of_its_span(store: ConversationStore, put: Put) -> None:
    for _ in range(5):
        put()
    assert store.purge(PurgeSpan(after=1, until=3), limit=9) == Purged(count=2, until=3)
    assert numbers(store) == [1, 4, 5]


def test_a_purge_leaves_what_started_later_whatever_its_number(
    store: ConversationStore, put: Put
) -> None:
    """A clock that was wrong once must not cost the log."""
    put()
    put()
    put(started_at=NOON - timedelta(days=20_000), lease_until=NOON)
    put()
    before = NOON - timedelta(days=90)
    span = PurgeSpan(until=store.last_before(before), before=before)
    assert span.until == 3
    assert store.purge(span, limit=9) == Purged(count=1, until=3)
    assert numbers(store) == [1, 2, 4]


def test_a_purge_of_one_user_leaves_the_others(store: ConversationStore, put: Put) -> None:
    for caller, user_id in [("app", "ada"), ("app", "bob"), ("web", "ada")] * 2:
        put(caller=caller, user_id=user_id)
    span = PurgeSpan(until=ALL, caller="app", user_id="ada")
    assert store.purge(span, limit=1) == Purged(count=1, until=3)
    assert store.purge(span, limit=9) == Purged(count=1, until=ALL)
    left = {(found.caller, found.user_id) for found in store.search(LogQuery())}
    assert left == {("app", "bob"), ("web", "ada")}


def test_a_purge_of_one_caller_leaves_the_others(store: ConversationStore, put: Put) -> None:
    for caller in ("app", "other", "app"):
        put(caller=caller)
    assert store.purge(PurgeSpan(until=ALL, caller="app"), limit=9).count == 2
    assert numbers(store) == [2]


@pytest.mark.parametrize("span", [EVERYTHING, CONTENT])
def test_an_open_exchange_is_not_purged_and_can_be_finished(
    store: ConversationStore, make_exchange: MakeExchange, completed: MakeExchange, span: PurgeSpan
) -> None:
    exchange = make_exchange()
    store.begin(exchange, BOUNDS)
    assert store.purge(span, limit=9) == Purged(count=0, until=ALL)
    with pytest.raises(ConversationBusy):
        store.begin(make_exchange(), BOUNDS)
    store.finish(completed(exchange, "in time"))
    found = store.find(exchange.id)
    assert found is not None
    assert (found.prompt, found.reply) == ("prompt 0", "in time")


@pytest.mark.parametrize("state", [State.COMPLETED, State.FAILED, State.CANCELLED])
def test_every_outcome_is_purged(
    store: ConversationStore, make_exchange: MakeExchange, completed: MakeExchange, state: State
) -> None:
    exchange = make_exchange()
    store.begin(exchange, BOUNDS)
    store.finish(completed(exchange, state=state))
    assert store.purge(EVERYTHING, limit=9).count == 1
    assert store.find(exchange.id) is None


def test_what_is_purged_is_not_remembered_searched_or_repeated(
    store: ConversationStore, put: Put, make_exchange: MakeExchange
) -> None:
    ended = put("a vixen", idempotency_key="key-1", request_hash="hash-1")
    store.purge(EVERYTHING, limit=9)
    once = Once(request_hash="hash-1", key="key-1")
    assert store.earlier("anonymous", once, now=NOON, since=NOON) is None
    assert store.search(LogQuery(text="vixen")) == []
    assert store.conversation("anonymous", "ada", before=None, limit=9) == []
    assert list(store.begin(make_exchange(), BOUNDS).turns) == []
    assert store.find(ended.id) is None


def test_without_content_an_exchange_says_who_when_and_how_much(
    store: ConversationStore, put: Put
) -> None:
    ended = put("a vixen", idempotency_key="key-1", request_hash="hash-1")
    assert store.purge(CONTENT, limit=9) == Purged(count=1, until=ALL)
    assert store.find(ended.id) == replace(
        ended, number=1, prompt="", reply="", idempotency_key=None, request_hash=None
    )


def test_without_content_a_relayed_exchange_has_no_request_and_no_answer(
    store: ConversationStore, make_exchange: MakeExchange, completed: MakeExchange
) -> None:
    exchange = make_exchange(request=REQUEST, idempotency_key="key-1", request_hash="hash-1")
    store.begin(exchange, BOUNDS)
    ended = completed(exchange, "a vixen", answer=(b"the", b"answer"), final=True)
    store.finish(ended)
    assert store.purge(CONTENT, limit=9).count == 1
    assert store.find(exchange.id) == replace(
        ended,
        number=1,
        prompt="",
        reply="",
        request=None,
        answer=(),
        idempotency_key=None,
        request_hash=None,
    )


@pytest.mark.parametrize("request_text", [None, REQUEST])
def test_an_exchange_without_content_is_not_remembered_searched_or_repeated(
    store: ConversationStore,
    put: Put,
    make_exchange: MakeExchange,
    request_text: RequestText | None,
) -> None:
    put("a vixen", idempotency_key="key-1", request_hash="hash-1", request=request_text)
    store.purge(CONTENT, limit=9)
    kept = put("a badger")
    for once in (
        Once(request_hash="hash-1", key="key-1"),
        Once(request_hash="hash-1", retry=True),
    ):
        assert store.earlier("anonymous", once, now=NOON, since=NOON) is None
    assert store.search(LogQuery(text="vixen")) == []
    history = store.begin(make_exchange(idempotency_key="key-1", request_hash="hash-2"), BOUNDS)
    assert [turn.reply for turn in history.turns] == [kept.reply]
    assert history.context_from == 2


def test_content_is_purged_once_and_the_row_later(store: ConversationStore, put: Put) -> None:
    put()
    put(request=REQUEST)
    assert store.purge(CONTENT, limit=9).count == 2
    put()
    assert store.purge(CONTENT, limit=9).count == 1
    assert store.purge(CONTENT, limit=9) == Purged(count=0, until=ALL)
    assert store.purge(EVERYTHING, limit=9).count == 3
    assert numbers(store) == []


def test_what_others_need_of_a_purged_request_stays(store: ConversationStore, put: Put) -> None:
    put(request=REQUEST)
    longer = replace(REQUEST, messages=[*REQUEST.messages, '{"role":"assistant"}'])
    kept = put(request=longer)
    for span in (PurgeSpan(until=1, content_only=True), PurgeSpan(until=1)):
        assert store.purge(span, limit=9).count == 1
        found = store.find(kept.id)
        assert found is not None
        assert found.request == longer


def test_what_was_used_and_spent_outlives_a_purge(store: ConversationStore, put: Put) -> None:
    put(claim=HELD)
    before = statistics(store)
    assert store.purge(CONTENT, limit=9).count == 1
    assert store.purge(EVERYTHING, limit=9).count == 1
    assert statistics(store) == before
    assert len(before["usage"]) == 1
    assert len(before["spending"]) == 6


def statistics(store: ConversationStore) -> dict[str, list[Any]]:
    """Return usage and spending without their amounts, and refusals."""
    if isinstance(store, MemoryStore):
        return {
            "usage": sorted((*key, used.calls) for key, used in store.ledger.usage.items()),
            "spending": sorted(store.ledger.balances),
            "refusal": sorted(f"{at:%Y-%m-%dT%H:%M}" for _, _, at in store.refusals),
        }
    assert isinstance(store, PeeweeStore)
    run = store.session.opened().reader.execute_sql
    return {
        "usage": sorted(run("SELECT caller, user_id, day, model, calls FROM usage")),
        "spending": sorted(run("SELECT caller, user_id, period FROM spending")),
        "refusal": sorted(minute for (minute,) in run("SELECT minute FROM refusal")),
    }


def days_before(days: int) -> dict[str, datetime]:
    at = NOON - timedelta(days=days)
    return {"started_at": at, "lease_until": at + timedelta(seconds=100)}


def test_statistics_go_with_the_days_months_and_minutes_that_were_over(
    store: ConversationStore, put: Put
) -> None:
    for days in (0, 1, 2, 30):  # 2026-11-23, 22, 21, and 2026-10-24
        put(claim=HELD, **days_before(days))
        store.count_refusal("app", "rule", NOON - timedelta(days=days))
    store.count_refusal("app", "rule", NOON - timedelta(days=1, minutes=1))
    assert store.purge_statistics(NOON - timedelta(days=1)) == 2 + 3 * 3 + 3
    kept = statistics(store)
    assert [row[2] for row in kept["usage"]] == ["2026-11-22", "2026-11-23"]
    assert {row[2] for row in kept["spending"]} == {"2026-11", "2026-11-22", "2026-11-23"}
    assert kept["refusal"] == ["2026-11-22T12:00", "2026-11-23T12:00"]
    assert store.purge_statistics(NOON - timedelta(days=1)) == 0


def test_the_month_that_runs_is_kept_and_the_one_that_ended_is_not(
    store: ConversationStore, put: Put
) -> None:
    put(claim=HELD, **days_before(23))  # 2026-10-31
    assert store.purge_statistics(datetime(2026, 10, 31, 23, 59, tzinfo=NOON.tzinfo)) == 0
    assert store.purge_statistics(datetime(2026, 11, 1, tzinfo=NOON.tzinfo)) == 7


def test_an_erased_user_has_no_name_in_the_usage_any_more(
    store: ConversationStore, put: Put
) -> None:
    for user in ("ada", "ada", "bob"):
        put(user_id=user)
    put(user_id="ada", model="model-2")
    put(user_id="ada", caller="other")
    assert store.erase("anonymous", "ada") == 3
    assert store.erase("anonymous", "bob") == 1
    assert statistics(store)["usage"] == [
        ("anonymous", "", "2026-11-23", "model-1", 3),
        ("anonymous", "", "2026-11-23", "model-2", 1),
        ("other", "ada", "2026-11-23", "model-1", 1),
    ]


def test_erasing_all_of_a_caller_takes_open_ones_names_and_accounts_of_users(
    store: ConversationStore, put: Put, make_exchange: MakeExchange, completed: MakeExchange
) -> None:
    for user, caller in (("ada", "app"), ("bob", "app"), ("ada", "other")):
        put(user_id=user, caller=caller, claim=HELD)
    still_open = make_exchange(user_id="eve", caller="app", request=REQUEST)
    store.begin(still_open, BOUNDS, HELD)
    assert store.erase("app", None) == 3
    assert numbers(store) == [3]
    with pytest.raises(ExchangeLost):
        store.finish(completed(still_open))
    kept = statistics(store)
    assert {row[:2] for row in kept["usage"]} == {("app", ""), ("other", "ada")}
    owners = {(caller, user) for caller, user, _ in kept["spending"]}
    assert owners == {("", ""), ("app", ""), ("other", ""), ("other", "ada")}
    assert store.erase("app", None) == 0


def test_an_open_exchange_that_is_erased_counts_once_against_budgets(
    store: ConversationStore, make_exchange: MakeExchange
) -> None:
    usage = Usage(prompt_tokens=900, completion_tokens=50)
    store.begin(make_exchange(caller="app", usage=usage), BOUNDS, HELD)
    store.erase("app", None)
    small = Usage(prompt_tokens=30, completion_tokens=5)
    store.begin(make_exchange(caller="app", usage=small), BOUNDS, HELD)


def test_tidying_deletes_nothing(store: ConversationStore, open_store: OpenStore, put: Put) -> None:
    put("a vixen")
    store.tidy()
    other = open_store()
    other.tidy()
    assert numbers(other) == [1]
    assert [found.id for found in other.search(LogQuery(text="vixen"))] == ["exchange-0"]
    put("a badger")
    assert [found.id for found in other.search(LogQuery(text="badger"))] == ["exchange-1"]
