"""Who may ask: callers, and what each is allowed."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

from .errors import InvalidField
from .rules import Budget, InFlight, Limit

CALLER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Role(StrEnum):
    """What a caller may do: chat, or look after the service."""

    CALLER = "caller"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who holds an API key: an application with users of its own.

    Attributes:
        name: 1 to 64 of `A-Z a-z 0-9 . _ -`, the first a letter or digit.
        limits: Of all its requests together; None for what the service sets for every caller.
        budgets: As `limits`.
        user_limits: Of each of its users; None for what the service sets for every user.
        user_budgets: As `user_limits`.
        models: The models that it may name; empty for all that the service offers.

    Raises:
        InvalidField: The name is no name.
    """

    name: str
    role: Role = Role.CALLER
    limits: tuple[Limit | InFlight, ...] | None = None
    budgets: tuple[Budget, ...] | None = None
    user_limits: tuple[Limit | InFlight, ...] | None = None
    user_budgets: tuple[Budget, ...] | None = None
    models: Collection[str] = ()

    def __post_init__(self) -> None:
        if not CALLER_NAME.fullmatch(self.name):
            problem = "must be 1 to 64 of the characters A-Z a-z 0-9 . _ -, and begin with a letter"
            raise InvalidField("name", f"{problem} or digit")

    def may_use(self, model: str) -> bool:
        """Return whether the caller may name this model."""
        return not self.models or model in self.models


ANONYMOUS = Caller(name="anonymous")
"""The one caller of a service that has no keys yet."""
