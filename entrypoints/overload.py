"""How many requests are being answered, over all processes, and a quick no to those beyond."""

import mmap
import random
from typing import Protocol

from chatport.domain.errors import Overloaded

SLOTS = 256
"""One for each worker process that lives; a reload has twice as many for a while."""

SHORTEST_WAIT, LONGEST_WAIT = 1.0, 3.0
"""Seconds. Whoever is refused is told another time, so that all do not come back at once."""


class Overload:
    """Counts the requests in flight; each process in a slot of its own, so that none needs a lock.

    Two processes that take the last place at the same moment both get it: the count may pass
    `most` by as many as there are processes.

    Args:
        most: How many requests may be in flight. To be made before the processes are forked.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._counts = memoryview(mmap.mmap(-1, SLOTS * 8)).cast("q")
        self._slot = 0
        self._slots: dict[int, int] = {}

    def before_fork(self, number: int) -> None:
        """Give the process that begins now, of this number, a slot of its own."""
        free = set(range(SLOTS)) - set(self._slots.values())
        self._slot = self._slots[number] = min(free, default=0)

    def end_process(self, number: int) -> None:
        """Forget what a process had in flight that is no more, or never was."""
        if (slot := self._slots.pop(number, None)) is not None:
            self._counts[slot] = 0

    def enter(self) -> None:
        """Count one more request; raise as `check` does."""
        self.check()
        self._counts[self._slot] += 1

    def check(self) -> None:
        """Return if there is room for one more.

        Raises:
            Overloaded: As many as are allowed are in flight.
        """
        if sum(self._counts) >= self._most:
            wait = random.uniform(SHORTEST_WAIT, LONGEST_WAIT)  # noqa: S311  # nobody gains from guessing it
            raise Overloaded(retry_after_seconds=wait)

    def leave(self) -> None:
        """Count one less."""
        self._counts[self._slot] -= 1


class _Numbered(Protocol):
    """What gunicorn tells of a worker: its number, which is never given again."""

    age: int


def hooks(overload: Overload) -> dict[str, object]:
    """Return the settings of gunicorn that tell its first process when others begin and end."""

    def pre_fork(_server: object, worker: _Numbered) -> None:
        overload.before_fork(worker.age)

    def child_exit(_server: object, worker: _Numbered) -> None:
        overload.end_process(worker.age)

    return {"pre_fork": pre_fork, "child_exit": child_exit}
