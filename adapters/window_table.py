"""Counters of sliding windows in a fixed piece of memory that all processes of a server share.

`limits` ships a storage in memory too, but each process counts for itself there, so that two
workers admit twice the limit, and it keeps every key until a timer has walked over all of them.
"""

import mmap
import struct
import tempfile
import threading
import time
import weakref
from collections.abc import Callable
from hashlib import blake2b
from math import floor
from types import TracebackType
from typing import NamedTuple

from limits.storage.base import SlidingWindowCounterSupport, Storage

try:
    import fcntl
except ImportError:  # Windows, where chatport runs in one process
    fcntl = None  # type: ignore[assignment]

TAG = struct.Struct("<Q")
USE = struct.Struct("<d")
TAGS = struct.Struct("<8Q")
USES = struct.Struct("<8d")
WINDOW = struct.Struct("<dQQ")
"""A bucket holds the tags of its eight keys, when each was used last, and then for each when its
window began, the count of the window before, and the count of this one."""

SLOTS = 262_144
"""10 MB, of which a system gives only what is used. Two limits a user: 131,072 users a day."""

WAYS = 8
BUCKET = TAGS.size + USES.size + WAYS * WINDOW.size
"""A key may stand in this many slots; the least recently used of them makes room for a new key."""


class ProcessLock:
    """Excludes other threads, and the processes that were forked after it was made.

    The system lets go of it when a process dies, also by kill -9.
    """

    def __init__(self) -> None:
        self._threads = threading.Lock()
        self._file = None
        if fcntl:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as the lock
            weakref.finalize(self, self._file.close)

    def __enter__(self) -> None:
        self._threads.acquire()
        if self._file:
            fcntl.lockf(self._file, fcntl.LOCK_EX)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._file:
            fcntl.lockf(self._file, fcntl.LOCK_UN)
        self._threads.release()


class Window(NamedTuple):
    """When a key's window began, and what was counted in it and in the one before."""

    bucket: int
    way: int
    tag: int
    start: float
    previous: int
    current: int


class WindowTable(Storage, SlidingWindowCounterSupport):
    """A storage for `limits` that supports the sliding window counter, and only that.

    The window of a key begins with its first request, so that a burst from rest is held to the
    limit for a whole window. Whoever calls holds `lock`. Under more keys than slots, the ones
    used least recently are forgotten: a limit may then admit more, memory never grows.

    Args:
        slots: A multiple of 8. 40 bytes each.
        monotonic: Seconds; on the systems we know the same in all processes.

    Attributes:
        last: The window that was asked last, as it is now.
        last_left: How many seconds it has left.
    """

    STORAGE_SCHEME = None  # not to be had by URI

    def __init__(self, slots: int = SLOTS, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self.lock = ProcessLock()
        self._memory = mmap.mmap(-1, slots // WAYS * BUCKET)
        self._buckets = slots // WAYS
        self._monotonic = monotonic
        self.last = Window(0, 0, 0, 0.0, 0, 0)
        self.last_left = 0.0

    @property
    def base_exceptions(self) -> type[Exception]:
        """Return what can go wrong here: nothing."""
        return ValueError

    def acquire_sliding_window_entry(
        self, key: str, limit: int, expiry: int, amount: int = 1
    ) -> bool:
        """Take `amount` from the window if that much is left of it."""
        now = self._monotonic()
        window = self._window(key, expiry, now)
        left = expiry - (now - window.start)
        admitted = floor(window.previous * left / expiry + window.current) + amount <= limit
        if admitted:
            window = window._replace(current=window.current + amount)
            self._keep(window, now)
        self.last, self.last_left = window, left
        return admitted

    def correct(self, key: str, expiry: int, start: float, difference: int) -> None:
        """Add to the window that began at `start`, as long as it counts; it stays above 0."""
        now = self._monotonic()
        window = self._window(key, expiry, now)
        if window.start == start:
            changed = window._replace(current=max(0, window.current + difference))
        elif window.start == start + expiry:
            changed = window._replace(previous=max(0, window.previous + difference))
        else:
            return
        self._keep(changed, now)

    def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        """Return the count and the remaining life, in seconds, of the last window and of this."""
        now = self._monotonic()
        window = self._window(key, expiry, now)
        left = expiry - (now - window.start)
        return window.previous, left, window.current, left + expiry

    def clear_sliding_window(self, key: str, expiry: int) -> None:
        """Forget the key."""
        window = self._window(key, expiry, 0.0)
        self._keep(window._replace(tag=0), 0.0)

    def _window(self, key: str, expiry: int, now: float) -> Window:
        """Return the key's window as it is now; a new one if it has none or that has passed."""
        digest = int.from_bytes(blake2b(key.encode(), digest_size=16).digest(), "little")
        bucket, tag = digest % self._buckets * BUCKET, (digest >> 64) | 1
        tags = TAGS.unpack_from(self._memory, bucket)
        if tag in tags:
            way = tags.index(tag)
            place = bucket + TAGS.size + USES.size + way * WINDOW.size
            start, previous, current = WINDOW.unpack_from(self._memory, place)
            return _moved(Window(bucket, way, tag, start, previous, current), expiry, now)
        uses = USES.unpack_from(self._memory, bucket + TAGS.size)
        return Window(bucket, uses.index(min(uses)), tag, now, 0, 0)

    def _keep(self, window: Window, now: float) -> None:
        bucket, way, tag, *counts = window
        TAG.pack_into(self._memory, bucket + way * TAG.size, tag)
        USE.pack_into(self._memory, bucket + TAGS.size + way * USE.size, now)
        place = bucket + TAGS.size + USES.size + way * WINDOW.size
        WINDOW.pack_into(self._memory, place, *counts)

    def check(self) -> bool:
        """Return True: memory is always there."""
        return True

    def reset(self) -> int | None:
        """Forget all keys."""
        self._memory[:] = bytes(len(self._memory))
        return None

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Refuse: fixed windows are not kept."""
        raise NotImplementedError

    def get(self, key: str) -> int:
        """Refuse: fixed windows are not kept."""
        raise NotImplementedError

    def get_expiry(self, key: str) -> float:
        """Refuse: fixed windows are not kept."""
        raise NotImplementedError

    def clear(self, key: str) -> None:
        """Refuse: fixed windows are not kept."""
        raise NotImplementedError


def _moved(window: Window, expiry: int, now: float) -> Window:
    """Return the window that is the current one now; one in which nothing counts begins now."""
    age = now - window.start
    if age < expiry:
        moved = window
    else:
        previous = window.current if age < 2 * expiry else 0
        moved = window._replace(start=window.start + expiry, previous=previous, current=0)
    return moved if moved.previous or moved.current else moved._replace(start=now)
