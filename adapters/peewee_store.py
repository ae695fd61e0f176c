"""Exchanges in SQLite, through peewee."""

import shutil
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from chatport.domain.errors import ExchangeLost, StorageFull, StorageUnavailable
from chatport.domain.history import History, HistoryBounds
from chatport.domain.model import Exchange, LogQuery
from chatport.domain.ports import ConversationStore
from chatport.domain.relay import Once
from chatport.domain.retention import Purged, PurgeSpan
from chatport.domain.spending import NO_CLAIM, Claim

from .exchange_table import timestamp, to_exchange, to_row
from .group_commit import Offload, run_here
from .sqlite_database import SqliteFile
from .sqlite_faults import parsing, translated
from .sqlite_retention import SqliteRetention
from .sqlite_session import SqliteSession

MIN_FREE_BYTES = 200_000_000
"""Below, no new requests should come: what is being answered, the write-ahead log of up to 64 MB
and its way into the file need room, and whoever frees some needs time."""

LITTLE_SPACE = "The disk of the database has less than 200 MB left; free some space."


def free_bytes(folder: Path) -> int:
    """Return how much may still be written to the disk of a folder."""
    return shutil.disk_usage(folder).free


class PeeweeStore(ConversationStore):
    """Keeps exchanges in one SQLite file. Several processes may use the same file.

    Nothing is opened before the first use, so that a store may be made before a fork.

    Args:
        path: The database file; it is made, and brought to the current schema, at first use.
        offload: Where blocking work may run; for servers whose threads are not threads.
        free: Returns how many bytes are left on the disk of a folder.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        offload: Offload = run_here,
        free: Callable[[Path], int] = free_bytes,
    ) -> None:
        self._folder = Path(path).absolute().parent
        self._free = free
        self.session = SqliteSession(path, offload)
        self._read, self._write = self.session.read, self.session.write
        self._retention = SqliteRetention(self.session)

    def begin(self, exchange: Exchange, bounds: HistoryBounds, claim: Claim = NO_CLAIM) -> History:
        """Commit an open exchange, with what it reserves, and return what goes along with it."""
        return self._write(lambda file: file.begin(exchange, bounds, claim))

    def earlier(
        self, caller: str, once: Once, *, now: datetime, since: datetime
    ) -> Exchange | None:
        """Return what the request would repeat."""
        with parsing():
            return self._read(lambda file: file.log.earlier(caller, once, now, since))

    def checkpoint(self, exchange: Exchange) -> None:
        """Commit what has arrived so far."""
        row = to_row(exchange)
        self._write(lambda file: file.checkpoint(row))

    def finish(self, exchange: Exchange) -> None:
        """Commit the outcome."""
        row = to_row(exchange)
        try:
            kept = self._write(lambda file: file.finish(exchange, row))
        except StorageUnavailable:
            self.session.lose(exchange.id)
            raise
        if not kept:
            raise ExchangeLost

    def conversation(
        self, caller: str, user_id: str, *, before: int | None, limit: int
    ) -> Sequence[Exchange]:
        """Return a page of one user's exchanges, newest last."""
        query = LogQuery(caller=caller, user_id=user_id, before=before, limit=limit)
        with parsing():
            rows = self._read(lambda file: file.log.search(query))
            return [to_exchange(row) for row in rows][::-1]

    def find(self, exchange_id: str, caller: str | None = None) -> Exchange | None:
        """Return one exchange."""
        with parsing():
            return self._read(lambda file: file.log.find(exchange_id, caller))

    def search(self, query: LogQuery) -> Sequence[Exchange]:
        """Return a page of the log, newest first."""
        with parsing():
            rows = self.session.search(lambda file: file.archive.search(query))
            return [to_exchange(row) for row in rows]

    def erase(self, caller: str, user_id: str | None) -> int:
        """Delete one user's exchanges, and their words from the index and the write-ahead log."""
        count = self._retention.erase(caller, user_id)
        self.tidy()
        return count

    def last_before(self, at: datetime) -> int:
        """Return the highest number of what started before then."""
        return self._retention.last_before(at)

    def purge(self, span: PurgeSpan, *, limit: int) -> Purged:
        """Delete or empty what is old, as far as one small transaction goes."""
        return self._retention.purge(span, limit)

    def purge_statistics(self, before: datetime) -> int:
        """Delete old usage, refusals and spending, in small transactions."""
        return self._retention.purge_statistics(before)

    def tidy(self) -> None:
        """Wipe what deleted texts have left, in small transactions."""
        self._retention.tidy()

    def pseudonym_key(self) -> bytes:
        """Return the key, and commit it if it is new."""
        return self._write(SqliteFile.pseudonym_key)

    def count_refusal(self, caller: str, rule: str, at: datetime) -> None:
        """Count a refusal in its minute."""
        self._write(lambda file: file.count_refusal(caller, rule, at))

    def recover(self, now: datetime) -> int:
        """Interrupt what expired or whose process died."""
        with translated(), self.session.opened().life_sign.burying():
            return self._write(lambda file: file.interrupt_abandoned(timestamp(now)))

    def check(self) -> None:
        """Look whether the file can be written, and how much room is left.

        Raises:
            StorageFull: Little is left; what is asked nevertheless is still kept.
        """
        self.session.check()
        with translated():
            if self._free(self._folder) < MIN_FREE_BYTES:
                raise StorageFull(LITTLE_SPACE)

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        self.session.close()
