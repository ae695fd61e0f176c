"""How long things are kept: deleting what is old, in steps that hold up nobody."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from .model import LogQuery

if TYPE_CHECKING:
    from .ports import Clock, ConversationStore

STEP_SECONDS = 0.01
"""How long one step may hold the database; the service notices 50 ms."""

SMALLEST_STEP = 16
"""Exchanges. Fewer would not help: what then takes so long is the commit, not the exchanges."""

LARGEST_STEP = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PurgeSpan:
    """Which exchanges to delete, or to empty.

    Attributes:
        after: Only those with larger numbers.
        until: The last number.
        before: Only those that started before then; None for all. Where a clock was wrong,
            numbers alone do not tell.
        content_only: Delete prompt, reply, request and answer, and keep the row.
        caller: Only this caller's; None for all.
        user_id: Only this user's of the caller; None for all.
    """

    after: int = 0
    until: int
    before: datetime | None = None
    content_only: bool = False
    caller: str | None = None
    user_id: str | None = None

    @property
    def size(self) -> int:
        """Return how many numbers there are to go through."""
        return max(0, self.until - self.after)


@dataclass(frozen=True, slots=True, kw_only=True)
class Purged:
    """How many were purged, and the number up to which nothing of the span is left to do."""

    count: int
    until: int


class Retention:
    """Purges in small steps, and lets others work as long as each step took.

    Args:
        store: The log.
        clock: Measures the steps, and waits between them.
    """

    def __init__(self, store: "ConversationStore", clock: "Clock") -> None:
        self._store = store
        self._clock = clock

    def span(
        self,
        *,
        before: datetime | None = None,
        content_only: bool = False,
        caller: str | None = None,
    ) -> PurgeSpan:
        """Return the span of what started before then, or of all; its numbers are those in use."""
        return PurgeSpan(
            after=max(0, self._number(oldest=True) - 1),
            until=self._store.last_before(before) if before else self._number(oldest=False),
            before=before,
            content_only=content_only,
            caller=caller,
        )

    def span_of_user(self, caller: str, user_id: str) -> PurgeSpan:
        """Return the span of one user's exchanges."""
        return PurgeSpan(
            after=max(0, self._number(oldest=True, caller=caller, user_id=user_id) - 1),
            until=self._number(oldest=False, caller=caller, user_id=user_id),
            caller=caller,
            user_id=user_id,
        )

    def purge(self, span: PurgeSpan) -> Iterator[Purged]:
        """Purge a span; yield what each step has done, and tidy at the end.

        Open exchanges are left alone. Usage, refusals and spending of the days before
        `span.before` go too, unless only content goes, or only one caller's. Who stops in the
        middle can begin again: what is done stays done.
        """
        yield from self._steps(span)
        if span.before is not None and span.caller is None and not span.content_only:
            self._store.purge_statistics(span.before)
        self._store.tidy()

    def erase_caller(self, name: str) -> Iterator[Purged]:
        """Delete all exchanges of a caller, open ones at last; yield what each step has done.

        What was used stays, under no user's name. Whoever holds a key of the caller can fill the
        log again: it is to be revoked before.
        """
        span = self.span(caller=name)
        yield from self._steps(span)
        yield Purged(count=self._store.erase(name, None), until=span.until)

    def erase_user(self, caller: str, user_id: str) -> Iterator[Purged]:
        """Delete all exchanges of one user as `erase_caller` does those of a caller."""
        span = self.span_of_user(caller, user_id)
        yield from self._steps(span)
        yield Purged(count=self._store.erase(caller, user_id), until=span.until)

    def _steps(self, span: PurgeSpan) -> Iterator[Purged]:
        limit = SMALLEST_STEP
        while span.after < span.until:
            began = self._clock.monotonic()
            done = self._store.purge(span, limit=limit)
            seconds = self._clock.monotonic() - began
            yield done
            span = replace(span, after=done.until)
            limit = _fitting(limit, seconds)
            self._clock.sleep(seconds)

    def _number(
        self, *, oldest: bool, caller: str | None = None, user_id: str | None = None
    ) -> int:
        query = LogQuery(caller=caller, user_id=user_id, limit=1, oldest_first=oldest)
        found = self._store.search(query)
        return found[0].number if found else 0


def _fitting(limit: int, seconds: float) -> int:
    """Return how many exchanges take half of STEP_SECONDS, if `limit` of them took so long.

    Half, so that a step with larger ones than the last has room; at most twice as many as before.
    """
    room = STEP_SECONDS / 2 / seconds if seconds > 0 else 2.0
    return max(SMALLEST_STEP, min(LARGEST_STEP, int(limit * min(2.0, room))))
