"""Whether the files that SQLite has open still stand in their folder, and may be written."""

import os
from pathlib import Path

import peewee

from .file_condition import FileCondition

Identity = tuple[int, int]


class FileUnusable(peewee.OperationalError):
    """The file must not be written any more, though SQLite would do so without a complaint."""

    def __init__(self, sqlite_errorname: str) -> None:
        super().__init__(sqlite_errorname)
        self.sqlite_errorname = sqlite_errorname


class OpenFiles:
    """The database file with its -wal and -shm, told apart by device and inode.

    A file that was deleted lives on without a name until it is closed, so that its inode is not
    given away; what is committed to it is gone then. A file that comes back under its old inode
    is the same one and is used again.

    Args:
        path: The database file, which SQLite has open.
        condition: What other processes of the server know about it.
    """

    def __init__(self, path: Path, condition: FileCondition) -> None:
        self._condition = condition
        beside = path.resolve()  # SQLite, too, puts them beside what a link points to
        companions = [beside.with_name(beside.name + end) for end in ("-wal", "-shm")]
        self._known = {path: _identity(path)}
        self._known |= {file: found for file in companions if (found := _identity(file))}

    def check(self) -> None:
        """Compare the files with those that were opened; costs 2 us for each.

        Raises:
            FileUnusable: One is missing or another, or the file is damaged.
        """
        if fault := self._condition.fault:
            raise FileUnusable(fault)
        for path, identity in self._known.items():
            if identity is None or _identity(path) != identity:
                raise FileUnusable("FILE_LOST")


def _identity(path: Path) -> Identity | None:
    try:
        found = os.stat(path)  # noqa: PTH116  # Path.stat takes half as long again
    except OSError:
        return None
    return found.st_dev, found.st_ino
