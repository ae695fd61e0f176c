"""One open SQLite file: its connections, its queries, and what each does in a transaction."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import peewee

from chatport.domain.errors import (
    ConversationBusy,
    IdempotencyInProgress,
    StorageUnavailable,
    TooManyInFlight,
)
from chatport.domain.history import History, HistoryBounds, newest_within
from chatport.domain.model import INTERRUPTED, Exchange, State
from chatport.domain.spending import Claim, Spend, spend_of

from .exchange_queries import ATTEMPT, OPEN_TURN, UNTIDY, exchange_queries
from .exchange_reader import ExchangeReader
from .exchange_table import Compiled, ExchangeRow, past_turn, timestamp, to_exchange, to_row
from .file_condition import FileCondition
from .group_commit import BUSY_SECONDS
from .life_sign import LifeSign
from .open_files import OpenFiles, make_place
from .request_texts import RequestTexts
from .schema import migrate, refuse_newer
from .sqlite_connection import CLOSING_SECONDS, all_or_none, connection_to
from .sqlite_faults import DATABASE_ERRORS, parsing
from .sqlite_ledger import Reserved, SqliteLedger
from .system import SystemClock, random_id

ROOM_BYTES = 256 * 1024
"""For the longest prompt that is allowed by default, its words in the index, and an answer."""

MERGE = "INSERT INTO exchange_text (exchange_text, rank) VALUES ('merge', ?)"

NO_REQUEST = {"context_from": None, "parameters_id": None, "messages_id": None}

EXCHANGE: Any = ExchangeRow
IS_OPEN = EXCHANGE.state == State.OPEN
ALL = peewee.SQL("*")
"""Columns, which peewee would else write out for each query."""

Row = Mapping[str, Any]


class SqliteFile:
    """Three connections: one writes, and two read without waiting for the writer.

    One of them is for what operators look for, which may take seconds where no index answers.

    Opening it makes the file, or brings it to the current schema; `named` must lead to it, too.

    Raises:
        peewee.DatabaseError: SQLite cannot use the file.
        StorageReadOnly: There is a folder in its place.
        StorageTooNew: A newer version of chatport wrote it.
    """

    def __init__(self, path: Path, condition: FileCondition, named: Path | None = None) -> None:
        make_place(path, condition)
        refuse_newer(path)
        self.writer, self.reader, self.searcher = (connection_to(path) for _ in range(3))
        try:
            migrate(self.writer, path)
            for reader in (self.reader, self.searcher):
                reader.connect()  # now, so that all have the same file
                reader.timeout = BUSY_SECONDS  # it is used where waiting is allowed
            self.files = OpenFiles(path, condition, named)
        except BaseException:
            self._disconnect()
            raise
        self.life_sign = LifeSign(path, random_id())
        self._queries = exchange_queries()
        self._texts = RequestTexts(self.writer)
        self._ledger = SqliteLedger(self.writer)
        self.log = ExchangeReader(self.reader, self.life_sign)
        self.archive = ExchangeReader(self.searcher, self.life_sign)

    def close(self) -> None:
        """Close all connections; what this process leaves open is interrupted."""
        try:
            self._interrupt_own()
            clean = True
        except (*DATABASE_ERRORS, StorageUnavailable):
            clean = False  # then others find it dead, and do that
        self.files.close()
        self._disconnect()
        self.life_sign.hide(clean=clean)

    def _disconnect(self) -> None:
        for database in (self.searcher, self.reader, self.writer):
            database.autoconnect = False  # whoever still uses it must not open it again
            database.close()

    def _interrupt_own(self) -> None:
        self.writer.timeout = CLOSING_SECONDS
        with self.writer.atomic("IMMEDIATE"):
            self.files.check()
            if (mine := self.life_sign.owner) in self._owners():
                self._interrupt(EXCHANGE.owner == mine, timestamp(SystemClock().now()))

    # What writes; each runs inside a transaction of `writer`.

    def begin(self, exchange: Exchange, bounds: HistoryBounds, claim: Claim) -> History:
        """Insert an open exchange, and return what goes along with it."""
        self.life_sign.show()
        self.end_own_lost(timestamp(exchange.started_at))
        if exchange.idempotency_key is None and exchange.request is None:
            return self._begin(exchange, bounds, claim)  # refuses before it writes
        with all_or_none(self.writer):
            attempt = self._delete_attempt_before(exchange, timestamp(exchange.started_at))
            history = self._begin(exchange, bounds, claim)
            if attempt is not None and attempt["parameters_id"] is not None:
                self._texts.drop(attempt["parameters_id"], attempt["messages_id"])
            return history

    def _begin(self, exchange: Exchange, bounds: HistoryBounds, claim: Claim) -> History:
        now, lease = exchange.started_at, exchange.lease_until - exchange.started_at
        history = replace(self._history(exchange, bounds), latest=self._latest())
        exchange = claim.estimated(exchange, history)
        row = {**to_row(exchange), "owner": self.life_sign.owner, "reserved_in": 0, **NO_REQUEST}
        row["context_from"] = history.context_from
        if exchange.request is None:
            self._interrupt_abandoned_turn(row, timestamp(now))
        if claim.ceilings:
            row["reserved_in"] = self._reserve(claim, exchange, timestamp(now))
        else:
            claim.admit(exchange)
        if exchange.request is not None:
            texts = self._texts.keep(exchange.caller, exchange.request)
            row["parameters_id"], row["messages_id"] = texts
        self._run(self._queries.insert, row)
        self.life_sign.leases.grant(exchange.id, lease.total_seconds())
        return history

    def _latest(self) -> datetime | None:
        """Return the latest time of the newest exchange."""
        found = self._run(self._queries.newest, {}).fetchone()
        with parsing():
            return max(map(datetime.fromisoformat, filter(None, found))) if found else None

    def _history(self, exchange: Exchange, bounds: HistoryBounds) -> History:
        if exchange.request is not None:
            return History()
        user = {"caller": exchange.caller, "user_id": exchange.user_id}
        past = self._run(self._queries.history, {**user, "turns": bounds.turns + 1})
        with parsing():
            return newest_within(bounds, map(past_turn, past))

    def _reserve(self, claim: Claim, exchange: Exchange, now: str) -> int:
        """Reserve; calls that nobody will finish are not in flight any more."""
        try:
            return self._ledger.reserve(claim, exchange)
        except TooManyInFlight:
            if not self.interrupt_abandoned(now):
                raise
            return self._ledger.reserve(claim, exchange)

    def end_own_lost(self, now: str) -> int:
        """Interrupt what this process has open, and will not finish.

        It is forgotten when it is seen to have ended: this transaction may come to nothing.
        """
        lost = self.life_sign.leases.run_out()
        if not lost:
            return 0
        mine = (EXCHANGE.owner == self.life_sign.owner) & EXCHANGE.public_id.in_(lost)
        opened = EXCHANGE.select(EXCHANGE.public_id).where(mine & IS_OPEN)
        still = {exchange_id for (exchange_id,) in opened.tuples().execute(self.writer)}
        for exchange_id in set(lost) - still:
            self.life_sign.leases.end(exchange_id)
        return self._interrupt(mine, now) if still else 0

    def checkpoint(self, row: Row) -> None:
        """Write what has arrived so far."""
        self._run(self._queries.checkpoint, row)

    def finish(self, exchange: Exchange, row: Row) -> bool:
        """Write an outcome; return False if the exchange is not open any more."""
        held = self._run(self._queries.reserved, row).fetchone()
        if held is None:
            return False
        self._run(self._queries.finish, row)
        self.life_sign.leases.end(exchange.id)
        accounts, tokens, nanodollars = held
        self._ledger.settle(exchange, Reserved(Spend(tokens or 0, nanodollars or 0), accounts))
        return True

    def erase(self, caller: str, user_id: str) -> int:
        """Delete one user's exchanges, and the texts that nothing else needs."""
        user = {"caller": caller, "user_id": user_id}
        texts = self._run(self._queries.texts_of_user, user).fetchall()
        self._settle_open((EXCHANGE.caller == caller) & (EXCHANGE.user_id == user_id))
        if count := int(self._run(self._queries.erase, user).rowcount):
            self.writer.execute_sql(UNTIDY)
        for parameters_id, messages_id in texts:
            self._texts.drop(parameters_id, messages_id)
        return count

    def pseudonym_key(self) -> bytes:
        """Return the key, and make it if it is not there yet."""
        self.writer.execute_sql(
            "INSERT OR IGNORE INTO secret (name, value) VALUES ('pseudonym', randomblob(32))"
        )
        [(key,)] = self.writer.execute_sql("SELECT value FROM secret WHERE name = 'pseudonym'")
        return bytes(key)

    def check(self) -> None:
        """Have the write lock, which is the check; end what nobody else looks after."""
        self.end_own_lost(timestamp(SystemClock().now()))

    def try_to_write(self) -> None:
        """Write as much as a request may need, and delete it again."""
        self.life_sign.show()
        self.writer.execute_sql("INSERT INTO secret VALUES ('room', zeroblob(?))", [ROOM_BYTES])
        self.writer.execute_sql("DELETE FROM secret WHERE name = 'room'")

    def merge_words(self, pages: int) -> bool:
        """Rewrite some pages of the word index without the words that were deleted.

        Returns:
            False when there is nothing left to merge.
        """
        changes = self.writer.connection().total_changes
        self.writer.execute_sql(MERGE, [pages])
        return bool(self.writer.connection().total_changes - changes > 1)

    def count_refusal(self, caller: str, rule: str, at: datetime) -> None:
        """Add one to the count of a minute."""
        minute = timestamp(at)[: len("2026-01-01T00:00")]
        self._run(self._queries.refuse, {"caller": caller, "rule": rule, "minute": minute})

    def interrupt_abandoned(self, now: str) -> int:
        """Interrupt the open exchanges that nobody will finish."""
        lost, row = self.end_own_lost(now), EXCHANGE
        owners = self._owners()
        if not owners:  # nothing is open, as nearly always
            return lost
        dead = [owner for owner in owners if self.life_sign.is_dead(owner)]
        columns = row.id, row.public_id, row.owner, row.lease_until
        over = IS_OPEN & (row.lease_until <= now) & row.owner.not_in(dead)
        late = row.select(*columns).where(over).dicts().execute(self.writer)
        left = [each["id"] for each in self.life_sign.abandoned(late, now)]
        return lost + self._interrupt(row.owner.in_(dead) | row.id.in_(left), now)

    def _owners(self) -> list[str]:
        """Return whose exchanges are open."""
        return [owner for (owner,) in self._run(self._queries.owners, {})]

    def _delete_attempt_before(self, exchange: Exchange, now: str) -> Row | None:
        """Delete the attempt that this one replaces, and return what it was."""
        if exchange.idempotency_key is None:
            return None
        new = to_row(exchange)
        found = self._run(self._queries.with_key, new).fetchone()
        if found is None:
            return None
        old = dict(zip(ATTEMPT, found, strict=True))
        alive = old["state"] == State.OPEN and not self.life_sign.is_abandoned(old, now)
        same = all(old[name] == new[name] for name in ("public_id", "request_hash"))
        if alive or old["final"] or not same:
            raise IdempotencyInProgress
        self._settle_open(EXCHANGE.id == old["id"])
        EXCHANGE.delete().where(EXCHANGE.id == old["id"]).execute(self.writer)
        return old

    def _interrupt_abandoned_turn(self, new: Row, now: str) -> None:
        """Make room for a new turn, unless the open one is alive."""
        found = self._run(self._queries.open_turn, new).fetchone()
        if found is None:
            return
        old = dict(zip(OPEN_TURN, found, strict=True))
        if not self.life_sign.is_abandoned(old, now):
            raise ConversationBusy
        self._interrupt(EXCHANGE.id == old["id"], now)

    def _interrupt(self, which: Any, at: str) -> int:
        end = peewee.fn.MAX(EXCHANGE.started_at, at)  # the clock may have been set back since
        outcome = {"state": State.INTERRUPTED, "error_code": INTERRUPTED, "finished_at": end}
        self._settle_open(which)
        return int(EXCHANGE.update(outcome).where(IS_OPEN & which).execute(self.writer))

    def _settle_open(self, which: Any) -> None:
        """Spend what open exchanges may have cost; their outcome is up to the caller."""
        for open_row in EXCHANGE.select(ALL).where(IS_OPEN & which).dicts().execute(self.writer):
            with parsing():
                exchange = to_exchange(open_row)
            self._ledger.settle(exchange, Reserved(spend_of(exchange), open_row["reserved_in"]))

    def empty_wal(self) -> bool:
        """Move the write-ahead log into the file and cut it; return False if others read it."""
        busy, _, _ = self.reader.execute_sql("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return not busy

    def _run(self, query: Compiled, row: Row) -> Any:
        return self.writer.execute_sql(query.sql, query.values(row))
