"""How chatport opens a SQLite file."""

from pathlib import Path

import peewee

from .group_commit import BUSY_SECONDS

PRAGMAS = {
    "journal_mode": "wal",
    "synchronous": "full",  # law 2: a commit is on the disk before anybody is told
    "secure_delete": "on",  # what is erased is overwritten
    "journal_size_limit": 64 * 1024 * 1024,
}


def connection_to(path: Path) -> peewee.SqliteDatabase:
    """Return a database with one connection for all threads; whoever uses it takes turns."""
    return peewee.SqliteDatabase(
        str(path),
        timeout=BUSY_SECONDS,
        pragmas=PRAGMAS,
        thread_safe=False,
        check_same_thread=False,
    )
