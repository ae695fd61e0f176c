"""Real threads for what blocks, in a server whose threads are greenlets."""

import logging
import os
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

from chatport.domain.errors import StorageUnavailable

if TYPE_CHECKING:
    from gevent.threadpool import ThreadPool

logger = logging.getLogger(__name__)

DATABASE_THREADS = 4
"""One writes and one reads; with those that a killed request has left behind."""

RETRY_AFTER_SECONDS = 1.0
"""Where the machine, or the limit of a container, has no thread left."""


@cache
def _threads(_process: int) -> "ThreadPool":
    """Return this process's threads for the database; gevent's own ones may all look up hosts.

    All are started at once: work that is given to one that cannot be started would be done when
    another is, and nobody would know.
    """
    from gevent.threadpool import ThreadPool  # noqa: PLC0415  # loaded by now

    threads = ThreadPool(DATABASE_THREADS)
    try:
        threads.size = DATABASE_THREADS
    except RuntimeError:
        threads.kill()
        logger.error("no threads can be started for the database")  # noqa: TRY400  # expected
        raise StorageUnavailable(retry_after_seconds=RETRY_AFTER_SECONDS) from None
    return threads


def offload(work: Callable[[], None]) -> None:
    """Run blocking work on a real thread while other greenlets go on.

    A greenlet that is killed meanwhile dies only when the work is done: the thread cannot be
    stopped, and what it uses must not be given to another.

    Raises:
        StorageUnavailable: No thread can be started; the work is not done.
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
