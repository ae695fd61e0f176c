"""Real threads for what blocks, in a server whose threads are greenlets."""

import os
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gevent.threadpool import ThreadPool

DATABASE_THREADS = 4
"""One writes and one reads; with those that a killed request has left behind."""


@cache
def _threads(_process: int) -> "ThreadPool":
    """Return this process's threads for the database; gevent's own ones may all look up hosts."""
    from gevent.threadpool import ThreadPool  # noqa: PLC0415  # loaded by now

    return ThreadPool(DATABASE_THREADS)


def offload(work: Callable[[], None]) -> None:
    """Run blocking work on a real thread while other greenlets go on.

    A greenlet that is killed meanwhile dies only when the work is done: the thread cannot be
    stopped, and what it uses must not be given to another.
    """
    errors: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  # raised again in the greenlet
            errors.append(error)

    result = _threads(os.getpid()).spawn(guarded)
    while not result.ready():
        try:
            result.wait()
        except BaseException as killed:  # noqa: BLE001  # a kill or a timeout; raised when it is done
            errors.append(killed)
    if errors:
        raise errors[0]
