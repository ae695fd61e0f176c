"""Clients that send or read slowly, or never leave: they hold up nobody, and not for long."""

import selectors
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Thread

import pytest

from .conftest import Provider, Service, _Completions
from .test_live_service import states

READ_SECONDS = 1.5
LINGERING = 16
PATIENCE_SECONDS = 30
LAUNCH = f"""
from gevent import monkey
monkey.patch_all()
from chatport.entrypoints import cli, client_deadlines, server
client_deadlines.READ_SECONDS = {READ_SECONDS}
client_deadlines.SEND_SECONDS = 1.0
client_deadlines.LINGER_SECONDS = 1.0
client_deadlines.LINGERING_CONNECTIONS = {LINGERING}
server.KEEPALIVE_SECONDS = 4
cli.main()
"""
"""The service, with less patience than it has."""

HOST = b"Host: chatport\r\n"
CLOSE = b"Connection: close\r\n"
JSON = b"Content-Type: application/json\r\n"
HEALTH = b"GET /healthz HTTP/1.1\r\n" + HOST
BODY = b'{"user_id": "ada", "prompt": "too late"}'
HEAD = b"POST /openai-completion HTTP/1.1\r\n" + HOST + JSON + b"Content-Length: 40\r\n\r\n"
CHUNKED = HEAD.replace(b"Content-Length: 40", b"Transfer-Encoding: chunked")
CHUNKS = CHUNKED + b"28\r\n" + BODY

Connect = Callable[[], socket.socket]
Stored = Callable[[], Counter[str]]

HALF_OPEN = {
    "nothing": (b"", b""),
    "half a head": (HEAD[:60], b""),
    "half a body": (HEAD + BODY[:20], b""),
    "half of the chunks": (CHUNKS, b""),
    "a head that drips": (HEAD[:60], b"a"),
    "a body that drips": (HEAD + BODY[:2], b" "),
}
"""What is sent at first, and then now and then."""


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider() as server:
        server.RequestHandlerClass = Flood
        thread = Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.gate.set()
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, provider: Provider) -> Iterator[Service]:
    """Return a service with less patience, in one process."""
    upstream = {"OPENAI_API_KEY": "sk-canary-key", "OPENAI_BASE_URL": provider.url}
    unlimited = {"CHATPORT_USER_LIMIT": "", "CHATPORT_TOTAL_LIMIT": ""}
    folder = tmp_path_factory.mktemp("slow")
    running = Service(folder, {**upstream, **unlimited}, "--workers", "1", program=LAUNCH)
    yield running
    running.kill()


@pytest.fixture
def stored(service: Service) -> Callable[[], Counter[str]]:
    """Return what counts the exchanges of this test by their state."""
    before = states(service.folder)
    return lambda: states(service.folder) - before


@pytest.fixture
def connect(service: Service) -> Iterator[Callable[[], socket.socket]]:
    """Return what opens a connection, to be closed at the end."""
    with ExitStack() as stack:

        def opened() -> socket.socket:
            address = ("127.0.0.1", service.port)
            return stack.enter_context(socket.create_connection(address, PATIENCE_SECONDS))

        yield opened


def test_300_half_open_connections_hold_up_nobody_and_are_closed_in_time(
    service: Service, connect: Connect, stored: Stored
) -> None:
    before = open_files(service)
    half_open = {connect(): kind for _ in range(50) for kind in HALF_OPEN}
    for connection, kind in half_open.items():
        connection.sendall(HALF_OPEN[kind][0])
    began = time.monotonic()
    for _ in range(5):
        assert summary(said_by(connect, HEALTH + CLOSE + b"\r\n")) == [b"200"]
    for connection, said in said_until_closed(half_open).items():
        kind = half_open[connection]
        assert summary(said) == ([] if kind == "nothing" else [b"408"]), kind
    assert time.monotonic() - began < READ_SECONDS + PATIENCE_SECONDS
    assert not stored()
    assert comes_true(lambda: open_files(service) <= before)


def test_the_time_is_for_sending_a_request_and_neither_for_its_answer_nor_for_the_next(
    service: Service, provider: Provider, connect: Connect, stored: Stored
) -> None:
    idle, busy = connect(), connect()
    idle.sendall(HEALTH + b"\r\n")
    provider.gate.clear()
    busy.sendall(post(b'{"user_id": "ada", "prompt": "long", "stream": true}'))
    time.sleep(READ_SECONDS * 1.2)
    provider.gate.set()
    read_until(busy, b'"completion": "echo: long"')
    time.sleep(READ_SECONDS * 1.2)
    busy.sendall(post(b'{"user_id": "ada", "prompt": "next", "stream": true}'))
    read_until(busy, b'"completion": "echo: next"')
    assert stored() == {"completed": 2}
    busy.sendall(HEALTH)
    half_open = {busy: "a head that drips", idle: "nothing"}
    said = said_until_closed(half_open)
    assert summary(said[busy]) == [b"408"]
    assert summary(said[idle]) == [b"200"]


@pytest.mark.parametrize("each_time", [0, 1], ids=["nothing", "a byte now and then"])
def test_a_client_that_hardly_reads_its_stream_is_given_up(
    service: Service, stored: Stored, each_time: int
) -> None:
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", service.port))
        slow.sendall(post(b'{"user_id": "eve", "prompt": "a flood", "stream": true}'))

        def given_up() -> bool:
            slow.recv(each_time)
            return stored() == {"cancelled": 1}

        assert comes_true(given_up)


class Flood(_Completions):
    """A provider that can send a stream that is larger than all buffers on the way."""

    def _stream(self, text: str) -> None:
        if "flood" not in text:
            super()._stream(text)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for _ in range(200):
            self._event({"choices": [{"index": 0, "delta": {"content": text * 4000}}]})


def test_a_body_in_very_many_chunks_holds_up_nobody(connect: Connect) -> None:
    hostile = connect()
    hostile.sendall(CHUNKED + b"1\r\n \r\n" * 300_000 + b"0\r\n\r\n")
    assert summary(said_by(connect, HEALTH + CLOSE + b"\r\n")) == [b"200"]
    assert not received_at_once(hostile), "it was read before anybody else was answered"
    assert summary(received(hostile)) in ([b"400"], [b"408"])  # there was time for it, or not


def received_at_once(connection: socket.socket) -> bytes:
    connection.setblocking(False)
    try:
        return connection.recv(65_536)
    except BlockingIOError:
        return b""
    finally:
        connection.settimeout(PATIENCE_SECONDS)


def test_clients_that_do_not_close_keep_no_connection_open(
    service: Service, connect: Connect
) -> None:
    before = open_files(service)
    for _ in range(100):
        assert summary(said_by(connect, HEALTH + CLOSE + b"\r\n")) == [b"200"]
    assert comes_true(lambda: open_files(service) <= before)


def test_refused_clients_that_do_not_close_linger_in_small_number(
    service: Service, connect: Connect
) -> None:
    before = open_files(service)
    for _ in range(100):
        assert summary(said_by(connect, b"no HTTP\r\n\r\n")) == [b"400"]
        assert open_files(service) <= before + LINGERING + 2
    assert summary(said_by(connect, HEALTH + CLOSE + b"\r\n")) == [b"200"]
    assert comes_true(lambda: open_files(service) <= before)


def said_by(connect: Connect, request: bytes) -> bytes:
    """Return what is said until the server's FIN, and leave our side open."""
    connection = connect()
    connection.sendall(request)
    said = b""
    while piece := connection.recv(65_536):
        said += piece
    return said


def read_until(connection: socket.socket, end: bytes) -> None:
    said = b""
    while end not in said or not said.endswith(b"0\r\n\r\n"):
        piece = connection.recv(65_536)
        assert piece, said
        said += piece


def post(body: bytes) -> bytes:
    return HEAD.replace(b"40", b"%d" % len(body)) + body


def said_until_closed(half_open: dict[socket.socket, str]) -> dict[socket.socket, bytes]:
    """Return what each is told until it is closed; some send a byte now and then meanwhile."""
    said = dict.fromkeys(half_open, b"")
    end = time.monotonic() + READ_SECONDS + PATIENCE_SECONDS
    next_drip = 0.0
    with selectors.DefaultSelector() as waiting:
        for connection in half_open:
            waiting.register(connection, selectors.EVENT_READ, connection)
        while waiting.get_map() and time.monotonic() < end:
            for key, _ in waiting.select(READ_SECONDS / 10):
                connection = key.data
                if piece := received(connection):
                    said[connection] += piece
                else:
                    waiting.unregister(connection)
            if time.monotonic() > next_drip:
                next_drip = time.monotonic() + READ_SECONDS / 10
                for key in waiting.get_map().values():
                    drip(key.data, HALF_OPEN[half_open[key.data]][1])
        assert not waiting.get_map()
    return said


def received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(65_536)
    except ConnectionResetError:  # it dripped into what was closed
        return b""


def drip(connection: socket.socket, byte: bytes) -> None:
    try:
        connection.sendall(byte)
    except OSError:  # it is being closed
        return


def summary(said: bytes) -> list[bytes]:
    """Return the status of each answer."""
    return [part.split(b" ", 1)[0] for part in said.split(b"HTTP/1.1 ")[1:]]


def open_files(service: Service) -> int:
    """Return how many the one worker has open."""
    children = Path(f"/proc/{service.process.pid}/task/{service.process.pid}/children")
    (worker,) = children.read_text().split()
    return len(list(Path(f"/proc/{worker}/fd").iterdir()))


def comes_true(look: Callable[[], bool]) -> bool:
    """Return whether it is so before our patience ends."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not look():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True
