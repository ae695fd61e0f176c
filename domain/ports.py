"""What the domain asks of the outside. An adapter subclasses a port; a host's own need not.

Every method may be called from several threads at once, unless its docstring says otherwise.
Whoever makes an adapter closes it; the domain closes only what it has itself opened.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Protocol

from .history import History, HistoryBounds
from .model import Allowance, Charge, Completion, CompletionRequest, Delta, Exchange, LogQuery

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


class LLMGateway(Protocol):
    """Calls the provider. It raises only errors of `domain/errors.py`."""

    @abstractmethod
    def complete(self, request: CompletionRequest) -> Completion:
        """Return the whole answer. Call the provider at most once, and not for ever.

        Raises:
            UpstreamError: The provider failed; which subclass says how.
            ContentFiltered, ContextLengthExceeded: The provider refused the prompt.
        """

    @abstractmethod
    def stream(self, request: CompletionRequest) -> AbstractContextManager[Iterator[Delta]]:
        """Return a context manager over the pieces of an answer, in order.

        Nothing happens before it is entered. Entering opens the call and raises as `complete`
        does; iterating may raise an UpstreamError too; leaving always closes the call, at once
        and without reading on. A good end has delivered exactly one finish reason. While the
        provider is silent, empty pieces arrive every few seconds. One thread at a time.
        """


class ConversationStore(Protocol):
    """Keeps the exchanges: the memory and the log in one. Each method is one atomic operation.

    What a method has written when it returns survives kill -9 and power cuts, if the store
    keeps anything at all. Every method raises StorageUnavailable when it cannot do its work.
    """

    @abstractmethod
    def begin(self, exchange: Exchange, bounds: HistoryBounds) -> History:
        """Write an open exchange and return what goes along with it, of completed ones only.

        An older open exchange of the conversation whose lease has run out at
        `exchange.started_at`, or whose process is known to be dead, becomes `interrupted`.
        Its `context_from` is stored as that of the history returned.

        Raises:
            ConversationBusy: The conversation has an open exchange. Nothing was written.
        """

    @abstractmethod
    def checkpoint(self, exchange_id: str, reply: str) -> None:
        """Write what has arrived so far of an open exchange's answer, if it is still open."""

    @abstractmethod
    def finish(self, exchange: Exchange) -> None:
        """Write the outcome of an open exchange.

        Raises:
            ExchangeLost: It is not open any more: erased, or interrupted by another process.
        """

    @abstractmethod
    def conversation(
        self, caller: str, user_id: str, *, before: int | None, limit: int
    ) -> Sequence[Exchange]:
        """Return up to `limit` newest exchanges numbered below `before`, newest last."""

    @abstractmethod
    def find(self, exchange_id: str) -> Exchange | None:
        """Return the exchange with this public id, or None."""

    @abstractmethod
    def search(self, query: LogQuery) -> Sequence[Exchange]:
        """Return the exchanges that match every condition, in the order of their numbers."""

    @abstractmethod
    def erase(self, caller: str, user_id: str) -> int:
        """Delete all exchanges of one user, open ones too, and return how many they were."""

    @abstractmethod
    def count_refusal(self, caller: str, rule: str, at: datetime) -> None:
        """Add one to the count of what `rule` refused this caller in the minute of `at`."""

    @abstractmethod
    def recover(self, now: datetime) -> int:
        """Interrupt the open exchanges that nobody will finish, and return how many they were.

        Those are the ones whose lease has run out, and those of processes known to be dead.
        """

    @abstractmethod
    def check(self) -> None:
        """Return if the store can be read and written."""

    @abstractmethod
    def close(self) -> None:
        """Release what the store holds. Idempotent."""


class LimitCounter(Protocol):
    """Counts requests in sliding windows."""

    @abstractmethod
    def take(self, charges: Sequence[Charge]) -> Sequence[Allowance]:
        """Take one unit of every charge or, if any limit is reached, of none. One atomic step.

        Returns:
            An allowance for each charge, in the same order. If any says `admitted=False`,
            nothing was taken; its `reset_seconds` is when that limit would admit one request,
            if nobody else takes it first.
        """
