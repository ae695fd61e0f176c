"""Keeping a SQLite file free of what is old or erased, while others go on working with it."""

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from chatport.domain.errors import StorageBusy
from chatport.domain.retention import Purged, PurgeSpan
from chatport.domain.rules import Period
from chatport.domain.spending import OPEN

from .group_commit import BUSY_SECONDS, RETRY_SECONDS
from .sqlite_database import SqliteFile
from .sqlite_purge import SqlitePurge
from .sqlite_session import SqliteSession

T = TypeVar("T")

MERGE_PAGES = 16
"""Pages of the word index to rewrite in one transaction: about 2 ms. A word goes as a whole: one
that is in each of 100,000 exchanges takes some 20 ms."""

MERGES = 3
"""Such transactions in one step of a purge, which adds some 10 pages that are merged 3 times."""

GAP_SECONDS = 2 * RETRY_SECONDS
"""Between two transactions of one step: who waits for the lock tries as often as that."""

WAL_BYTES = 2 * 1024 * 1024
"""Half of what makes SQLite move the write-ahead log into the file after somebody's commit."""

ROWS = 500
"""Rows of statistics to delete or change in one transaction: about 2 ms."""

NEWEST = 2**63 - 1
"""The highest number that SQLite can give."""

TO_NOBODY = """
INSERT INTO usage (day, caller, user_id, model, calls, completed, prompt_tokens, cached_tokens,
                   completion_tokens, estimated, unpriced, nanodollars)
SELECT day, caller, '', model, calls, completed, prompt_tokens, cached_tokens,
       completion_tokens, estimated, unpriced, nanodollars
FROM usage WHERE {named}
ON CONFLICT (caller, user_id, day, model) DO UPDATE SET
    calls = calls + excluded.calls, completed = completed + excluded.completed,
    prompt_tokens = prompt_tokens + excluded.prompt_tokens,
    cached_tokens = cached_tokens + excluded.cached_tokens,
    completion_tokens = completion_tokens + excluded.completion_tokens,
    estimated = estimated + excluded.estimated, unpriced = unpriced + excluded.unpriced,
    nanodollars = nanodollars + excluded.nanodollars
"""
FIND = "SELECT rowid FROM {table} WHERE rowid > ? AND {condition} ORDER BY rowid LIMIT ?"
TIDY = "DELETE FROM secret WHERE name = 'untidy' AND value = ?"
DELETE = "DELETE FROM {table} WHERE {rows}"
NAMED = """
SELECT rowid FROM usage WHERE caller = ? AND user_id <> '' AND rowid > ? ORDER BY rowid LIMIT ?
"""


class SqliteRetention:
    """What a store does to forget, each transaction small, with pauses for others in between."""

    def __init__(self, session: SqliteSession) -> None:
        self._session = session
        self._read, self._write = session.read, session.write
        self._made: tuple[SqliteFile, SqlitePurge] | None = None

    def last_before(self, at: datetime) -> int:
        """Return the highest number of what started before then."""

        def look(top: int) -> tuple[int, int]:
            return self._read(lambda file: self._purge(file).last_before(at, top))

        number, top = look(NEWEST)
        while not number and top:
            number, top = look(top)
        return number

    def purge(self, span: PurgeSpan, limit: int) -> Purged:
        """Purge what one transaction can, and merge as many words in others."""
        found = self._read(lambda file: self._purge(file).find(span, limit))
        if not found.numbers:
            return Purged(count=0, until=found.until)
        done = self._write(lambda file: self._purge(file).take(span, found))
        for _ in range(MERGES):
            time.sleep(GAP_SECONDS)
            if not self._write(lambda file: file.merge_words(MERGE_PAGES)):
                break
        self._keep_wal_short()
        return done

    def purge_statistics(self, before: datetime) -> int:
        """Delete the rows of days, minutes and periods that were over before then."""
        at = before.astimezone(UTC)
        day, month, minute = Period.DAY.of(at), Period.MONTH.of(at), f"{at:%Y-%m-%dT%H:%M}"
        return (
            self._delete("usage", "day < ?", [day])
            + self._delete("refusal", "minute < ?", [minute])
            + self._delete("spending", "period < iif(length(period) = 7, ?, ?)", [month, day])
            + self._delete("spending", "period = ? AND reserved_calls = 0", [OPEN])
        )

    def _delete(self, table: str, condition: str, values: Sequence[str]) -> int:
        find = FIND.format(table=table, condition=condition)
        count, last = 0, 0
        while found := self._read(partial(_rows, find, [last, *values, ROWS])):
            rows = f"{condition} AND rowid IN {_among(found)}"
            query = DELETE.format(table=table, rows=rows)
            count += self._politely(partial(_change, query, [*values, *found]))
            last = found[-1]
        return count

    def erase(self, caller: str, user_id: str | None) -> int:
        """Delete the exchanges of one user, or of every user, and their names from the usage."""
        if user_id is not None:
            return self._write(lambda file: _erase_user(file, caller, user_id))
        last = 0
        while found := self._read(partial(_rows, NAMED, [caller, last, ROWS])):
            self._politely(partial(_unname, f"rowid IN {_among(found)}", found))
            last = found[-1]
        return self._write(lambda file: _erase_caller(file, caller))

    def tidy(self) -> None:
        """Rewrite the word index without what was deleted, and empty the write-ahead log.

        Where nothing was deleted since, nothing is done: the whole index is gone through.

        Raises:
            StorageBusy: Others were reading for too long.
        """
        untidy = self._read(_untidy)
        if untidy is None:
            return
        steps = self._read(_pages) // MERGE_PAGES + 1
        self._politely(lambda file: file.merge_words(-MERGE_PAGES))
        for _ in range(2 * steps):  # the rest is for what others add meanwhile
            if not self._politely(lambda file: file.merge_words(MERGE_PAGES)):
                break
            self._keep_wal_short()
        patience = time.monotonic() + BUSY_SECONDS
        while not self._session.alone(_empty_wal):
            if time.monotonic() > patience:
                raise StorageBusy  # the texts are still in the log; trying again may succeed
            time.sleep(RETRY_SECONDS)
        self._politely(partial(_change, TIDY, [untidy]))
        self._session.alone(_empty_wal)

    def _keep_wal_short(self) -> None:
        """Move the write-ahead log into the file before it is so long that a writer has to.

        SQLite has whoever commits do that from 1,000 pages on; for a moment without writers,
        which it needs for a fresh start, it might wait for long.
        """
        if self._read(_wal_bytes) > WAL_BYTES:
            self._read(_empty_wal)

    def _politely(self, work: Callable[[SqliteFile], T]) -> T:
        """Run a transaction, and leave the file to others for as long as it took."""
        began = time.monotonic()
        result = self._write(work)
        time.sleep(time.monotonic() - began)
        return result

    def _purge(self, file: SqliteFile) -> SqlitePurge:
        if self._made is None or self._made[0] is not file:
            self._made = file, SqlitePurge(file.writer, file.reader)
        return self._made[1]


def _run(database: Any, query: str, values: Sequence[Any] = ()) -> Any:
    return database.execute_sql(query, values)


def _rows(query: str, values: Sequence[Any], file: SqliteFile) -> list[int]:
    return [row for (row,) in _run(file.reader, query, values)]


def _among(rows: Sequence[int]) -> str:
    return f"({', '.join('?' * len(rows))})"


def _change(query: str, values: Sequence[Any], file: SqliteFile) -> int:
    return int(_run(file.writer, query, values).rowcount)


def _unname(which: str, values: Sequence[Any], file: SqliteFile) -> None:
    """Add usage to that of nobody in particular."""
    named = f"{which} AND user_id <> ''"
    _run(file.writer, TO_NOBODY.format(named=named), values)
    _run(file.writer, DELETE.format(table="usage", rows=named), values)


def _erase_user(file: SqliteFile, caller: str, user_id: str) -> int:
    count = file.erase(caller, user_id)
    idle = "DELETE FROM spending WHERE caller = ? AND user_id = ? AND period = ?"
    _run(file.writer, idle, [caller, user_id, OPEN])  # nothing of this user is open any more
    _unname("caller = ? AND user_id = ?", [caller, user_id], file)
    return count


def _erase_caller(file: SqliteFile, caller: str) -> int:
    users = _run(
        file.writer, "SELECT DISTINCT user_id FROM exchange WHERE caller = ?", [caller]
    ).fetchall()
    count = sum(file.erase(caller, user_id) for (user_id,) in users)
    _unname("caller = ?", [caller], file)
    _run(file.writer, "DELETE FROM spending WHERE caller = ? AND user_id <> ''", [caller])
    return count


def _untidy(file: SqliteFile) -> bytes | None:
    """Return what stands for the last deletion that nobody has tidied up after."""
    found = _run(file.reader, "SELECT value FROM secret WHERE name = 'untidy'").fetchone()
    return found and bytes(found[0])


def _pages(file: SqliteFile) -> int:
    """Return how many pages the word index has."""
    [(pages,)] = _run(file.reader, "SELECT count(*) FROM exchange_text_data")
    return int(pages)


def _wal_bytes(file: SqliteFile) -> int:
    return Path(f"{Path(file.writer.database).resolve()}-wal").stat().st_size


def _empty_wal(file: SqliteFile) -> bool:
    """Move the write-ahead log into the file and cut it to nothing.

    Most of it moves while others write; the rest, which keeps them out, waits for nobody.

    Returns:
        False if others were reading or writing, and it could not be cut.
    """
    _run(file.reader, "PRAGMA wal_checkpoint(PASSIVE)")
    _run(file.reader, "PRAGMA busy_timeout = 0")
    try:
        return file.empty_wal()
    finally:
        _run(file.reader, f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")
