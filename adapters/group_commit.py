"""Durable commits for many callers at once: one transaction, one fsync."""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import peewee

from .sqlite_faults import DATABASE_ERRORS

T = TypeVar("T")
Offload = Callable[[Callable[[], None]], None]
"""Runs work to its end, somewhere that may block, and returns; even if the caller is killed."""

BUSY_SECONDS = 5
"""How long to wait for another process's transaction before the caller is told."""


RETRY_SECONDS = 0.001
"""SQLite's own busy handler sleeps for up to 100 ms, long after the other has finished."""

QUICK_SECONDS = 0.002
"""A commit that takes less costs less than handing it over: 0.2 ms was measured for each."""


def nothing_to_check() -> None:
    """Take the database for usable."""


def run_here(work: Callable[[], None]) -> None:
    """Run the work on the calling thread, which is right wherever threads are threads."""
    work()


class GroupCommit:
    """Runs units of work in the order they come; each caller returns after its own commit.

    Whoever finds nobody committing leads: it commits for all that wait, and then names the next
    leader. With one caller that is a plain transaction; under load one fsync serves dozens of
    callers, each of whom waits for it.

    Args:
        database: Used by this object only, and by one thread at a time; its busy timeout is 0.
        offload: Where waiting for the disk may happen. The work itself,
            microseconds in memory, stays on the leader's thread: on another, it would wait for
            the interpreter lock after every statement.
        check: Raises one of DATABASE_ERRORS when the database must not be written. Called at the
            beginning of each transaction.
        check_kept: As `check`, after each commit: what went into a deleted file is not kept.
    """

    def __init__(
        self,
        database: peewee.SqliteDatabase,
        offload: Offload = run_here,
        check: Callable[[], object] = nothing_to_check,
        check_kept: Callable[[], object] = nothing_to_check,
    ) -> None:
        self._database = database
        self._offload = offload
        self._check = check
        self._check_kept = check_kept
        self._mutex = threading.Lock()
        self._waiting: deque[_Unit[Any]] = deque()
        self._led = False
        self._committed = False
        self._last_commit_seconds = 0.0

    def run(self, work: Callable[[], T]) -> T:
        """Run `work` inside a transaction, and return its result once that is committed.

        `work` either raises before it has written anything, or does all its writing.
        """
        unit = _Unit(work)
        with self._mutex:
            self._waiting.append(unit)
            waits, self._led = self._led, True
        if waits:  # whoever is named leader from now on is woken for that
            self._wait(unit)
        if unit.leads or not waits:
            self._lead()
        return unit.outcome()

    def _wait(self, unit: "_Unit[T]") -> None:
        """Wait until the unit is done or is to lead; a caller who is killed leaves the queue."""
        try:
            unit.woken.acquire()
        except BaseException:
            with self._mutex:
                if unit in self._waiting:
                    self._waiting.remove(unit)
            if unit.leads:
                self._name_leader()
            raise

    def _lead(self) -> None:
        """Commit what waits, let somebody else lead, and wake those who waited."""
        with self._mutex:
            batch, self._waiting = list(self._waiting), deque()
        try:
            self._commit(batch)
        finally:
            self._name_leader()
            for unit in batch:
                unit.woken.release()

    def _name_leader(self) -> None:
        with self._mutex:
            self._led = bool(self._waiting)
            if self._led:
                self._waiting[0].leads = True
                self._waiting[0].woken.release()

    def _commit(self, batch: "list[_Unit[Any]]") -> None:
        self._committed = False
        try:
            self._begin(batch[0].arrived)
            try:
                self._check()
                for unit in batch:
                    unit.attempt()
                self._commit_where_it_is_cheapest(len(batch))
            except BaseException:
                self._rollback()
                raise
            self._check_kept()
        except DATABASE_ERRORS as error:
            self._after_failure(batch, error)
        except BaseException:
            if not self._committed:
                for unit in batch:
                    unit.error = peewee.InterfaceError("the commit was interrupted")
            raise

    def _begin(self, since: float) -> None:
        """Take the write lock, trying again every millisecond while another process has it.

        Nobody waits much longer than BUSY_SECONDS for it, be it in two batches: the oldest of a
        batch has its patience, and the others are told with it. A batch that had to wait for the
        disk so long has a moment all the same.
        """
        patience = max(since + BUSY_SECONDS, time.monotonic() + BUSY_SECONDS / 10)
        while True:
            try:
                return self._database.begin("IMMEDIATE")
            except peewee.OperationalError as error:
                if not _is_busy(error):
                    self._check()  # which knows why it cannot be read
                    raise
                if time.monotonic() > patience:
                    raise
            time.sleep(RETRY_SECONDS)

    def _commit_where_it_is_cheapest(self, callers: int) -> None:
        """Wait for the disk; hand that over unless it was quick last time and nobody else waits."""
        began = time.monotonic()
        if callers == 1 and self._last_commit_seconds < QUICK_SECONDS:
            self._commit_now()
        else:
            self._offload(self._commit_now)
        self._last_commit_seconds = time.monotonic() - began

    def _commit_now(self) -> None:
        self._database.commit()
        self._committed = True

    def _rollback(self) -> None:
        """Undo the transaction, unless SQLite has done so by itself, as when the disk is full."""
        if self._database.connection().in_transaction:
            self._database.rollback()

    def _after_failure(self, batch: "list[_Unit[Any]]", error: Exception) -> None:
        """Nothing was committed. Let one unit's fault not be the others': run each by itself."""
        culprit = any(unit.broke_transaction for unit in batch)
        for unit in batch:
            unit.error = error
        if culprit and len(batch) > 1:
            for unit in batch:
                unit.error, unit.broke_transaction = None, False
                self._commit([unit])


def _is_busy(error: peewee.OperationalError) -> bool:
    name = getattr(getattr(error, "orig", None), "sqlite_errorname", "")
    return str(name).startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))


class _Unit(Generic[T]):
    """One caller's work, and what came of it."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._result: T | None = None
        self.error: Exception | None = None
        self.broke_transaction = False
        self.leads = False
        self.arrived = time.monotonic()
        self.woken = threading.Lock()
        self.woken.acquire()

    def attempt(self) -> None:
        """Do the work; a database error ends the transaction, any other only this unit."""
        try:
            self._result = self._work()
        except DATABASE_ERRORS:
            self.broke_transaction = True
            raise
        except Exception as error:  # noqa: BLE001  # handed to the caller by `outcome`
            self.error = error

    def outcome(self) -> T:
        """Return the result, or raise what went wrong."""
        if self.error is not None:
            raise self.error
        return self._result  # type: ignore[return-value]  # None only where T allows it
