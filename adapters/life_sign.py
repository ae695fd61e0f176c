"""A locked file that proves that the process which opened an exchange still lives.

The system lets go of the lock the moment a process dies, also by kill -9, so that what it left
open can be closed at once, and not only when its lease has run out.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


class LifeSign:
    """The life sign of this process beside a database file, and the look at those of others."""

    def __init__(self, database: Path, owner: str) -> None:
        self.owner = owner
        self._database = database
        self._lock = FileLock(self._path(owner), thread_local=False)

    def show(self) -> None:
        """Hold the lock until `hide`, or until the process dies."""
        if not self._lock.is_locked:
            self._lock.acquire(timeout=0)

    def hide(self, *, clean: bool) -> None:
        """Let go of the lock; remove its file if nothing was left open."""
        if self._lock.is_locked:
            self._lock.release()
            if clean:
                self._path(self.owner).unlink(missing_ok=True)

    def is_dead(self, owner: str) -> bool:
        """Return whether the process is known to be dead; without its file nothing is known."""
        if owner == self.owner or not self._path(owner).exists():
            return False
        try:
            FileLock(self._path(owner)).acquire(timeout=0).lock.release()
        except Timeout:
            return False
        return True

    def is_abandoned(self, owner: str, lease_until: str, at: str) -> bool:
        """Return whether nobody will finish what this process has left open until now."""
        return lease_until <= at or self.is_dead(owner)

    @contextmanager
    def dead_owners(self) -> Iterator[list[str]]:
        """Yield the dead; on leaving without an error, bury them."""
        prefix = self._path("").name
        found = [
            path.name.removeprefix(prefix) for path in self._database.parent.glob(f"{prefix}*")
        ]
        dead = [owner for owner in found if self.is_dead(owner)]
        yield dead
        for owner in dead:
            self._path(owner).unlink(missing_ok=True)

    def _path(self, owner: str) -> Path:
        return self._database.with_name(f"{self._database.name}-alive-{owner}")
