"""Whether the files that SQLite has open still stand in their folder, and may be written."""

import os
from contextlib import suppress
from pathlib import Path

import peewee

from .file_condition import FileCondition
from .wal_index import WalHead, WalIndex, WalIndexReader

LOST = "FILE_LOST"


class FileUnusable(peewee.OperationalError):
    """The file must not be written any more, though SQLite would do so without a complaint."""

    def __init__(self, sqlite_errorname: str) -> None:
        super().__init__(sqlite_errorname)
        self.sqlite_errorname = sqlite_errorname


class OpenFiles:
    """The database file with its -wal and -shm, told apart by device and inode.

    A file that was deleted lives on without a name until it is closed, so that its inode is not
    given away; what is committed to it is gone then. A file that comes back under its old inode
    is the same one and is used again. One that was cut is not: what SQLite writes behind the cut
    fills the gap with zeros.

    Args:
        path: The database file, which SQLite has open.
        condition: What other processes of the server know about it.
    """

    def __init__(self, path: Path, condition: FileCondition) -> None:
        self._condition = condition
        beside = path.resolve()  # SQLite, too, puts them beside what a link points to
        wal, shm = (beside.with_name(beside.name + end) for end in ("-wal", "-shm"))
        self._known = {str(path): _stat(str(path))}  # a Path takes longer to look for
        for companion in (str(wal), str(shm)):
            with suppress(FileUnusable):
                self._known[companion] = _stat(companion)
        condition.length = 0
        self._index = WalIndexReader(shm)
        self._wal = WalHead(wal)

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
        return [_length(path, known) for path, known in self._known.items()]

    def check(self) -> None:
        """Compare their lengths, too, with what SQLite knows, which costs 4 us more.

        To be called in a transaction that writes: others could change them meanwhile.

        Raises:
            FileUnusable: One is missing, another or cut, or the file is damaged.
        """
        length, *others = self.check_names()
        index = self._index.read()
        if index is None:
            return
        if self._is_cut(index, length) or not index.fits_wal(others[0], self._wal.read()):
            self._condition.condemn(LOST)
            raise FileUnusable(LOST)
        self._condition.length = min(length, index.file_bytes)  # to that a checkpoint may cut it

    def _is_cut(self, index: WalIndex, length: int) -> bool:
        """Return whether the file is too short; after somebody's VACUUM it is short, but whole."""
        return length < min(self._condition.length, index.file_bytes)


def _length(path: str, known: os.stat_result) -> int:
    """Return how long the file is, if it is still the one that is known."""
    found = _stat(path)
    if found.st_ino != known.st_ino or found.st_dev != known.st_dev:
        raise FileUnusable(LOST)
    return found.st_size


def _stat(path: str) -> os.stat_result:
    try:
        return os.stat(path)  # noqa: PTH116  # Path.stat takes half as long again
    except OSError:
        raise FileUnusable(LOST) from None
