"""The records of what admins get; like those of `answers.py`, the tests hold each answer to them.

The dollars are text, since they are exact.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from chatport.domain.keys import Condition
from chatport.domain.model import State

from .answers import Exact, Moment

Count = Annotated[int, Field(ge=0)]
Dollars = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]{2,9})?$")]


class UsageRow(Exact):
    """What was used."""

    name: str = Field(
        description="The caller, model or day; of users, `caller/user`. An erased user has no name."
    )
    calls: Count = Field(description="Exchanges that have ended.")
    failed: Count = Field(description="Those of them that were not completed.")
    prompt_tokens: Count
    cached_tokens: Count = Field(description="Those of the prompt that were sold for less.")
    completion_tokens: Count
    estimated_calls: Count = Field(description="Calls whose tokens are an estimate.")
    unpriced_calls: Count = Field(description="Calls without a known price; not in `cost_usd`.")
    cost_usd: Dollars


class Refusal(Exact):
    """How often one rule refused one caller in one minute."""

    caller: str
    rule: str
    minute: Moment
    count: Count


class UsageRows(Exact):
    """What was used, the dearest first (of days, the newest), and what was refused, newest first.

    One offset pages through both.
    """

    rows: list[UsageRow]
    refusals: list[Refusal]
    next_offset: int | None = Field(ge=1, description="Where there are more of either, their page.")


class LoggedExchange(Exact):
    """One prompt and what became of it."""

    id: str = Field(description="The `X-Request-Id` of the request.")
    number: int
    caller: str
    user_id: str
    state: State
    route: str
    model: str
    prompt: str
    reply: str = Field(description="The answer; what had arrived of one that broke off.")
    sanitized: bool = Field(description="The reply held what cannot be stored, now U+FFFD.")
    context_from: int | None = Field(description="Number of the oldest exchange that went along.")
    finish_reason: str | None
    prompt_tokens: int | None
    cached_tokens: int | None
    completion_tokens: int | None
    tokens_estimated: bool | None
    cost_usd: Dollars | None = Field(description="Null where no price is known.")
    error_code: str | None
    upstream_status: int | None
    upstream_request_id: str | None
    upstream_said: str | None = Field(
        description="The beginning of what the provider said about a failure, without keys."
    )
    attempts: int
    idempotency_key: str | None
    started_at: Moment
    finished_at: Moment | None


class WholeExchange(LoggedExchange):
    """One prompt and what became of it, with what was passed on."""

    request: Any = Field(default=None, description="What the client sent, if it was passed on.")
    response: Any = Field(default=None, description="What the provider answered to that.")


class LogPage(Exact):
    """Some exchanges, the newest first."""

    exchanges: list[LoggedExchange]
    before: int | None = Field(
        ge=1, description="Where there are older ones, the `before` of their page."
    )


class Key(Exact):
    """What is known of a key. The key itself nobody can tell."""

    id: str = Field(pattern="^[0-9a-f]{16}$", description="Its public part, after `cp_`.")
    created_at: Moment
    expires_at: Moment | None
    revoked_at: Moment | None
    condition: Condition = Field(description="Whether it opens anything now.")


class Caller(Exact):
    """Who holds keys, and what it may do. Limits that are null are the service's own."""

    name: str
    role: Literal["caller", "admin"]
    limits: str | None = Field(description="Of all its requests.")
    budgets: str | None = Field(description="Of all its requests.")
    user_limits: str | None = Field(description="Of each of its users.")
    user_budgets: str | None = Field(description="Of each of its users.")
    models: list[str] = Field(description="Those that it may name; empty for all.")
    keys: list[Key] = Field(description="Oldest first.")


class CallersPage(Exact):
    """Some callers, in the order of their names."""

    callers: list[Caller]
    after: str | None = Field(description="Where there are more, the `after` of their page.")


class KeyGiven(Exact):
    """A new key. It is in this answer and nowhere else: chatport keeps only its hash."""

    key: str = Field(pattern="^cp_[0-9a-f]{16}_[A-Za-z0-9_-]{43}$")
    caller: Caller


class Revoked(Exact):
    """What was revoked."""

    name: str
    revoked: Count = Field(description="How many keys it were.")
