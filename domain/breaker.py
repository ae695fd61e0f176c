"""Leaving a provider alone that fails again and again, and noticing when it is back."""

import threading
from collections import deque
from collections.abc import Mapping

from .errors import (
    UpstreamAuthFailed,
    UpstreamError,
    UpstreamOverloaded,
    UpstreamQuotaExhausted,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from .ports import Clock

CONSECUTIVE_FAILURES = 5
"""Envoy's default for outlier detection, `consecutive_5xx`."""

REMEMBERED_CALLS = 20
"""More than half of so many failed: a provider that fails now and then all the time."""

OPEN_SECONDS: Mapping[type[UpstreamError], float] = {
    UpstreamAuthFailed: 60.0,
    UpstreamQuotaExhausted: 60.0,
    UpstreamTimeout: 10.0,
    UpstreamUnreachable: 10.0,
    UpstreamOverloaded: 10.0,
}
"""What counts as a failure, and for how long the breaker opens after it. A key or a credit is
repaired by people, which takes longer. Of a plain UpstreamError, see `_seconds_open`."""

SERVER_ERROR = 500
"""RFC 9110: from here on the statuses are the server's fault."""


class Breaker:
    """Decides whether one provider may be called. Safe for many threads.

    Closed, every call passes. After `CONSECUTIVE_FAILURES`, or when more than half of the last
    `REMEMBERED_CALLS` failed, it opens: no call passes for some seconds. Then a single call may
    probe; if it succeeds the breaker closes, if it fails it opens anew.

    What is told of a call counts only in the era in which it was admitted: an old stream that
    ends at last says nothing of a provider that has been left alone since.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failed_lately: deque[bool] = deque(maxlen=REMEMBERED_CALLS)
        self._consecutive = 0
        self._opened_by: UpstreamError | None = None
        self._open_until = 0.0
        self._probing = False
        self._era = 0

    def admit(self) -> "float | Call":
        """Return a call that may pass now, or in how many seconds to ask again."""
        with self._lock:
            if self._opened_by is not None:
                wait = self._open_until - self._clock.monotonic()
                if wait > 0 or self._probing:
                    return max(wait, 1.0)
                self._probing = True
                self._era += 1
            return Call(self, self._era)

    def _succeeded(self, era: int) -> None:
        with self._lock:
            if era != self._era:
                return
            if self._probing:
                self._close()
            self._consecutive = 0
            self._failed_lately.append(False)

    def _began(self, era: int) -> None:
        if self._probing:
            self._succeeded(era)

    def _failed(self, era: int, error: BaseException) -> None:
        seconds = _seconds_open(error)
        with self._lock:
            if era != self._era:
                return
            if seconds is None:
                self._probing = False
                return
            self._consecutive += 1
            self._failed_lately.append(True)
            if self._probing or self._has_failed_too_often():
                self._opened_by = error if isinstance(error, UpstreamError) else None
                self._open_until = self._clock.monotonic() + seconds
                self._probing = False
                self._era += 1

    def _forgotten(self, era: int) -> None:
        with self._lock:
            if era == self._era:
                self._probing = False

    @property
    def opened_by(self) -> UpstreamError | None:
        """Return the last failure, if the breaker is open or has not closed yet."""
        return self._opened_by

    def _has_failed_too_often(self) -> bool:
        failures = sum(self._failed_lately)
        many = len(self._failed_lately) == REMEMBERED_CALLS and 2 * failures > REMEMBERED_CALLS
        return many or self._consecutive >= CONSECUTIVE_FAILURES

    def _close(self) -> None:
        self._opened_by, self._probing = None, False
        self._era += 1
        self._failed_lately.clear()


class Call:
    """One admitted call; tell what becomes of it. What is told first of a probe counts."""

    def __init__(self, breaker: Breaker, era: int) -> None:
        self._breaker = breaker
        self._era = era

    def succeeded(self) -> None:
        """Note that the provider answered, be it with a refusal of the request."""
        self._breaker._succeeded(self._era)  # noqa: SLF001  # two halves of one thing

    def began(self) -> None:
        """Note that a stream says something: enough of a probe, which others wait for."""
        self._breaker._began(self._era)  # noqa: SLF001  # as above

    def failed(self, error: BaseException) -> None:
        """Note how the call ended that did not succeed."""
        self._breaker._failed(self._era, error)  # noqa: SLF001  # as above

    def forgotten(self) -> None:
        """Note that the call ended, whatever it says about the provider."""
        self._breaker._forgotten(self._era)  # noqa: SLF001  # as above


def _seconds_open(error: BaseException) -> float | None:
    """Return for how long this failure opens a breaker; None if it is none of the provider's."""
    for kind, seconds in OPEN_SECONDS.items():
        if isinstance(error, kind):
            return seconds
    if isinstance(error, UpstreamError) and (error.upstream_status or 0) >= SERVER_ERROR:
        return OPEN_SECONDS[UpstreamOverloaded]
    return None
