"""When a client's time is over."""

import socket
from collections.abc import Iterator
from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.http.parser import RequestParser
from pytest_mock import MockerFixture

from chatport.entrypoints import client_deadlines
from chatport.entrypoints.client_deadlines import (
    READ_SECONDS,
    SEND_SECONDS,
    Client,
    RequestTimeout,
    WholeBody,
)

IDLE_SECONDS = 5.0
JUST = 0.001


class Connection:
    """Both ends of a connection, and a clock that goes when it is told to."""

    def __init__(self) -> None:
        self.near, self.far = socket.socketpair()
        self.now = 0.0
        self.client = Client(self.near, IDLE_SECONDS, lambda: self.now)

    def arrives(self, data: bytes, at: float) -> bytes:
        """Return what the server gets of it."""
        self.far.sendall(data)
        self.now = at
        return self.client.recv(100)


@pytest.fixture
def connection() -> Iterator[Connection]:
    connection = Connection()
    with connection.near, connection.far:
        yield connection


def test_bytes_that_drip_do_not_prolong_a_request(connection: Connection) -> None:
    assert connection.arrives(b"a", at=1) == b"a"
    assert connection.arrives(b"b", at=READ_SECONDS - JUST) == b"b"
    with pytest.raises(RequestTimeout):
        connection.arrives(b"c", at=READ_SECONDS)


def test_a_connection_that_never_says_anything_just_ends(connection: Connection) -> None:
    connection.now = READ_SECONDS
    assert connection.client.recv(100) == b""


def test_a_wait_is_no_longer_than_what_is_left(connection: Connection) -> None:
    connection.arrives(b"a", at=READ_SECONDS - JUST)
    with pytest.raises(RequestTimeout):
        connection.client.recv(100)


def test_the_next_request_has_all_its_time_from_its_first_byte(connection: Connection) -> None:
    connection.arrives(b"a", at=1)
    connection.now = 200  # the answer took its time
    connection.client.await_next()
    began = 200 + IDLE_SECONDS - JUST
    assert connection.arrives(b"b", at=began) == b"b"
    assert connection.arrives(b"c", at=began + READ_SECONDS - JUST) == b"c"
    with pytest.raises(RequestTimeout):
        connection.arrives(b"d", at=began + READ_SECONDS)


def test_an_idle_connection_just_ends(connection: Connection) -> None:
    connection.arrives(b"a", at=1)
    connection.client.await_next()
    connection.now = 1 + IDLE_SECONDS
    assert connection.client.recv(100) == b""


def test_a_request_that_came_with_the_last_one_has_begun(connection: Connection) -> None:
    connection.arrives(b"a", at=1)
    connection.client.await_next(begun=True)
    connection.now = 1 + IDLE_SECONDS
    assert connection.arrives(b"b", at=READ_SECONDS) == b"b"
    connection.now = 1 + READ_SECONDS
    with pytest.raises(RequestTimeout):
        connection.client.recv(100)


def test_a_request_whose_head_came_with_the_last_one_has_begun(connection: Connection) -> None:
    connection.arrives(b"a", at=1)
    connection.client.await_next()
    connection.client.begin()
    connection.now = 1 + READ_SECONDS
    with pytest.raises(RequestTimeout):
        connection.client.recv(100)


def test_a_connection_is_idle_until_something_of_a_request_is_there(
    connection: Connection,
) -> None:
    assert connection.client.is_idle()
    connection.far.sendall(b"a")
    assert not connection.client.is_idle()
    assert connection.near.gettimeout() == SEND_SECONDS
    connection.client.recv(1)
    assert not connection.client.is_idle()
    connection.client.await_next()
    assert connection.client.is_idle()
    connection.far.close()
    assert connection.client.is_idle()


def test_a_client_that_does_not_read_counts_as_gone(connection: Connection) -> None:
    connection.near.settimeout(0.05)
    with pytest.raises(BrokenPipeError):
        connection.client.sendall(bytes(10_000_000))


def test_a_look_takes_nothing_and_is_never_too_late(connection: Connection) -> None:
    connection.far.sendall(b"a")
    connection.now = 2 * READ_SECONDS
    assert connection.client.recv(1, socket.MSG_PEEK) == b"a"


def test_who_sends_much_gives_others_their_turn(
    connection: Connection, mocker: MockerFixture
) -> None:
    turn = mocker.spy(client_deadlines, "let_others_run")
    connection.arrives(b"a", at=0)
    assert turn.call_count == 0  # most requests come in one piece
    for _ in range(3):
        connection.arrives(b"b", at=0)
    assert turn.call_args_list == [mocker.call()] * 3
    connection.client.await_next()
    connection.arrives(b"c", at=0)
    assert turn.call_count == 4  # between two requests too: they may arrive without a wait


def unread(headers: bytes) -> Any:
    """Return a request that an application has answered without a look at its body."""
    head = b"GET / HTTP/1.1\r\nHost: a\r\n" + headers + b"\r\n\r\n"
    sent = head + b"1\r\n \r\n" * 9 + b"0\r\n\r\n"
    request = next(RequestParser(Config(), iter([sent]), ("127.0.0.1", 1)))
    request.body = WholeBody(request)
    return request


@pytest.mark.parametrize(
    ("headers", "is_drained"),
    [
        (b"Content-Length: 59", True),
        (b"Content-Length: 65536", False),
        (b"Transfer-Encoding: chunked", False),
        (b"X-No: body", True),
    ],
)
def test_of_what_nobody_wanted_a_little_is_read(headers: bytes, *, is_drained: bool) -> None:
    assert unread(headers).body.drain() is is_drained


def test_what_is_left_for_the_request_is_not_what_the_answer_gets(connection: Connection) -> None:
    connection.arrives(b"a", at=READ_SECONDS - JUST)
    assert connection.near.gettimeout() == SEND_SECONDS


def test_a_connection_that_has_lingered_makes_room_for_the_next(connection: Connection) -> None:
    before = Client.lingering
    connection.far.close()
    connection.client.linger()
    connection.client.close()
    assert Client.lingering == before
