"""Who used what: questions to the log of usage, and its answers."""

from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum


class By(StrEnum):
    """What usage is added up by."""

    CALLER = "caller"
    USER = "user"
    MODEL = "model"
    DAY = "day"


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageQuery:
    """Which usage to add up.

    Attributes:
        by: One row for each of these.
        since: From this day on, in UTC; None for all.
        until: Up to this day, which counts; None for today.
        caller: Only this caller's; None for all.
        limit: How many rows at most.
        offset: How many rows to leave out: the next page.
    """

    by: By = By.CALLER
    since: date | None = None
    until: date | None = None
    caller: str | None = None
    limit: int = 100
    offset: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRow:
    """What was used.

    Attributes:
        name: The caller, model or day; of users, the caller and the user with a slash between,
            where an erased user's name is empty.
        calls: Exchanges that have ended.
        completed: Those of them that were completed.
        prompt_tokens: The cached ones too.
        estimated: Calls whose tokens are an estimate.
        unpriced: Calls whose model has no known price; they are not in `nanodollars`.
        nanodollars: What the priced calls cost, in 1e-9 USD.
    """

    name: str
    calls: int
    completed: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    estimated: int
    unpriced: int
    nanodollars: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusalQuery:
    """Which refusals to read.

    Attributes:
        since: Only minutes from this time on; None for all.
        caller: Only this caller's; None for all.
        limit: How many rows at most.
        offset: How many rows to leave out: the next page.
    """

    since: datetime | None = None
    caller: str | None = None
    limit: int = 100
    offset: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """How often one rule refused one caller in one minute.

    Attributes:
        rule: Such as `user 20 requests per minute`, or `login`.
        minute: Its beginning, in UTC.
    """

    caller: str
    rule: str
    minute: datetime
    count: int
