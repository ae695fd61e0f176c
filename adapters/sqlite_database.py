"""One open SQLite file: its connections, its queries, and what each does in a transaction."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import peewee
from playhouse.sqlite_ext import FTS5Model, SearchField

from chatport.domain.errors import ConversationBusy
from chatport.domain.history import History, HistoryBounds, PastTurn, newest_within
from chatport.domain.model import Exchange, LogQuery, State

from .exchange_table import Compiled, ExchangeRow, RefusalRow, bound, hole, timestamp, to_row
from .group_commit import BUSY_SECONDS
from .life_sign import LifeSign
from .schema import migrate, refuse_newer
from .system import SystemClock, random_id

PRAGMAS = {
    "journal_mode": "wal",
    "synchronous": "full",  # law 2: a commit is on the disk before anybody is told
    "secure_delete": "on",  # what is erased is overwritten
    "journal_size_limit": 64 * 1024 * 1024,
}
SETTLED = (
    *("state", "reply", "sanitized", "finish_reason", "prompt_tokens", "completion_tokens"),
    *("tokens_estimated", "turn_tokens", "error_code", "upstream_status"),
    *("upstream_request_id", "attempts", "finished_at"),
)
"""The columns that an outcome writes."""

Row = Mapping[str, Any]

_past_turn: Callable[[tuple[Any, ...]], PastTurn] = partial(tuple.__new__, PastTurn)
"""A row as it comes from SQLite, made a PastTurn without a look at its length."""


class SqliteFile:
    """Two connections: one that writes, and one that reads without waiting for the writer.

    Opening it makes the file, or brings it to the current schema.

    Raises:
        peewee.DatabaseError: SQLite cannot use the file.
        StorageTooNew: A newer version of chatport wrote it.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.touch(mode=0o600)  # what users say is nobody else's; -wal and -shm follow suit
        refuse_newer(path)
        self.writer = _database(path)
        self.reader = _database(path)
        migrate(self.writer, path)
        self.writer.timeout = 0  # GroupCommit waits, where waiting is allowed
        self.life_sign = LifeSign(path, random_id())
        self._queries = _Queries(self.writer)
        self._stored = bound(ExchangeRow, self.reader)
        self._words = _word_index(self.reader)

    def close(self) -> None:
        """Close both connections; what this process leaves open is interrupted."""
        try:
            self._interrupt_own()
            clean = True
        except peewee.PeeweeException:
            clean = False  # then others find it dead, and do that
        self.reader.close()
        self.writer.close()
        self.life_sign.hide(clean=clean)

    def _interrupt_own(self) -> None:
        with self.writer.atomic("IMMEDIATE"):
            mine = self._queries.exchange.owner == self.life_sign.owner
            self._interrupt(mine, timestamp(SystemClock().now()))

    # What writes; each runs inside a transaction of `writer`.

    def begin(self, exchange: Exchange, bounds: HistoryBounds) -> History:
        """Insert an open exchange, and return what goes along with it."""
        self.life_sign.show()
        row = to_row(exchange)
        past = self._run(self._queries.history, {**row, "turns": bounds.turns + 1})
        history = newest_within(bounds, map(_past_turn, past))
        row |= {"context_from": history.context_from, "owner": self.life_sign.owner}
        try:
            self._run(self._queries.insert, row)
        except peewee.IntegrityError:
            self._interrupt_abandoned_turn(row)
            self._run(self._queries.insert, row)
        return history

    def checkpoint(self, exchange_id: str, reply: str) -> None:
        """Write what has arrived so far."""
        self._run(self._queries.checkpoint, {"public_id": exchange_id, "reply": reply})

    def finish(self, row: Row) -> bool:
        """Write an outcome; return False if the exchange is not open any more."""
        return bool(self._run(self._queries.finish, row).rowcount)

    def erase(self, caller: str, user_id: str) -> int:
        """Delete one user's exchanges."""
        return int(self._run(self._queries.erase, {"caller": caller, "user_id": user_id}).rowcount)

    def check(self) -> None:
        """Do nothing: having the write lock is the check."""

    def merge_words(self, pages: int) -> bool:
        """Rewrite some pages of the word index without the words that were deleted.

        Returns:
            False when there is nothing left to merge.
        """
        connection = self.writer.connection()
        before = connection.total_changes
        self.writer.execute_sql(
            "INSERT INTO exchange_text (exchange_text, rank) VALUES ('merge', ?)", [pages]
        )
        return bool(connection.total_changes - before > 1)

    def count_refusal(self, caller: str, rule: str, at: datetime) -> None:
        """Add one to the count of a minute."""
        minute = timestamp(at)[: len("2026-01-01T00:00")]
        self._run(self._queries.refuse, {"caller": caller, "rule": rule, "minute": minute})

    def interrupt_abandoned(self, now: datetime, dead: Sequence[str]) -> int:
        """Interrupt the open exchanges whose lease has run out, and those of dead processes."""
        row = self._queries.exchange
        return self._interrupt(
            (row.lease_until <= timestamp(now)) | row.owner.in_(dead), timestamp(now)
        )

    def _interrupt_abandoned_turn(self, new: Row) -> None:
        """Make room for a new turn, unless the open one is alive."""
        found = self._run(self._queries.open_turn, new).fetchone()
        if found is None:
            return
        number, owner, lease_until = found
        if lease_until > new["started_at"] and not self.life_sign.is_dead(owner):
            raise ConversationBusy
        self._interrupt(self._queries.exchange.id == number, new["started_at"])

    def _interrupt(self, which: Any, at: str) -> int:
        row = self._queries.exchange
        outcome = {"state": State.INTERRUPTED, "error_code": "interrupted", "finished_at": at}
        return int(row.update(outcome).where((row.state == State.OPEN) & which).execute())

    # What reads.

    def find(self, exchange_id: str) -> list[Row]:
        """Return the row of one exchange, if there is one."""
        return list(self._stored.select().where(self._stored.public_id == exchange_id).dicts())

    def search(self, query: LogQuery) -> list[Row]:
        """Return the rows that match, in the order of their numbers."""
        stored, words = self._stored, self._words
        wanted = stored.select()
        if query.text is not None:
            wanted = wanted.join(words, on=(words.rowid == stored.id))
            wanted = wanted.where(words.match(words.web_query(query.text)))
        for condition in _conditions(stored, query):
            wanted = wanted.where(condition)
        order = words.rowid if query.text is not None else stored.id
        order = order.asc() if query.oldest_first else order.desc()
        return list(wanted.order_by(order).limit(query.limit).dicts())

    def empty_wal(self) -> bool:
        """Move the write-ahead log into the file and cut it to nothing.

        Returns:
            False if another process is reading and it could not be cut.
        """
        busy, _, _ = self.reader.execute_sql("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return not busy

    def _run(self, query: Compiled, row: Row) -> Any:
        return self.writer.execute_sql(query.sql, query.values(row))


class _Queries:
    """The hot queries, compiled once by peewee."""

    def __init__(self, database: peewee.Database) -> None:
        self.exchange = row = bound(ExchangeRow, database)
        refusal = bound(RefusalRow, database)
        of_user = (row.caller == hole("caller")) & (row.user_id == hole("user_id"))
        is_open = row.state == peewee.SQL("'open'")
        columns = [name for name in row._meta.fields if name != "id"]  # noqa: SLF001  # peewee's documented name
        self.insert = Compiled(row.insert({getattr(row, name): hole(name) for name in columns}))
        self.history = Compiled(
            row.select(row.id, row.prompt, row.reply, row.turn_tokens)
            .where(of_user & (row.state == peewee.SQL("'completed'")))
            .order_by(row.id.desc())
            .limit(hole("turns"))
        )
        self.open_turn = Compiled(
            row.select(row.id, row.owner, row.lease_until).where(of_user & is_open)
        )
        self.checkpoint = Compiled(
            row.update({row.reply: hole("reply")}).where(
                (row.public_id == hole("public_id")) & is_open
            )
        )
        self.finish = Compiled(
            row.update({getattr(row, name): hole(name) for name in SETTLED}).where(
                (row.public_id == hole("public_id")) & is_open
            )
        )
        self.erase = Compiled(row.delete().where(of_user))
        self.refuse = Compiled(
            refusal.insert(
                {
                    refusal.caller: hole("caller"),
                    refusal.rule: hole("rule"),
                    refusal.minute: hole("minute"),
                    refusal.count: peewee.SQL("1"),
                }
            ).on_conflict(
                conflict_target=[refusal.caller, refusal.rule, refusal.minute],
                update={refusal.count: refusal.count + peewee.SQL("1")},
            )
        )


def _database(path: Path) -> peewee.SqliteDatabase:
    """Return a database with one connection for all threads; whoever uses it takes turns."""
    return peewee.SqliteDatabase(
        str(path),
        timeout=BUSY_SECONDS,
        pragmas=PRAGMAS,
        thread_safe=False,
        check_same_thread=False,
    )


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
