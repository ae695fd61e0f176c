"""Limits, what a request takes from them, and what is left."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """At most `amount` requests in a sliding window of `window_seconds`."""

    amount: int
    window_seconds: int

    def __post_init__(self) -> None:
        if self.amount < 1 or self.window_seconds < 1:
            raise ValueError("a limit allows at least 1 request in at least 1 second")

    def __str__(self) -> str:
        names = {1: "second", 60: "minute", 3600: "hour", 86400: "day"}
        return (
            f"{self.amount} per {names.get(self.window_seconds, f'{self.window_seconds} seconds')}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """One unit to take from one window.

    Attributes:
        rule: `user` or `total`; named in refusals and statistics.
        key: Whose window it is.
    """

    rule: str
    key: str
    limit: Limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """What is left of one limit.

    Attributes:
        remaining: Requests that would be admitted now.
        reset_seconds: Until a request more would be admitted than now.
        admitted: False if this limit refused the request.
    """

    charge: Charge
    remaining: int
    reset_seconds: float
    admitted: bool = True
