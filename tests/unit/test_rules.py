"""Limits and budgets as they are written, and calendar periods."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from chatport.domain import Budget, InFlight, Limit, Period, Unit
from chatport.domain.rules import dollars, notation, parse_budgets, parse_limits

TOKENS, USD, REQUESTS = Unit.TOKENS, Unit.USD, Unit.REQUESTS


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("", []),
        ("  ;; ", []),
        ("20/minute", [(20, 60, REQUESTS)]),
        ("20/minute;500/day", [(20, 60, REQUESTS), (500, 86_400, REQUESTS)]),
        ("20/minute, 5/second | 1/day",
         [(20, 60, REQUESTS), (5, 1, REQUESTS), (1, 86_400, REQUESTS)]),
        ("20 per minute", [(20, 60, REQUESTS)]),
        ("20 requests per 5 minutes", [(20, 300, REQUESTS)]),
        ("1 request/2hours", [(1, 7_200, REQUESTS)]),
        ("50000 tokens/minute", [(50_000, 60, TOKENS)]),
        ("50000 Tokens per Month", [(50_000, 2_592_000, TOKENS)]),
    ],
)  # fmt: skip
def test_limits_are_read(text: str, limits: list[Any]) -> None:
    found = [(rule.amount, rule.window_seconds, rule.unit) for rule in parse_limits(text)]  # type: ignore[union-attr]
    assert found == limits


def test_calls_in_flight_are_read() -> None:
    assert parse_limits("8 in flight") == (InFlight(amount=8),)
    assert parse_limits("2/second; 8  in  flight")[1] == InFlight(amount=8)


@pytest.mark.parametrize(
    ("text", "amount", "unit", "period"),
    [
        ("5 USD/day", 5_000_000_000, USD, Period.DAY),
        ("0.25 usd per month", 250_000_000, USD, Period.MONTH),
        ("0.000000001 USD/day", 1, USD, Period.DAY),
        ("1000000 tokens/month", 1_000_000, TOKENS, Period.MONTH),
        ("1 token per day", 1, TOKENS, Period.DAY),
    ],
)
def test_budgets_are_read(text: str, amount: int, unit: Unit, period: Period) -> None:
    assert parse_budgets(text) == (Budget(amount=amount, unit=unit, period=period),)


@pytest.mark.parametrize(
    "text",
    ["20", "minute", "20/fortnight", "-1/minute", "1.5/minute", "0/minute", "20/0 minutes",
     "x in flight", "0 in flight", "5 USD/minute", "٣/minute", "20/minute; oops",
     "1000000000001/day"],
)  # fmt: skip
def test_what_is_no_limit_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="limits such as"):
        parse_limits(text)


@pytest.mark.parametrize(
    "text",
    ["5", "5 USD", "5 EUR/day", "5 requests/day", "0 USD/day", "0 tokens/day", "-1 USD/day",
     "0.0000000001 USD/day", "5 USD/hour", "9999999999999 USD/day", "1.5 tokens/day"],
)  # fmt: skip
def test_what_is_no_budget_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="budgets such as"):
        parse_budgets(text)


limits = some.builds(
    Limit,
    amount=some.integers(1, 10**12),
    window_seconds=some.one_of(some.sampled_from([1, 60, 3600]), some.integers(1, 315_360_000)),
    unit=some.sampled_from([REQUESTS, TOKENS]),
)
in_flight = some.builds(InFlight, amount=some.integers(1, 10**12))
budgets = some.one_of(
    some.builds(
        Budget,
        amount=some.integers(1, 10**12),
        unit=some.just(TOKENS),
        period=some.sampled_from(Period),
    ),
    some.builds(
        Budget,
        amount=some.integers(1, 10**18),
        unit=some.just(USD),
        period=some.sampled_from(Period),
    ),
)


@given(some.lists(some.one_of(limits, in_flight)))
def test_limits_are_written_as_they_are_read(rules: list[Limit | InFlight]) -> None:
    assert parse_limits(notation(rules)) == tuple(rules)


@given(some.lists(budgets))
def test_budgets_are_written_as_they_are_read(rules: list[Budget]) -> None:
    assert parse_budgets(notation(rules)) == tuple(rules)


def test_a_rule_that_means_nothing_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="a limit is"):
        Limit(amount=1, window_seconds=60, unit=USD)
    for seconds in (0, 315_360_001):
        with pytest.raises(ValueError, match="a limit is"):
            Limit(amount=1, window_seconds=seconds)
    with pytest.raises(ValueError, match="a budget is"):
        Budget(amount=1, unit=REQUESTS, period=Period.DAY)
    with pytest.raises(ValueError, match="a rule allows"):
        Budget(amount=0, unit=TOKENS, period=Period.DAY)
    with pytest.raises(ValueError, match="a rule allows"):
        InFlight(amount=0)


def test_money_is_written_exactly() -> None:
    assert [dollars(n) for n in (5_000_000_000, 250_000_000, 500_000_000, 50, 0)] == [
        "5", "0.25", "0.50", "0.00000005", "0",
    ]  # fmt: skip


def test_periods_are_of_the_calendar_in_utc() -> None:
    newyear = datetime(2026, 12, 31, 23, 30, tzinfo=UTC)
    assert (Period.DAY.of(newyear), Period.MONTH.of(newyear)) == ("2026-12-31", "2026-12")
    assert Period.DAY.end(newyear) == Period.MONTH.end(newyear) == datetime(2027, 1, 1, tzinfo=UTC)
    east = datetime(2027, 1, 1, 1, 0, tzinfo=timezone(timedelta(hours=2)))
    assert Period.MONTH.of(east) == "2026-12"
    assert Period.MONTH.end(datetime(2028, 2, 29, 12, tzinfo=UTC)) == datetime(
        2028, 3, 1, tzinfo=UTC
    )
