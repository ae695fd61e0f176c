"""The process that starts workers, where it cannot, and where nobody could run."""

import errno
import logging
import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer
from pytest_mock import MockerFixture

from chatport.domain.errors import Overloaded
from chatport.entrypoints import overload
from chatport.entrypoints.gevent_worker import Master, Server

TIMEOUT = 30


@pytest.fixture
def master() -> Iterator[Master]:
    made = Master(Server(lambda *_: [], {"timeout": TIMEOUT}))
    made.pid = os.getpid()
    workers: list[Any] = []
    made.cfg.set("pre_fork", lambda _master, worker: workers.append(worker))
    yield made
    for worker in workers:
        worker.tmp.close()


def test_where_no_process_can_be_made_it_is_tried_again(
    master: Master, mocker: MockerFixture, caplog: pytest.LogCaptureFixture
) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    full = BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
    mocker.patch("os.fork", side_effect=[full, 4711])
    with caplog.at_level(logging.ERROR):
        master.manage_workers()
    assert master.WORKERS == {}
    assert caplog.messages == [
        "a worker is missing, and cannot be started now: Resource temporarily unavailable"
    ]
    master.manage_workers()
    assert [*master.WORKERS] == [4711]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


def test_a_process_that_could_not_be_made_keeps_no_count_of_requests(
    master: Master, mocker: MockerFixture
) -> None:
    mocker.patch.object(overload, "SLOTS", 2)
    mocker.patch("os.fork", side_effect=BlockingIOError(errno.EAGAIN, "full"))
    counted, kept = overload.Overload(1), master.cfg.pre_fork

    def pre_fork(server: Any, worker: Any) -> None:
        kept(server, worker)
        counted.before_fork(worker.age)

    master.cfg.set("pre_fork", pre_fork)
    master.cfg.set("child_exit", overload.hooks(counted)["child_exit"])
    for _ in range(3):
        master.spawn_worker()
    counted.before_fork(101)
    counted.enter()
    counted.before_fork(102)
    counted.end_process(102)
    with pytest.raises(Overloaded):
        counted.check()


def test_a_new_process_that_cannot_go_on_does_not_become_another_master(
    master: Master, mocker: MockerFixture
) -> None:
    master.pid = os.getppid()
    mocker.patch.object(Arbiter, "spawn_worker", side_effect=OSError)
    with pytest.raises(OSError):
        master.spawn_worker()


CANNOT_BEGIN = Arbiter.WORKER_BOOT_ERROR
FAILS_AT_ONCE = -1
"""As gunicorn says it of a worker that has begun."""


@pytest.mark.parametrize(
    ("age", "code", "goes_on"),
    [(1, CANNOT_BEGIN, False), (2, CANNOT_BEGIN, True), (2, FAILS_AT_ONCE, True)],
    ids=["one of the first", "a later one", "one that has just begun"],
)
def test_a_worker_that_cannot_begin_ends_the_server_only_at_its_start(
    master: Master, mocker: MockerFixture, age: int, code: int, goes_on: bool
) -> None:
    sleep = mocker.patch("time.sleep")
    cannot_begin = SystemExit(code)
    mocker.patch.object(Arbiter, "spawn_worker", side_effect=cannot_begin)
    master.worker_age = age
    with pytest.raises(SystemExit) as ended:
        master.spawn_worker()
    master.WORKERS = {4711: SimpleNamespace(tmp=SimpleNamespace(close=lambda: None))}
    mocker.patch("os.waitpid", side_effect=[(4711, int(ended.value.code or 0) << 8), (0, 0)])
    with nullcontext() if goes_on else pytest.raises(HaltServer):
        master.reap_workers()
    assert sleep.mock_calls == ([mocker.call(1.0)] if goes_on else [])


@pytest.mark.parametrize(
    ("looks", "killed"),
    [
        (range(TIMEOUT), False),
        (range(TIMEOUT + 2), True),
        ([0, 40, 41, 42, 43, 44], False),
        ([0, 40, 41, 42, 43, 44, 45], True),
    ],
    ids=["it is slow", "it hangs", "all were frozen", "it hangs afterwards, too"],
)
def test_who_gives_no_sign_is_killed_unless_nobody_could_run(
    master: Master, mocker: MockerFixture, looks: Iterable[float], killed: bool
) -> None:
    silent = SimpleNamespace(
        tmp=SimpleNamespace(last_update=lambda: 0, close=lambda: None), aborted=False
    )
    master.WORKERS = {4711: silent}
    kill = mocker.patch.object(master, "kill_worker")
    for now in looks:
        mocker.patch("time.monotonic", return_value=now)
        master.murder_workers()
    assert kill.called == killed
