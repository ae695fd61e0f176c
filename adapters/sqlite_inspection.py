"""A look at a database file that changes nothing: no schema, no journal, no file beside it."""

import fcntl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar, cast

import peewee
from playhouse.migrations import Runner

from chatport.domain.admin_ports import KeyStore
from chatport.domain.errors import StorageBusy, StorageCorrupt
from chatport.domain.model import State

from .exchange_table import ExchangeRow, timestamp
from .open_files import FileUnusable, refuse_left_behind, size_of
from .peewee_keys import PeeweeKeys
from .schema import MIGRATIONS, is_foreign, look, uri
from .sqlite_connection import PRAGMAS
from .sqlite_faults import parsing, translated

if TYPE_CHECKING:
    from .sqlite_session import SqliteSession

T = TypeVar("T")
WRITE_VERSION = 18
"""The byte of the header that is 2 for a write-ahead log: www.sqlite.org/fileformat2.html"""

WAL = 2
AT_REST = "mode=ro&immutable=1"
MAGIC = b"SQLite format 3\0"
SHADOW = "exchange_text_"
"""What the names of the word index's own tables begin with; how they look is SQLite's affair."""

Objects = dict[tuple[str, str], str]
"""The statement that made each table, index and trigger, by kind and name."""


class WalWithoutIndex(Exception):
    """There is a -wal without its -shm: SQLite could read it only by making one."""


class SqliteInspection:
    """Reads one database file, also while a server uses it.

    Args:
        path: The file, which must exist.
        named: How chatport names it, if that is a link: life signs may stand beside that.

    Raises:
        StorageReadOnly: It may not even be read.
        StorageCorrupt: It does not begin like a database, or is empty beside its -wal.
        WalWithoutIndex: The file was copied or moved, or only half of it was.
    """

    def __init__(self, path: Path, named: Path | None = None) -> None:
        self._named = named or path
        self._path = path.resolve()  # SQLite, too, looks for -wal beside what a link points to
        if self._header() and not self._header().startswith(MAGIC):
            raise StorageCorrupt
        try:
            refuse_left_behind(self._path)  # SQLite would delete the -wal beside an empty file
        except FileUnusable:
            raise StorageCorrupt from None
        self._open()

    def _open(self) -> None:
        self._opened = self._state()
        self.reader: Any = peewee.SqliteDatabase(uri(self._path, self._opened[0]), uri=True)

    def close(self) -> None:
        """Close the file."""
        self.reader.close()

    def uses_wal(self) -> bool:
        """Return whether the file says that it has a write-ahead log."""
        return self._header()[WRITE_VERSION:] == bytes([WAL])

    def _header(self) -> bytes:
        """Return the beginning of the file, which is empty before anything is written."""
        with translated(), self._path.open("rb") as file:
            return file.read(WRITE_VERSION + 1)

    def damages(self) -> list[str]:
        """Return what SQLite finds wrong with the file, at most 100 things."""
        with self._reading():
            rows = list(self.reader.execute_sql("PRAGMA quick_check(100)"))
        return [str(word) for (word,) in rows if word != "ok"]

    def pending_migrations(self) -> list[str]:
        """Return the names of the migrations that the file lacks."""
        return [each.name for each in self._migrations() if each.applied is None]

    def unknown_migrations(self) -> list[str]:
        """Return the names of the migrations that only a newer version of chatport knows."""
        return [each.name for each in self._migrations() if each.path is None]

    def is_foreign(self) -> bool:
        """Return whether another program has made the file."""
        with self._reading():
            return is_foreign(*look(self.reader))

    def flaws(self) -> list[str]:
        """Return what of the schema is missing or altered, such as `index exchange_open`."""
        with self._reading():
            found = _objects(self.reader)
        return [
            f"{kind} {name} is {'altered' if (kind, name) in found else 'missing'}"
            for (kind, name), sql in _new_objects().items()
            if found.get((kind, name)) != sql
        ]

    def open_exchanges(self, at: datetime) -> tuple[int, int]:
        """Return how many exchanges are open, and how many of these nobody will finish."""
        row: Any = ExchangeRow
        query = row.select(row.owner, row.lease_until).where(row.state == State.OPEN).tuples()
        with self._reading():
            found = list(query.execute(self.reader))
        now = timestamp(at)
        return len(found), sum(self._is_left(owner, until, now) for owner, until in found)

    def _is_left(self, owner: str, lease_until: str, at: str) -> bool:
        alive = self._is_alive(owner)
        return lease_until <= at if alive is None else not alive

    def _is_alive(self, owner: str) -> bool | None:
        """Return whether the process holds the lock of its life sign; None if that is not there.

        It is asked for a lock that two may have, and in no way that could change the file.
        """
        for database in (self._named, self._path):
            path = database.parent / f"{database.name}-alive-{owner}"
            try:
                if path.is_file():
                    with path.open("rb") as file:
                        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                        return False
            except BlockingIOError:
                return True
            except OSError:
                continue
        return None

    def newest(self) -> datetime | None:
        """Return when the newest exchange began; None if there is none."""
        row: Any = ExchangeRow
        newest = row.select(row.started_at).order_by(row.id.desc()).limit(1).tuples()
        with self._reading(), parsing():
            found = newest.first(self.reader)
            return datetime.fromisoformat(found[0]) if found else None

    def keys(self) -> KeyStore:
        """Return the callers and their keys, to be read only."""
        return PeeweeKeys(cast("SqliteSession", self))  # of which reading needs only `read`

    def read(self, work: Callable[[Any], T]) -> T:
        """Return the result of `work`, which uses the `reader` of what it is given."""
        with self._reading():
            return work(self)

    def _migrations(self) -> list[Any]:
        with self._reading():
            return look(self.reader)[0]

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Translate errors, also one that is none: a file at rest that others began to write.

        SQLite locks no such file, so that pages of before and after look like damage.

        Raises:
            StorageBusy: It was so; who reads again sees what they wrote.
        """
        try:
            with translated():
                yield
        finally:
            with translated():
                self._open_anew_if_changed()

    def _open_anew_if_changed(self) -> None:
        try:
            if self._opened[0] == AT_REST and self._opened != self._state():
                self.close()
                self._open()
                raise StorageBusy
        except WalWithoutIndex:  # which they are about to make
            raise StorageBusy from None

    def _state(self) -> tuple[str, int, int]:
        """Return how to open the file, and what shows that it has changed."""
        found = self._path.stat()
        return self._mode(), found.st_size, found.st_mtime_ns

    def _mode(self) -> str:
        """Return how to open the file: www.sqlite.org/wal.html, "Read-Only Databases"."""
        wal, index = (self._path.with_name(self._path.name + end) for end in ("-wal", "-shm"))
        if not wal.exists() or (not index.exists() and not size_of(wal)):
            return AT_REST  # else SQLite makes both, and leaves them behind
        if not index.exists():
            raise WalWithoutIndex
        return "mode=ro&readonly_shm=1"


def _objects(database: Any) -> Objects:
    rows = database.execute_sql("SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL")
    return {
        (kind, name): "" if (kind, name[: len(SHADOW)]) == ("table", SHADOW) else _plain(sql)
        for kind, name, sql in rows
    }


def _plain(sql: str) -> str:
    """Return a statement without what versions of SQLite and peewee write in different ways."""
    return "".join(sql.replace('"', "").split()).lower()


@cache
def _new_objects() -> Objects:
    """Return what stands in a file that was just made."""
    with _scratch() as database:
        Runner(database, str(MIGRATIONS)).up()
        return _objects(database)


def effective_pragmas(asked: Mapping[str, Any] = PRAGMAS) -> dict[str, str]:
    """Return what SQLite makes of chatport's own pragmas, tried on a file that is thrown away."""
    with (
        TemporaryDirectory() as folder,  # in memory there is no journal
        translated(),
        _scratch(str(Path(folder) / "scratch.db"), asked) as database,
    ):
        return {name: str(database.pragma(name)) for name in asked}


def compile_options() -> frozenset[str]:
    """Return how SQLite was built, such as `ENABLE_FTS5` and `THREADSAFE=1`."""
    with _scratch() as database:
        return frozenset(option for (option,) in database.execute_sql("PRAGMA compile_options"))


def has_word_index() -> bool:
    """Return whether SQLite can index words, by which the log is searched."""
    with _scratch() as database:
        try:
            database.execute_sql("CREATE VIRTUAL TABLE words USING fts5 (word)")
        except peewee.DatabaseError:
            return False
        return True


@contextmanager
def _scratch(path: str = ":memory:", pragmas: Mapping[str, Any] = PRAGMAS) -> Iterator[Any]:
    database = peewee.SqliteDatabase(path, pragmas=dict(pragmas))
    try:
        yield database
    finally:
        database.close()
