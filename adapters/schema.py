"""Bringing a database file to the schema of this version of chatport."""

import os
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import peewee
from filelock import FileLock, Timeout
from playhouse.migrations import Migration, Runner

from chatport.domain.errors import StorageBusy, StorageReadOnly, StorageTooNew

from .group_commit import BUSY_SECONDS
from .open_files import refuse_left_behind, size_of
from .sqlite_faults import is_busy

MIGRATIONS = Path(__file__).with_name("migrations")
HISTORY = "schema_migration"
TABLES = "SELECT name FROM sqlite_master WHERE type = 'table'"
APPLIED = "SELECT name, applied FROM schema_migration"
FOLDER = "The database's path leads to a folder; name a file in it instead."
NO_FILE = "The database's path leads to a pipe or a device; name a file instead."
OWNERS_ONLY = 0o600
"""Whoever may read a lock may hold it."""

FOREIGN = "The database file belongs to another program; name another file."


def migrate(database: peewee.Database, path: Path) -> None:
    """Apply the migrations that the file lacks, one process at a time.

    Raises:
        StorageBusy: Another process has held the lock for too long.
    """
    place = os.path.realpath(path)  # all who mean the same file wait for each other
    _make_lock(f"{place}.lock", place)
    try:
        with FileLock(f"{place}.lock", BUSY_SECONDS, OWNERS_ONLY):
            status, _ = look(database)
            if any(migration.applied is None for migration in status):
                Runner(database, str(MIGRATIONS)).up()
    except Timeout:
        raise StorageBusy from None


def _make_lock(lock: str, database: str) -> None:
    """Make the lock for the owner of the file, as SQLite does with -wal, where root is the first.

    Only what is made here is given away, and if it can be: whoever owns the folder may have put
    a link to anything in its place.
    """
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        with suppress(OSError):
            made = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, OWNERS_ONLY)
            try:
                owner = os.stat(database)  # noqa: PTH116  # as its other names are
                os.fchown(made, owner.st_uid, owner.st_gid)
            finally:
                os.close(made)


def refuse_newer(path: Path) -> None:
    """Look at the file as it is, without changing even its journal mode.

    Raises:
        FileUnusable: It is empty, and its -wal is not.
        StorageReadOnly: There is a folder or a pipe in its place, or another program's database,
            or it may not be written.
        StorageTooNew: It has migrations that this version does not know.
    """
    refuse_left_behind(path)
    if not path.is_file():
        raise StorageReadOnly(FOLDER if path.is_dir() else NO_FILE)
    place = Path(os.path.realpath(path))  # SQLite, too, looks for -wal beside what a link names
    wal, index = (place.with_name(place.name + end) for end in ("-wal", "-shm"))
    for each in (place, wal, index):  # what SQLite may only read as it opens it, it never writes
        if not _may_write(each) and each.exists() and not _may_write(each):  # if it is new by now
            raise StorageReadOnly
    status, tables = _untouched(place, wal, index)
    if is_foreign(status, tables):
        raise StorageReadOnly(FOREIGN)
    if any(migration.path is None for migration in status):
        raise StorageTooNew


def _may_write(path: Path) -> bool:
    return os.access(path, os.W_OK)


def is_foreign(status: list[Migration], tables: set[str]) -> bool:
    """Return whether there are tables, and no sign that chatport ever made any of them."""
    ours = "exchange" in tables or any(each.applied and each.path for each in status)
    return bool(tables - {HISTORY}) and not ours


def look(database: Any) -> tuple[list[Migration], set[str]]:
    """Return all migrations, with what the file has of them, and the names of its tables.

    It is what `Runner.status` says, which makes classes and queries first, at each opening.
    """
    tables = {name for (name,) in database.execute_sql(TABLES)}
    applied = dict(database.execute_sql(APPLIED)) if HISTORY in tables else {}
    known = _known()
    gone = applied.keys() - {each.name for each in known}
    status = [each._replace(applied=applied.get(each.name)) for each in known]
    return status + [Migration(-1, name, None, applied[name]) for name in gone], tables


@cache
def _known() -> list[Migration]:
    return list(Migration.load_directory(MIGRATIONS))


def uri(path: Path, mode: str) -> str:
    """Return the file's address, to be opened in a mode of www.sqlite.org/uri.html."""
    return f"file:{quote(os.fsencode(path))}?{mode}"


def _untouched(path: Path, wal: Path, index: Path) -> tuple[list[Migration], set[str]]:
    """Return what `look` finds, and leave the file as it is.

    The last connection that closes would move a write-ahead log that a killed process has left
    into the file, unless it can only read. What remains: where that log has no -shm beside it,
    SQLite makes one, which holds nothing that is not in the log.
    """
    if size_of(wal):
        mode = "mode=ro&readonly_shm=1" if index.exists() else "mode=ro"
        try:
            with peewee.SqliteDatabase(uri(path, mode), uri=True, timeout=0) as database:
                return look(database)
        except peewee.OperationalError as error:
            if is_busy(error):
                raise
            # another process has just closed the file, and the log is gone
    with peewee.SqliteDatabase(str(path), timeout=0) as database:
        return look(database)
