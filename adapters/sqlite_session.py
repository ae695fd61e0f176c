"""The way to one SQLite file, for all that is kept in it."""

import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from chatport.domain.errors import StorageUnavailable

from .file_condition import FileCondition
from .group_commit import GroupCommit, Offload, nothing_to_check, run_here
from .open_files import LOST, FileUnusable
from .sqlite_connection import CLOSING_SECONDS, RETRY_SECONDS, opened_in_time
from .sqlite_database import SqliteFile
from .sqlite_faults import DATABASE_ERRORS, is_damage, translated

T = TypeVar("T")


class SqliteSession:
    """Opens a file at first use, and takes turns on its connections.

    Nothing is opened before the first use, so that it may be made before a fork. Once SQLite
    finds damage, no process of the server writes any more, until the server is started anew.

    Args:
        path: The database file; it is made, and brought to the current schema, at first use.
        offload: Where blocking work may run; for servers whose threads are not threads.
    """

    def __init__(self, path: str | Path, offload: Offload = run_here) -> None:
        self._named = Path(path).absolute()
        self._path = Path(os.path.realpath(path))  # for good: links may be put there meanwhile
        self._offload = offload
        self._condition = FileCondition()
        self._opening = threading.Lock()
        self._reading, self._searching = threading.Lock(), threading.Lock()
        self._file: SqliteFile | None = None
        self._failed: tuple[float, Exception] = -math.inf, StorageUnavailable()
        self._ended = False
        self._commits: GroupCommit

    def write(self, work: Callable[[SqliteFile], T]) -> T:
        """Run `work` in a transaction of the writer; return its result when that is durable.

        `work` either raises before it has written anything, or does all its writing.
        """
        file = self.opened()
        try:
            with self._watched():
                return self._commits.run(lambda: work(file))
        except StorageUnavailable:
            self._condition.in_doubt = True
            raise

    def check(self) -> None:
        """Take and release the write lock; after a write that failed, try one.

        Only writing shows that there is room again, or the permission, but it takes a sync of
        the disk, which is too dear for a look every second while all is well.
        """
        if self._condition.in_doubt:
            self.write(SqliteFile.try_to_write)
            self._condition.in_doubt = False
        else:
            self.write(SqliteFile.check)
        self._offload(nothing_to_check)  # every request has to, and there may be no thread for it

    def read(self, work: Callable[[SqliteFile], T]) -> T:
        """Return the result of `work` on the reader, which sees what is committed."""
        return self._read(work, self._reading)

    def search(self, work: Callable[[SqliteFile], T]) -> T:
        """Return the result of `work` on the searcher; others go on reading meanwhile."""
        return self._read(work, self._searching)

    def alone(self, work: Callable[[SqliteFile], T]) -> T:
        """Return the result of `work` on the reader, for which a search must have ended."""
        with self._searching:
            return self.read(work)

    def _read(self, work: Callable[[SqliteFile], T], turns: threading.Lock) -> T:
        file = self.opened()
        found: list[T] = []
        with self._watched(), turns:
            self._offload(lambda: found.append(work(file)))
        return found[0]

    def opened(self) -> SqliteFile:
        """Return the open file.

        Raises:
            StorageUnavailable: It cannot be opened, or was closed for good.
        """
        return self._file or self._open(time.monotonic())

    def _open(self, asked: float) -> SqliteFile:
        """Open the file; who waits meanwhile has no more luck than who tried."""
        with self._opening, self._watched():
            if self._ended:
                raise StorageUnavailable
            if self._file is None:
                failed_at, failure = self._failed
                if failed_at > asked:
                    raise failure.with_traceback(None)
                try:
                    file = opened_in_time(self._new_file)
                except Exception as error:
                    self._failed = time.monotonic(), error
                    raise
                checks = file.files.check, file.files.check_names
                self._commits = GroupCommit(file.writer, self._offload, *checks)
                self._file = file
            return self._file

    def _new_file(self) -> SqliteFile:
        return SqliteFile(self._path, self._condition, self._named)

    def lose(self, exchange_id: str) -> None:
        """Note that nobody will finish this exchange: the next write ends it."""
        if self._file is not None:
            self._file.life_sign.leases.lose(exchange_id)

    def close(self, *, for_good: bool = False) -> None:
        """Close the file; the next use opens it again, unless it was damaged or is another.

        Args:
            for_good: Nobody may open it again, as where the process ends: what still runs would
                go on with exchanges that are interrupted by now.
        """
        with self._opening:
            self._ended |= for_good
            if self._file is not None:
                with self._all_turns(self._file):
                    self._file.close()
                self._file = None

    @contextmanager
    def _all_turns(self, file: SqliteFile) -> Iterator[None]:
        """Let nobody else read, and end what is being read, which may take long.

        To close a connection that is used would crash the process. Wait for nobody for ever.
        """
        until = time.monotonic() + CLOSING_SECONDS
        with ExitStack() as held:
            for turns, reader in ((self._searching, file.searcher), (self._reading, file.reader)):
                while not (mine := turns.acquire(timeout=RETRY_SECONDS)):
                    reader.connection().interrupt()  # type: ignore[no-untyped-call]  # peewee
                    if time.monotonic() > until:
                        break
                if mine:
                    held.callback(turns.release)
            yield

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Translate errors; damage is told to all processes."""
        with translated():
            try:
                yield
            except DATABASE_ERRORS as error:
                if is_damage(error):
                    lost = self._file is not None and self._file.files.are_lost()
                    self._condition.condemn(LOST if lost else "SQLITE_CORRUPT")
                    if lost:
                        raise FileUnusable(LOST) from None
                raise
