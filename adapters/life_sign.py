"""A locked file that proves that the process which opened an exchange still lives.

The system lets go of the lock the moment a process dies, also by kill -9, so that what it left
open can be closed at once, and not only when its lease has run out.
"""

import glob
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from .own_leases import OwnLeases

Row = Mapping[str, Any]

LOOK_SECONDS = 1.0
"""Another process that looks whether we live holds our lock for some microseconds."""


class LifeSign:
    """The life sign of this process beside a database file, and the look at those of others.

    Attributes:
        owner: The name of this process.
        leases: Of what it has open.
    """

    def __init__(self, database: Path, owner: str) -> None:
        self.owner = owner
        self.leases = OwnLeases()
        self._database = database.resolve()  # a link to it is the same file to all
        self._lock = FileLock(self._path(owner), mode=0o600, thread_local=False)

    def show(self) -> None:
        """Hold the lock until `hide`, or until the process dies."""
        if not self._lock.is_locked:
            self._lock.acquire(timeout=LOOK_SECONDS)

    def hide(self, *, clean: bool) -> None:
        """Let go of the lock; remove its file if nothing was left open."""
        if self._lock.is_locked:
            self._lock.release()
            if clean:
                self._path(self.owner).unlink(missing_ok=True)

    def lives(self, owner: str) -> bool | None:
        """Return whether a process lives.

        Returns:
            None if nothing is known: it has no file, or one that only another user may lock.
        """
        if owner == self.owner:
            return True
        try:
            if not self._path(owner).exists():
                return None
            FileLock(self._path(owner), mode=0o600).acquire(timeout=0).lock.release()
        except Timeout:
            return True
        except OSError:
            return None
        return False

    def is_dead(self, owner: str) -> bool:
        """Return whether a process is known to be dead."""
        return self.lives(owner) is False

    def is_abandoned(self, row: Row, at: str) -> bool:
        """Return whether nobody will finish an open exchange; see `abandoned`."""
        return bool(self.abandoned([row], at))

    def abandoned(self, rows: Iterable[Row], at: str) -> list[Row]:
        """Return those of the open exchanges that nobody will finish.

        While its process lives, its lease does not count, which a clock that is set seems to end.

        Args:
            rows: The `public_id`, `owner` and `lease_until` of each.
            at: The present time.
        """
        lives = cache(self.lives)

        def will_nobody_finish(row: Row) -> bool:
            owner, over = row["owner"], row["lease_until"] <= at
            if owner == self.owner:
                return over and not self.leases.holds(row["public_id"])
            return lives(owner) is False or (over and not lives(owner))

        return [row for row in rows if will_nobody_finish(row)]

    @contextmanager
    def burying(self) -> Iterator[None]:
        """On leaving without an error, remove the signs of those who were dead before."""
        prefix = self._path("").name
        signs = self._database.parent.glob(f"{glob.escape(prefix)}*")
        found = [path.name.removeprefix(prefix) for path in signs]
        dead = [owner for owner in found if self.is_dead(owner)]
        yield
        for owner in filter(self.is_dead, dead):  # one that was just being made is not
            with suppress(OSError):  # who may lock it need not be allowed to delete it
                self._path(owner).unlink(missing_ok=True)

    def _path(self, owner: str) -> Path:
        return self._database.with_name(f"{self._database.name}-alive-{owner}")
