"""A provider that sends whatever bytes it is told to, and writes down what it was asked."""

import random
import socket
import socketserver
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum, auto
from itertools import pairwise
from typing import BinaryIO

PATIENCE_SECONDS = 5.0
"""How long a test waits for what must happen; reached only when it does not."""

DRIP_SECONDS = 0.02

MOST_PIECES = 8
PIECE_SECONDS = 0.002
"""From one piece of an answer to the next, so that they arrive one by one."""


class Then(Enum):
    """What the provider does with the connection once it has sent its bytes."""

    KEEP = auto()
    CLOSE = auto()
    RESET = auto()
    HANG = auto()


@dataclass(frozen=True, slots=True)
class Answer:
    """Bytes to send, and what follows them.

    Attributes:
        drip: Is sent again and again afterwards, for as long as the client stays.
    """

    data: bytes = b""
    drip: bytes = b""
    then: Then = Then.KEEP


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A request as it arrived; connections are numbered from 1."""

    connection: int
    line: str
    headers: dict[str, str]
    body: bytes


class Upstream:
    """What a test sees of the provider.

    Attributes:
        received: The requests that were read completely, in order.
        connections: How many were accepted.
        cuts: Where answers are cut into pieces; None to send each as it is.
    """

    def __init__(self, port: int) -> None:
        self.host = f"127.0.0.1:{port}"
        self.url = f"http://{self.host}/v1"
        self.received: list[Received] = []
        self.connections = 0
        self.cuts: random.Random | None = None
        self.ending = threading.Event()
        self._script: list[Answer] = []
        self._ended = 0
        self._changed = threading.Condition()

    def plays(self, *script: Answer) -> None:
        """Answer the coming requests like this; the last answer repeats."""
        self._script = list(script)

    def sees_the_end_of(self, connections: int, within: float = PATIENCE_SECONDS) -> bool:
        """Wait until so many connections are over, whoever closed them; say whether they are."""
        with self._changed:
            return self._changed.wait_for(lambda: self._ended >= connections, within)

    def take(self, received: Received) -> Answer:
        """Write down a request, and return what to answer."""
        with self._changed:
            self.received.append(received)
            return self._script.pop(0) if len(self._script) > 1 else self._script[0]

    def pieces(self, data: bytes) -> list[bytes]:
        """Return the bytes in the pieces in which they are sent."""
        if self.cuts is None or len(data) < MOST_PIECES:
            return [data]
        ends = self.cuts.sample(range(1, len(data)), self.cuts.randrange(MOST_PIECES))
        ends = [0, *sorted(ends), len(data)]
        return [data[start:end] for start, end in pairwise(ends)]

    def connected(self) -> int:
        """Count a new connection, and return its number."""
        with self._changed:
            self.connections += 1
            return self.connections

    def disconnected(self) -> None:
        """Count a connection that is over."""
        with self._changed:
            self._ended += 1
            self._changed.notify_all()


@contextmanager
def running_upstream() -> Iterator[Upstream]:
    """Run a provider on a free port of this machine; all its connections end with it."""
    with _Server(("127.0.0.1", 0), _Connection) as server:
        server.upstream = Upstream(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, args=(0.005,))
        thread.start()
        try:
            yield server.upstream
        finally:
            server.upstream.ending.set()
            server.shutdown()
            thread.join()
            server.hang_up()


class _Server(socketserver.ThreadingTCPServer):
    upstream: Upstream
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], handler: "type[_Connection]") -> None:
        super().__init__(address, handler)
        self._sockets: list[socket.socket] = []

    def get_request(self) -> tuple[socket.socket, object]:
        accepted = super().get_request()
        self._sockets.append(accepted[0])
        return accepted

    def hang_up(self) -> None:
        for connection in self._sockets:
            with suppress(OSError):  # it is closed already
                connection.shutdown(socket.SHUT_RDWR)


class _Connection(socketserver.BaseRequestHandler):
    server: _Server
    request: socket.socket

    def handle(self) -> None:
        upstream = self.server.upstream
        number = upstream.connected()
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            with self.request, self.request.makefile("rb") as stream, suppress(ConnectionError):
                self._talk(upstream, number, stream)
        finally:
            upstream.disconnected()

    def _talk(self, upstream: Upstream, number: int, stream: BinaryIO) -> None:
        then = Then.KEEP
        while then is Then.KEEP and (received := _read(number, stream)):
            answer = upstream.take(received)
            for piece in upstream.pieces(answer.data):
                self.request.sendall(piece)
                if len(piece) < len(answer.data):
                    upstream.ending.wait(PIECE_SECONDS)
            while answer.drip and not upstream.ending.wait(DRIP_SECONDS):
                self.request.sendall(answer.drip)
            then = answer.then
        if then is Then.HANG:
            stream.read(1)
        if then is Then.RESET:
            at_once = struct.pack("ii", 1, 0)
            self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)


def _read(connection: int, stream: BinaryIO) -> Received | None:
    lines: list[str] = []
    while (raw := stream.readline()) != b"\r\n":
        if not raw or not raw.isascii():  # it has left, or speaks no HTTP
            return None
        lines.append(raw.decode("ascii").rstrip())
    headers = dict(field.split(": ", 1) for field in lines[1:])
    body = stream.read(int(headers.get("Content-Length", "0")))
    return Received(connection=connection, line=lines[0], headers=headers, body=body)
