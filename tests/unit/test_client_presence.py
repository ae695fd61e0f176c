"""A look at whether a client is still there, which takes nothing from it and does not wait."""

import resource
import socket
import struct
from collections.abc import Iterator
from fcntl import F_DUPFD, fcntl

import pytest

from chatport.entrypoints.client_presence import SERVER_SOCKET, still_there

FAR = 1500
"""A number of a file beyond 1024, the last that select() takes."""


@pytest.fixture(params=["near", "far"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Return the two ends of a connection; ours is file 1500 of a process that has many open."""
    ours, theirs = socket.socketpair()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    if request.param == "far":
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(limits[0], FAR + 10), limits[1]))
        far = socket.socket(fileno=fcntl(ours, F_DUPFD, FAR))
        ours.close()
        ours = far
    with ours, theirs:
        yield ours, theirs
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_silent_client_is_there_and_its_socket_as_patient_as_before(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, _ = pair
    ours.settimeout(30)
    assert still_there({SERVER_SOCKET: ours})()
    assert ours.gettimeout() == 30


def test_a_client_that_sends_more_is_there_and_nothing_of_it_is_lost(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    theirs.sendall(b"next")
    look = still_there({SERVER_SOCKET: ours})
    assert (look(), look(), ours.recv(9)) == (True, True, b"next")


def test_a_client_that_has_closed_is_not_there(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.close()
    assert not still_there({SERVER_SOCKET: ours})()


def test_a_client_whose_connection_was_reset_is_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        ours, _ = server.accept()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        with ours:
            assert not still_there({SERVER_SOCKET: ours})()


def test_without_a_socket_everybody_is_there() -> None:
    assert still_there({})()
