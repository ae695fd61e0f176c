"""The contract of ConversationStore about budgets, calls in flight, and what was used."""

from collections.abc import Callable
from dataclasses import astuple, replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from chatport.adapters import MemoryStore, PeeweeStore
from chatport.domain import (
    Budget,
    ChatportError,
    Claim,
    ConversationStore,
    Exchange,
    History,
    HistoryBounds,
    InFlight,
    LogQuery,
    Period,
    State,
    Unit,
    Usage,
)
from chatport.domain.errors import (
    BudgetExceeded,
    ConversationBusy,
    ExceedsLimit,
    ExchangeLost,
    IdempotencyInProgress,
    ModelNotPriced,
    RateLimited,
    TooManyInFlight,
)
from chatport.domain.relay import RequestText
from chatport.domain.rules import Rule, Scope
from chatport.domain.spending import ceilings

from .conftest import MakeExchange, OpenStore

BOUNDS = HistoryBounds()
USER, CALLER, TOTAL = Scope.USER, Scope.CALLER, Scope.TOTAL
NEXT_YEAR = datetime(2027, 11, 23, tzinfo=UTC)
REQUEST = RequestText(messages=['{"role":"user"}'], parameters="{}")


def tokens(amount: int, period: Period = Period.DAY) -> Budget:
    return Budget(amount=amount, unit=Unit.TOKENS, period=period)


def usd(nanodollars: int, period: Period = Period.DAY) -> Budget:
    return Budget(amount=nanodollars, unit=Unit.USD, period=period)


def costing(total: int, nanodollars: int | None = None) -> Callable[[Exchange, History], Exchange]:
    """Return what estimates a call at so many tokens and so much money."""
    usage = Usage(prompt_tokens=total - 5, completion_tokens=5, estimated=True)

    def estimated(exchange: Exchange, _history: History) -> Exchange:
        return replace(exchange, usage=usage, nanodollars=nanodollars)

    return estimated


def claim(*rules: tuple[Scope, Rule], may_use: int = 50, cost: int | None = None) -> Claim:
    return Claim(ceilings=ceilings(rules), estimated=costing(may_use, cost))


def accounts(store: ConversationStore) -> dict[tuple[str, str, str], tuple[int, int, int, int]]:
    """Return tokens and nanodollars that are spent, then those that are reserved."""
    if isinstance(store, MemoryStore):
        found = store.ledger.balances.items()
        held = {key: (*each.spent[:2], *each.reserved) for key, each in found}
    else:
        assert isinstance(store, PeeweeStore)
        query = "SELECT * FROM spending"
        rows = store.session.read(lambda file: file.reader.execute_sql(query).fetchall())
        held = {tuple(row[:3]): tuple(row[3:]) for row in rows}
    return {key: amounts[:4] for key, amounts in held.items() if any(amounts) and key[2] != "open"}


def open_calls(store: ConversationStore) -> dict[tuple[str, str], int]:
    """Return how many calls are in flight, of each caller's users, of callers, and in all."""
    if isinstance(store, MemoryStore):
        found = store.ledger.balances.items()
        held = {key[:2]: each.reserved.calls for key, each in found if key[2] == "open"}
    else:
        assert isinstance(store, PeeweeStore)
        query = "SELECT caller, user_id, reserved_calls FROM spending WHERE period = 'open'"
        rows = store.session.read(lambda file: file.reader.execute_sql(query).fetchall())
        held = {(caller, user_id): calls for caller, user_id, calls in rows}
    return {owner: calls for owner, calls in held.items() if calls}


def usage(store: ConversationStore) -> dict[tuple[str, str, str], tuple[int, ...]]:
    """Return the counts by caller, user and day; of one model only."""
    if isinstance(store, MemoryStore):
        return {key[:3]: astuple(used) for key, used in store.ledger.usage.items()}
    assert isinstance(store, PeeweeStore)
    query = "SELECT caller, user_id, day, model, calls, completed, prompt_tokens, cached_tokens, "
    query += "completion_tokens, estimated, unpriced, nanodollars FROM usage"
    rows = store.session.read(lambda file: file.reader.execute_sql(query).fetchall())
    return {tuple(row[:3]): tuple(row[4:]) for row in rows}


def ids(store: ConversationStore) -> list[str]:
    return [exchange.id for exchange in store.search(LogQuery())]


def failed(exchange: Exchange, **fields: Any) -> Exchange:
    at = exchange.started_at + timedelta(seconds=1)
    return replace(exchange, state=State.FAILED, finished_at=at, error_code="test", **fields)


# What an open exchange reserves


def test_an_open_exchange_is_written_with_what_it_may_use_and_cost(
    store: ConversationStore, make_exchange: MakeExchange
) -> None:
    store.begin(make_exchange(), BOUNDS, claim(may_use=50, cost=700))
    found = store.find("exchange-0")
    assert found is not None
    assert found.usage == Usage(prompt_tokens=45, completion_tokens=5, estimated=True)
    assert found.nanodollars == 700


def test_the_estimate_is_made_with_the_history_that_goes_along(
    store: ConversationStore, make_exchange: MakeExchange, completed: MakeExchange
) -> None:
    first = make_exchange(prompt="one")
    store.begin(first, BOUNDS)
    store.finish(completed(first, "two"))
    histories = []

    def estimated(exchange: Exchange, history: History) -> Exchange:
        histories.append(history)
        return exchange

    history = store.begin(make_exchange(), BOUNDS, Claim(estimated=estimated))
    assert histories == [history]
    assert history.bytes == 6


def test_what_a_call_may_cost_is_reserved_in_every_budget_and_nowhere_else(
    store: ConversationStore, make_exchange: MakeExchange
) -> None:
    rules = (USER, tokens(1000)), (CALLER, usd(9_000, Period.MONTH)), (TOTAL, tokens(1000))
    store.begin(make_exchange(), BOUNDS, claim(*rules, may_use=50, cost=700))
    assert accounts(store) == {
        ("anonymous", "ada", "2026-11-23"): (0, 0, 50, 700),
        ("anonymous", "", "2026-11"): (0, 0, 50, 700),
        ("", "", "2026-11-23"): (0, 0, 50, 700),
    }


def test_without_a_budget_nothing_is_reserved(
    store: ConversationStore, make_exchange: MakeExchange
) -> None:
    store.begin(make_exchange(), BOUNDS, claim())
    store.begin(make_exchange(user_id="bob"), BOUNDS, claim((USER, InFlight(amount=1))))
    assert accounts(store) == {}


@pytest.mark.parametrize(("limit", "admitted"), [(149, 2), (150, 3), (199, 3), (200, 4)])
@pytest.mark.parametrize("unit", [tokens, usd])
def test_a_budget_admits_what_fits_into_it_to_the_last_token_and_nanodollar(
    store: ConversationStore,
    make_exchange: MakeExchange,
    unit: Callable[[int], Budget],
    limit: int,
    admitted: int,
) -> None:
    for n in range(admitted):
        rule = (TOTAL, unit(limit))
        store.begin(make_exchange(user_id=f"user-{n}"), BOUNDS, claim(rule, cost=50))
    with pytest.raises(BudgetExceeded):
        store.begin(make_exchange(user_id="late"), BOUNDS, claim(rule, cost=50))


def test_a_refused_exchange_leaves_nothing_behind(
    store: ConversationStore, make_exchange: MakeExchange
) -> None:
    rule = (TOTAL, tokens(99))
    store.begin(make_exchange(user_id="bob"), BOUNDS, claim(rule))
    with pytest.raises(BudgetExceeded):
        store.begin(make_exchange(), BOUNDS, claim(rule))
    assert ids(store) == ["exchange-0"]
    assert accounts(store) == {("", "", "2026-11-23"): (0, 0, 50, 0)}
    assert usage(store) == {}
    store.begin(make_exchange(), BOUNDS)  # nor is the conversation busy


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (
            tokens(49),
            (
                "This request may take 50 tokens, and the caller is allowed 49 tokens per day;"
                " send less, or ask for a shorter answer with max_completion_tokens."
            ),
        ),
        (
            usd(250_000_000, Period.MONTH),
            (
                "This request may take 0.26 USD, and the caller is allowed 0.25 USD per month;"
                " send less, or ask for a shorter answer with max_completion_tokens."
            ),
        ),
    ],
)
def test_what_may_cost_more_than_a_whole_budget_is_not_told_to_wait(
    store: ConversationStore, make_exchange: MakeExchange, rule: Budget, message: str
) -> None:
    with pytest.raises(ExceedsLimit) as refused:
        store.begin(make_exchange(), BOUNDS, claim((CALLER, rule), cost=260_000_000))
    assert str(refused.value) == message
    assert refused.value.retry_after_seconds is None
    assert (ids(store), accounts(store), usage(store)) == ([], {}, {})


@pytest.mark.parametrize("request_text", [None, REQUEST])
@pytest.mark.parametrize("key", [None, "key-1"])
@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_all_budgets_reserve_or_none_wherever_the_one_without_room_stands(
    store: ConversationStore,
    make_exchange: MakeExchange,
    place: int,
    key: str | None,
    request_text: RequestText | None,
) -> None:
    open_rules: list[tuple[Scope, Rule]] = [(USER, tokens(1000)), (CALLER, tokens(1000))]
    open_rules.append((TOTAL, tokens(1000, Period.MONTH)))
    store.begin(make_exchange(user_id="bob"), BOUNDS, claim((TOTAL, tokens(1000))))
    before = accounts(store)
    full = (TOTAL, tokens(99))
    rules = [*open_rules[:place], full, *open_rules[place:]]
    exchange = make_exchange(idempotency_key=key, request_hash="hash", request=request_text)
    with pytest.raises(BudgetExceeded):
        store.begin(exchange, BOUNDS, claim(*rules))
    assert accounts(store) == before == {("", "", "2026-11-23"): (0, 0, 50, 0)}
    assert len(ids(store)) == 1


@pytest.mark.parametrize("key", [None, "key-1"])
def test_what_has_no_price_is_not_written(
    store: ConversationStore, make_exchange: MakeExchange, key: str | None
) -> None:
    def refuse(exchange: Exchange, history: History) -> Exchange:
        raise ModelNotPriced

    refused = make_exchange(idempotency_key=key, request_hash="hash")
    with pytest.raises(ModelNotPriced):
        store.begin(refused, BOUNDS, Claim(ceilings=ceilings([(USER, usd(100))]), estimated=refuse))
    assert (ids(store), accounts(store), usage(store)) == ([], {}, {})
    store.begin(make_exchange(), BOUNDS)  # nor is the conversation busy


@pytest.mark.parametrize("rules", [(), ((USER, tokens(100)), (TOTAL, InFlight(amount=1)))])
@pytest.mark.parametrize("request_text", [None, REQUEST])
@pytest.mark.parametrize("key", [None, "key-1"])
def test_what_its_admission_refuses_is_not_written(
    store: ConversationStore,
    make_exchange: MakeExchange,
    key: str | None,
    request_text: RequestText | None,
    rules: tuple[tuple[Scope, Rule], ...],
) -> None:
    full = RateLimited("user", "1 requests per day", 9)

    def refuse(exchange: Exchange) -> None:
        raise full

    exchange = make_exchange(idempotency_key=key, request_hash="hash", request=request_text)
    with pytest.raises(RateLimited) as refused:
        store.begin(exchange, BOUNDS, replace(claim(*rules), admit=refuse))
    assert refused.value is full
    assert (ids(store), accounts(store), open_calls(store), usage(store)) == ([], {}, {}, {})
    store.begin(make_exchange(), BOUNDS, claim(*rules))  # nor is anything in its way


@pytest.mark.parametrize(
    ("rule", "user_id", "key"),
    [
        ((TOTAL, tokens(99)), "bob", None),
        ((TOTAL, tokens(9)), "bob", None),
        ((TOTAL, InFlight(amount=1)), "bob", None),
        ((TOTAL, tokens(500)), "ada", None),  # whose conversation is busy
        ((TOTAL, tokens(500)), "bob", "key-1"),  # which is in use
    ],
)
def test_what_something_else_is_in_the_way_of_is_never_admitted(
    store: ConversationStore,
    make_exchange: MakeExchange,
    rule: tuple[Scope, Rule],
    user_id: str,
    key: str | None,
) -> None:
    admitted: list[Exchange] = []
    wide = (TOTAL, tokens(500)), (TOTAL, InFlight(amount=5))
    first = make_exchange(idempotency_key="key-1", request_hash="one")
    store.begin(first, BOUNDS, replace(claim(*wide), admit=admitted.append))
    assert [exchange.id for exchange in admitted] == ["exchange-0"]
    assert admitted[0].usage == Usage(prompt_tokens=45, completion_tokens=5, estimated=True)
    second = make_exchange(user_id=user_id, idempotency_key=key, request_hash="two")
    with pytest.raises(ChatportError):
        store.begin(second, BOUNDS, replace(claim(rule), admit=admitted.append))
    assert len(admitted) == 1


def test_a_relay_reserves_as_a_turn_does(
    store: ConversationStore, make_exchange: MakeExchange
) -> None:
    rule = (USER, tokens(100))
    for _ in range(2):
        store.begin(make_exchange(request=REQUEST), BOUNDS, claim(rule))
    with pytest.raises(BudgetExceeded):
        store.begin(make_exchange(request=REQUEST), BOUNDS, claim(rule))
    assert accounts(store) == {("anonymous", "ada", "2026-11-23"): (0, 0, 100, 0)}


# Whose budget it is


def test_users_callers_and_the_total_have_budgets_of_their_own(
    store: ConversationStore, make_exchange: MakeExchange
) -> None:
    rules = (USER, tokens(50)), (CALLER, tokens(100)), (TOTAL, tokens(150))
    refused: list[tuple[str, str]] = []
    for caller, user_id in [
        ("one", "ada"),
        ("one", "ada"),  # the user's budget is spent
        ("one", "bob"),
        ("one", "eve"),  # the caller's is
        ("two", "ada"),  # another caller's user of the same name
        ("two", "bob"),  # the total is
    ]:
        exchange = make_exchange(caller=caller, user_id=user_id, request=REQUEST)
        try:
            store.begin(exchange, BOUNDS, claim(*rules))
        except BudgetExceeded as error:
            refused.append((f"{caller}/{user_id}", error.rule))
    assert refused == [
        ("one/ada", "user 50 tokens per day"),
        ("one/eve", "caller 100 tokens per day"),
        ("two/bob", "total 150 tokens per day"),
    ]


def test_of_several_budgets_over_the_same_spending_each_counts(
    store: ConversationStore, make_exchange: MakeExchange
) -> None:
    rules = (USER, tokens(500)), (USER, tokens(120)), (USER, usd(10_000)), (USER, usd(2_500))
    for cost in (100, 2_300):
        store.begin(make_exchange(request=REQUEST), BOUNDS, claim(*rules, may_use=40, cost=cost))
    with pytest.raises(BudgetExceeded) as dear:
        store.begin(make_exchange(request=REQUEST), BOUNDS, claim(*rules, may_use=40, cost=101))
    with pytest.raises(BudgetExceeded) as long:
        store.begin(make_exchange(request=REQUEST), BOUNDS, claim(*rules, may_use=41, cost=100))
    assert dear.value.rule == "user 0.0000025 USD per day"
    assert long.value.rule == "user 120 tokens per day"
    store.begin(make_exchange(request=REQUEST), BOUNDS, claim(*rules, may_use=40, cost=100))
    assert accounts(store) == {("anonymous", "ada", "2026-11-23"): (0, 0, 120, 2_500)}


def test_two_stores_on_the_same_file_spend_from_the_same_budget(
    open_store: OpenStore, make_exchange: MakeExchange
) -> None:
    one, other = open_store(), open_store()
    one.begin(make_exchange(), BOUNDS, claim((TOTAL, tokens(99))))
    with pytest.raises(BudgetExceeded):
        other.begin(make_exchange(user_id="bob"), BOUNDS, claim((TOTAL, tokens(99))))
    other.begin(make_exchange(user_id="bob"), BOUNDS, claim((TOTAL, tokens(100))))


# What an ended exchange has spent


def test_an_outcome_spends_what_it_did_cost_and_gives_the_rest_back(
    store: ConversationStore, make_exchange: MakeExchange, completed: MakeExchange
) -> None:
    rules = (USER, tokens(100)), (TOTAL, usd(1_000, Period.MONTH))
    exchange = make_exchange()
    store.begin(exchange, BOUNDS, claim(*rules, may_use=50, cost=700))
    store.finish(completed(exchange, nanodollars=111))
    assert accounts(store) == {
        ("anonymous", "ada", "2026-11-23"): (15, 111, 0, 0),
        ("", "", "2026-11"): (15, 111, 0, 0),
    }
    store.begin(make_exchange(), BOUNDS, claim(*rules, may_use=85, cost=889))
    with pytest.raises(BudgetExceeded):
        store.begin(make_exchange(user_id="bob"), BOUNDS, claim(*rules, may_use=10, cost=1))


def test_what_cost_more_than_was_reserved_is_spent_all_the_same(
    store: ConversationStore, make_exchange: MakeExchange, completed: MakeExchange
) -> None:
    exchange = make_exchange()
    store.begin(exchange, BOUNDS, claim((USER, tokens(60))))
    used = Usage(prompt_tokens=70, completion_tokens=10)
    store.finish(completed(exchange, usage=used, nanodollars=9))
    assert accounts(store) == {("anonymous", "ada", "2026-11-23"): (80, 9, 0, 0)}
    with pytest.raises(BudgetExceeded, match="80 are spent, 0 are reserved"):
        store.begin(make_exchange(), BOUNDS, claim((USER, tokens(60)), may_use=5))


def test_a_failure_that_is_not_billed_spends_nothing(
    store: ConversationStore, make_exchange: MakeExchange
) -> None:
    exchange = make_exchange()
    store.begin(exchange, BOUNDS, claim((USER, tokens(50)), cost=3))
    store.finish(failed(exchange))
    assert accounts(store) == {}
    assert usage(store) == {("anonymous", "ada", "2026-11-23"): (1, 0, 0, 0, 0, 0, 0, 0)}
    store.begin(make_exchange(), BOUNDS, claim((USER, tokens(50))))


@pytest.mark.parametrize("state", [State.CANCELLED, State.INTERRUPTED, State.FAILED])
def test_what_was_used_until_there_was_no_answer_is_spent(
    store: ConversationStore, make_exchange: MakeExchange, state: State
) -> None:
    exchange = make_exchange()
    store.begin(exchange, BOUNDS, claim((USER, tokens(50)), cost=70))
    used = Usage(prompt_tokens=3, completion_tokens=4, cached_tokens=2, estimated=True)
    store.finish(replace(failed(exchange, usage=used, nanodollars=8), state=state))
    assert accounts(store) == {("anonymous", "ada", "2026-11-23"): (7, 8, 0, 0)}
    assert usage(store) == {("anonymous", "ada", "2026-11-23"): (1, 0, 3, 2, 4, 1, 0, 8)}


def test_an_exchange_is_settled_once(
    store: ConversationStore, make_exchange: MakeExchange, completed: MakeExchange
) -> None:
    exchange = make_exchange()
    store.begin(exchange, BOUNDS, claim((USER, tokens(50))))
    store.finish(completed(exchange))
    for _ in range(2):
        with pytest.raises(ExchangeLost):
            store.finish(completed(exchange))
        store.recover(NEXT_YEAR)
    assert accounts(store) == {("anonymous", "ada", "2026-11-23"): (15, 0, 0, 0)}
    assert usage(store) == {("anonymous", "ada", "2026-11-23"): (1, 1, 10, 0, 5, 0, 1, 0)}


def test_the_usage_adds_up_by_caller_user_day_and_model(
    store: ConversationStore, make_exchange: MakeExchange, completed: MakeExchange
) -> None:
    for n in range(3):
        exchange = make_exchange()
        store.begin(exchange, BOUNDS)
        used = Usage(prompt_tokens=10, cached_tokens=4, completion_tokens=n, estimated=n == 1)
        store.finish(completed(exchange, usage=used, nanodollars=None if n == 2 else 100))
    assert usage(store) == {("anonymous", "ada", "2026-11-23"): (3, 3, 30, 12, 3, 1, 1, 200)}


def test_a_budget_counts_what_was_spent_in_its_period_before_there_was_a_budget(
    store: ConversationStore, make_exchange: MakeExchange, completed: MakeExchange
) -> None:
    yesterday = {"started_at": datetime(2026, 11, 22, 23, 59, 59, tzinfo=UTC)}
    last_month = {"started_at": datetime(2026, 10, 31, 12, tzinfo=UTC)}
    for fields in ({}, {"user_id": "bob"}, {"caller": "other"}, yesterday, last_month):
        exchange = make_exchange(request=REQUEST, **fields)
        store.begin(exchange, BOUNDS, claim())
        store.finish(completed(exchange, nanodollars=100))
    assert accounts(store) == {}
    periods = [(scope, period) for scope in Scope for period in Period]
    rules = [(scope, tokens(1000, period)) for scope, period in periods]
    store.begin(make_exchange(), BOUNDS, claim(*rules, cost=70))
    assert accounts(store) == {
        ("anonymous", "ada", "2026-11-23"): (15, 100, 50, 70),
        ("anonymous", "ada", "2026-11"): (30, 200, 50, 70),
        ("anonymous", "", "2026-11-23"): (30, 200, 50, 70),
        ("anonymous", "", "2026-11"): (45, 300, 50, 70),
        ("", "", "2026-11-23"): (45, 300, 50, 70),
        ("", "", "2026-11"): (60, 400, 50, 70),
    }


def test_what_was_open_when_a_budget_came_is_spent_from_it_at_its_end(
    store: ConversationStore, make_exchange: MakeExchange, completed: MakeExchange
) -> None:
    early = make_exchange()
    store.begin(early, BOUNDS, claim(cost=70))
    store.begin(make_exchange(user_id="bob"), BOUNDS, claim((TOTAL, tokens(100)), cost=70))
    store.finish(completed(early, nanodollars=9))
    assert accounts(store) == {("", "", "2026-11-23"): (15, 9, 50, 70)}


# Periods


def test_a_days_budget_begins_anew_at_midnight_utc(
    store: ConversationStore, make_exchange: MakeExchange
) -> None:
    rule = (USER, tokens(50))
    last = datetime(2026, 11, 23, 23, 59, 59, 999_999, tzinfo=UTC)
    fields = {"request": REQUEST, "lease_until": NEXT_YEAR}
    store.begin(make_exchange(**fields), BOUNDS, claim(rule))
    with pytest.raises(BudgetExceeded) as refused:
        store.begin(make_exchange(**fields, started_at=last), BOUNDS, claim(rule))
    assert refused.value.resets_at == datetime(2026, 11, 24, tzinfo=UTC)
    midnight = last + timedelta(microseconds=1)
    store.begin(make_exchange(**fields, started_at=midnight), BOUNDS, claim(rule))
    assert accounts(store) == {
        ("anonymous", "ada", "2026-11-23"): (0, 0, 50, 0),
        ("anonymous", "ada", "2026-11-24"): (0, 0, 50, 0),
    }


@pytest.mark.parametrize(
    ("last", "first"),
    [
        ("2026-11-30T23:59:59.999999+00:00", "2026-12-01T00:00:00+00:00"),
        ("2026-12-31T23:59:59.999999+00:00", "2027-01-01T00:00:00+00:00"),
        ("2028-02-29T23:59:59.999999+00:00", "2028-03-01T00:00:00+00:00"),
        ("2027-02-28T23:59:59.999999+00:00", "2027-03-01T00:00:00+00:00"),
    ],
)
def test_a_months_budget_begins_anew_with_the_calendar(
    store: ConversationStore, make_exchange: MakeExchange, last: str, first: str
) -> None:
    rule = (USER, tokens(50, Period.MONTH))
    at, then = datetime.fromisoformat(last), datetime.fromisoformat(first)
    lease = {"lease_until": datetime(2030, 1, 1, tzinfo=UTC), "request": REQUEST}
    store.begin(make_exchange(started_at=at.replace(day=1), **lease), BOUNDS, claim(rule))
    with pytest.raises(BudgetExceeded) as refused:
        store.begin(make_exchange(started_at=at, **lease), BOUNDS, claim(rule))
    assert refused.value.resets_at == then
    store.begin(make_exchange(started_at=then, **lease), BOUNDS, claim(rule))


def test_a_day_is_that_of_utc_whatever_the_clocks_time_zone(
    store: ConversationStore, make_exchange: MakeExchange
) -> None:
    there = datetime(2026, 11, 24, 3, tzinfo=timezone(timedelta(hours=5)))
    exchange = make_exchange(started_at=there, lease_until=there + timedelta(hours=1))
    store.begin(exchange, BOUNDS, claim((USER, tokens(50))))
    assert accounts(store) == {("anonymous", "ada", "2026-11-23"): (0, 0, 50, 0)}
    store.finish(failed(exchange, usage=Usage(prompt_tokens=1, completion_tokens=1)))
    assert accounts(store) == {("anonymous", "ada", "2026-11-23"): (2, 0, 0, 0)}


def test_an_exchange_is_spent_in_the_period_in_which_it_began(
    store: ConversationStore, make_exchange: MakeExchange, completed: MakeExchange
) -> None:
    rules = (USER, tokens(50)), (USER, tokens(90, Period.MONTH))
    began = datetime(2026, 11, 30, 23, 59, 59, tzinfo=UTC)
    exchange = make_exchange(started_at=began, lease_until=began + timedelta(hours=1))
    store.begin(exchange, BOUNDS, claim(*rules))
    store.finish(completed(exchange, finished_at=began + timedelta(minutes=9)))
    later = make_exchange(started_at=began + timedelta(minutes=9))
    store.begin(later, BOUNDS, claim(*rules))
    assert accounts(store) == {
        ("anonymous", "ada", "2026-11-30"): (15, 0, 0, 0),
        ("anonymous", "ada", "2026-11"): (15, 0, 0, 0),
        ("anonymous", "ada", "2026-12-01"): (0, 0, 50, 0),
        ("anonymous", "ada", "2026-12"): (0, 0, 50, 0),
    }
    assert list(usage(store)) == [("anonymous", "ada", "2026-11-30")]


# What a refusal says


def test_a_refusal_names_the_budget_what_is_left_of_it_and_when_it_begins_anew(
    store: ConversationStore, make_exchange: MakeExchange, completed: MakeExchange
) -> None:
    spent = make_exchange()
    store.begin(spent, BOUNDS)
    store.finish(completed(spent, nanodollars=1_250_000_000))
    rules = (CALLER, usd(5_000_000_000, Period.MONTH)), (CALLER, tokens(100))
    store.begin(make_exchange(), BOUNDS, claim(*rules, may_use=60, cost=250_000_000))
    with pytest.raises(BudgetExceeded) as money:
        store.begin(make_exchange(user_id="bob"), BOUNDS, claim(*rules, may_use=25, cost=4 * 10**9))
    assert money.value.rule == "caller 5 USD per month"
    assert str(money.value) == (
        "The caller budget of 5 USD per month has no room for this request, which may cost 4:"
        " 1.25 are spent, 0.25 are reserved for calls in flight."
        " It begins anew at 2026-12-01 00:00 UTC."
    )
    with pytest.raises(BudgetExceeded) as size:
        store.begin(make_exchange(user_id="bob"), BOUNDS, claim(*rules, may_use=26, cost=1))
    assert size.value.rule == "caller 100 tokens per day"
    assert str(size.value) == (
        "The caller budget of 100 tokens per day has no room for this request, which may cost 26:"
        " 15 are spent, 60 are reserved for calls in flight."
        " It begins anew at 2026-11-24 00:00 UTC."
    )


def test_of_budgets_that_are_all_in_the_way_the_one_that_holds_longest_is_named(
    store: ConversationStore, make_exchange: MakeExchange
) -> None:
    rules = (USER, tokens(50)), (TOTAL, tokens(60, Period.MONTH)), (TOTAL, usd(70))
    store.begin(make_exchange(request=REQUEST), BOUNDS, claim(*rules, cost=70))
    with pytest.raises(BudgetExceeded) as refused:
        store.begin(make_exchange(request=REQUEST), BOUNDS, claim(*rules, cost=70))
    assert refused.value.rule == "total 60 tokens per month"
    assert refused.value.resets_at == datetime(2026, 12, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "full",
    [(TOTAL, tokens(60, Period.MONTH)), (TOTAL, tokens(60)), (USER, tokens(60)), (USER, usd(70))],
)
def test_that_waiting_cannot_help_is_said_before_all_else(
    store: ConversationStore, make_exchange: MakeExchange, full: tuple[Scope, Budget]
) -> None:
    small = (USER, tokens(49))
    store.begin(make_exchange(request=REQUEST), BOUNDS, claim(full, cost=70))
    for rules in (full, small), (small, full):
        with pytest.raises(ExceedsLimit) as refused:
            store.begin(make_exchange(request=REQUEST), BOUNDS, claim(*rules, cost=70))
        assert refused.value.rule == "user 49 tokens per day"


# Whose process died


def test_what_nobody_will_finish_is_spent_at_its_estimate_once(
    store: ConversationStore, make_exchange: MakeExchange, completed: MakeExchange
) -> None:
    exchange = make_exchange()
    rules = (USER, tokens(500)), (TOTAL, usd(5_000, Period.MONTH))
    store.begin(exchange, BOUNDS, claim(*rules, may_use=50, cost=700))
    assert store.recover(exchange.lease_until - timedelta(microseconds=1)) == 0
    assert store.recover(exchange.lease_until) == 1
    assert store.recover(NEXT_YEAR) == 0
    with pytest.raises(ExchangeLost):
        store.finish(completed(exchange))
    assert accounts(store) == {
        ("anonymous", "ada", "2026-11-23"): (50, 700, 0, 0),
        ("", "", "2026-11"): (50, 700, 0, 0),
    }
    assert usage(store) == {("anonymous", "ada", "2026-11-23"): (1, 0, 45, 0, 5, 1, 0, 700)}


def test_the_next_turn_spends_what_nobody_will_finish(
    store: ConversationStore, make_exchange: MakeExchange
) -> None:
    first = make_exchange()
    store.begin(first, BOUNDS, claim((USER, tokens(500)), may_use=50))
    late = make_exchange(started_at=first.lease_until)
    store.begin(late, BOUNDS, claim((USER, tokens(500)), may_use=60))
    assert accounts(store) == {("anonymous", "ada", "2026-11-23"): (50, 0, 60, 0)}
    assert store.recover(NEXT_YEAR) == 1
    assert accounts(store) == {("anonymous", "ada", "2026-11-23"): (110, 0, 0, 0)}


def test_what_nobody_will_finish_makes_no_room_in_a_budget(
    store: ConversationStore, make_exchange: MakeExchange
) -> None:
    first = make_exchange()
    store.begin(first, BOUNDS, claim((USER, tokens(90))))
    late = make_exchange(started_at=first.lease_until)
    with pytest.raises(BudgetExceeded):
        store.begin(late, BOUNDS, claim((USER, tokens(90))))
    store.recover(NEXT_YEAR)
    assert accounts(store) == {("anonymous", "ada", "2026-11-23"): (50, 0, 0, 0)}


# Other refusals, and next attempts


def test_a_busy_conversation_reserves_nothing(
    store: ConversationStore, make_exchange: MakeExchange
) -> None:
    store.begin(make_exchange(), BOUNDS, claim((USER, tokens(500))))
    before = accounts(store)
    for rule in (USER, tokens(500)), (TOTAL, tokens(500)), (TOTAL, InFlight(amount=9)):
        with pytest.raises(ConversationBusy):
            store.begin(make_exchange(), BOUNDS, claim(rule))
    assert accounts(store) == before == {("anonymous", "ada", "2026-11-23"): (0, 0, 50, 0)}


def test_a_key_in_use_reserves_nothing(
    store: ConversationStore, make_exchange: MakeExchange, completed: MakeExchange
) -> None:
    first = make_exchange(idempotency_key="key-1", request_hash="one")
    store.begin(first, BOUNDS, claim((USER, tokens(500))))
    again = make_exchange(id=first.id, idempotency_key="key-1", request_hash="one")
    for _ in range(2):
        with pytest.raises(IdempotencyInProgress):
            store.begin(again, BOUNDS, claim((USER, tokens(500))))
    assert accounts(store) == {("anonymous", "ada", "2026-11-23"): (0, 0, 50, 0)}
    store.finish(completed(first, final=True))
    with pytest.raises(IdempotencyInProgress):
        store.begin(again, BOUNDS, claim((USER, tokens(500))))
    assert accounts(store) == {("anonymous", "ada", "2026-11-23"): (15, 0, 0, 0)}


def test_the_next_attempt_reserves_anew_and_the_last_one_stays_spent(
    store: ConversationStore, make_exchange: MakeExchange, completed: MakeExchange
) -> None:
    fields = {"id": "same", "idempotency_key": "key-1", "request_hash": "one"}
    first, second = make_exchange(**fields), make_exchange(**fields)
    store.begin(first, BOUNDS, claim((USER, tokens(500)), may_use=50))
    store.finish(failed(first, usage=Usage(prompt_tokens=1, completion_tokens=2)))
    store.begin(second, BOUNDS, claim((USER, tokens(500)), may_use=60))
    assert accounts(store) == {("anonymous", "ada", "2026-11-23"): (3, 0, 60, 0)}
    store.finish(completed(second))
    assert accounts(store) == {("anonymous", "ada", "2026-11-23"): (18, 0, 0, 0)}
    assert usage(store) == {("anonymous", "ada", "2026-11-23"): (2, 1, 11, 0, 7, 0, 2, 0)}


def test_the_next_attempt_after_a_process_died_spends_the_estimate_of_the_one_that_died(
    store: ConversationStore, make_exchange: MakeExchange, completed: MakeExchange
) -> None:
    fields = {"id": "same", "idempotency_key": "key-1", "request_hash": "one"}
    first = make_exchange(**fields)
    second = make_exchange(**fields, started_at=first.lease_until)
    store.begin(first, BOUNDS, claim((USER, tokens(500)), may_use=50))
    store.begin(second, BOUNDS, claim((USER, tokens(500)), may_use=60))
    with pytest.raises(ExchangeLost):
        store.finish(completed(first))
    assert accounts(store) == {("anonymous", "ada", "2026-11-23"): (50, 0, 60, 0)}


def test_a_next_attempt_that_is_refused_leaves_the_last_one_in_its_place(
    store: ConversationStore, make_exchange: MakeExchange
) -> None:
    fields = {"id": "same", "idempotency_key": "key-1", "request_hash": "one"}
    first = make_exchange(**fields)
    store.begin(first, BOUNDS, claim((USER, tokens(500))))
    store.finish(failed(first))
    store.begin(
        make_exchange(user_id="bob"),
        BOUNDS,
        claim((TOTAL, tokens(99)), (TOTAL, InFlight(amount=9))),
    )
    with pytest.raises(BudgetExceeded):
        store.begin(make_exchange(**fields), BOUNDS, claim((USER, tokens(99)), (TOTAL, tokens(99))))
    with pytest.raises(TooManyInFlight):
        store.begin(make_exchange(**fields), BOUNDS, claim((TOTAL, InFlight(amount=1))))
    found = store.find("same")
    assert found is not None
    assert found.state is State.FAILED
    assert accounts(store) == {("", "", "2026-11-23"): (0, 0, 50, 0)}
    store.begin(make_exchange(**fields), BOUNDS, claim())


# Calls in flight


@pytest.mark.parametrize("request_text", [None, REQUEST])
def test_as_many_calls_are_open_as_the_rule_allows(
    store: ConversationStore,
    make_exchange: MakeExchange,
    completed: MakeExchange,
    request_text: RequestText | None,
) -> None:
    rule = claim((CALLER, InFlight(amount=3)))
    opened = [make_exchange(user_id=f"user-{n}", request=request_text) for n in range(3)]
    for exchange in opened:
        store.begin(exchange, BOUNDS, rule)
    with pytest.raises(TooManyInFlight) as refused:
        store.begin(make_exchange(user_id="late", request=request_text), BOUNDS, rule)
    assert refused.value.rule == "caller 3 in flight"
    assert str(refused.value) == (
        "The caller limit of 3 in flight is reached; try again when an answer has come."
    )
    assert refused.value.retry_after_seconds == 1.0
    assert len(ids(store)) == 3
    store.finish(completed(opened[1]))
    store.begin(make_exchange(user_id="late", request=request_text), BOUNDS, rule)
    with pytest.raises(TooManyInFlight):
        store.begin(make_exchange(user_id="later", request=request_text), BOUNDS, rule)


def test_calls_in_flight_are_counted_by_user_by_caller_and_in_all(
    store: ConversationStore, make_exchange: MakeExchange
) -> None:
    numbers = (USER, InFlight(amount=1)), (CALLER, InFlight(amount=2)), (TOTAL, InFlight(amount=3))
    refused: list[tuple[str, str]] = []
    for caller, user_id in [
        ("one", "ada"),
        ("one", "ada"),
        ("one", "bob"),
        ("one", "eve"),
        ("two", "ada"),
        ("two", "bob"),
    ]:
        exchange = make_exchange(caller=caller, user_id=user_id, request=REQUEST)
        try:
            store.begin(exchange, BOUNDS, claim(*numbers))
        except TooManyInFlight as error:
            refused.append((f"{caller}/{user_id}", error.rule))
    assert refused == [
        ("one/ada", "user 1 in flight"),
        ("one/eve", "caller 2 in flight"),
        ("two/bob", "total 3 in flight"),
    ]


def test_too_many_calls_in_flight_reserve_nothing_in_a_budget(
    store: ConversationStore, make_exchange: MakeExchange
) -> None:
    rules = (TOTAL, tokens(500)), (TOTAL, InFlight(amount=1))
    store.begin(make_exchange(), BOUNDS, claim(*rules))
    with pytest.raises(TooManyInFlight):
        store.begin(make_exchange(user_id="bob"), BOUNDS, claim(*rules))
    assert accounts(store) == {("", "", "2026-11-23"): (0, 0, 50, 0)}
    assert ids(store) == ["exchange-0"]


def test_calls_that_nobody_will_finish_are_not_in_flight(
    store: ConversationStore, make_exchange: MakeExchange
) -> None:
    rules = (TOTAL, tokens(500)), (TOTAL, InFlight(amount=2))
    first, second = make_exchange(), make_exchange(user_id="bob")
    for exchange in (first, second):
        store.begin(exchange, BOUNDS, claim(*rules))
    just_before = first.lease_until - timedelta(microseconds=1)
    with pytest.raises(TooManyInFlight):
        store.begin(make_exchange(user_id="eve", started_at=just_before), BOUNDS, claim(*rules))
    at_its_end = {"started_at": first.lease_until, "lease_until": NEXT_YEAR}
    store.begin(make_exchange(user_id="eve", **at_its_end), BOUNDS, claim(*rules))
    assert accounts(store) == {("", "", "2026-11-23"): (50, 0, 100, 0)}
    with pytest.raises(TooManyInFlight):
        store.begin(make_exchange(user_id="joe", **at_its_end), BOUNDS, claim(*rules))


@pytest.mark.parametrize("request_text", [None, REQUEST])
def test_a_call_is_in_flight_until_it_has_its_outcome_whatever_that_is(
    store: ConversationStore,
    make_exchange: MakeExchange,
    completed: MakeExchange,
    request_text: RequestText | None,
) -> None:
    rules = (USER, InFlight(amount=2)), (CALLER, InFlight(amount=9)), (TOTAL, InFlight(amount=9))
    fields = {"idempotency_key": "key-1", "request_hash": "one", "request": request_text}
    answered, lost, erased = (make_exchange(user_id=name) for name in ("eve", "joe", "bob"))
    tried = make_exchange(**fields)
    for exchange in (answered, lost, erased, tried):
        store.begin(exchange, BOUNDS, claim(*rules))
    assert open_calls(store) == {
        **{("anonymous", name): 1 for name in ("ada", "bob", "eve", "joe")},
        ("anonymous", ""): 4,
        ("", ""): 4,
    }
    store.finish(completed(answered))
    store.erase("anonymous", "bob")
    store.finish(failed(tried))
    again = make_exchange(id=tried.id, **fields)
    store.begin(again, BOUNDS, claim(*rules))
    expected = {("anonymous", "ada"): 1, ("anonymous", "joe"): 1, ("anonymous", ""): 2, ("", ""): 2}
    assert open_calls(store) == expected
    for outcome in (completed(answered), failed(erased), failed(tried)):
        with pytest.raises(ExchangeLost):
            store.finish(outcome)
    assert open_calls(store) == expected
    assert store.recover(NEXT_YEAR) == 2
    assert open_calls(store) == {}


# Erasing


def test_an_open_exchange_that_is_erased_is_spent_at_its_estimate_under_nobodys_name(
    store: ConversationStore, make_exchange: MakeExchange, completed: MakeExchange
) -> None:
    exchange = make_exchange()
    rules = (USER, tokens(500)), (CALLER, tokens(500)), (CALLER, InFlight(amount=1))
    store.begin(exchange, BOUNDS, claim(*rules, cost=7))
    assert store.erase("anonymous", "ada") == 1
    with pytest.raises(ExchangeLost):
        store.finish(completed(exchange))
    assert usage(store) == {("anonymous", "", "2026-11-23"): (1, 0, 45, 0, 5, 1, 0, 7)}
    assert accounts(store) == {
        ("anonymous", "ada", "2026-11-23"): (50, 7, 0, 0),
        ("anonymous", "", "2026-11-23"): (50, 7, 0, 0),
    }
    store.begin(make_exchange(), BOUNDS, claim(*rules))  # nor is it in flight


def test_a_user_who_is_erased_has_spent_what_was_spent(
    store: ConversationStore, make_exchange: MakeExchange, completed: MakeExchange
) -> None:
    for user_id in ("ada", "bob"):
        exchange = make_exchange(user_id=user_id)
        store.begin(exchange, BOUNDS, claim((USER, tokens(60))))
        store.finish(completed(exchange, nanodollars=100))
    store.erase("anonymous", "ada")
    assert usage(store) == {
        ("anonymous", "", "2026-11-23"): (1, 1, 10, 0, 5, 0, 0, 100),
        ("anonymous", "bob", "2026-11-23"): (1, 1, 10, 0, 5, 0, 0, 100),
    }
    with pytest.raises(BudgetExceeded, match="15 are spent"):
        store.begin(make_exchange(), BOUNDS, claim((USER, tokens(60))))
    store.begin(make_exchange(), BOUNDS, claim((CALLER, tokens(80))))
    assert accounts(store)["anonymous", "", "2026-11-23"] == (30, 200, 50, 0)


def test_erasing_a_caller_forgets_what_its_users_budgets_hold_and_not_its_own(
    store: ConversationStore, make_exchange: MakeExchange, completed: MakeExchange
) -> None:
    rules = (USER, tokens(500)), (CALLER, tokens(500)), (TOTAL, tokens(500))
    for caller, user_id in (("one", "ada"), ("one", "bob"), ("two", "ada")):
        exchange = make_exchange(caller=caller, user_id=user_id)
        store.begin(exchange, BOUNDS, claim(*rules))
        if user_id == "ada":
            store.finish(completed(exchange))
    assert store.erase("one", None) == 2
    assert accounts(store) == {
        ("one", "", "2026-11-23"): (65, 0, 0, 0),
        ("two", "ada", "2026-11-23"): (15, 0, 0, 0),
        ("two", "", "2026-11-23"): (15, 0, 0, 0),
        ("", "", "2026-11-23"): (80, 0, 0, 0),
    }
    assert usage(store) == {
        ("one", "", "2026-11-23"): (2, 1, 55, 0, 10, 1, 2, 0),
        ("two", "ada", "2026-11-23"): (1, 1, 10, 0, 5, 0, 1, 0),
    }


def test_closing_and_opening_again_changes_no_account(
    open_store: OpenStore, make_exchange: MakeExchange, completed: MakeExchange
) -> None:
    store = open_store()
    exchange = make_exchange()
    store.begin(exchange, BOUNDS, claim((USER, tokens(500))))
    store.finish(completed(exchange))
    store.close()
    store.begin(make_exchange(), BOUNDS, claim((USER, tokens(500))))
    assert accounts(store) == {("anonymous", "ada", "2026-11-23"): (15, 0, 50, 0)}


def names_of_open_accounts(store: ConversationStore) -> set[str]:
    if isinstance(store, MemoryStore):
        return {key[1] for key in store.ledger.balances if key[2] == "open" and key[1]}
    assert isinstance(store, PeeweeStore)
    query = "SELECT user_id FROM spending WHERE period = 'open' AND user_id <> ''"
    rows = store.session.read(lambda file: file.reader.execute_sql(query).fetchall())
    return {name for (name,) in rows}


def test_a_count_of_calls_in_flight_goes_with_its_user_or_when_nothing_is_in_flight(
    store: ConversationStore, make_exchange: MakeExchange, completed: MakeExchange
) -> None:
    several = claim((USER, InFlight(amount=2)))
    for name in ("ada", "bob", "eve"):
        exchange = make_exchange(user_id=name)
        store.begin(exchange, BOUNDS, several)
        if name != "eve":
            store.finish(completed(exchange))
    assert names_of_open_accounts(store) == {"ada", "bob", "eve"}
    store.erase("anonymous", "ada")
    assert names_of_open_accounts(store) == {"bob", "eve"}
    store.purge_statistics(NEXT_YEAR)
    assert names_of_open_accounts(store) == {"eve"}  # whose call is still open


def test_of_budgets_over_the_same_account_the_one_that_can_never_admit_is_named(
    store: ConversationStore, make_exchange: MakeExchange
) -> None:
    store.begin(make_exchange(), BOUNDS, claim((TOTAL, tokens(60)), cost=5))
    both = claim((TOTAL, tokens(60)), (TOTAL, usd(10)), cost=20)
    with pytest.raises(ExceedsLimit, match="may take 0"):
        store.begin(make_exchange(user_id="bob"), BOUNDS, both)
