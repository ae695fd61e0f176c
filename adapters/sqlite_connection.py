"""How chatport opens a SQLite file."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import peewee

from .group_commit import BUSY_SECONDS
from .sqlite_faults import DATABASE_ERRORS, is_busy

PRAGMAS = {
    "journal_mode": "wal",
    "synchronous": "full",  # law 2: a commit is on the disk before anybody is told
    "secure_delete": "on",  # what is erased is overwritten
    "journal_size_limit": 64 * 1024 * 1024,
}

CLOSING_SECONDS = 1
"""How long the end of a process waits for others, which may be ending with it."""

RETRY_SECONDS = 0.02
"""Between two tries to open a file that another process has for itself; each takes 5 ms."""

T = TypeVar("T")


def opened_in_time(opened: Callable[[], T]) -> T:
    """Try until others let go of the file; SQLite's own wait would stop all greenlets."""
    until = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            return opened()
        except DATABASE_ERRORS as error:
            if not is_busy(error) or time.monotonic() >= until:
                raise
        time.sleep(RETRY_SECONDS)


def connection_to(path: Path) -> peewee.SqliteDatabase:
    """Return a database with one connection for all threads; whoever uses it takes turns.

    It waits for no other process: whoever may wait does that where others go on.
    """
    return peewee.SqliteDatabase(
        str(path),
        timeout=0,
        pragmas=PRAGMAS,
        thread_safe=False,
        check_same_thread=False,
    )


@contextmanager
def all_or_none(database: peewee.SqliteDatabase) -> Iterator[None]:
    """Undo the block's writes if it raises, and leave those of others in the transaction.

    peewee's savepoint hides the error where SQLite has undone the transaction by itself.
    """
    database.execute_sql("SAVEPOINT several")
    try:
        yield
    except BaseException:
        if database.connection().in_transaction:
            database.execute_sql("ROLLBACK TO several")
        raise
    database.execute_sql("RELEASE several")
