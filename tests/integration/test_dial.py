"""Finding a provider's address: a slow resolver must cost nobody more than its time."""

import contextlib
import multiprocessing
import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from chatport.adapters.dial import dialed

HOST = "provider.invalid"


class Resolver:
    """Answers when it is let go."""

    def __init__(self, port: int) -> None:
        self.asked = 0
        self.answers = threading.Event()
        self._port = port

    def __call__(self, host: str, port: int, **_options: Any) -> list[Any]:
        assert (host, port) == (HOST, self._port)
        self.asked += 1
        self.answers.wait(30)
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", port))]


@pytest.fixture
def port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.fixture
def resolver(port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    resolver = Resolver(port)
    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    yield resolver
    resolver.answers.set()


def test_a_lookup_takes_no_longer_than_the_connection_may(resolver: Resolver, port: int) -> None:
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        dialed(HOST, port, 0.1, None)
    assert time.monotonic() - began < 5
    assert resolver.asked == 1


def test_all_who_look_for_the_same_host_wait_for_one_lookup(resolver: Resolver, port: int) -> None:
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(dialed, HOST, port, 30, None) for _ in range(8)]
        with pytest.raises(TimeoutError):
            dialed(HOST, port, 0.05, None)
        resolver.answers.set()
        for each in waiting:
            each.result().close()
    assert resolver.asked == 1


def test_the_next_one_looks_it_up_anew(resolver: Resolver, port: int) -> None:
    resolver.answers.set()
    for count in (1, 2):
        dialed(HOST, port, 30, None).close()
        assert resolver.asked == count


@pytest.mark.parametrize(
    "failure",
    [
        socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
        RuntimeError("can't start new thread"),  # gevent's, whose lookups have threads of their own
    ],
    ids=["no such name", "no thread"],
)
def test_a_failed_lookup_is_told_to_all_and_not_remembered(
    resolver: Resolver, port: int, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    def refuse(*_arguments: Any, **_options: Any) -> None:
        raise failure

    resolver.answers.set()
    with monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", refuse)
        for _ in range(2):
            with pytest.raises(OSError, match=re.escape(str(failure))):
                dialed(HOST, port, 30, None)
    dialed(HOST, port, 30, None).close()


def test_where_no_thread_can_begin_the_next_one_tries_again(
    resolver: Resolver, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    resolver.answers.set()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(OSError, match="thread"):
            dialed(HOST, port, 30, None)
    dialed(HOST, port, 30, None).close()


def test_a_process_that_is_forked_during_a_lookup_looks_by_itself(
    resolver: Resolver, port: int
) -> None:
    def dial() -> None:
        resolver.answers.set()
        dialed(HOST, port, 30, None).close()

    with pytest.raises(TimeoutError):
        dialed(HOST, port, 0.05, None)
    forked = multiprocessing.get_context("fork").Process(target=dial)
    forked.start()
    forked.join(20)
    assert forked.exitcode == 0


@pytest.mark.parametrize("host", [f"{'a' * 70}.invalid", "a..b.invalid"])
def test_what_cannot_be_a_name_is_not_found(host: str) -> None:
    with pytest.raises(socket.gaierror):
        dialed(host, 1, 5, None)


def test_where_the_machine_knows_no_ipv6_the_next_address_is_asked(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    four: list[Any] = [socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", port)]
    unknown = [999, *four[1:]]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [unknown, four])
    with contextlib.closing(dialed(HOST, port, 5, None)) as connection:
        assert isinstance(connection, socket.socket)
        assert connection.getpeername() == ("127.0.0.1", port)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_an_address_is_not_looked_up(host: str, resolver: Resolver) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, 0), family=family)
    except OSError:
        assert family == socket.AF_INET6  # this machine has none
        return
    with listener, contextlib.closing(dialed(host, listener.getsockname()[1], 5, None)):
        assert resolver.asked == 0
