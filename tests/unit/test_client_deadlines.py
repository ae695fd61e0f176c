"""When a client's time is over."""

import socket
from collections.abc import Iterator

import pytest

from chatport.entrypoints.client_deadlines import READ_SECONDS, Client, RequestTimeout

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


def test_a_look_takes_nothing_and_is_never_too_late(connection: Connection) -> None:
    connection.far.sendall(b"a")
    connection.now = 2 * READ_SECONDS
    assert connection.client.recv(1, socket.MSG_PEEK) == b"a"
