"""Reading the log: single exchanges whole, and pages of many."""

from collections.abc import Mapping
from datetime import datetime
from functools import cache
from typing import Any

import peewee
from playhouse.sqlite_ext import FTS5Model, SearchField

from chatport.domain.model import Exchange, LogQuery, State
from chatport.domain.relay import Once

from .exchange_queries import COLUMNS, exchange_queries
from .exchange_table import SQLITE, Compiled, ExchangeRow, hole, timestamp, to_exchange
from .life_sign import LifeSign
from .request_texts import RequestTexts

Row = Mapping[str, Any]

PAGE_COLUMNS = tuple(name for name in COLUMNS if name != "answer")
"""What a page of the log holds of each exchange."""


class WordIndex(FTS5Model):  # type: ignore[misc]  # playhouse has no types
    """The words of prompts and replies."""

    prompt = SearchField()
    reply = SearchField()

    class Meta:
        """Made by the migrations, and kept by triggers."""

        database = SQLITE
        table_name = "exchange_text"


class ExchangeReader:
    """Reads over a connection of its own; one thread at a time."""

    def __init__(self, database: peewee.Database, life_sign: LifeSign) -> None:
        self._database = database
        self._run: Any = database.execute_sql
        self._life_sign = life_sign
        self._queries = exchange_queries()
        self._texts = RequestTexts(database)

    def find(self, exchange_id: str, caller: str | None = None) -> Exchange | None:
        """Return one exchange, whole."""
        whole = self._queries.whole if caller is None else self._queries.whole_of_caller
        with self._snapshot():
            row = self._row(whole, {"public_id": exchange_id, "caller": caller})
            return self._whole(row) if row else None

    def earlier(self, caller: str, once: Once, now: datetime, since: datetime) -> Exchange | None:
        """Return the exchange that a request repeats."""
        with self._snapshot():
            if once.key is not None:
                key = {"caller": caller, "idempotency_key": once.key}
                row = self._row(self._queries.whole_of_key, key)
            else:
                row = self._with_hash(caller, once, now, since) if once.retry else None
            exchange = self._whole(row) if row else None
        if row and exchange and exchange.state is State.OPEN and self._is_abandoned(row, now):
            return exchange.interrupted(now)
        return exchange

    def _row(self, query: Compiled, values: Row) -> Row | None:
        found = self._run(query.sql, query.values(values)).fetchone()
        return dict(zip(COLUMNS, found, strict=True)) if found else None

    def _with_hash(self, caller: str, once: Once, now: datetime, since: datetime) -> Row | None:
        """Return the newest that is alive or else, of those since then, the one finished last."""
        stored: Any = ExchangeRow
        same = stored.select().where(
            (stored.caller == caller) & (stored.request_hash == once.request_hash)
        )
        is_open = same.where(stored.finished_at.is_null()).order_by(stored.id.desc())
        recent = same.where(stored.finished_at >= timestamp(since))
        unfinished: list[Row] = list(is_open.dicts().execute(self._database))
        alive = next((row for row in unfinished if not self._is_abandoned(row, now)), None)
        if alive is not None:
            return alive
        finished: Row | None = (
            recent.order_by(stored.finished_at.desc()).dicts().first(self._database)
        )
        return finished or next(iter(unfinished), None)

    def _is_abandoned(self, row: Row, now: datetime) -> bool:
        return self._life_sign.is_abandoned(row, timestamp(now))

    def _snapshot(self) -> Any:
        """Return a transaction that sees one state of the file, and waits for nobody."""
        return self._database.atomic("DEFERRED")

    def _whole(self, row: Row) -> Exchange:
        request = None
        if row["parameters_id"]:  # neither None, of a turn, nor CONTENT_PURGED
            request = self._texts.read(row["parameters_id"], row["messages_id"])
        return to_exchange(row, request)

    def search(self, query: LogQuery) -> list[Row]:
        """Return the rows that match, in the order of their numbers."""
        given = _given(query)
        search = _search(frozenset(given), oldest_first=query.oldest_first)
        rows = self._run(search.sql, search.values(given))
        return [dict(zip(PAGE_COLUMNS, row, strict=True)) for row in rows]


def _given(query: LogQuery) -> Row:
    """Return the values of those conditions that are set."""
    words: Any = WordIndex
    given: dict[str, Any] = {"caller": query.caller, "user_id": query.user_id}
    given |= {"state": query.state, "before": query.before, "after": query.after}
    given["limit"] = query.limit
    given["since"] = None if query.since is None else timestamp(query.since)
    given["text"] = None if query.text is None else words.web_query(query.text)
    return {name: value for name, value in given.items() if value is not None}


@cache
def _search(given: frozenset[str], *, oldest_first: bool) -> Compiled:
    """Return a query with these conditions; peewee takes longer to build it than SQLite to run."""
    stored: Any = ExchangeRow
    words: Any = WordIndex
    wanted = stored.select(*(getattr(stored, name) for name in PAGE_COLUMNS))
    if "text" in given:
        wanted = wanted.join(words, on=(words.rowid == stored.id))
    conditions = {
        "text": words.match(hole("text")),
        "caller": stored.caller == hole("caller"),
        "user_id": stored.user_id == hole("user_id"),
        "state": stored.state == hole("state"),
        "since": stored.started_at >= hole("since"),
        "before": stored.id < hole("before"),
        "after": stored.id > hole("after"),
    }
    for condition in (conditions[name] for name in conditions if name in given):
        wanted = wanted.where(condition)
    order = words.rowid if "text" in given else stored.id
    order = order.asc() if oldest_first else order.desc()
    return Compiled(wanted.order_by(order).limit(hole("limit")))
