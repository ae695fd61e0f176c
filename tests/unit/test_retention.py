"""Purging in steps: how large they are, how long they wait, and what each kind leaves."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from chatport.adapters import MemoryStore
from chatport.domain import Exchange, HistoryBounds, LogQuery, State, Usage
from chatport.domain.retention import SMALLEST_STEP, Purged, PurgeSpan, Retention

from .conftest import FakeClock

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


class TimedStore(MemoryStore):
    """A store in which a purge takes time, and which remembers what it was asked."""

    def __init__(self, clock: FakeClock, cost: Callable[[int], float]) -> None:
        super().__init__()
        self.clock = clock
        self.cost = cost
        self.limits: list[int] = []
        self.said: list[str] = []

    def purge(self, span: PurgeSpan, *, limit: int) -> Purged:
        self.limits.append(limit)
        self.said.append("purge")
        done = super().purge(span, limit=limit)
        self.clock.passed += self.cost(done.count)
        return done

    def purge_statistics(self, before: datetime) -> int:
        self.said.append(f"statistics before {before:%H:%M}")
        return super().purge_statistics(before)

    def tidy(self) -> None:
        self.said.append("tidy")


class NappingClock(FakeClock):
    """A clock that remembers how long it slept."""

    def __init__(self) -> None:
        super().__init__()
        self.naps: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        super().sleep(seconds)


def fill(store: MemoryStore, count: int, **fields: Any) -> None:
    """Put in ended exchanges, one a second."""
    for n in range(count):
        at = NOON + timedelta(seconds=n)
        values: dict[str, Any] = {"caller": "app", "user_id": f"user-{n}", **fields}
        name = f"{values['caller']}-{n}"
        exchange = Exchange(
            **{"id": name, "route": "test", "model": "m", "prompt": "Hello", **values},
            started_at=at,
            lease_until=at + timedelta(hours=1),
        )
        store.begin(exchange, HistoryBounds())
        usage = Usage(prompt_tokens=3, completion_tokens=2)
        store.finish(
            replace(exchange, state=State.COMPLETED, finished_at=at, reply="Hi", usage=usage)
        )


@pytest.fixture
def clock() -> NappingClock:
    return NappingClock()


def store_of(clock: FakeClock, count: int, cost: Callable[[int], float]) -> TimedStore:
    store = TimedStore(clock, cost)
    fill(store, count)
    return store


def test_a_step_grows_until_it_takes_half_of_its_time(clock: NappingClock) -> None:
    store = store_of(clock, 200, lambda count: count / 8192)
    retention = Retention(store, clock)
    steps = list(retention.purge(retention.span(before=NOON + timedelta(hours=1))))
    assert store.limits == [16, 32, 40, 40, 40, 40]
    assert [step.count for step in steps] == [16, 32, 40, 40, 40, 32]
    assert [step.until for step in steps] == [16, 48, 88, 128, 168, 200]


def test_others_have_as_long_as_each_step_took(clock: NappingClock) -> None:
    store = store_of(clock, 48, lambda count: count / 8192)
    retention = Retention(store, clock)
    list(retention.purge(retention.span(before=NOON + timedelta(hours=1))))
    assert clock.naps == [16 / 8192, 32 / 8192]


def test_a_slow_disk_does_not_make_steps_smaller_than_sixteen(clock: NappingClock) -> None:
    store = store_of(clock, 48, lambda _: 0.5)
    retention = Retention(store, clock)
    list(retention.purge(retention.span(before=NOON + timedelta(hours=1))))
    assert store.limits == [16, 16, 16]


def test_steps_that_take_no_time_double_up_to_a_thousand(clock: NappingClock) -> None:
    store = store_of(clock, 1, lambda _: 0.0)
    for number in range(2, 3_101):  # `begin` looks at all that is there
        store._exchanges[number] = replace(store._exchanges[1], number=number)
    retention = Retention(store, clock)
    list(retention.purge(retention.span(before=NOON + timedelta(hours=1))))
    assert store.limits == [16, 32, 64, 128, 256, 512, 1000, 1000, 1000]


def test_a_span_has_the_numbers_of_what_is_there(clock: NappingClock) -> None:
    store = store_of(clock, 10, lambda _: 0.0)
    retention = Retention(store, clock)
    before = NOON + timedelta(seconds=7)
    span = retention.span(before=before, content_only=True, caller="app")
    assert span == PurgeSpan(after=0, until=7, before=before, content_only=True, caller="app")
    assert span.size == 7
    list(retention.purge(retention.span(before=NOON + timedelta(seconds=4))))
    assert retention.span(before=before).size == 3
    assert retention.span() == PurgeSpan(after=4, until=10)


def test_the_span_of_an_empty_log_is_empty(clock: NappingClock) -> None:
    retention = Retention(TimedStore(clock, lambda _: 0.0), clock)
    assert retention.span(before=NOON).size == 0
    assert retention.span() == PurgeSpan(after=0, until=0)
    assert list(retention.purge(retention.span(before=NOON))) == []


def test_a_span_that_is_older_than_the_log_has_no_size(clock: NappingClock) -> None:
    store = store_of(clock, 3, lambda _: 0.0)
    retention = Retention(store, clock)
    list(retention.purge(retention.span(before=NOON + timedelta(seconds=2))))
    span = retention.span(before=NOON)
    assert (span.after, span.until, span.size) == (2, 0, 0)


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ({}, ["purge", "statistics before 13:00", "tidy"]),
        ({"content_only": True}, ["purge", "tidy"]),
        ({"caller": "app"}, ["purge", "tidy"]),
    ],
)
def test_statistics_go_with_whole_exchanges_of_all_callers_only(
    clock: NappingClock, chosen: dict[str, Any], said: list[str]
) -> None:
    store = store_of(clock, 1, lambda _: 0.0)
    retention = Retention(store, clock)
    list(retention.purge(retention.span(before=NOON + timedelta(hours=1), **chosen)))
    assert store.said == said


def test_a_span_without_an_age_leaves_the_statistics(clock: NappingClock) -> None:
    store = store_of(clock, 1, lambda _: 0.0)
    retention = Retention(store, clock)
    list(retention.purge(retention.span()))
    assert store.said == ["purge", "tidy"]


def test_what_was_stopped_in_the_middle_goes_on_where_it_was(clock: NappingClock) -> None:
    store = store_of(clock, 28, lambda _: 0.0)
    retention = Retention(store, clock)
    steps = retention.purge(retention.span(before=NOON + timedelta(hours=1)))
    assert next(steps) == Purged(count=16, until=16)
    steps.close()  # type: ignore[attr-defined]  # it is a generator
    assert store.said == ["purge"]
    span = retention.span(before=NOON + timedelta(hours=1))
    assert span.after == 16
    assert sum(step.count for step in retention.purge(span)) == 12
    assert store.said[-1] == "tidy"


def test_a_caller_is_erased_with_its_open_exchanges_and_names(clock: NappingClock) -> None:
    store = store_of(clock, 17, lambda _: 0.0)
    fill(store, 2, caller="other")
    store.begin(
        Exchange(
            id="open",
            caller="app",
            user_id="ada",
            route="test",
            model="m",
            prompt="Hello",
            started_at=NOON,
            lease_until=NOON + timedelta(hours=1),
        ),
        HistoryBounds(),
    )
    steps = list(Retention(store, clock).erase_caller("app"))
    assert [step.count for step in steps] == [16, 1, 1]
    assert steps[-1].until == 20
    assert [found.id for found in store.search(LogQuery())] == ["other-1", "other-0"]
    users = {(caller, user) for caller, user, _, _ in store.ledger.usage}
    assert users == {("app", ""), ("other", "user-0"), ("other", "user-1")}


def test_a_user_is_erased_in_steps_and_what_is_open_at_last(clock: NappingClock) -> None:
    store = store_of(clock, 0, lambda count: count * 1e-3)
    fill(store, 40, user_id="ada")
    fill(store, 1, user_id="bob", caller="other")
    begun = replace(store.search(LogQuery(limit=1))[0], id="open", caller="app", user_id="ada")
    store.begin(replace(begun, state=State.OPEN, finished_at=None, usage=None), HistoryBounds())
    retention = Retention(store, clock)
    span = retention.span_of_user("app", "ada")
    assert (span.after, span.until) == (0, 42)  # bob's stands between
    steps = list(retention.erase_user("app", "ada"))
    assert all(span.after < step.until <= span.until for step in steps)
    assert max(step.count for step in steps) == SMALLEST_STEP
    assert steps[-1].count == 1
    assert sum(step.count for step in steps) == 41
    assert [found.user_id for found in store.search(LogQuery())] == ["bob"]
    assert len(store.limits) == len(steps) - 1 == len(clock.naps)


def test_of_a_user_who_never_was_nothing_is_erased(clock: NappingClock) -> None:
    store = store_of(clock, 3, lambda _count: 0.0)
    steps = list(Retention(store, clock).erase_user("app", "nobody"))
    assert [step.count for step in steps] == [0]
