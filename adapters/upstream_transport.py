"""HTTP/1.1 to the provider, below the SDK: a pool of connections.

httpx2's own transport walks all its connections at every call (4 ms of CPU with 1,000 of them),
knows no deadline for a whole call, and cannot say that an answer is silent but alive.
"""

import ssl
import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing, suppress

import httpx2

from chatport.domain.errors import CallerTooSlow

from .transport_limits import TransportLimits
from .upstream_connection import (
    REFUSALS_FROM,
    STILL_WANTED,
    WITHIN_SECONDS,
    Connection,
)

ENCODING = b"content-encoding"
"""Nothing is unpacked: what is compressed is refused, or is an error's text that nobody needs."""

CONTENT_TYPE = b"content-type"
"""Of an error it is not heeded: the SDK would read the text in any encoding that is named there."""

KEEP_IDLE = 1_000
"""Idle connections to keep: with 2,000 calls in flight on two processes, all of them."""


BODY = "chatport.body"
"""The extension of an answer that is its UpstreamBody."""

ERROR_SECONDS = 2.0
ERROR_BYTES = 1_000_000
"""For the text of an error, which may break off: its status has said what matters."""

END_SECONDS = 0.25
"""For the end of a body after its last event; it commonly comes in the same packet."""


class UpstreamTransport(httpx2.BaseTransport):
    """Sends each request once, over the most recently used idle connection or a new one.

    A request is never sent a second time: it may have been billed. Safe for many threads.
    """

    def __init__(self, limits: TransportLimits, ssl_context: ssl.SSLContext | None = None) -> None:
        self._limits = limits
        self._ssl_context = ssl_context
        self._idle: dict[tuple[str, str, int], deque[Connection]] = {}
        self._closed = False

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send the request, and return the answer with its body still to be read."""
        within = request.extensions.get(WITHIN_SECONDS, self._limits.total)
        deadline = time.monotonic() + min(within, self._limits.total)
        connection = self._connection(request.url, deadline)
        try:
            connection.send(request)
            head = connection.head(request.extensions.get(STILL_WANTED))
            body = UpstreamBody(self, connection)
            refused = head.status_code >= REFUSALS_FROM
            hidden = {ENCODING, CONTENT_TYPE} if refused else {ENCODING}
            headers = [each for each in head.headers.raw_items() if each[0].lower() not in hidden]
            if refused:
                text = body.beginning(ERROR_BYTES, ERROR_SECONDS)
                return httpx2.Response(head.status_code, headers=headers, content=text)
            told = {BODY: body}
            return httpx2.Response(head.status_code, headers=headers, stream=body, extensions=told)
        except BaseException:
            connection.close()
            raise

    def close(self) -> None:
        """Close the idle connections. Calls that are under way close their own."""
        self._closed = True
        for idle in self._idle.values():
            while idle:
                idle.pop().close()

    def release(self, connection: Connection) -> None:
        """Take back a connection: keep it if its last answer was read to the end."""
        idle = self._idle.setdefault(connection.origin, deque())
        if connection.reusable() and len(idle) < KEEP_IDLE:
            idle.append(connection)
        else:
            connection.close()
        self._close_stale(idle)
        if self._closed:
            self.close()

    def _connection(self, url: httpx2.URL, deadline: float) -> Connection:
        host = url.raw_host.decode("ascii")  # as letters of another alphabet it would be coded anew
        origin = (url.scheme, host, url.port or {"http": 80, "https": 443}[url.scheme])
        idle = self._idle.get(origin)
        while idle:
            try:
                connection = idle.pop()
            except IndexError:  # another thread took the last one
                break
            if connection.alive():
                connection.deadline = deadline
                return connection
            connection.close()
        return Connection(origin, deadline, self._limits, self._tls(url))

    def _tls(self, url: httpx2.URL) -> ssl.SSLContext | None:
        if url.scheme == "http":
            return None
        if self._ssl_context is None:
            self._ssl_context = httpx2.create_ssl_context()
        return self._ssl_context

    def _close_stale(self, idle: deque[Connection]) -> None:
        """Close what has been idle for too long; the least recently used stand on the left."""
        oldest = time.monotonic() - self._limits.idle
        try:
            while idle[0].used_at < oldest:
                idle.popleft().close()
        except IndexError:  # there is none, or another thread took the last one
            return


class UpstreamBody(httpx2.SyncByteStream):
    """An answer's body. Closing gives the connection back, or closes it if bytes are left."""

    def __init__(self, transport: UpstreamTransport, connection: Connection) -> None:
        self._transport = transport
        self._connection: Connection | None = connection

    def __iter__(self) -> Iterator[bytes]:
        if self._connection is not None:
            yield from self._connection.body()

    def beginning(self, most: int, seconds: float) -> bytes:
        """Return what comes of the body in so many seconds, whatever happens to it, and close."""
        text = bytearray()
        self._hurry(seconds)
        with closing(self), suppress(httpx2.TransportError, CallerTooSlow):
            for piece in self:
                text += piece
                if len(text) >= most:
                    break
        return bytes(text[:most])

    def end(self) -> None:
        """Read the end of a body of which nothing more is expected, if it comes in a moment.

        Then the connection can be used again.
        """
        self._hurry(END_SECONDS)
        with suppress(httpx2.TransportError, CallerTooSlow):
            next(iter(self), None)

    def close(self) -> None:
        """Be done with it."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._transport.release(connection)

    def _hurry(self, seconds: float) -> None:
        if self._connection is not None:
            latest = time.monotonic() + seconds
            self._connection.deadline = min(self._connection.deadline, latest)
