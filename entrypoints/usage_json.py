"""Usage and refusals as JSON, for the command line and for admins."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, time
from typing import Any

from chatport.domain.admin_ports import UsageLog
from chatport.domain.rules import dollars
from chatport.domain.usage import Refusal, RefusalQuery, UsageRow


def encode_usage(row: UsageRow) -> dict[str, Any]:
    """Return a row for machines. Dollars are text, since they are exact."""
    return {
        "name": row.name,
        "calls": row.calls,
        "failed": row.calls - row.completed,
        "prompt_tokens": row.prompt_tokens,
        "cached_tokens": row.cached_tokens,
        "completion_tokens": row.completion_tokens,
        "estimated_calls": row.estimated,
        "unpriced_calls": row.unpriced,
        "cost_usd": dollars(row.nanodollars),
    }


def encode_refusal(refusal: Refusal) -> dict[str, Any]:
    """Return a refusal for machines."""
    return {
        "caller": refusal.caller,
        "rule": refusal.rule,
        "minute": refusal.minute.isoformat(),
        "count": refusal.count,
    }


def midnight(day: date | None) -> datetime | None:
    """Return when a day begins."""
    return datetime.combine(day, time.min, UTC) if day else None


def refusals(log: UsageLog, query: RefusalQuery, until: date | None) -> Iterator[Refusal]:
    """Yield all refusals of a query up to the end of a day, newest first, a page at a time."""
    offset = query.offset
    while page := log.refusals(replace(query, offset=offset)):
        yield from (each for each in page if until is None or each.minute.date() <= until)
        offset += len(page)
