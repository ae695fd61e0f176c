"""Exchanges in SQLite, through peewee."""

import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from chatport.domain.errors import ExchangeLost, StorageBusy
from chatport.domain.history import History, HistoryBounds
from chatport.domain.model import Exchange, LogQuery
from chatport.domain.ports import ConversationStore
from chatport.domain.relay import Once

from .exchange_table import to_exchange, to_row
from .group_commit import GroupCommit, Offload, run_here
from .sqlite_database import SqliteFile
from .sqlite_faults import translated

T = TypeVar("T")

MERGE_PAGES = 200
"""Pages of the word index to rewrite in one transaction; about 10 ms each."""


class PeeweeStore(ConversationStore):
    """Keeps exchanges in one SQLite file. Several processes may use the same file.

    Nothing is opened before the first use, so that a store may be made before a fork.

    Args:
        path: The database file; it is made, and brought to the current schema, at first use.
        offload: Where blocking work may run; for servers whose threads are not threads.
    """

    def __init__(self, path: str | Path, *, offload: Offload = run_here) -> None:
        self._path = Path(path).absolute()
        self._offload = offload
        self._opening = threading.Lock()
        self._reading = threading.Lock()
        self._file: SqliteFile | None = None
        self._commits: GroupCommit

    def begin(self, exchange: Exchange, bounds: HistoryBounds) -> History:
        """Commit an open exchange and return what goes along with it."""
        return self._write(lambda file: file.begin(exchange, bounds))

    def earlier(
        self, caller: str, once: Once, *, now: datetime, since: datetime
    ) -> Exchange | None:
        """Return what the request would repeat."""
        return self._read(lambda file: file.log.earlier(caller, once, now, since))

    def checkpoint(self, exchange: Exchange) -> None:
        """Commit what has arrived so far."""
        row = to_row(exchange)
        self._write(lambda file: file.checkpoint(row))

    def finish(self, exchange: Exchange) -> None:
        """Commit the outcome."""
        row = to_row(exchange)
        if not self._write(lambda file: file.finish(row)):
            raise ExchangeLost

    def conversation(
        self, caller: str, user_id: str, *, before: int | None, limit: int
    ) -> Sequence[Exchange]:
        """Return a page of one user's exchanges, newest last."""
        query = LogQuery(caller=caller, user_id=user_id, before=before, limit=limit)
        return self.search(query)[::-1]

    def find(self, exchange_id: str) -> Exchange | None:
        """Return one exchange."""
        return self._read(lambda file: file.log.find(exchange_id))

    def search(self, query: LogQuery) -> Sequence[Exchange]:
        """Return a page of the log, newest first."""
        return [to_exchange(row) for row in self._read(lambda file: file.log.search(query))]

    def erase(self, caller: str, user_id: str) -> int:
        """Delete one user's exchanges, and their words from the index and the write-ahead log."""
        count = self._write(lambda file: file.erase(caller, user_id))
        self._write(lambda file: file.merge_words(-MERGE_PAGES))
        while self._write(lambda file: file.merge_words(MERGE_PAGES)):
            pass  # a small transaction each, so that others are served in between
        if not self._read(lambda file: file.empty_wal()):
            raise StorageBusy  # the text is still in the log; erasing once more tries again
        return count

    def pseudonym_key(self) -> bytes:
        """Return the key, and commit it if it is new."""
        return self._write(SqliteFile.pseudonym_key)

    def count_refusal(self, caller: str, rule: str, at: datetime) -> None:
        """Count a refusal in its minute."""
        self._write(lambda file: file.count_refusal(caller, rule, at))

    def recover(self, now: datetime) -> int:
        """Interrupt what expired or whose process died."""
        with self._opened().life_sign.dead_owners() as dead:
            return self._write(lambda file: file.interrupt_abandoned(now, dead))

    def check(self) -> None:
        """Take and release the write lock."""
        self._write(SqliteFile.check)

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        with self._opening:
            if self._file is not None:
                self._file.close()
                self._file = None

    def _write(self, work: Callable[[SqliteFile], T]) -> T:
        file = self._opened()
        with translated():
            return self._commits.run(lambda: work(file))

    def _read(self, work: Callable[[SqliteFile], T]) -> T:
        file = self._opened()
        found: list[T] = []
        with translated(), self._reading:
            self._offload(lambda: found.append(work(file)))
        return found[0]

    def _opened(self) -> SqliteFile:
        if self._file is None:
            with self._opening, translated():
                if self._file is None:
                    file = SqliteFile(self._path)
                    self._commits = GroupCommit(file.writer, self._offload)
                    self._file = file
        return self._file
