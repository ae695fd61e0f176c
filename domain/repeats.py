"""Requests that were made before: answered once, and never paid for twice."""

from collections.abc import Callable
from datetime import timedelta

from .errors import (
    CallerGone,
    ChatportError,
    IdempotencyInProgress,
    IdempotencyKeyReused,
    UpstreamDisconnected,
    UpstreamError,
    UpstreamHungUp,
    UpstreamInvalidResponse,
    UpstreamTimeout,
    UpstreamTruncated,
)
from .model import INTERRUPTED, Exchange, State, always
from .ports import Clock, ConversationStore
from .relay import Once

JOIN_WINDOW = timedelta(minutes=1)
"""How long after its end a request that is sent again still counts as the same."""

FIRST_LOOK_SECONDS = 0.05
LONGEST_LOOK_SECONDS = 1.0

FINAL: tuple[type[UpstreamError], ...] = (
    UpstreamTimeout,
    UpstreamHungUp,
    UpstreamDisconnected,
    UpstreamTruncated,
    UpstreamInvalidResponse,
)
"""The failures that may be billed, and so are not tried again under the same key."""


class Repeats:
    """Knows whether a request was made before, and what became of it."""

    def __init__(self, store: ConversationStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def earlier(
        self, caller: str, once: Once | None, still_wanted: Callable[[], bool] = always
    ) -> Exchange | None:
        """Return the ended exchange that the request repeats; None if it is new.

        If that is `final`, it is the answer. If not, its key is free for another attempt. A retry
        of a request that is still being answered waits for its end.

        Raises:
            IdempotencyKeyReused: The key was used for another request.
            IdempotencyInProgress: The request with this key is still being answered.
            CallerGone: Nobody waits any more.
        """
        if once is None or (once.key is None and not once.retry):
            return None
        if once.key is None:
            return self._joined(caller, once, still_wanted)
        found = self._find(caller, once)
        if found is None:
            return None
        if found.request_hash != once.request_hash:
            raise IdempotencyKeyReused
        if found.state is State.OPEN:
            raise IdempotencyInProgress
        return found

    def _joined(self, caller: str, once: Once, still_wanted: Callable[[], bool]) -> Exchange | None:
        seconds = FIRST_LOOK_SECONDS
        found = self._find(caller, once)
        while found is not None and found.state is State.OPEN:  # at the latest until its lease ends
            if not still_wanted():
                raise CallerGone
            self._clock.sleep(seconds)
            seconds = min(2 * seconds, LONGEST_LOOK_SECONDS)
            found = self._find(caller, once)
        return found if found is not None and found.final else None

    def _find(self, caller: str, once: Once) -> Exchange | None:
        now = self._clock.now()
        return self._store.earlier(caller, once, now=now, since=now - JOIN_WINDOW)


def attempts_of(earlier: Exchange) -> int:
    """Return how often an exchange was tried; one whose process died has not counted its last."""
    died = earlier.state is State.INTERRUPTED and earlier.error_code == INTERRUPTED
    return earlier.attempts + (1 if died else 0)


def error_of(exchange: Exchange) -> ChatportError | None:
    """Return the error with which an exchange failed, to be said once more; None if it did not."""
    if exchange.state is not State.FAILED:
        return None
    kind = next((kind for kind in FINAL if kind.code == exchange.error_code), UpstreamError)
    error = kind(
        upstream_status=exchange.upstream_status,
        upstream_request_id=exchange.upstream_request_id,
    )
    error.exchange_id, error.replayed, error.may_be_billed = exchange.id, True, exchange.final
    return error
