"""How long a client may take to send a request, and how its connection is closed."""

import errno
import socket
import time
import weakref
from collections.abc import Callable
from typing import Any

from gunicorn.http.body import Body

from chatport.adapters import let_others_run

from .faults import BadRequest

READ_SECONDS = 10.0
"""From a request's first byte to its last; the first request's time begins with the connection."""

SEND_SECONDS = 30.0
"""For a client to take what is written to it at once."""

LINGER_SECONDS = 2.0
"""For a client whose request was not read to its end to see our answer and to close."""

LINGERING_CONNECTIONS = 64
"""In a process; those beyond are closed at once."""

DRAINED_BYTES = 65_536
"""Of a body that nobody read; beyond it, the connection is closed instead of used again."""


LINE_BYTES = 64
"""Of a request: enough to tell our routes apart."""


class RequestTimeout(BadRequest):
    """The client did not send its request in time.

    It is no OSError, which the readers of a body take for a client that has left.
    """

    def __init__(self) -> None:
        super().__init__("request_timeout", "The request did not arrive in time.", 408)


class Client:
    """A connection whose reads have a deadline over the whole request, not one for each byte.

    Attributes:
        answering: Something of an answer to the present request has been sent.
        line: The beginning of the present request, if it did not come with the last one.

    Args:
        connection: The socket, of which it is the owner from now on.
        idle_seconds: How long the connection may wait for its next request.
        clock: Seconds from any beginning, which never go back.
        stopping: Says whether the server takes no new connections any more.
    """

    lingering = 0
    """How many are, in this process."""

    def __init__(
        self,
        connection: Any,
        idle_seconds: float,
        clock: Callable[[], float] = time.monotonic,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._connection = connection
        self._idle_seconds = idle_seconds
        self._clock = clock
        self._deadline = clock() + READ_SECONDS
        self._silent = True
        self._is_reused = False
        self._reads = 0
        self.stopping = stopping
        self.answering = False
        self.line = b""
        self._broken = False
        connection.settimeout(SEND_SECONDS)

    def __getattr__(self, name: str) -> Any:
        """Be the socket in all else."""
        return getattr(self._connection, name)

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Return the next bytes of a request, or none if no request came.

        Raises:
            RequestTimeout: The request began, and did not come to its end in time.
        """
        if flags:  # a look, which takes nothing
            return bytes(self._connection.recv(size, flags))
        try:
            data = self._recv(size)
        except TimeoutError:
            if self._silent:
                return b""
            self._broken = True
            raise RequestTimeout from None
        self._reads += 1
        if self._reads > 1:
            let_others_run()  # however fast this one sends
        if self._silent and data:
            self.line = data[:LINE_BYTES]
            self.begin()
        return data

    def _recv(self, size: int) -> bytes:
        left = self._deadline - self._clock()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)
        try:
            return bytes(self._connection.recv(size))
        finally:
            self._connection.settimeout(SEND_SECONDS)

    def sendall(self, data: bytes) -> None:
        """Send all of it, a part of an answer.

        Raises:
            BrokenPipeError: The client takes nothing any more, which is as good as gone.
        """
        self.answering = True
        try:
            self._connection.sendall(data)
        except TimeoutError:
            raise BrokenPipeError(errno.EPIPE, "the client does not read") from None

    def begin(self) -> None:
        """Note that a request has begun, wherever its first bytes were read."""
        if self._silent:
            self._silent = False
            if self._is_reused:
                self._deadline = self._clock() + READ_SECONDS

    def await_next(self, *, begun: bool = False) -> None:
        """Begin to wait for another request; others have their turn, also if it is there.

        Args:
            begun: The beginning of it came with the last one.
        """
        let_others_run()
        self._silent = self._is_reused = True
        self._reads = 0
        self.answering = False
        self.line = b""
        self._deadline = self._clock() + self._idle_seconds
        if begun:
            self.begin()

    def is_idle(self) -> bool:
        """Return whether nothing of a request has come, be it read or not."""
        if not self._silent:
            return False
        self._connection.settimeout(0.0)
        try:
            return not self._connection.recv(1, socket.MSG_PEEK)
        except OSError:  # nothing has, or nobody is there
            return True
        finally:
            self._connection.settimeout(SEND_SECONDS)

    def linger(self) -> None:
        """Close it later such that the client gets the answer to what was not read to its end."""
        self._broken = True

    def close(self) -> None:
        """Close it; a client that may still be sending gets a moment to see its answer first.

        With unread bytes the kernel would reset the connection, and the answer be lost with it.
        """
        if self._broken and Client.lingering < LINGERING_CONNECTIONS:
            self._broken = False
            Client.lingering += 1
            try:
                self._drain()
            finally:
                Client.lingering -= 1
        self._connection.close()

    def _drain(self) -> None:
        end = self._clock() + LINGER_SECONDS
        try:
            self._connection.shutdown(socket.SHUT_WR)
            while (left := end - self._clock()) > 0:
                self._connection.settimeout(left)
                if not self._connection.recv(DRAINED_BYTES):
                    return
                let_others_run()  # however fast this one sends
        except OSError:
            return


class WholeBody(Body):  # type: ignore[misc]  # gunicorn has no types
    """A body that is read to its very end, or else says `Connection: close` for its request."""

    def __init__(self, request: Any) -> None:
        super().__init__(request.body.reader)
        self._request = weakref.proxy(request)  # it holds us

    def _read_reader(self, size: int) -> bytes:
        wanted = min(size, getattr(self.reader, "length", 0))
        try:
            data = bytes(super()._read_reader(size))
        except Exception:
            self._request.force_close()
            raise
        if len(data) < wanted:  # gunicorn takes what came of it for the whole
            self.failed = True
            self._request.force_close()
            raise ConnectionAbortedError
        return data

    def is_read(self) -> bool:
        """Return whether nothing is left of it, without waiting for more."""
        reader = self.reader
        ended = reader.length == 0 if hasattr(reader, "length") else reader.parser is None
        return ended and not self.failed

    def drain(self) -> bool:
        """Read a little that nobody wanted, and return whether nothing is left then.

        Of chunks nothing: a little may be sent in a great many of them.
        """
        if self.is_read():
            return True
        if self.failed or getattr(self.reader, "length", DRAINED_BYTES) >= DRAINED_BYTES:
            return False
        try:
            return len(self.read(DRAINED_BYTES)) < DRAINED_BYTES
        except Exception:  # noqa: BLE001  # gunicorn's errors have no common base
            return False
