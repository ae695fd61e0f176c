"""What SQLite's shared memory says of the database file and its -wal.

The format is that of sqlite.org/walformat.html.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from struct import Struct
from typing import NamedTuple

HEADER = Struct("=14x H I I 8x 8s 8x 48x I")
"""The size of a page, frames, pages, the salt of the -wal, and the frames that were moved."""

HEAD_BYTES = 48
WAL_HEADER_BYTES, FRAME_HEADER_BYTES = 32, 24
SALT_OF_WAL, SALT_OF_FIRST_FRAME = slice(16, 24), slice(40, 48)


class WalIndex(NamedTuple):
    """What is committed.

    Attributes:
        page_bytes: The size of a page.
        frames: How many pages stand in the -wal.
        pages: How many the database has, wherever they stand.
        salt: What the -wal and each of its frames begin with, of this round.
        moved: How many of the frames stand in the file too, and may be overwritten.
    """

    page_bytes: int
    frames: int
    pages: int
    salt: bytes
    moved: int

    @property
    def file_bytes(self) -> int:
        """How long the file is once all pages are moved there."""
        return self.pages * self.page_bytes

    def fits_wal(self, length: int, head: bytes | None) -> bool:
        """Return whether all frames may stand in a -wal of this length that begins like this."""
        if not self.frames:
            return True
        needed = WAL_HEADER_BYTES + self.frames * (FRAME_HEADER_BYTES + self.page_bytes)
        if head is None:
            return length >= needed
        salts = head[SALT_OF_WAL], head[SALT_OF_FIRST_FRAME]
        return length >= needed and salts == (self.salt, self.salt)


class WalIndexReader:
    """Reads the -shm through the descriptor that SQLite has of it.

    To open it, and close it again, would let go of all locks that this process has on it:
    sqlite.org/howtocorrupt.html, 2.2. Where that descriptor is not found, as on Windows, nothing
    is known.

    Args:
        shm: The file, which SQLite keeps open for as long as this object is used.
    """

    def __init__(self, shm: Path) -> None:
        self._descriptor = next(_own_descriptors(shm), None)

    def read(self) -> WalIndex | None:
        """Return what is committed; to be asked in a transaction that writes.

        Nobody else commits then, starts the -wal anew or cuts it: all that needs the same lock.
        """
        if self._descriptor is None:
            return None
        header = os.pread(self._descriptor, HEADER.size, 0)
        page_bytes, *others = HEADER.unpack(header)
        return WalIndex(page_bytes if page_bytes > 1 else 65536, *others)


class Wal:
    """A -wal, which holds no locks, so that it may be opened and closed.

    Args:
        wal: The file; it may be missing.
    """

    def __init__(self, wal: Path) -> None:
        self._descriptor: int | None = None
        if hasattr(os, "pread"):  # on Windows, SQLite could not delete what we have open
            with suppress(OSError):
                self._descriptor = os.open(wal, os.O_RDONLY | os.O_CLOEXEC)

    def head(self) -> bytes | None:
        """Return its header and that of the first frame; None if it could not be opened."""
        return None if self._descriptor is None else os.pread(self._descriptor, HEAD_BYTES, 0)

    def pages(self, index: WalIndex) -> set[int]:
        """Return the numbers of the pages that have still to be moved; their frames begin so."""
        if self._descriptor is None:
            return set()
        step = FRAME_HEADER_BYTES + index.page_bytes
        starts = (WAL_HEADER_BYTES + frame * step for frame in range(index.moved, index.frames))
        return {int.from_bytes(os.pread(self._descriptor, 4, start), "big") for start in starts}

    def close(self) -> None:
        """Close the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _own_descriptors(path: Path) -> Iterator[int]:
    """Yield the descriptors that this process has of a file."""
    with suppress(OSError):
        wanted = path.stat()
        for found in Path("/dev/fd").iterdir():
            with suppress(OSError):
                if os.path.samestat(os.fstat(int(found.name)), wanted):
                    yield int(found.name)
