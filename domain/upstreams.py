"""Several providers as one: at most one more attempt, and none where a call may cost twice."""

import random
import threading
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TypeVar

from .breaker import SERVER_ERROR, Breaker, Call
from .errors import (
    ChatportError,
    UpstreamAuthFailed,
    UpstreamError,
    UpstreamHungUp,
    UpstreamModelUnavailable,
    UpstreamOverloaded,
    UpstreamQuotaExhausted,
    UpstreamRateLimited,
    UpstreamUnavailable,
    UpstreamUnreachable,
)
from .model import Completion, CompletionRequest, Delta
from .models import ModelCard
from .ports import Clock, LLMGateway

T = TypeVar("T")
Guarded = Sequence[tuple["Upstream", Breaker]]

RETRIED_STATUSES = frozenset({408, 409, 500, 502, 503, 504, 529})
"""The provider, or the gateway in front of it, says itself that there was no answer."""

LONGEST_WAIT_SECONDS = 5.0
"""A provider that asks for a longer wait is not asked again: the client learns of the wait."""

RETRY_SHARE = 0.2
FEWEST_RETRIES = 3
"""How many calls may be second attempts at once: Envoy's `retry_budget`, with its figures."""


def jitter() -> float:
    """Return how many seconds to wait before a second attempt, so that many do not come at once."""
    return random.uniform(0.2, 1.0)  # noqa: S311  # nobody gains from guessing it


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """One provider.

    Attributes:
        name: For the operator's eyes.
    """

    name: str
    gateway: LLMGateway


@dataclass(slots=True)
class _Attempts:
    """One request's way to an answer."""

    upstreams: Guarded
    request: CompletionRequest
    began: float
    count: int = 0
    tried: set[str] = field(default_factory=set)


class Upstreams(LLMGateway):
    """Asks the first provider whose breaker is closed, and perhaps once more, or another.

    A second attempt is made only before the first piece of an answer, only after a failure that
    cannot have been billed, only while there is time, and only for a fifth of all calls at once.
    It goes to the next provider in order, or where there is none, to the same one after a wait.

    Args:
        upstreams: In the order in which they are asked.
        clock: The time.
        total_seconds: How long all attempts together may take.
        jitter: Seconds before a second attempt on the same provider.
    """

    def __init__(
        self,
        upstreams: Sequence[Upstream],
        clock: Clock,
        *,
        total_seconds: float = 120.0,
        jitter: Callable[[], float] = jitter,
    ) -> None:
        self._chats = [(upstream, Breaker(clock)) for upstream in upstreams]
        # The lists fail for reasons of their own: some keys, and some servers, are for chats alone.
        self._lists = [(upstream, Breaker(clock)) for upstream in upstreams]
        self._clock = clock
        self._total = total_seconds
        self._jitter = jitter
        self._lock = threading.Lock()
        self._active = self._retrying = 0

    def complete(self, request: CompletionRequest) -> Completion:
        """Return the first whole answer."""
        attempts = self._attempts(self._chats, request)
        with self._counted():
            completion, call = self._answer(attempts, lambda gateway, r: gateway.complete(r))
        call.succeeded()
        return replace(completion, attempts=attempts.count)

    @contextmanager
    def stream(self, request: CompletionRequest) -> Iterator[Iterator[Delta]]:
        """Return the first stream that opens; it is never exchanged for another."""
        attempts = self._attempts(self._chats, request)
        with ExitStack() as closing, self._counted():
            deltas, call = self._answer(
                attempts, lambda gateway, r: closing.enter_context(gateway.stream(r))
            )
            watched = _watched(deltas, call, attempts.count)
            closing.callback(watched.close)
            closing.callback(call.forgotten)
            yield watched

    def models(self) -> Sequence[ModelCard]:
        """Return the models of the first provider that tells them."""
        attempts = self._attempts(self._lists, CompletionRequest(model=""))
        with self._counted():
            cards, call = self._answer(attempts, lambda gateway, _: gateway.models())
        call.succeeded()
        return cards

    def condition(self) -> str:
        """Return `ok`, or `degraded` and which providers are left alone, and why."""
        troubled = [
            f"degraded: {upstream.name} is left alone for now ({error.code})"
            for upstream, breaker in self._chats
            if (error := breaker.opened_by) is not None
        ]
        return "; ".join(troubled) or "ok"

    def _attempts(self, upstreams: Guarded, request: CompletionRequest) -> _Attempts:
        return _Attempts(upstreams, request, self._clock.monotonic())

    def _answer(
        self, attempts: _Attempts, ask: Callable[[LLMGateway, CompletionRequest], T]
    ) -> tuple[T, Call]:
        """Ask once, and perhaps once more."""
        upstream, call = _admitted(attempts.upstreams)
        try:
            return self._ask(attempts, upstream, call, ask), call
        except UpstreamError as error:
            wait = self._wait_before_retry(error, attempts)
            if wait is None or not self._may_retry():
                raise
            first = error
        try:
            again = _first(attempts.upstreams, attempts.tried) or self._same(
                upstream, wait, attempts
            )
            if again is None:
                raise first
            return self._ask(attempts, *again, ask), again[1]
        finally:
            with self._lock:
                self._retrying -= 1

    def _ask(
        self,
        attempts: _Attempts,
        upstream: Upstream,
        call: Call,
        ask: Callable[[LLMGateway, CompletionRequest], T],
    ) -> T:
        attempts.count += 1
        attempts.tried.add(upstream.name)
        request = replace(attempts.request, within_seconds=self._left(attempts))
        try:
            return ask(upstream.gateway, request)
        except BaseException as error:
            error.attempts = attempts.count  # type: ignore[attr-defined]  # any exception can carry it
            _note(error, call)
            raise

    def _same(
        self, upstream: Upstream, wait: float, attempts: _Attempts
    ) -> tuple[Upstream, Call] | None:
        """Wait, and return the same provider, if that may help, and it may be called then."""
        if not 0 <= wait < self._left(attempts):
            return None
        self._clock.sleep(wait)
        if not attempts.request.still_wanted():
            return None
        others = [each.name for each, _ in attempts.upstreams if each is not upstream]
        return _first(attempts.upstreams, others)

    def _wait_before_retry(self, error: UpstreamError, attempts: _Attempts) -> float | None:
        """Return the seconds to wait for the same provider; below 0 for another, None for none."""
        if error.may_be_billed or not attempts.request.still_wanted() or self._left(attempts) <= 0:
            return None
        if _is_of_account(error):
            return -1.0 if len(attempts.upstreams) > 1 else None
        told = error.retry_after_seconds if error.waits_as_told else None
        if told is not None and told > LONGEST_WAIT_SECONDS:
            return -1.0
        if isinstance(error, UpstreamRateLimited):
            return told if told is not None else -1.0
        if _is_passing(error):
            return max(told or 0.0, self._jitter())
        return None

    def _left(self, attempts: _Attempts) -> float:
        """Return how many seconds are left for all attempts together."""
        return self._total - (self._clock.monotonic() - attempts.began)

    def _may_retry(self) -> bool:
        with self._lock:
            allowed = self._retrying < max(FEWEST_RETRIES, RETRY_SHARE * self._active)
            self._retrying += allowed
            return allowed

    @contextmanager
    def _counted(self) -> Iterator[None]:
        with self._lock:
            self._active += 1
        try:
            yield
        finally:
            with self._lock:
                self._active -= 1


def _admitted(upstreams: Guarded, besides: Collection[str] = ()) -> tuple[Upstream, Call]:
    """Return the first provider that may be called.

    Raises:
        UpstreamUnavailable: None may.
    """
    waits = []
    for upstream, breaker in upstreams:
        if upstream.name in besides:
            continue
        admitted = breaker.admit()
        if isinstance(admitted, Call):
            return upstream, admitted
        waits.append(admitted)
    raise UpstreamUnavailable(retry_after_seconds=min(waits, default=1.0))


def _first(upstreams: Guarded, besides: Collection[str]) -> tuple[Upstream, Call] | None:
    try:
        return _admitted(upstreams, besides)
    except UpstreamUnavailable:
        return None


def _is_passing(error: UpstreamError) -> bool:
    """Return whether the failure is one that may be over in a moment."""
    if isinstance(error, UpstreamHungUp | UpstreamModelUnavailable):  # some say that with 503
        return False
    is_passing = isinstance(error, UpstreamUnreachable | UpstreamOverloaded)
    return is_passing or error.upstream_status in RETRIED_STATUSES


def _note(error: BaseException, call: Call) -> None:
    """Tell the breaker how a call ended: a refusal of the request is an answer too."""
    status = error.upstream_status if isinstance(error, ChatportError) else None
    is_answer = status is not None and status < SERVER_ERROR and not _is_ours(error)
    if is_answer or isinstance(error, UpstreamModelUnavailable):
        call.succeeded()
    else:
        call.failed(error)


def _is_of_account(error: UpstreamError) -> bool:
    """Return whether another provider, where we have another account, may well answer."""
    costs_more = error.upstream_status == 402  # noqa: PLR2004  # RFC 9110: payment required
    return costs_more or isinstance(error, UpstreamAuthFailed | UpstreamQuotaExhausted)


def _is_ours(error: BaseException) -> bool:
    """Return whether the provider refuses whoever asks, and not this request."""
    return isinstance(error, UpstreamAuthFailed | UpstreamQuotaExhausted | UpstreamRateLimited)


def _watched(deltas: Iterator[Delta], call: Call, attempts: int) -> Generator[Delta]:
    """Yield the pieces, and tell the breaker what became of them."""
    if attempts > 1:
        yield Delta(attempts=attempts)
    begun = False
    try:
        for delta in deltas:
            if not begun and delta.says_something:
                begun = True
                call.began()
            yield delta
        call.succeeded()
    except UpstreamError as error:
        call.failed(error)
        raise
    except GeneratorExit:  # the client left, and the provider was doing well
        if begun:
            call.succeeded()
        raise
