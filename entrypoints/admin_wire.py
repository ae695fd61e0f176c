"""The records of what admins send; like those of `wire.py`, each takes what its schema describes.

Limits and budgets are written as on the command line, in lower case: `20/minute; 8 in flight`.
"""

import re
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError
from typing_extensions import TypeAliasType

from chatport.domain.callers import CALLER_NAME

from .wire import (
    LARGEST_PAGE,
    LONGEST_MODEL,
    MAX_DIGITS,
    STRICT,
    ClosedQuery,
    Text,
    left_out,
    no_default,
    whole_number_from,
)

YEAR = 366 * 86_400
LARGEST_OFFSET = 10**MAX_DIGITS - 1
LONGEST_RULES = 500
"""Some twenty limits, each of which costs a request some work."""

MOST_MODELS = 100

AMOUNT = r"(1000000000000|[1-9][0-9]{0,11})"
ZEROES = "|".join(f"0{{{n}}}[1-9][0-9]{{0,{8 - n}}}" for n in range(9))
USD = rf"([1-9][0-9]{{0,8}}(\.[0-9]{{1,9}})?|0\.({ZEROES}))"
"""At most nine digits on each side, and not nothing."""

PER = " ?(/ ?|per )"
LIMIT = (
    rf"{AMOUNT}( in flight|( (requests?|tokens?))?{PER}"
    r"(([1-9][0-9]{0,7} )?second|([1-9][0-9]{0,5} )?minute|([1-9][0-9]{0,3} )?hour"
    r"|([1-9][0-9]{0,2} )?day|month)s?)"
)
"""Windows below the longest there is."""

BUDGET = rf"({AMOUNT} tokens?|{USD} USD){PER}(day|month)"


def _listed(rule: str) -> str:
    return rf"^({rule}(; ?{rule})*)?$"


LIMITS_PATTERN, BUDGETS_PATTERN = _listed(LIMIT), _listed(BUDGET)
MODEL_PATTERN = r"^[!-+.-~\-]([ -+.-~\-]*[!-+.-~\-])?$"
"""Printable ASCII without commas, which stand between models elsewhere."""

CALLER_NAME_PATTERN = f"^{CALLER_NAME.pattern}$"
DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


def _fits(pattern: str, problem: str) -> BeforeValidator:
    """Return a check that names the problem, where pydantic could only name a pattern."""
    compiled = re.compile(pattern.removeprefix("^").removesuffix("$"))

    def check(value: Any) -> Any:
        if isinstance(value, str) and not compiled.fullmatch(value):
            raise PydanticCustomError(problem, "")
        return value

    return BeforeValidator(check)


def _day(text: str) -> date:
    try:
        if DAY.fullmatch(text):
            return date.fromisoformat(text)
    except ValueError:
        pass  # such as the 30th of February
    raise PydanticCustomError("day", "")


def _integral(value: Any) -> Any:
    """Return a number without a fraction as an integer: JSON has them both ways."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Lifetime = Annotated[int, Field(ge=1, le=10 * YEAR), BeforeValidator(_integral)]
Overlap = Annotated[int, Field(ge=0, le=YEAR), BeforeValidator(_integral)]
CallerName = Annotated[
    str, Field(pattern=CALLER_NAME_PATTERN), _fits(CALLER_NAME_PATTERN, "caller_name")
]
Model = Annotated[
    str, Field(pattern=MODEL_PATTERN, max_length=LONGEST_MODEL), _fits(MODEL_PATTERN, "model_name")
]
Limits = TypeAliasType(
    "Limits",
    Annotated[
        str,
        Field(
            pattern=LIMITS_PATTERN,
            max_length=LONGEST_RULES,
            description="Limits such as `20/minute; 50000 tokens/hour; 8 in flight`; empty for"
            " none.",
        ),
        _fits(LIMITS_PATTERN, "limits"),
    ],
)
Budgets = TypeAliasType(
    "Budgets",
    Annotated[
        str,
        Field(
            pattern=BUDGETS_PATTERN,
            max_length=LONGEST_RULES,
            description="Budgets such as `5 USD/day; 1000000 tokens/month`; empty for none.",
        ),
        _fits(BUDGETS_PATTERN, "budgets"),
    ],
)
Models = Annotated[list[Model], Field(max_length=MOST_MODELS)]
RoleName = Literal["caller", "admin"]

Day = Annotated[date, BeforeValidator(_day)]
PageSize = Annotated[int, Field(ge=1, le=LARGEST_PAGE), BeforeValidator(whole_number_from(1))]
Offset = Annotated[int, Field(ge=0, le=LARGEST_OFFSET), BeforeValidator(whole_number_from(0))]
Number = Annotated[int, Field(ge=1, le=10**MAX_DIGITS - 1), BeforeValidator(whole_number_from(1))]
Word = Annotated[Text, Field(min_length=1, max_length=500)]

ROLE = "`caller` chats, `admin` looks after the service."
OF_ALL = "Of all its requests together; null for what the service sets for every caller."
OF_EACH = "Of each of its users; null for what the service sets for every user."
MODELS = "The models that it may name; empty for all."


class NewCaller(BaseModel):
    """A caller who gets a first key."""

    model_config = ConfigDict(**STRICT, extra="forbid")

    name: CallerName = Field(description="1 to 64 of `A-Z a-z 0-9 . _ -`; it stays for ever.")
    role: RoleName = Field(default="caller", description=ROLE)
    limits: Limits | None = Field(default=None, description=OF_ALL)
    budgets: Budgets | None = Field(default=None, description=OF_ALL)
    user_limits: Limits | None = Field(default=None, description=OF_EACH)
    user_budgets: Budgets | None = Field(default=None, description=OF_EACH)
    models: Models = Field(default=[], description=MODELS)
    expires_in_seconds: Lifetime | None = Field(
        default=None, description="How long the key is good; null for ever."
    )


class CallerChanges(BaseModel):
    """What to change of a caller. What is left out stays as it is."""

    model_config = ConfigDict(**STRICT, extra="forbid")

    role: RoleName = Field(default="caller", description=ROLE, json_schema_extra=no_default)
    limits: Limits | None = Field(default=None, description=OF_ALL, json_schema_extra=no_default)
    budgets: Budgets | None = Field(default=None, description=OF_ALL, json_schema_extra=no_default)
    user_limits: Limits | None = Field(
        default=None, description=OF_EACH, json_schema_extra=no_default
    )
    user_budgets: Budgets | None = Field(
        default=None, description=OF_EACH, json_schema_extra=no_default
    )
    models: Models = Field(default=[], description=MODELS, json_schema_extra=no_default)


class Rotation(BaseModel):
    """How a caller changes from its old keys to a new one."""

    model_config = ConfigDict(**STRICT, extra="forbid")

    overlap_seconds: Overlap = Field(
        description="How long the old keys still work; 0 to lock them out now."
    )
    expires_in_seconds: Lifetime | None = Field(
        default=None, description="How long the new key is good; null for ever."
    )


class UsagePage(ClosedQuery):
    """Which usage to show."""

    by: Literal["caller", "user", "model", "day"] = Field(
        default="caller", description="One row for each of these."
    )
    since: Day | None = Field(
        default=None,
        description="From this day on, in UTC. Left out, all.",
        json_schema_extra=left_out,
    )
    until: Day | None = Field(
        default=None,
        description="Up to this day, which counts. Left out, today.",
        json_schema_extra=left_out,
    )
    caller: Word | None = Field(
        default=None, description="Only this caller's.", json_schema_extra=left_out
    )
    limit: PageSize = Field(default=100, description="Rows on a page, and refusals.")
    offset: Offset = Field(default=0, description="The `next_offset` of the page before.")


class LogPage(ClosedQuery):
    """Which exchanges to show."""

    text: Word | None = Field(
        default=None,
        description='Words that must all occur in prompt or reply; `"quoted words"` follow each'
        " other; `OR`, `-word` and `word*` do what search engines do.",
        json_schema_extra=left_out,
    )
    caller: Word | None = Field(
        default=None, description="Only this caller's.", json_schema_extra=left_out
    )
    user: Word | None = Field(
        default=None, description="Only this user's.", json_schema_extra=left_out
    )
    state: Literal["open", "completed", "failed", "cancelled", "interrupted"] | None = Field(
        default=None,
        description="Only those that are open, or that ended so.",
        json_schema_extra=left_out,
    )
    since: Day | None = Field(
        default=None,
        description="Only those that began on this day, in UTC, or later.",
        json_schema_extra=left_out,
    )
    before: Number | None = Field(
        default=None,
        description="The `before` of the page that was read last. Left out, the newest page.",
        json_schema_extra=left_out,
    )
    limit: PageSize = Field(default=50, description="Exchanges on a page.")


class CallersPage(ClosedQuery):
    """Which callers to show."""

    after: CallerName | None = Field(
        default=None,
        description="The `after` of the page that was read last. Left out, the first page.",
        json_schema_extra=left_out,
    )
    limit: PageSize = Field(default=100, description="Callers on a page.")
