"""What was used and refused, read from a store in memory."""

from collections.abc import Callable, Sequence
from dataclasses import asdict

from chatport.domain.admin_ports import UsageLog
from chatport.domain.usage import By, Refusal, RefusalQuery, UsageQuery, UsageRow

from .memory_ledger import Used
from .memory_store import MemoryStore

Place = tuple[str, str, str, str]
"""Caller, user id, day and model."""

NAMES: dict[By, Callable[[Place], str]] = {
    By.CALLER: lambda place: place[0],
    By.USER: lambda place: f"{place[0]}/{place[1]}",
    By.DAY: lambda place: place[2],
    By.MODEL: lambda place: place[3],
}


class MemoryUsage(UsageLog):
    """Reads what a store in memory has counted."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    def usage(self, query: UsageQuery) -> Sequence[UsageRow]:
        """Return what was used, added up."""
        totals: dict[str, Used] = {}
        with self._store._lock:  # noqa: SLF001  # the store's counters, and so the store's lock
            for place, used in self._store.ledger.usage.items():
                if _is_wanted(place, query):
                    _add(totals.setdefault(NAMES[query.by](place), Used()), used)
        rows = [UsageRow(name=name, **asdict(used)) for name, used in totals.items()]
        if query.by is By.DAY:
            rows.sort(key=lambda row: row.name, reverse=True)
        else:
            rows.sort(key=_dearest_first)
        return rows[query.offset : query.offset + query.limit]

    def refusals(self, query: RefusalQuery) -> Sequence[Refusal]:
        """Return what was refused."""
        with self._store._lock:  # noqa: SLF001  # as above
            counted = [*self._store.refusals.items()]
        found = [
            Refusal(caller=caller, rule=rule, minute=minute, count=count)
            for (caller, rule, minute), count in counted
            if query.caller in {None, caller} and (query.since is None or minute >= query.since)
        ]
        found.sort(key=lambda refusal: (refusal.caller, refusal.rule))
        found.sort(key=lambda refusal: refusal.minute, reverse=True)
        return found[query.offset : query.offset + query.limit]


def _is_wanted(place: Place, query: UsageQuery) -> bool:
    caller, _, day, _ = place
    return (
        query.caller in {None, caller}
        and (query.since is None or day >= query.since.isoformat())
        and (query.until is None or day <= query.until.isoformat())
    )


def _dearest_first(row: UsageRow) -> tuple[int, int, str]:
    return (-row.nanodollars, -row.prompt_tokens - row.completion_tokens, row.name)


def _add(total: Used, used: Used) -> None:
    for name, amount in asdict(used).items():
        setattr(total, name, getattr(total, name) + amount)
