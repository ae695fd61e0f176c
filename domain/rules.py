"""Limits and budgets: the rules that a request meets before anything is called."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TypeVar

NANODOLLARS = 1_000_000_000
"""In a dollar. The cheapest model's token costs some 20 of them."""

LARGEST_AMOUNT = 10**12
"""More than any limit can mean. Of nanodollars a million times that, which databases can count."""

LONGEST_WINDOW = 315_360_000
"""Seconds: ten years."""

WINDOWS = {"second": 1, "minute": 60, "hour": 3_600, "day": 86_400, "month": 2_592_000}
"""Seconds. A window's month has 30 days; a budget's is the calendar's."""


class Scope(StrEnum):
    """Whose requests a rule counts together."""

    USER = "user"
    CALLER = "caller"
    TOTAL = "total"


class Unit(StrEnum):
    """What a rule counts."""

    REQUESTS = "requests"
    TOKENS = "tokens"
    USD = "USD"


class Period(StrEnum):
    """A calendar period in UTC."""

    DAY = "day"
    MONTH = "month"

    def of(self, at: datetime) -> str:
        """Return the period's name, such as `2026-11-23` or `2026-11`."""
        return at.astimezone(UTC).isoformat()[: 10 if self is Period.DAY else 7]

    def end(self, at: datetime) -> datetime:
        """Return when the next period begins."""
        midnight = at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        if self is Period.DAY:
            return midnight + timedelta(days=1)
        return (midnight.replace(day=1) + timedelta(days=32)).replace(day=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """At most `amount` requests or tokens in a sliding window of `window_seconds`."""

    amount: int
    window_seconds: int
    unit: Unit = Unit.REQUESTS

    def __post_init__(self) -> None:
        _check_amount(self.amount)
        if not 1 <= self.window_seconds <= LONGEST_WINDOW or self.unit is Unit.USD:
            raise ValueError("a limit is in requests or tokens, in 1 second to 10 years")

    def __str__(self) -> str:
        names = {seconds: name for name, seconds in WINDOWS.items()}
        window = names.get(self.window_seconds, f"{self.window_seconds} seconds")
        return f"{_counted(self.amount, self.unit)} per {window}"


@dataclass(frozen=True, slots=True, kw_only=True)
class InFlight:
    """At most `amount` calls at the same time."""

    amount: int

    def __post_init__(self) -> None:
        _check_amount(self.amount)

    def __str__(self) -> str:
        return f"{self.amount} in flight"


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """At most `amount` tokens, or nanodollars where the unit is USD, in a calendar period."""

    amount: int
    unit: Unit
    period: Period

    def __post_init__(self) -> None:
        _check_amount(self.amount, LARGEST_AMOUNT * (10**6 if self.unit is Unit.USD else 1))
        if self.unit is Unit.REQUESTS:
            raise ValueError("a budget is in tokens or USD")

    def __str__(self) -> str:
        return f"{_counted(self.amount, self.unit)} per {self.period}"


Rule = Limit | InFlight | Budget
R = TypeVar("R", bound=Rule)


def _check_amount(amount: int, largest: int = LARGEST_AMOUNT) -> None:
    if not 1 <= amount <= largest:
        raise ValueError(f"a rule allows at least 1, and at most {largest}")


def _counted(amount: int, unit: Unit) -> str:
    if unit is Unit.USD:
        return f"{dollars(amount)} USD"
    return f"{amount} {unit.removesuffix('s') if amount == 1 else unit}"


def dollars(nanodollars: int) -> str:
    """Return an amount of money in dollars, exactly: `5`, `0.25`, `0.000050`."""
    whole, rest = divmod(nanodollars, NANODOLLARS)
    cents = f"{rest:09d}".rstrip("0")
    return f"{whole}.{cents:0<2}" if cents else str(whole)


# The notation in settings and on the command line; `str` of a rule is in it too.

LIMITS = "must be limits such as 20/minute; 50000 tokens/hour; 8 in flight"
BUDGETS = "must be budgets such as 5 USD/day; 1000000 tokens/month"

_LIMIT = re.compile(
    r"(\d{1,13})\s*(requests?|tokens?)?\s*(?:/|per\b)\s*(\d{0,9})\s*(second|minute|hour|day|month)s?",
    re.ASCII | re.IGNORECASE,
)
_IN_FLIGHT = re.compile(r"(\d{1,13})\s+in\s+flight", re.ASCII | re.IGNORECASE)
_BUDGET = re.compile(
    r"(?:(\d{1,13})\s*tokens?|(\d{1,13})(?:\.(\d{1,9}))?\s*USD)\s*(?:/|per\b)\s*(day|month)",
    re.ASCII | re.IGNORECASE,
)


def parse_limits(text: str) -> tuple[Limit | InFlight, ...]:
    """Parse limits, with semicolons between; empty text means none.

    Raises:
        ValueError: The text is not in that notation.
    """
    return _parsed(text, _limit, LIMITS)


def parse_budgets(text: str) -> tuple[Budget, ...]:
    """Parse budgets, with semicolons between; empty text means none.

    Raises:
        ValueError: The text is not in that notation.
    """
    return _parsed(text, _budget, BUDGETS)


def notation(rules: Sequence[Rule]) -> str:
    """Return the rules as they are parsed again."""
    return "; ".join(map(str, rules))


def _parsed(text: str, parse: Callable[[str], R | None], problem: str) -> tuple[R, ...]:
    pieces = [piece.strip() for piece in re.split("[;,|]", text) if piece.strip()]
    try:
        rules = [rule for piece in pieces if (rule := parse(piece)) is not None]
    except ValueError:  # an amount or a window that no rule can have
        rules = []
    if len(rules) < len(pieces):
        raise ValueError(problem)
    return tuple(rules)


def _limit(text: str) -> Limit | InFlight | None:
    if found := _IN_FLIGHT.fullmatch(text):
        return InFlight(amount=int(found[1]))
    if found := _LIMIT.fullmatch(text):
        amount, unit, times, window = found.groups()
        return Limit(
            amount=int(amount),
            window_seconds=int(times or 1) * WINDOWS[window.lower()],
            unit=Unit.TOKENS if (unit or "").lower().startswith("token") else Unit.REQUESTS,
        )
    return None


def _budget(text: str) -> Budget | None:
    found = _BUDGET.fullmatch(text)
    if found is None:
        return None
    tokens, whole, fraction, period = found.groups()
    if tokens is not None:
        return Budget(amount=int(tokens), unit=Unit.TOKENS, period=Period(period.lower()))
    amount = int(whole) * NANODOLLARS + int(f"{fraction or '':0<9}")
    return Budget(amount=amount, unit=Unit.USD, period=Period(period.lower()))
