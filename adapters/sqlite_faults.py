"""What SQLite reports, translated to the domain's errors; the only place that knows both."""

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import peewee

from chatport.domain.errors import (
    StorageBusy,
    StorageCorrupt,
    StorageFull,
    StorageReadOnly,
    StorageUnavailable,
)

logger = logging.getLogger(__name__)

BY_NAME: dict[str, type[StorageUnavailable]] = {
    "SQLITE_BUSY": StorageBusy,
    "SQLITE_LOCKED": StorageBusy,
    "SQLITE_FULL": StorageFull,
    "SQLITE_IOERR_WRITE": StorageFull,
    "SQLITE_READONLY": StorageReadOnly,
    "SQLITE_CANTOPEN": StorageReadOnly,
    "SQLITE_PERM": StorageReadOnly,
    "SQLITE_CORRUPT": StorageCorrupt,
    "SQLITE_NOTADB": StorageCorrupt,
}
"""The longest name that begins SQLite's own name counts: www.sqlite.org/rescode.html"""


@contextmanager
def translated() -> Iterator[None]:
    """Turn the database's errors into the domain's; their texts may hold values, ours do not."""
    try:
        yield
    except peewee.PeeweeException as error:
        raise translate(error) from None
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, type(error).__name__)
        logger.error("storage fault %s: %s", StorageReadOnly.code, name)  # noqa: TRY400  # the traceback says no more
        raise StorageReadOnly from None


def translate(error: peewee.PeeweeException) -> StorageUnavailable:
    """Return the domain's error for one of peewee's, which keeps the driver's in `orig`."""
    original: object = error
    while hasattr(original, "orig"):  # twice around an error while connecting
        original = original.orig
    name = str(getattr(original, "sqlite_errorname", ""))
    matches = [known for known in BY_NAME if name.startswith(known)]
    kind = BY_NAME[max(matches, key=len)] if matches else StorageUnavailable
    logger.error("storage fault %s: %s", kind.code, name or type(error).__name__)
    return kind()
