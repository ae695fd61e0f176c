"""How a worker takes connections, what it leaves of a request, and how long its stop waits."""

import gc
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import gevent.socket
import pytest
from gevent import GreenletExit, sleep, spawn
from gevent.pool import Pool
from gunicorn.config import Config
from gunicorn.http.message import Request

from chatport.entrypoints import client_deadlines
from chatport.entrypoints.gevent_worker import ACCEPTED_AT_ONCE, KILL_SECONDS, PlainLogger, Worker

PATIENCE_SECONDS = 10


class Late(Worker):
    """Heeds a stop late, with one request under way, whose outcome takes a moment to write."""

    alive = False
    sockets = (None,)
    worker_connections = 1
    told = False

    def __init__(self) -> None:
        self._kill_at = time.monotonic() - KILL_SECONDS

    def notify(self) -> None:
        """Have no master."""

    def _serve(self, _listener: object, pool: Any) -> Any:
        pool.spawn(self._answer)
        sleep(0)  # it begins
        return self

    def close(self) -> None:
        """Have no socket."""

    def _answer(self) -> None:
        try:
            sleep(KILL_SECONDS)
        except GreenletExit:
            sleep(0.01)
            self.told = True


def test_a_stop_that_is_heeded_late_leaves_all_the_time_to_tell_those_who_are_cut_off() -> None:
    worker = Late()
    worker.run()
    assert worker.told


class Turns(Worker):
    """One of two processes; notes in which turn of its loop it begins with a connection."""

    cfg = SimpleNamespace(workers=2)

    def __init__(self) -> None:
        self.turn = 0
        self.begun: list[int] = []

    def handle(self, _listener: object, client: Any, _addr: object) -> None:
        """Answer nothing."""
        self.begun.append(self.turn)
        client.close()

    def count(self) -> None:
        """Count the turns."""
        while True:
            self.turn += 1
            sleep(0)


def test_those_who_connect_for_each_request_wait_no_turn_for_each_one_before_them() -> None:
    worker = Turns()
    with gevent.socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        clients = [socket.create_connection(listener.getsockname()) for _ in range(20)]
        server = worker._serve(listener, Pool())
        counter = spawn(worker.count)
        while len(worker.begun) < len(clients):
            sleep(0.001)
        counter.kill()
        server.close()
    for client in clients:
        client.close()
    assert worker.begun.count(worker.begun[0]) == ACCEPTED_AT_ONCE  # and no more: others may


def answer(_environ: object, start_response: Callable[..., object]) -> Iterable[bytes]:
    """Be the application."""
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]


def answering_worker() -> Worker:
    """Return a worker that needs no process."""
    cfg = Config()
    app = SimpleNamespace(is_stopping=lambda: False)
    worker = Worker(1, 0, [], app, 30, cfg, PlainLogger(cfg))
    worker.tmp.close()
    worker.wsgi = answer
    return worker


@pytest.fixture
def no_look_for_cycles() -> Iterator[None]:
    """Let objects end by their counts alone."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_look_for_cycles")
def test_nothing_of_a_request_waits_for_a_look_for_cycles() -> None:
    worker = answering_worker()
    near, far = socket.socketpair()
    with far, far.makefile("rb") as answers:
        far.sendall(2 * b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}")
        far.shutdown(socket.SHUT_WR)
        worker.handle(near, near, ("127.0.0.1", 1))
        assert answers.read().count(b"200 OK") == 2
    assert not [found for found in gc.get_objects() if type(found) is Request]


def test_a_stop_in_the_turn_of_others_waits_for_no_next_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker = answering_worker()
    worker.cfg.set("keepalive", 60)
    monkeypatch.setattr(client_deadlines, "let_others_run", lambda: setattr(worker, "alive", False))
    near, far = gevent.socket.socketpair()
    with far:
        far.settimeout(PATIENCE_SECONDS)
        far.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        spawn(worker.handle, near, near, ("127.0.0.1", 1))
        answered = b""
        while more := far.recv(65_536):
            answered += more
    assert answered.count(b"HTTP/1.1 200") == 1


def test_who_has_an_answer_is_not_told_of_a_stop_as_well() -> None:
    near, far = gevent.socket.socketpair()
    address = ("127.0.0.1", 1)
    with far:
        far.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf")
        serving = spawn(answering_worker().handle, near, near, address)
        answered = far.recv(65_536)
        serving.kill()
        while more := far.recv(65_536):
            answered += more
    assert answered.count(b"HTTP/1.1") == 1
