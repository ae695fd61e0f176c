"""TLS over a socket, of which a timeout bounds a whole call and not each byte of it."""

import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

RECORD_BYTES = 65_536
"""More than the longest record of TLS, 16 KB and its frame (RFC 8446, section 5.2)."""

Result = TypeVar("Result")


class TLSSocket:
    """A connected socket with TLS. For one thread at a time.

    Under gevent, a socket of `ssl` begins to wait anew with each byte that arrives: a peer that
    sends a record byte by byte holds it for hours, whatever its timeout.

    Args:
        connection: The socket, of which it is the owner from now on.
        context: Says whom to trust.
        host: Whose certificate the peer must have.
        seconds: For the handshake, and for each call until `settimeout` is called.

    Raises:
        TimeoutError: The handshake was not done in time.
        OSError: It failed, or the certificate is not good; `ssl.SSLError` says more.
    """

    def __init__(
        self, connection: socket.socket, context: ssl.SSLContext, host: str, seconds: float
    ) -> None:
        self._connection = connection
        self._arrived, self._leaving = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._arrived, self._leaving, server_hostname=host)
        self._seconds = seconds
        self._until_done(self._tls.do_handshake)

    def settimeout(self, seconds: float) -> None:
        """Give each call from now on so many seconds; with 0, it does not wait."""
        self._seconds = seconds

    def recv(self, size: int) -> bytes:
        """Return up to `size` bytes of what the peer said, or none at its end.

        Raises:
            TimeoutError: Nothing whole came in time. What came of it is kept for the next call.
            BlockingIOError: The same, if there was no time.
        """
        with suppress(ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return self._until_done(lambda: self._tls.read(size))
        return b""

    def sendall(self, data: bytes) -> None:
        """Send all of it.

        Raises:
            TimeoutError: The peer did not take it in time.
        """
        self._until_done(lambda: self._tls.write(data))

    def close(self) -> None:
        """Close the socket."""
        self._connection.close()

    def _until_done(self, step: Callable[[], Result]) -> Result:
        end = time.monotonic() + self._seconds
        while True:
            try:
                result = step()
            except ssl.SSLWantReadError:
                self._send(end)
                self._receive(end)
            else:
                self._send(end)
                return result

    def _send(self, end: float) -> None:
        if self._leaving.pending:
            self._connection.settimeout(self._left(end))
            self._connection.sendall(self._leaving.read())

    def _receive(self, end: float) -> None:
        self._connection.settimeout(self._left(end))
        data = self._connection.recv(RECORD_BYTES)
        if data:
            self._arrived.write(data)
        else:
            self._arrived.write_eof()

    def _left(self, end: float) -> float:
        if not self._seconds:
            return 0.0
        left = end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left
