"""The contract of UsageLog, for every adapter, over what its store has written."""

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from chatport.adapters import MemoryStore, MemoryUsage, PeeweeStore, PeeweeUsage
from chatport.domain import ConversationStore, Exchange, HistoryBounds, State, Usage
from chatport.domain.admin_ports import UsageLog
from chatport.domain.errors import StorageCorrupt
from chatport.domain.usage import By, Refusal, RefusalQuery, UsageQuery, UsageRow

Make = Callable[..., Exchange]
NOON = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
DAY = timedelta(days=1)


def log_of(store: ConversationStore) -> UsageLog:
    """Return the log of usage that belongs to a store."""
    if isinstance(store, MemoryStore):
        return MemoryUsage(store)
    assert isinstance(store, PeeweeStore)
    return PeeweeUsage(store.session)


@pytest.fixture
def log(store: ConversationStore) -> UsageLog:
    return log_of(store)


class Asker:
    """Puts ended exchanges into a store."""

    def __init__(self, store: ConversationStore, make: Make, completed: Make) -> None:
        self.store, self._make, self._completed = store, make, completed

    def __call__(
        self,
        user_id: str = "ada",
        *,
        prompt: int = 10,
        cached: int = 0,
        completion: int = 5,
        cost: int | None = 100,
        state: State = State.COMPLETED,
        used: bool = True,
        estimated: bool = False,
        **fields: Any,
    ) -> None:
        exchange = self._make(user_id=user_id, **fields)
        self.store.begin(exchange, HistoryBounds())
        usage = Usage(
            prompt_tokens=prompt,
            completion_tokens=completion,
            cached_tokens=cached,
            estimated=estimated,
        )
        self.store.finish(
            self._completed(exchange, state=state, usage=usage if used else None, nanodollars=cost)
        )


@pytest.fixture
def ask(store: ConversationStore, make_exchange: Make, completed: Make) -> Asker:
    return Asker(store, make_exchange, completed)


def names(rows: Sequence[UsageRow]) -> list[str]:
    return [row.name for row in rows]


def calls(rows: Sequence[UsageRow]) -> dict[str, int]:
    return {row.name: row.calls for row in rows}


def test_what_was_used_is_added_up_field_by_field(log: UsageLog, ask: Asker) -> None:
    ask(prompt=10, cached=4, completion=5, cost=100)
    ask("bob", prompt=20, cached=1, completion=7, cost=30, estimated=True)
    ask("bob", prompt=2, completion=3, cost=None)
    ask(state=State.FAILED, prompt=1, completion=0, cost=9)
    assert log.usage(UsageQuery()) == [
        UsageRow(
            name="anonymous",
            calls=4,
            completed=3,
            prompt_tokens=33,
            cached_tokens=5,
            completion_tokens=15,
            estimated=1,
            unpriced=1,
            nanodollars=139,
        )
    ]


def test_what_used_nothing_is_a_call_without_tokens_or_price(log: UsageLog, ask: Asker) -> None:
    ask(state=State.FAILED, used=False, cost=None)
    (row,) = log.usage(UsageQuery())
    assert (row.calls, row.completed, row.prompt_tokens, row.completion_tokens) == (1, 0, 0, 0)
    assert (row.estimated, row.unpriced, row.nanodollars) == (0, 0, 0)


def test_an_open_exchange_is_not_used_yet(
    log: UsageLog, store: ConversationStore, make_exchange: Make
) -> None:
    store.begin(make_exchange(), HistoryBounds())
    assert log.usage(UsageQuery()) == []


def test_an_exchange_that_was_interrupted_is_one_call(
    log: UsageLog, store: ConversationStore, make_exchange: Make
) -> None:
    exchange = make_exchange()
    store.begin(exchange, HistoryBounds())
    store.recover(exchange.lease_until)
    store.recover(exchange.lease_until + DAY)
    (row,) = log.usage(UsageQuery())
    assert (row.calls, row.completed) == (1, 0)


def test_usage_is_added_up_by_caller_user_model_and_day(log: UsageLog, ask: Asker) -> None:
    ask("ada", caller="shop", model="m-1", started_at=NOON)
    ask("ada", caller="blog", model="m-2", started_at=NOON, lease_until=NOON + DAY)
    ask("bob", caller="shop", model="m-2", started_at=NOON + DAY)
    assert calls(log.usage(UsageQuery(by=By.CALLER))) == {"shop": 2, "blog": 1}
    assert calls(log.usage(UsageQuery(by=By.USER))) == {"shop/ada": 1, "shop/bob": 1, "blog/ada": 1}
    assert calls(log.usage(UsageQuery(by=By.MODEL))) == {"m-1": 1, "m-2": 2}
    assert calls(log.usage(UsageQuery(by=By.DAY))) == {"2026-11-23": 2, "2026-11-24": 1}


@pytest.mark.parametrize("by", [By.CALLER, By.USER, By.MODEL])
def test_the_dearest_come_first_then_the_most_tokens_then_the_name(
    log: UsageLog, ask: Asker, by: By
) -> None:
    def used(name: str, **fields: Any) -> None:
        fixed: dict[str, Any] = {"caller": "c", "user_id": "u", "model": "m"}
        named = {By.CALLER: "caller", By.USER: "user_id", By.MODEL: "model"}[by]
        ask(**{**fixed, named: name, **fields})

    used("late", prompt=1, completion=1, cost=7)
    used("early", prompt=2, completion=0, cost=7)
    used("wordy", prompt=1, completion=2, cost=7)
    used("Upper", prompt=0, completion=2, cost=7)
    used("dear", prompt=0, completion=0, cost=9)
    used("unpriced", prompt=1000, completion=1000, cost=None)
    found = [name.removeprefix("c/") for name in names(log.usage(UsageQuery(by=by)))]
    assert found == ["dear", "wordy", "Upper", "early", "late", "unpriced"]


def test_of_days_the_newest_come_first(log: UsageLog, ask: Asker) -> None:
    for days, cost in [(1, 5), (0, 50), (40, 1), (2, 500)]:
        ask(started_at=NOON + days * DAY, cost=cost)
    assert names(log.usage(UsageQuery(by=By.DAY))) == [
        "2027-01-02",
        "2026-11-25",
        "2026-11-24",
        "2026-11-23",
    ]


def test_a_day_is_that_of_the_start_in_utc(log: UsageLog, ask: Asker) -> None:
    last_second = datetime(2026, 11, 23, 23, 59, 59, tzinfo=UTC)  # it ends on the next day
    ask(started_at=last_second, lease_until=last_second + DAY)
    assert names(log.usage(UsageQuery(by=By.DAY))) == ["2026-11-23"]


@pytest.mark.parametrize(
    ("since", "until", "found"),
    [
        (None, None, ["2026-11-25", "2026-11-24", "2026-11-23"]),
        (date(2026, 11, 24), None, ["2026-11-25", "2026-11-24"]),
        (None, date(2026, 11, 24), ["2026-11-24", "2026-11-23"]),
        (date(2026, 11, 24), date(2026, 11, 24), ["2026-11-24"]),
        (date(2026, 11, 26), None, []),
        (None, date(2026, 11, 22), []),
        (date(2026, 11, 25), date(2026, 11, 23), []),
        (date.min, date.max, ["2026-11-25", "2026-11-24", "2026-11-23"]),
    ],
)
def test_both_ends_of_a_span_count(
    log: UsageLog, ask: Asker, since: date | None, until: date | None, found: list[str]
) -> None:
    for days in range(3):
        ask(started_at=NOON + days * DAY)
    assert names(log.usage(UsageQuery(by=By.DAY, since=since, until=until))) == found


@pytest.mark.parametrize("by", By)
def test_one_callers_usage_is_found_by_its_name(log: UsageLog, ask: Asker, by: By) -> None:
    ask(caller="shop")
    ask(caller="Shop")
    ask(caller="shop2")
    (row,) = log.usage(UsageQuery(by=by, caller="shop"))
    assert row.calls == 1
    assert log.usage(UsageQuery(by=by, caller="sho")) == []
    assert log.usage(UsageQuery(by=by, caller="' OR 1=1 --")) == []


@pytest.mark.parametrize("by", By)
def test_pages_lead_to_the_end_without_loss_or_repetition(
    log: UsageLog, ask: Asker, by: By
) -> None:
    for n in range(7):
        ask(f"u{n}", caller=f"c{n}", model=f"m{n}", started_at=NOON + n * DAY)
    whole = names(log.usage(UsageQuery(by=by)))
    pages = [log.usage(UsageQuery(by=by, limit=3, offset=start)) for start in (0, 3, 6, 9)]
    assert [len(page) for page in pages] == [3, 3, 1, 0]
    assert [name for page in pages for name in names(page)] == whole
    assert len(set(whole)) == 7


def test_usage_outlives_an_erased_user_under_no_name(
    log: UsageLog, store: ConversationStore, ask: Asker
) -> None:
    ask("ada", caller="shop", cost=3, prompt=1, completion=1)
    ask("bob", caller="shop", cost=4, prompt=1, completion=1)
    ask("ada", caller="blog", cost=2, prompt=1, completion=1)
    store.erase("shop", "ada")
    store.erase("shop", "bob")
    by_user = log.usage(UsageQuery(by=By.USER))
    assert [(row.name, row.calls, row.nanodollars) for row in by_user] == [
        ("shop/", 2, 7),
        ("blog/ada", 1, 2),
    ]
    assert calls(log.usage(UsageQuery(by=By.CALLER))) == {"shop": 2, "blog": 1}


def test_another_store_on_the_same_file_sees_the_usage(
    store: ConversationStore, open_store: Callable[[], ConversationStore], ask: Asker
) -> None:
    ask()
    assert calls(log_of(open_store()).usage(UsageQuery())) == {"anonymous": 1}


def test_names_are_kept_as_they_are(log: UsageLog, ask: Asker) -> None:
    ask("@sum:1.2_3-", model="vendor/m 'x' \u202e")
    assert names(log.usage(UsageQuery(by=By.USER))) == ["anonymous/@sum:1.2_3-"]
    assert names(log.usage(UsageQuery(by=By.MODEL))) == ["vendor/m 'x' \u202e"]


def test_sums_are_larger_than_32_bits(log: UsageLog, ask: Asker) -> None:
    for _ in range(2):
        ask(prompt=2**40, completion=2**40, cost=10**17)
    (row,) = log.usage(UsageQuery())
    assert (row.prompt_tokens, row.completion_tokens) == (2**41, 2**41)
    assert row.nanodollars == 2 * 10**17


def test_an_empty_log_has_nothing(log: UsageLog) -> None:
    for by in By:
        assert log.usage(UsageQuery(by=by)) == []
    assert log.refusals(RefusalQuery()) == []


def test_refusals_come_by_minute_the_newest_first(log: UsageLog, store: ConversationStore) -> None:
    rule = "user 20 requests per minute"
    store.count_refusal("shop", rule, NOON + timedelta(seconds=1))
    store.count_refusal("shop", rule, NOON + timedelta(seconds=59, microseconds=999_999))
    store.count_refusal("shop", "login", NOON)
    store.count_refusal("blog", rule, NOON)
    store.count_refusal("shop", rule, NOON + timedelta(minutes=1))
    assert log.refusals(RefusalQuery()) == [
        Refusal(caller="shop", rule=rule, minute=NOON + timedelta(minutes=1), count=1),
        Refusal(caller="blog", rule=rule, minute=NOON, count=1),
        Refusal(caller="shop", rule="login", minute=NOON, count=1),
        Refusal(caller="shop", rule=rule, minute=NOON, count=2),
    ]
    assert [each.minute.utcoffset() for each in log.refusals(RefusalQuery())] == [timedelta()] * 4


@pytest.mark.parametrize(
    ("since", "minutes"),
    [
        (NOON, [2, 1, 0]),
        (NOON + timedelta(microseconds=1), [2, 1]),
        (NOON + timedelta(seconds=59), [2, 1]),
        (NOON + timedelta(minutes=2), [2]),
        (NOON + timedelta(minutes=3), []),
        (datetime(1, 1, 1, tzinfo=UTC), [2, 1, 0]),
    ],
)
def test_refusals_are_those_of_minutes_from_a_time_on(
    log: UsageLog, store: ConversationStore, since: datetime, minutes: list[int]
) -> None:
    for minute in range(3):
        store.count_refusal("shop", "login", NOON + timedelta(minutes=minute, seconds=30))
    found = log.refusals(RefusalQuery(since=since))
    assert [(each.minute - NOON) // timedelta(minutes=1) for each in found] == minutes


def test_one_callers_refusals_are_found_by_its_name(
    log: UsageLog, store: ConversationStore
) -> None:
    for caller in ("shop", "Shop", "shop2"):
        store.count_refusal(caller, "login", NOON)
    found = log.refusals(RefusalQuery(caller="shop"))
    assert [each.caller for each in found] == ["shop"]


def test_refusals_have_pages_too(log: UsageLog, store: ConversationStore) -> None:
    for n in range(7):
        store.count_refusal(f"c{n}", "login", NOON + timedelta(minutes=n // 3))
    whole = log.refusals(RefusalQuery())
    pages = [log.refusals(RefusalQuery(limit=3, offset=start)) for start in (0, 3, 6, 9)]
    assert [len(page) for page in pages] == [3, 3, 1, 0]
    assert [each for page in pages for each in page] == whole
    assert len({each.caller for each in whole}) == 7


def test_a_log_that_cannot_be_read_is_an_error_of_the_domain(tmp_path: Path) -> None:
    (tmp_path / "log.db").write_bytes(b"this is no database, and never was" * 100)
    store = PeeweeStore(tmp_path / "log.db")
    with pytest.raises(StorageCorrupt):
        PeeweeUsage(store.session).usage(UsageQuery())
    with pytest.raises(StorageCorrupt):
        PeeweeUsage(store.session).refusals(RefusalQuery())
