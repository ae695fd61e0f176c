"""What was used and refused, read from SQLite through peewee."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import peewee

from chatport.domain.admin_ports import UsageLog
from chatport.domain.usage import By, Refusal, RefusalQuery, UsageQuery, UsageRow

from .exchange_table import SQLITE, RefusalRow, timestamp
from .sqlite_session import SqliteSession

SUMS = (
    *("calls", "completed", "prompt_tokens", "cached_tokens", "completion_tokens"),
    *("estimated", "unpriced", "nanodollars"),
)
"""The columns that are added up; `UsageRow` names them so too."""


class UsageTable(peewee.Model):
    """What one user of one caller has used of one model on one day; `''` for erased users."""

    day = peewee.TextField()
    caller = peewee.TextField()
    user_id = peewee.TextField()
    model = peewee.TextField()
    calls = peewee.IntegerField()
    completed = peewee.IntegerField()
    prompt_tokens = peewee.IntegerField()
    cached_tokens = peewee.IntegerField()
    completion_tokens = peewee.IntegerField()
    estimated = peewee.IntegerField()
    unpriced = peewee.IntegerField()
    nanodollars = peewee.IntegerField()

    class Meta:
        """Made by the migrations."""

        database = SQLITE
        table_name = "usage"
        primary_key = peewee.CompositeKey("caller", "user_id", "day", "model")


class PeeweeUsage(UsageLog):
    """Reads the file of a session, without waiting for those who write.

    Args:
        session: The way to the file. Who made the session closes it.
    """

    def __init__(self, session: SqliteSession) -> None:
        self._session = session

    def usage(self, query: UsageQuery) -> Sequence[UsageRow]:
        """Return what was used, added up."""
        return self._session.search(
            lambda file: [UsageRow(**row) for row in _usage(query).dicts().execute(file.searcher)]
        )

    def refusals(self, query: RefusalQuery) -> Sequence[Refusal]:
        """Return what was refused."""
        return self._session.search(
            lambda file: [_refusal(row) for row in _refusals(query).dicts().execute(file.searcher)]
        )


def _usage(query: UsageQuery) -> Any:
    used: Any = UsageTable
    keys = {
        By.CALLER: (used.caller,),
        By.USER: (used.caller, used.user_id),
        By.MODEL: (used.model,),
        By.DAY: (used.day,),
    }[query.by]
    name = keys[0] if len(keys) == 1 else keys[0].concat("/").concat(keys[1])
    sums = {each: peewee.fn.SUM(getattr(used, each)) for each in SUMS}
    tokens = sums["prompt_tokens"] + sums["completion_tokens"]
    wanted = used.select(
        name.alias("name"), *(total.alias(each) for each, total in sums.items())
    ).group_by(*keys)
    for condition in _conditions(used, query):
        wanted = wanted.where(condition)
    dearest_first = (sums["nanodollars"].desc(), tokens.desc(), name.asc())
    order = (used.day.desc(),) if query.by is By.DAY else dearest_first
    return wanted.order_by(*order).limit(query.limit).offset(query.offset)


def _conditions(used: Any, query: UsageQuery) -> list[peewee.Expression]:
    conditions = []
    if query.since is not None:
        conditions.append(used.day >= query.since.isoformat())
    if query.until is not None:
        conditions.append(used.day <= query.until.isoformat())
    if query.caller is not None:
        conditions.append(used.caller == query.caller)
    return conditions


def _refusals(query: RefusalQuery) -> Any:
    refused: Any = RefusalRow
    wanted = refused.select(refused.caller, refused.rule, refused.minute, refused.count)
    if query.since is not None:
        began = refused.minute.concat(":00.000000+00:00")
        wanted = wanted.where(began >= timestamp(query.since))
    if query.caller is not None:
        wanted = wanted.where(refused.caller == query.caller)
    order = (refused.minute.desc(), refused.caller, refused.rule)
    return wanted.order_by(*order).limit(query.limit).offset(query.offset)


def _refusal(row: dict[str, Any]) -> Refusal:
    minute = datetime.fromisoformat(row["minute"]).replace(tzinfo=UTC)
    return Refusal(caller=row["caller"], rule=row["rule"], minute=minute, count=row["count"])
