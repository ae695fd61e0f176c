"""A look through a whole database file, before anything is written to it."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from chatport.domain.errors import StorageCorrupt

from .schema import refuse_newer
from .sqlite_connection import opened_in_time
from .sqlite_faults import translated

AGAIN_SECONDS = 0.001
"""An interrupt that comes before SQLite has begun is forgotten."""


def look_through(path: Path, seconds: float) -> bool:
    """Let SQLite look for damage, which it would otherwise find only when it comes across it.

    Args:
        path: The file, which must exist; another process may be using it.
        seconds: For how long to look: 0.5 s are enough for some 200 MB that are in memory.

    Returns:
        Whether it came to the end.

    Raises:
        StorageBusy: Another process has had it for itself for too long.
        StorageCorrupt: There is damage.
        StorageReadOnly: It is another program's, or no file.
        StorageTooNew: A newer version of chatport wrote it.
    """
    address = f"{path.absolute().as_uri()}?mode=ro"
    with translated():
        # A look at what is not ours would already touch it.
        opened_in_time(lambda: refuse_newer(path))
    with translated(), closing(sqlite3.connect(address, uri=True)) as connection:
        try:
            with _for_at_most(seconds, connection):
                [found] = connection.execute("PRAGMA quick_check(1)").fetchone()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorname == "SQLITE_INTERRUPT":
                return False
            raise
        except RuntimeError:  # no thread can be started, so nobody would end a long look
            return False
    if found != "ok":
        raise StorageCorrupt
    return True


@contextmanager
def _for_at_most(seconds: float, connection: sqlite3.Connection) -> Iterator[None]:
    """Interrupt what the block asks of the connection.

    From another thread: SQLite before 3.41 has no progress to tell of while it looks at a tree.
    """
    done = threading.Event()

    def interrupt() -> None:
        wait = seconds
        while not done.wait(wait):
            connection.interrupt()
            wait = AGAIN_SECONDS

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
