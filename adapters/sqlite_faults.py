"""What SQLite reports, translated to the domain's errors; the only place that knows both."""

import errno
import logging
import sqlite3
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import peewee

from chatport.domain.errors import (
    StorageBusy,
    StorageCorrupt,
    StorageFull,
    StorageLost,
    StorageReadOnly,
    StorageUnavailable,
)

logger = logging.getLogger(__name__)

BY_NAME: dict[str, type[StorageUnavailable]] = {
    "SQLITE_BUSY": StorageBusy,
    "SQLITE_LOCKED": StorageBusy,
    "SQLITE_FULL": StorageFull,
    "SQLITE_IOERR_WRITE": StorageFull,
    "SQLITE_IOERR_SHMSIZE": StorageFull,
    "ENOSPC": StorageFull,
    "EDQUOT": StorageFull,
    "EFBIG": StorageFull,
    "SQLITE_READONLY": StorageReadOnly,
    "SQLITE_CANTOPEN": StorageReadOnly,
    "SQLITE_PERM": StorageReadOnly,
    "EACCES": StorageReadOnly,
    "EPERM": StorageReadOnly,
    "EROFS": StorageReadOnly,
    "ENOENT": StorageReadOnly,
    "ENOTDIR": StorageReadOnly,
    "EISDIR": StorageReadOnly,
    "ENAMETOOLONG": StorageReadOnly,
    "SQLITE_CORRUPT": StorageCorrupt,
    "SQLITE_NOTADB": StorageCorrupt,
    "NOT_UTF8": StorageCorrupt,
    "FILE_LOST": StorageLost,
}
"""The longest name that begins SQLite's own name counts: www.sqlite.org/rescode.html

Errors of the system have the names of errno.h; `NOT_UTF8` and `FILE_LOST` are ours.
"""

DATABASE_ERRORS = (peewee.PeeweeException, sqlite3.Error)
"""peewee wraps what a statement raises, but not what fetching its rows does."""

DatabaseError = peewee.PeeweeException | sqlite3.Error


@contextmanager
def translated() -> Iterator[None]:
    """Turn the database's errors into the domain's; their texts may hold values, ours do not."""
    try:
        yield
    except DATABASE_ERRORS as error:
        raise translate(error) from None
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, type(error).__name__)
        raise _named(name) from None


@contextmanager
def parsing() -> Iterator[None]:
    """Take a row that cannot be read for damage: it is not what was once written.

    SQLite has no checksums, so it cannot tell. It does not stop the writing: one row is damaged.
    """
    try:
        yield
    except UnicodeEncodeError:  # not of a row, but of what was asked for
        raise
    except (ValueError, TypeError, LookupError, zlib.error, struct.error) as error:
        raise _named("SQLITE_CORRUPT", f"{type(error).__name__} in a row") from None


def is_damage(error: DatabaseError) -> bool:
    """Return whether SQLite found the file damaged."""
    return _kind(_name(error)) is StorageCorrupt


def is_busy(error: DatabaseError) -> bool:
    """Return whether another process has the file at the moment."""
    return _kind(_name(error)) is StorageBusy


def translate(error: DatabaseError) -> StorageUnavailable:
    """Return the domain's error for one of the database's."""
    return _named(_name(error) or type(error).__name__)


def _name(error: DatabaseError) -> str:
    """Return SQLite's name of what went wrong; peewee keeps the driver's error in `orig`."""
    original: object = error
    while hasattr(original, "orig"):  # twice around an error while connecting
        original = original.orig
    if str(original).startswith("Could not decode to UTF-8"):  # the driver has no name for it
        return "NOT_UTF8"
    return str(getattr(original, "sqlite_errorname", ""))


def _kind(name: str) -> type[StorageUnavailable]:
    matches = [known for known in BY_NAME if name.startswith(known)]
    return BY_NAME[max(matches, key=len)] if matches else StorageUnavailable


def _named(name: str, detail: str = "") -> StorageUnavailable:
    kind = _kind(name)
    logger.error("storage fault %s: %s", kind.code, detail or name)
    return kind()
