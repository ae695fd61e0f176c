"""What the domain asks of the outside. An adapter subclasses a port; a host's own need not.

Every method may be called from several threads at once, unless its docstring says otherwise.
Whoever makes an adapter closes it; the domain closes only what it has itself opened.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Protocol

from .allowance import Allowance, Charge
from .history import History, HistoryBounds
from .model import (
    Completion,
    CompletionRequest,
    Delta,
    Exchange,
    LogQuery,
    Usage,
)
from .models import ModelCard
from .relay import Once
from .retention import Purged, PurgeSpan
from .spending import NO_CLAIM, Claim

NewId = Callable[[], str]
"""Returns an id that was never returned before and that nobody can guess (128 random bits)."""


class Clock(Protocol):
    """Tells the time."""

    @abstractmethod
    def now(self) -> datetime:
        """Return the wall-clock time, aware and in UTC. It may jump; it is data, no measure."""

    @abstractmethod
    def monotonic(self) -> float:
        """Return seconds that only grow, for durations."""

    @abstractmethod
    def sleep(self, seconds: float) -> None:
        """Return after so many seconds."""


class LLMGateway(Protocol):
    """Calls the provider. It raises only errors of `domain/errors.py`."""

    @abstractmethod
    def complete(self, request: CompletionRequest) -> Completion:
        """Return the whole answer. Ask for it once, unless that cannot cost twice; not for ever.

        Raises:
            UpstreamError: The provider failed; which subclass says how.
            ContentFiltered, ContextLengthExceeded: The provider refused the prompt. For a request
                that was passed on as it was, these and the errors of its making have the
                provider's own words.
        """

    @abstractmethod
    def stream(self, request: CompletionRequest) -> AbstractContextManager[Iterator[Delta]]:
        """Return a context manager over the pieces of an answer, in order.

        Nothing happens before it is entered. Entering opens the call and raises as `complete`
        does; iterating may raise an UpstreamError too; leaving always closes the call, at once
        and without reading on. A good end has delivered exactly one finish reason. While the
        provider is silent, empty pieces arrive every few seconds. One thread at a time.

        Raises:
            CallerGone: On entering, `request.still_wanted` said that nobody waits any more.
        """

    @abstractmethod
    def models(self) -> Sequence[ModelCard]:
        """Ask the provider which models it offers, and return them in its order.

        Raises:
            UpstreamError: The provider failed; which subclass says how.
        """


class PriceList(Protocol):
    """Knows what tokens cost."""

    @abstractmethod
    def cost(self, model: str, usage: Usage) -> int | None:
        """Return what the tokens of one call cost in nanodollars, rounded up.

        Returns:
            None if the price of the model is not known.
        """


class ConversationStore(Protocol):
    """Keeps the exchanges: the memory and the log in one. Each method is one atomic operation.

    What a method has written when it returns survives kill -9 and power cuts, if the store
    keeps anything at all. Every method raises StorageUnavailable when it cannot do its work.
    """

    @abstractmethod
    def begin(self, exchange: Exchange, bounds: HistoryBounds, claim: Claim = NO_CLAIM) -> History:
        """Write an open exchange and return what goes along with it, of completed ones only.

        An older open exchange of the conversation becomes `interrupted` if its process is known
        to be dead; if nothing is known of it, when its lease has run out at `exchange.started_at`;
        and if it is this one, when as much time has passed as the lease was for. Its
        `context_from` is stored as that of the history returned.

        An exchange with a `request` is no turn of a conversation: nothing goes along with it, it
        becomes nobody's history, and any number of them may be open. An ended exchange that has
        the same id, key and hash, and is not `final`, is replaced: this is its next attempt.

        The exchange is written as `claim.estimated` returns it, and what that may cost is
        reserved under every ceiling of the claim. It stays so until the exchange has its outcome:
        then what it did cost is spent, or what it might have cost, if its process died.

        Raises:
            Refused: By the claim, or because a budget has no room, or as many calls are open as
                a rule allows. Nothing was written or reserved.
            ConversationBusy: The conversation has an open exchange. Nothing was written.
            IdempotencyInProgress: Another exchange has this key. Nothing was written.
        """

    @abstractmethod
    def earlier(
        self, caller: str, once: Once, *, now: datetime, since: datetime
    ) -> Exchange | None:
        """Return the exchange that the request would repeat, whole; None if it is new.

        That is the one with the same key. Where the request has no key but is a retry, it is one
        with the same hash: the newest that is open and alive or else, of those finished at or
        after `since`, the one finished last. An exchange that is open but abandoned at `now` is
        returned, where there is no other, as it will be: `interrupted`.
        """

    @abstractmethod
    def checkpoint(self, exchange: Exchange) -> None:
        """Write what has arrived so far of an open exchange's answer, if it is still open."""

    @abstractmethod
    def finish(self, exchange: Exchange) -> None:
        """Write the outcome of an open exchange.

        Raises:
            ExchangeLost: It is not open any more: erased, interrupted by another process, or
                replaced by its next attempt, which has another `started_at`.
        """

    @abstractmethod
    def conversation(
        self, caller: str, user_id: str, *, before: int | None, limit: int
    ) -> Sequence[Exchange]:
        """Return up to `limit` newest exchanges numbered below `before`, newest last."""

    @abstractmethod
    def find(self, exchange_id: str, caller: str | None = None) -> Exchange | None:
        """Return the exchange with this public id, whole, or None.

        Args:
            exchange_id: Its public id.
            caller: Whose it must be; None for an operator, who may read all.
        """

    @abstractmethod
    def search(self, query: LogQuery) -> Sequence[Exchange]:
        """Return the exchanges that match every condition, in the order of their numbers.

        They come without their `request` and `answer`, which may be large.
        """

    @abstractmethod
    def erase(self, caller: str, user_id: str | None) -> int:
        """Delete all exchanges of one user, open ones too, and return how many they were.

        Of their texts nothing stays, except what another user's requests hold as well. What they
        have cost stays, under no user's name.

        Args:
            caller: Whose user it is.
            user_id: The user; None for all of the caller's, and what their budgets hold.
        """

    @abstractmethod
    def last_before(self, at: datetime) -> int:
        """Return the highest number of the exchanges that started before then; 0 for none."""

    @abstractmethod
    def purge(self, span: PurgeSpan, *, limit: int) -> Purged:
        """Delete what the span says from up to `limit` ended exchanges, lowest numbers first.

        Others wait for milliseconds only: where exchanges are large, it takes fewer, or only a
        part of one, which then reads as a shorter one. What they have cost stays. Their words
        leave the search index now, and the file's own leftovers with `tidy`.

        Returns:
            How many were purged, which may be none, and how far the span is done: at `span.until`
            nothing is left.
        """

    @abstractmethod
    def purge_statistics(self, before: datetime) -> int:
        """Delete usage, refusals and spending of days before then; return how many rows."""

    @abstractmethod
    def tidy(self) -> None:
        """Wipe what deleted texts have left in indexes and write-ahead logs.

        Raises:
            StorageBusy: Others were reading for too long; try again.
        """

    @abstractmethod
    def pseudonym_key(self) -> bytes:
        """Return 32 random bytes that were made with the store and stay the same."""

    @abstractmethod
    def count_refusal(self, caller: str, rule: str, at: datetime) -> None:
        """Add one to the count of what `rule` refused this caller in the minute of `at`."""

    @abstractmethod
    def recover(self, now: datetime) -> int:
        """Interrupt the open exchanges that nobody will finish, and return how many they were.

        Those are the ones that `begin` would interrupt.
        """

    @abstractmethod
    def check(self) -> None:
        """Return if the store can be read and written."""

    @abstractmethod
    def close(self) -> None:
        """Release what the store holds. Idempotent."""


class LimitCounter(Protocol):
    """Counts requests and tokens in sliding windows."""

    @abstractmethod
    def take(self, charges: Sequence[Charge]) -> Sequence[Allowance]:
        """Take every charge or, if any is more than its limit has left, none. One atomic step.

        Returns:
            An allowance for each charge, in the same order. If any says `admitted=False`,
            nothing was taken; its `reset_seconds` is when that limit would admit the charge, if
            nobody else takes it first, or infinite if the charge is more than the limit.
        """

    @abstractmethod
    def correct(self, taken: Sequence[Allowance], amounts: Sequence[int]) -> None:
        """Make each charge that was taken one of another amount, in the window it was taken from.

        What has left the windows already is left alone.
        """
