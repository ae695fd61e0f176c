"""Exchanges in memory: for tests, and for embedding where nothing must be kept."""

import secrets
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime

from chatport.domain.errors import ConversationBusy, ExchangeLost, IdempotencyInProgress
from chatport.domain.history import History, HistoryBounds, PastTurn, newest_within
from chatport.domain.model import Exchange, LogQuery, State
from chatport.domain.ports import ConversationStore
from chatport.domain.relay import Once
from chatport.domain.retention import Purged, PurgeSpan
from chatport.domain.spending import NO_CLAIM, Claim

from . import memory_purge
from .memory_ledger import MemoryLedger
from .own_leases import OwnLeases


class MemoryStore(ConversationStore):
    """Keeps everything until the process ends. Linear in the number of exchanges."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._exchanges: dict[int, Exchange] = {}
        self._emptied: set[int] = set()
        self._last_number = 0
        self._leases = OwnLeases()
        self._pseudonym_key = secrets.token_bytes(32)
        self.ledger = MemoryLedger()
        self.refusals: Counter[tuple[str, str, datetime]] = Counter()

    def begin(self, exchange: Exchange, bounds: HistoryBounds, claim: Claim = NO_CLAIM) -> History:
        """Keep an open exchange and return what goes along with it."""
        with self._lock:
            now, lease = exchange.started_at, exchange.lease_until - exchange.started_at
            self._interrupt_abandoned(now)
            attempt = self._attempt_before(exchange)
            history = History(latest=self._latest())
            if exchange.request is None:
                past = newest_within(bounds, self._past_turns(exchange, attempt))
                history = replace(past, latest=history.latest)
            exchange = claim.estimated(exchange, history)
            if exchange.request is None:
                self._refuse_second_turn(exchange, now)
            self.ledger.claim(claim, exchange)
            if attempt is not None:
                del self._exchanges[attempt.number]
            self._last_number += 1
            self._exchanges[self._last_number] = replace(
                exchange, number=self._last_number, context_from=history.context_from
            )
            self._leases.grant(exchange.id, lease.total_seconds())
            return history

    def earlier(
        self, caller: str, once: Once, *, now: datetime, since: datetime
    ) -> Exchange | None:
        """Return what the request would repeat."""
        with self._lock:
            found = max(
                self._matching(lambda e: _is_repeated(e, caller, once, since)),
                key=lambda e: (
                    _is_open(e) and not self._is_abandoned(e, now),
                    not _is_open(e),
                    e.finished_at or since,
                    e.number,
                ),
                default=None,
            )
            if found is not None and _is_open(found) and self._is_abandoned(found, now):
                return found.interrupted(now)
            return found

    def checkpoint(self, exchange: Exchange) -> None:
        """Keep what has arrived so far."""
        with self._lock:
            for stored in self._matching(lambda e: _is_open_attempt(e, exchange)):
                self._exchanges[stored.number] = replace(
                    stored, reply=exchange.reply, answer=tuple(exchange.answer)
                )

    def finish(self, exchange: Exchange) -> None:
        """Keep the outcome."""
        with self._lock:
            stored = next(self._matching(lambda e: _is_open_attempt(e, exchange)), None)
            if stored is None:
                raise ExchangeLost
            self._exchanges[stored.number] = replace(
                exchange,
                number=stored.number,
                context_from=stored.context_from,
                answer=tuple(exchange.answer),
            )
            self._leases.end(exchange.id)
            self.ledger.settle(stored, exchange)

    def conversation(
        self, caller: str, user_id: str, *, before: int | None, limit: int
    ) -> Sequence[Exchange]:
        """Return a page of one user's exchanges, newest last."""
        query = LogQuery(caller=caller, user_id=user_id, before=before, limit=limit)
        return self.search(query)[::-1]

    def find(self, exchange_id: str, caller: str | None = None) -> Exchange | None:
        """Return one exchange."""
        with self._lock:
            return next(
                self._matching(lambda e: e.id == exchange_id and caller in {None, e.caller}), None
            )

    def search(self, query: LogQuery) -> Sequence[Exchange]:
        """Return a page of the log."""
        with self._lock:
            found = [*self._matching(lambda exchange: _matches(exchange, query))]
            found = (found[::-1] if query.oldest_first else found)[: query.limit]
            return [replace(exchange, request=None, answer=()) for exchange in found]

    def erase(self, caller: str, user_id: str | None) -> int:
        """Forget one user, or all of a caller's."""
        with self._lock:
            theirs = [
                *self._matching(lambda e: e.caller == caller and user_id in {None, e.user_id})
            ]
            for exchange in theirs:
                if _is_open(exchange):
                    self.ledger.settle(exchange, exchange)
                del self._exchanges[exchange.number]
            memory_purge.unname(self.ledger, caller, user_id)
            return len(theirs)

    def last_before(self, at: datetime) -> int:
        """Return the highest number of what started before then."""
        with self._lock:
            return memory_purge.last_before(self._exchanges, at)

    def purge(self, span: PurgeSpan, *, limit: int) -> Purged:
        """Delete or empty what is old."""
        with self._lock:
            return memory_purge.purge(self._exchanges, self._emptied, span, limit)

    def purge_statistics(self, before: datetime) -> int:
        """Delete old usage, refusals and spending."""
        with self._lock:
            return memory_purge.purge_statistics(self.ledger, self.refusals, before)

    def tidy(self) -> None:
        """Return: nothing is left in memory."""

    def pseudonym_key(self) -> bytes:
        """Return the key of this store's life."""
        return self._pseudonym_key

    def count_refusal(self, caller: str, rule: str, at: datetime) -> None:
        """Count a refusal."""
        with self._lock:
            self.refusals[caller, rule, at.replace(second=0, microsecond=0)] += 1

    def recover(self, now: datetime) -> int:
        """Interrupt what is open for too long; the process itself lives."""
        with self._lock:
            return self._interrupt_abandoned(now)

    def check(self) -> None:
        """Return: memory is always there."""

    def close(self) -> None:
        """Do nothing."""

    def _matching(self, wanted: Callable[[Exchange], bool]) -> Iterator[Exchange]:
        """Yield matching exchanges, newest first."""
        return (exchange for exchange in reversed(self._exchanges.values()) if wanted(exchange))

    def _attempt_before(self, new: Exchange) -> Exchange | None:
        """Return the attempt that this one replaces."""
        if new.idempotency_key is None:
            return None
        key = (new.caller, new.idempotency_key)
        old = next(self._matching(lambda e: (e.caller, e.idempotency_key) == key), None)
        if old is None:
            return None
        alive = _is_open(old) and not self._is_abandoned(old, new.started_at)
        if (old.id, old.request_hash) != (new.id, new.request_hash) or old.final or alive:
            raise IdempotencyInProgress
        return old

    def _latest(self) -> datetime | None:
        newest = next(self._matching(lambda _: True), None)
        return max(newest.started_at, newest.finished_at or newest.started_at) if newest else None

    def _is_abandoned(self, exchange: Exchange, at: datetime) -> bool:
        """Return whether nobody will finish an open exchange; a clock that is set ends no lease."""
        return exchange.lease_until <= at and not self._leases.holds(exchange.id)

    def _refuse_second_turn(self, new: Exchange, now: datetime) -> None:
        key = (new.caller, new.user_id)
        for exchange in self._matching(lambda e: _is_turn_of(e, *key) and _is_open(e)):
            if not self._is_abandoned(exchange, now):
                raise ConversationBusy

    def _interrupt_abandoned(self, now: datetime) -> int:
        """Interrupt what nobody will finish, and return how many they were."""
        over = set(self._leases.run_out())
        abandoned = [
            *self._matching(lambda e: _is_open(e) and (e.id in over or self._is_abandoned(e, now)))
        ]
        for exchange_id in over:
            self._leases.end(exchange_id)
        for exchange in abandoned:
            self._exchanges[exchange.number] = ended = exchange.interrupted(now)
            self.ledger.settle(exchange, ended)
        return len(abandoned)

    def _past_turns(self, new: Exchange, attempt: Exchange | None) -> Iterator[PastTurn]:
        for exchange in self._matching(
            lambda e: _is_turn_of(e, new.caller, new.user_id) and e.state is State.COMPLETED
        ):
            if attempt is not None and exchange.number == attempt.number:
                continue
            if exchange.number in self._emptied:
                continue  # it has no content any more
            yield PastTurn(exchange.number, exchange.prompt, exchange.reply, exchange.turn_tokens)


def _is_open(exchange: Exchange) -> bool:
    return exchange.state is State.OPEN


def _is_open_attempt(stored: Exchange, attempt: Exchange) -> bool:
    same = (stored.id, stored.started_at) == (attempt.id, attempt.started_at)
    return same and _is_open(stored)


def _is_turn_of(exchange: Exchange, caller: str, user_id: str) -> bool:
    return (exchange.caller, exchange.user_id) == (caller, user_id) and exchange.request is None


def _is_repeated(exchange: Exchange, caller: str, once: Once, since: datetime) -> bool:
    if exchange.caller != caller:
        return False
    if once.key is not None:
        return exchange.idempotency_key == once.key
    recent = exchange.finished_at is None or exchange.finished_at >= since
    return once.retry and exchange.request_hash == once.request_hash and recent


def _matches(exchange: Exchange, query: LogQuery) -> bool:
    words = (query.text or "").lower().split()
    said = f"{exchange.prompt} {exchange.reply}".lower().split()
    return (
        all(word in said for word in words)
        and query.caller in {None, exchange.caller}
        and query.user_id in {None, exchange.user_id}
        and query.state in {None, exchange.state}
        and (query.since is None or exchange.started_at >= query.since)
        and (query.before is None or exchange.number < query.before)
        and (query.after is None or exchange.number > query.after)
    )
