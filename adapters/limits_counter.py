"""Counting with the `limits` library's sliding window counter."""

from collections.abc import Sequence
from functools import lru_cache
from math import floor
from typing import NamedTuple

from limits import RateLimitItem, RateLimitItemPerSecond, parse_many
from limits.strategies import SlidingWindowCounterRateLimiter

from chatport.domain.allowance import Allowance, Charge, Limit
from chatport.domain.ports import LimitCounter

from .window_table import WindowTable

TICK_SECONDS = 0.001
"""Added to waiting times: a limit admits again just after the moment computed, not at it."""


class LimitsCounter(LimitCounter):
    """Counts in a WindowTable; in one made before a fork, all processes count together."""

    def __init__(self, table: WindowTable | None = None) -> None:
        self._table = table or WindowTable()
        self._strategy = SlidingWindowCounterRateLimiter(self._table)

    def take(self, charges: Sequence[Charge]) -> Sequence[Allowance]:
        """Take one unit of every charge, or of none."""
        with self._table.lock:
            windows = [self._window(charge) for charge in charges]
            if any(window.used >= window.limit.amount for window in windows):
                return [window.allowance(taken=0) for window in windows]
            for charge in charges:
                self._strategy.hit(_item(charge.limit), charge.rule, charge.key)
            return [window.allowance(taken=1) for window in windows]

    def _window(self, charge: Charge) -> "_Window":
        key = _item(charge.limit).key_for(charge.rule, charge.key)
        counts = self._table.get_sliding_window(key, charge.limit.window_seconds)
        return _Window(charge, *counts[:3])


def parse_limits(text: str) -> tuple[Limit, ...]:
    """Parse the notation of `limits`, such as `20/minute;500/day`; empty text means no limit.

    Raises:
        ValueError: The text is not in that notation.
    """
    if not text.strip():
        return ()
    return tuple(
        Limit(amount=item.amount, window_seconds=item.get_expiry()) for item in parse_many(text)
    )


@lru_cache(maxsize=64)
def _item(limit: Limit) -> RateLimitItem:
    return RateLimitItemPerSecond(limit.amount, limit.window_seconds)


class _Window(NamedTuple):
    """The two windows that count for a charge, and how many seconds the current one has left.

    The weighted count is `previous * left / window_seconds + current`, where `left` runs from
    `window_seconds` down to 0; then the current window becomes the previous one.
    """

    charge: Charge
    previous: int
    left: float
    current: int

    @property
    def limit(self) -> Limit:
        return self.charge.limit

    @property
    def used(self) -> int:
        return floor(self.previous * self.left / self.limit.window_seconds + self.current)

    def allowance(self, *, taken: int) -> Allowance:
        """Return what is left after `taken` more; 0 taken is a refusal, if the limit is reached."""
        now = self._replace(current=self.current + taken)
        reached = self.used >= self.limit.amount
        return Allowance(
            charge=self.charge,
            remaining=max(0, self.limit.amount - now.used),
            reset_seconds=now.seconds_until_below(min(now.used, self.limit.amount)),
            admitted=not reached,
        )

    def seconds_until_below(self, target: int) -> float:
        """Return when the weighted count falls below `target`, if nobody takes more."""
        span = self.limit.window_seconds
        if target == 0:
            return 0.0
        if self.current < target:
            wait = self.left - (target - self.current) * span / self.previous
        else:
            wait = self.left + span - target * span / self.current
        return max(wait, 0.0) + TICK_SECONDS
