"""Reading the log: single exchanges whole, and pages of many."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import peewee
from playhouse.sqlite_ext import FTS5Model, SearchField

from chatport.domain.model import Exchange, LogQuery, State
from chatport.domain.relay import Once

from .exchange_queries import exchange_queries
from .exchange_table import ExchangeRow, bound, timestamp, to_exchange
from .life_sign import LifeSign
from .request_texts import RequestTexts

Row = Mapping[str, Any]


class ExchangeReader:
    """Reads over a connection of its own; one thread at a time."""

    def __init__(self, database: peewee.Database, life_sign: LifeSign) -> None:
        self._database = database
        self._run: Any = database.execute_sql
        self._life_sign = life_sign
        self._stored = bound(ExchangeRow, database)
        self._words = _word_index(database)
        self._texts = RequestTexts(database)

    def find(self, exchange_id: str, caller: str | None = None) -> Exchange | None:
        """Return one exchange, whole."""
        wanted = self._stored.select().where(self._stored.public_id == exchange_id)
        if caller is not None:
            wanted = wanted.where(self._stored.caller == caller)
        with self._snapshot():
            row = wanted.dicts().first()
            return self._whole(row) if row else None

    def earlier(self, caller: str, once: Once, now: datetime, since: datetime) -> Exchange | None:
        """Return the exchange that a request repeats."""
        with self._snapshot():
            if once.key is not None:
                row = self._with_key(caller, once.key)
            else:
                row = self._with_hash(caller, once, now, since) if once.retry else None
            exchange = self._whole(row) if row else None
        if row and exchange and exchange.state is State.OPEN and self._is_abandoned(row, now):
            return exchange.interrupted(now)
        return exchange

    def _with_key(self, caller: str, key: str) -> Row | None:
        with_key = exchange_queries().with_key
        values = with_key.values({"caller": caller, "idempotency_key": key})
        found = self._run(with_key.sql, values).fetchone()
        if found is None:  # as before nearly every call that has a key
            return None
        row: Row = self._stored.select().where(self._stored.id == found[0]).dicts().get()
        return row

    def _with_hash(self, caller: str, once: Once, now: datetime, since: datetime) -> Row | None:
        """Return the newest that is alive or else, of those since then, the one finished last."""
        stored = self._stored
        same = stored.select().where(
            (stored.caller == caller) & (stored.request_hash == once.request_hash)
        )
        is_open = same.where(stored.finished_at.is_null()).order_by(stored.id.desc())
        recent = same.where(stored.finished_at >= timestamp(since))
        unfinished: list[Row] = list(is_open.dicts())
        alive = next((row for row in unfinished if not self._is_abandoned(row, now)), None)
        if alive is not None:
            return alive
        finished: Row | None = recent.order_by(stored.finished_at.desc()).dicts().first()
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
        stored, words = self._stored, self._words
        columns = [field for field in stored._meta.sorted_fields if field.name != "answer"]  # noqa: SLF001  # peewee's documented name
        wanted = stored.select(*columns)
        if query.text is not None:
            wanted = wanted.join(words, on=(words.rowid == stored.id))
            wanted = wanted.where(words.match(words.web_query(query.text)))
        for condition in _conditions(stored, query):
            wanted = wanted.where(condition)
        order = words.rowid if query.text is not None else stored.id
        order = order.asc() if query.oldest_first else order.desc()
        return list(wanted.order_by(order).limit(query.limit).dicts())


def _word_index(database: peewee.Database) -> Any:
    class WordIndex(FTS5Model):  # type: ignore[misc]  # playhouse has no types
        prompt = SearchField()
        reply = SearchField()

        class Meta:
            table_name = "exchange_text"

    WordIndex.bind(database)
    return WordIndex


def _conditions(stored: Any, query: LogQuery) -> list[peewee.Expression]:
    exact = {stored.caller: query.caller, stored.user_id: query.user_id, stored.state: query.state}
    conditions = [column == value for column, value in exact.items() if value is not None]
    if query.since is not None:
        conditions.append(stored.started_at >= timestamp(query.since))
    if query.before is not None:
        conditions.append(stored.id < query.before)
    if query.after is not None:
        conditions.append(stored.id > query.after)
    return conditions
