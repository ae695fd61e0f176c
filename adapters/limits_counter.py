"""Counting as the `limits` library's sliding window counter does, in a storage of that library."""

from collections.abc import Sequence
from math import floor, inf
from typing import NamedTuple

from chatport.domain.allowance import Allowance, Charge
from chatport.domain.ports import LimitCounter
from chatport.domain.rules import Limit

from .window_table import WindowTable

TICK_SECONDS = 0.001
"""Added to waiting times: a limit admits again just after the moment computed, not at it."""


class LimitsCounter(LimitCounter):
    """Counts in a WindowTable; in one made before a fork, all processes count together.

    Its keys are our own, and its storage is asked directly: what `limits` does beyond that, the
    making of its keys, took half of a request's time here.
    """

    def __init__(self, table: WindowTable | None = None) -> None:
        self._table = table or WindowTable()

    def take(self, charges: Sequence[Charge]) -> Sequence[Allowance]:
        """Take every charge, or none."""
        with self._table.lock:
            taken: list[_Counts] = []
            for charge in charges:
                counts = self._acquire(charge)
                if counts.is_short:
                    self._undo(taken)
                    return [self._look(each).allowance(taken=0) for each in charges]
                taken.append(counts)
            return [each.allowance(taken=each.charge.amount) for each in taken]

    def correct(self, taken: Sequence[Allowance], amounts: Sequence[int]) -> None:
        """Make each charge one of another amount, in its own window."""
        with self._table.lock:
            for allowance, amount in zip(taken, amounts, strict=True):
                self._add(allowance.charge, allowance.window, amount - allowance.charge.amount)

    def _acquire(self, charge: Charge) -> "_Counts":
        """Take a charge if there is room, and return the counts as they were before."""
        limit = charge.limit
        admitted = self._table.acquire_sliding_window_entry(
            _key(charge), limit.amount, limit.window_seconds, charge.amount
        )
        window = self._table.last
        before = window.current - charge.amount if admitted else window.current
        return _Counts(charge, window.previous, self._table.last_left, before, window.start)

    def _undo(self, taken: Sequence["_Counts"]) -> None:
        for each in taken:
            self._add(each.charge, each.start, -each.charge.amount)

    def _add(self, charge: Charge, window: float, difference: int) -> None:
        self._table.correct(_key(charge), charge.limit.window_seconds, window, difference)

    def _look(self, charge: Charge) -> "_Counts":
        found = self._table.get_sliding_window(_key(charge), charge.limit.window_seconds)
        return _Counts(charge, *found[:3], 0.0)


def _key(charge: Charge) -> str:
    limit = charge.limit
    return f"{charge.rule}/{limit.unit}/{limit.amount}/{limit.window_seconds}/{charge.key}"


class _Counts(NamedTuple):
    """The two windows that count for a charge, and how many seconds the current one has left.

    The weighted count is `previous * left / window_seconds + current`, where `left` runs from
    `window_seconds` down to 0; then the current window becomes the previous one.
    """

    charge: Charge
    previous: int
    left: float
    current: int
    start: float

    @property
    def limit(self) -> Limit:
        return self.charge.limit

    @property
    def used(self) -> int:
        return floor(self.previous * self.left / self.limit.window_seconds + self.current)

    @property
    def is_short(self) -> bool:
        """Return whether less is left than the charge."""
        return self.used + self.charge.amount > self.limit.amount

    def allowance(self, *, taken: int) -> Allowance:
        """Return what is left after `taken` more; 0 taken is a refusal, if the limit is short."""
        now = self._replace(current=self.current + taken)
        short = taken == 0 and self.is_short
        room = self.limit.amount - self.charge.amount + 1 if short else now.used
        return Allowance(
            charge=self.charge,
            remaining=max(0, self.limit.amount - now.used),
            reset_seconds=now.seconds_until_below(min(room, self.limit.amount)),
            admitted=not short,
            window=self.start,
        )

    def seconds_until_below(self, target: int) -> float:
        """Return when the weighted count falls below `target`, if nobody takes more."""
        span = self.limit.window_seconds
        if target <= 0:
            return inf if self.is_short else 0.0
        if self.current < target:
            wait = self.left - (target - self.current) * span / self.previous
        else:
            wait = self.left + span - target * span / self.current
        return max(wait, 0.0) + TICK_SECONDS
