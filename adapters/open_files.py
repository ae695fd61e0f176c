"""Whether the files that SQLite has open still stand in their folder, and may be written."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import peewee

from .file_condition import FileCondition
from .wal_index import Wal, WalIndex, WalIndexReader

LOST = "FILE_LOST"
NO_FILE = (0, 0)
SHM_BYTES = 32_768
"""By which -shm grows: sqlite.org/walformat.html, section 2.2."""

NEW_SHM_BYTES = 3
"""How long it is for a moment, while SQLite makes it: `unixLockSharedMemory` in its os_unix.c."""

MAKING_SECONDS = 1.0
"""For making a -shm, page by page, which takes microseconds, on a machine with much else to do."""

LOOK_SECONDS = 0.01

LOCKED_BYTE = 0x40000000
"""The page that holds it is never written: sqlite.org/fileformat2.html, section 1.6."""


class FileUnusable(peewee.OperationalError):
    """The file must not be written any more, though SQLite would do so without a complaint."""

    def __init__(self, sqlite_errorname: str) -> None:
        super().__init__(sqlite_errorname)
        self.sqlite_errorname = sqlite_errorname


def make_place(path: Path, condition: FileCondition) -> None:
    """Make the file if it is new; return if SQLite may open it.

    Into another file SQLite moves what was written for the first; where its -shm was cut, and
    another process has it open, it finds nothing of what stands in the -wal.

    Raises:
        FileUnusable: The file is away, or another than the one that the server began with, or
            its -wal or -shm was lost or cut since.
    """
    if condition.fault == LOST:
        raise FileUnusable(LOST)
    refuse_left_behind(path)
    if condition.identity != NO_FILE:
        file = _stat_or_none(str(path))
        if not file or condition.identity != _id(file):
            raise FileUnusable(LOST)
        if _stays_cut(f"{os.path.realpath(path)}-shm"):
            condition.condemn(LOST)
            raise FileUnusable(LOST)
    if not path.exists():
        path.touch(mode=0o600)  # what users say is nobody else's; -wal and -shm follow suit


def _stays_cut(shm: str) -> bool:
    """Return whether a -shm is shorter than SQLite makes it, and nobody is just making it."""
    give_up = time.monotonic() + MAKING_SECONDS
    while (found := _stat_or_none(shm)) and found.st_size % SHM_BYTES > NEW_SHM_BYTES:
        if time.monotonic() > give_up:
            return True
        time.sleep(LOOK_SECONDS)
    return False


def refuse_left_behind(path: Path) -> None:
    """Return unless there is a -wal, or a process's -shm, without the database that it belongs to.

    To an empty file SQLite knows no -wal: it deletes the one that stands there, with all that was
    acknowledged, and the -shm of whoever has the file still open.

    Raises:
        FileUnusable: There is.
    """
    place = os.path.realpath(path)  # SQLite, too, puts the -wal beside what a link points to
    # The file last: another process may be making all three, the file first.
    wal, shm, file = (_stat_or_none(f"{place}{end}") for end in ("-wal", "-shm", ""))
    if (shm or (wal and wal.st_size)) and not (file and file.st_size):
        raise FileUnusable(LOST)


class OpenFiles:
    """The database file with its -wal and -shm, told apart by device and inode.

    A file that was deleted lives on without a name until it is closed, so that its inode is not
    given away; what is committed to it is gone then. A file that comes back under its old inode
    is the same one and is used again. One that was cut is not: what SQLite writes behind the cut
    fills the gap with zeros.

    Args:
        path: The database file, which SQLite has open.
        condition: What other processes of the server know about it.
        named: A path that must lead to it, if it was found through links.
    """

    def __init__(self, path: Path, condition: FileCondition, named: Path | None = None) -> None:
        self._condition = condition
        beside = os.path.realpath(path)  # SQLite, too, puts them beside what a link points to
        wal, shm = (Path(beside + end) for end in ("-wal", "-shm"))
        self._path = str(path)  # a Path takes longer to look for
        self._link = str(named) if named and named != path else None
        self._known = {self._path: _stat(self._path)}
        for companion in (str(wal), str(shm)):
            with suppress(FileUnusable):
                self._known[companion] = _stat(companion)
        condition.identity = _id(self._known[self._path])
        self._looked = False
        self._index = WalIndexReader(shm)
        self._wal = Wal(wal)

    def close(self) -> None:
        """Let go of the -wal."""
        self._wal.close()

    def check_names(self) -> list[int]:
        """Compare the files with those that were opened; costs 3 us for each.

        Returns:
            How long they are.

        Raises:
            FileUnusable: One is missing or another, or the file is damaged.
        """
        if fault := self._condition.fault:
            raise FileUnusable(fault)
        lengths = []
        for path, known in self._known.items():
            found = _stat_or_none(path)
            if not found or _id(found) != _id(known):
                if path != self._path:
                    # Who begins, or has begun since, makes another, and locks by that.
                    self._condition.condemn(LOST)
                raise FileUnusable(LOST)
            lengths.append(found.st_size)
        if self._link and _id(_stat(self._link, os.stat)) != _id(self._known[self._path]):
            raise FileUnusable(LOST)
        return lengths

    def are_lost(self) -> bool:
        """Return whether what SQLite has open is not what stands there: it may read nonsense."""
        try:
            return self.check_names()[0] == 0
        except FileUnusable as error:
            return error.sqlite_errorname == LOST

    def check(self) -> None:
        """Compare their lengths, too, with what SQLite knows, which costs 4 us more.

        To be called in a transaction that writes: others could change them meanwhile.

        Raises:
            FileUnusable: One is missing, another or cut, or the file is damaged.
        """
        index = self._index.read()  # first: somebody may be moving pages into the file
        length, *others = self.check_names()
        if index is None:
            return
        if self._is_cut(index, length) or not index.fits_wal(others[0], self._wal.head()):
            self._condition.condemn(LOST)
            raise FileUnusable(LOST)
        self._condition.length = min(length, index.file_bytes)  # to that a checkpoint may cut it
        self._looked = True

    def _is_cut(self, index: WalIndex, length: int) -> bool:
        """Return whether pages are missing that are not in the -wal either.

        The file may be shorter than it was, after somebody's VACUUM, and what was added since
        stand in the -wal alone; to make sure is dear, and seldom needed.
        """
        least = index.file_bytes
        if self._looked and index.moved < index.frames:
            least = min(self._condition.length, least)
        if length < index.page_bytes:
            return True  # with its first page it is no database, and the -wal is deleted
        if length >= least:
            return False
        there = length // index.page_bytes
        missing = {*range(there + 1, index.pages + 1)} - {LOCKED_BYTE // index.page_bytes + 1}
        return not missing <= self._wal.pages(index)


def _id(file: os.stat_result) -> tuple[int, int]:
    return file.st_dev, file.st_ino


def size_of(path: Path) -> int:
    """Return the size of a file; 0 if it is away, or goes away meanwhile."""
    found = _stat_or_none(str(path))
    return found.st_size if found else 0


def _stat_or_none(path: str) -> os.stat_result | None:
    with suppress(FileUnusable):
        return _stat(path)
    return None


def _stat(path: str, look: Callable[[str], os.stat_result] = os.lstat) -> os.stat_result:
    """Return what stands there itself: beside what a link leads to stand another -wal and -shm."""
    try:
        return look(path)  # Path.stat takes half as long again
    except OSError:
        raise FileUnusable(LOST) from None
