"""Purging what `MemoryStore` keeps. Whoever calls holds the store's lock."""

from collections.abc import MutableMapping
from dataclasses import fields, replace
from datetime import UTC, datetime

from chatport.domain.model import Exchange, State
from chatport.domain.retention import Purged, PurgeSpan
from chatport.domain.rules import Period
from chatport.domain.spending import OPEN

from .memory_ledger import MemoryLedger, Used

Exchanges = MutableMapping[int, Exchange]


def last_before(exchanges: Exchanges, at: datetime) -> int:
    """Return the highest number of what started before then."""
    return max((e.number for e in exchanges.values() if e.started_at < at), default=0)


def purge(exchanges: Exchanges, emptied: set[int], span: PurgeSpan, limit: int) -> Purged:
    """Delete or empty up to `limit` ended exchanges.

    Args:
        exchanges: By number.
        emptied: The numbers of those that have lost their content: no turns any more.
        span: Which.
        limit: How many at most.
    """
    wanted = [
        exchange
        for exchange in exchanges.values()
        if _is_wanted(exchange, span) and not (span.content_only and exchange.number in emptied)
    ][: limit + 1]
    for exchange in wanted[:limit]:
        if span.content_only:
            exchanges[exchange.number] = _without_content(exchange)
            emptied.add(exchange.number)
        else:
            del exchanges[exchange.number]
            emptied.discard(exchange.number)
    if len(wanted) > limit:
        return Purged(count=limit, until=wanted[limit].number - 1)
    return Purged(count=len(wanted), until=span.until)


def _is_wanted(exchange: Exchange, span: PurgeSpan) -> bool:
    return (
        span.after < exchange.number <= span.until
        and exchange.state is not State.OPEN
        and (span.before is None or exchange.started_at < span.before)
        and span.caller in {None, exchange.caller}
        and span.user_id in {None, exchange.user_id}
    )


def _without_content(exchange: Exchange) -> Exchange:
    return replace(
        exchange,
        prompt="",
        upstream_said=None,
        reply="",
        request=None,
        answer=(),
        idempotency_key=None,
        request_hash=None,
    )


def purge_statistics(
    ledger: MemoryLedger, refusals: MutableMapping[tuple[str, str, datetime], int], before: datetime
) -> int:
    """Delete what was counted in days, minutes and periods that were over before then."""
    day, month = (period.of(before) for period in (Period.DAY, Period.MONTH))
    minute = before.astimezone(UTC).replace(second=0, microsecond=0)
    days = [key for key in ledger.usage if key[2] < day]
    minutes = [key for key in refusals if key[2] < minute]
    ends = {7: month, 10: day}
    periods = [
        key
        for key, balance in ledger.balances.items()
        if key[2] < ends.get(len(key[2]), "") or (key[2] == OPEN and not balance.reserved.calls)
    ]
    for key in days:
        del ledger.usage[key]
    for at in minutes:
        del refusals[at]
    for period in periods:
        del ledger.balances[period]
    return len(days) + len(minutes) + len(periods)


def unname(ledger: MemoryLedger, caller: str, user_id: str | None) -> None:
    """Add the usage of one user, or of all the caller's, to that of nobody in particular."""
    for key in [*ledger.usage]:
        of_caller, of_user, *rest = key
        if of_caller == caller and of_user and user_id in {None, of_user}:
            used = ledger.usage.pop(key)
            nobody = ledger.usage.setdefault((caller, "", rest[0], rest[1]), Used())
            for field in fields(Used):
                total = getattr(nobody, field.name) + getattr(used, field.name)
                setattr(nobody, field.name, total)
    if user_id is None:
        for account in [key for key in ledger.balances if key[0] == caller and key[1]]:
            del ledger.balances[account]
    else:
        ledger.balances.pop((caller, user_id, OPEN), None)
