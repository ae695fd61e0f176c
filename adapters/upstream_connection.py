"""One HTTP/1.1 connection to the provider, with the deadline, the caps and the heartbeat of a call.

The protocol itself is h11's work.
"""

import math
import re
import ssl
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

import h11
import httpx2

from chatport.domain.errors import CallerGone, CallerTooSlow

from .dial import MOMENT, dialed
from .transport_limits import TransportLimits
from .turns import let_others_run

READ_BYTES = 65_536
MAX_HEADER_BYTES = 65_536
"""Also the longest line of a chunked body. The largest headers of known providers are 8 KB."""

STILL_WANTED = "chatport.still_wanted"
"""The extension of a request that says whether anybody still waits for its answer to begin."""

WITHIN_SECONDS = "chatport.within_seconds"
"""The extension of a request that says how long the call may take, if that is less."""

RAW_FACTOR = 8
"""How many bytes may come for each byte of an answer that is allowed; a chunk a byte has six."""

EVENTS_IN_A_ROW = 256
"""Then others have their turn. h11 makes up to 11,000 of one read, and takes 20 us for each."""

EVENTS_A_READ, BYTES_AN_EVENT = 16, 256
"""What a read counts as: it may wait for nobody, and hold 7,000 events of a stream: 80 ms."""

MAX_INTERIM_HEADS = 1_000
"""Before an answer; whoever tells with 102 that it still works does so once in some seconds."""

SENT_AT_ONCE = 65_536
"""Bytes of a request that the provider must take before it counts as silent."""

KEPT = re.compile(rb"\btimeout\s*=\s*(\d{1,9})\b", re.IGNORECASE)
"""In a header `Keep-Alive`, as Node sends it: an idle connection is closed after these seconds."""

WAY_SECONDS = 1.0
"""Of them, for a request on its way: one that the close meets may have been billed."""

NO_SESSION = ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED")
"""In the names that OpenSSL gives to alerts after which no request has been read."""

REFUSALS_FROM = 300
"""RFC 9110: from here on no status is a success; a redirect is not followed."""


class ResponseTooLarge(httpx2.RemoteProtocolError):
    """The answer is larger than the byte cap, or compressed although that was declined."""


class HungUp(httpx2.NetworkError):
    """The provider closed the connection between the request and its answer."""


class Connection:
    """One socket and the state of the protocol on it."""

    def __init__(
        self,
        origin: tuple[str, str, int],
        deadline: float,
        limits: TransportLimits,
        tls: ssl.SSLContext | None,
    ) -> None:
        self.origin = origin
        self.deadline = deadline
        self.limits = limits
        self.used_at = self._began = self._away = 0.0
        self._answered = self._complete = self._dry = False
        self._events = self._arrived_bytes = 0
        self._unread = False
        self._idle = limits.idle
        self._protocol = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEADER_BYTES)
        _, host, port = origin
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise httpx2.ConnectTimeout("no time is left")
        try:
            self._socket = dialed(host, port, min(limits.connect, left), tls)
        except TimeoutError:
            raise httpx2.ConnectTimeout("no connection in time") from None
        except OSError as error:
            raise httpx2.ConnectError(type(error).__name__) from None

    def send(self, request: httpx2.Request) -> None:
        """Send the request's head and body."""
        self._answered = self._complete = self._dry = False
        self.used_at = self._began = time.monotonic()
        self._away = self._arrived_bytes = 0
        head = h11.Request(
            method=request.method,
            target=request.url.raw_path,
            headers=request.headers.raw,
        )
        data = self._protocol.send(head) or b""
        data += self._protocol.send(h11.Data(data=request.read())) or b""
        data += self._protocol.send(h11.EndOfMessage()) or b""
        try:
            for start in range(0, len(data), SENT_AT_ONCE):
                self._socket.settimeout(self._remaining(self.limits.silence))
                self._socket.sendall(data[start : start + SENT_AT_ONCE])
        except OSError as error:
            self._unread = True  # it may have answered before it read everything
            if isinstance(error, TimeoutError) and not self._has_answered():
                raise httpx2.WriteTimeout("the provider reads too slowly") from None
        self.used_at = time.monotonic()

    def head(self, still_wanted: Callable[[], bool] | None = None) -> h11.Response:
        """Wait for the answer's status and headers.

        Raises:
            CallerGone: After a heartbeat without them, they were not wanted any more.
        """
        interim_heads = 0
        while not isinstance(event := self._event(), h11.Response):
            interim_heads += event is not None
            if interim_heads > MAX_INTERIM_HEADS:
                raise httpx2.RemoteProtocolError("too many heads that are no answer")
            self._check_silence()
            if still_wanted is not None and not still_wanted():
                raise CallerGone
        self._answered = True
        _check_encoding(event)
        self._idle = min(self.limits.idle, _kept_seconds(event))
        return event

    def body(self) -> Iterator[bytes]:
        """Yield the answer's body as it arrives; an empty piece after each heartbeat of silence.

        Raises:
            CallerTooSlow: The time is up, and most of it went by between two pieces.
        """
        size = 0
        while (piece := self._arrived()) is not None:
            if not piece:
                self._check_silence()
            size += len(piece)
            if size > self.limits.body_bytes:
                raise ResponseTooLarge(f"more than {self.limits.body_bytes} bytes")
            handed_over = time.monotonic()
            yield piece
            self._away += time.monotonic() - handed_over

    def _arrived(self) -> bytes | None:
        """Return all of the body that is here, waiting a heartbeat for it; None at its end."""
        if self._complete:
            return None
        parts: list[bytes] = []
        event = self._event()
        while isinstance(event, h11.Data):
            parts.append(bytes(event.data))
            try:
                event = self._next_event()
            except h11.RemoteProtocolError:
                break  # it is raised again when the next piece is asked for
        self._complete = isinstance(event, h11.EndOfMessage)
        self._dry = event is h11.NEED_DATA  # asking h11 once more would cost as much as a recv
        return b"".join(parts) or (None if self._complete else b"")

    def reusable(self) -> bool:
        """Return whether both sides are done and willing; if so, get ready for the next call."""
        states = {self._protocol.our_state, self._protocol.their_state}
        if self._unread or states != {h11.DONE}:
            return False
        if self._protocol.trailing_data[0]:  # nobody asked for it; it would be the next answer
            return False
        self._protocol.start_next_cycle()
        self.used_at = time.monotonic()
        return True

    def alive(self) -> bool:
        """Return whether the idle connection can be used: nothing to read, not even its end."""
        if time.monotonic() - self.used_at > self._idle:
            return False
        try:
            self._socket.settimeout(0.0)
            self._socket.recv(1)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _event(self) -> object:
        """Return the next h11 event, or None after a heartbeat without one."""
        data = None
        event: object = h11.NEED_DATA
        end = time.monotonic() + self._patience()
        try:
            if not self._dry:
                event = self._next_event()
            while event is h11.NEED_DATA:
                self._socket.settimeout(self._remaining(max(end - time.monotonic(), MOMENT)))
                data = self._socket.recv(READ_BYTES)
                self._take(data)
                event = self._next_event()
        except TimeoutError:
            return None
        except h11.RemoteProtocolError as error:
            if data == b"" or self._answered:
                self._lost()
            raise httpx2.RemoteProtocolError(type(error).__name__) from None
        except OSError as error:
            if not self._answered and _is_refusal(error):
                raise httpx2.ConnectError(type(error).__name__) from None
            self._lost()
        return event

    def _take(self, data: bytes) -> None:
        self.used_at = time.monotonic()
        self._arrived_bytes += len(data)
        if self._arrived_bytes > RAW_FACTOR * self.limits.body_bytes + MAX_HEADER_BYTES:
            raise ResponseTooLarge("too much that says nothing")
        self._count(EVENTS_A_READ + len(data) // BYTES_AN_EVENT)
        self._protocol.receive_data(data)
        self._dry = False

    def _next_event(self) -> object:
        self._count(1)
        return self._protocol.next_event()

    def _count(self, events: int) -> None:
        """Let others have their turn if so many events have made a row full."""
        self._events += events
        if self._events >= EVENTS_IN_A_ROW:
            self._events = 0
            let_others_run()

    def _has_answered(self) -> bool:
        """Return whether there is an answer to a request that the provider has not read."""
        try:
            self._socket.settimeout(0.0)
            self._take(self._socket.recv(READ_BYTES))
        except OSError:
            return False
        return True

    def _lost(self) -> NoReturn:
        """Say that the provider closed the connection: before it answered, or while it did."""
        if not self._answered:
            raise HungUp("closed before the answer")
        raise httpx2.ReadError("closed in the middle of the answer")

    def _patience(self) -> float:
        """Return how long to wait before looking up: a heartbeat, or what is left of silence."""
        left = self.limits.silence - (time.monotonic() - self.used_at)
        return min(self.limits.heartbeat, max(left, MOMENT))

    def _check_silence(self) -> None:
        if time.monotonic() - self.used_at >= self.limits.silence:
            raise httpx2.ReadTimeout(f"silent for {self.limits.silence} s")

    def _remaining(self, at_most: float = float("inf")) -> float:
        remaining = self.deadline - time.monotonic()
        if remaining <= 0:
            if 2 * self._away > time.monotonic() - self._began:
                raise CallerTooSlow
            raise httpx2.ReadTimeout(f"not done within {self.limits.total} s")
        return min(remaining, at_most)


def _is_refusal(error: OSError) -> bool:
    """Return whether a peer wants another certificate of us: with TLS 1.3 it says so only now."""
    reason = error.reason if isinstance(error, ssl.SSLError) else None
    return any(word in (reason or "") for word in NO_SESSION)


def _kept_seconds(head: h11.Response) -> float:
    """Return how long the provider keeps the connection for a request that has yet to reach it."""
    values = (value for name, value in head.headers if name == b"keep-alive")
    told = [int(found[1]) for value in values if (found := KEPT.search(value))]
    return min(told, default=math.inf) - WAY_SECONDS


def _check_encoding(head: h11.Response) -> None:
    """Refuse a compressed answer; of a compressed error, the status says enough."""
    for name, value in head.headers:
        is_answer = head.status_code < REFUSALS_FROM
        if is_answer and name == b"content-encoding" and value.lower() != b"identity":
            raise ResponseTooLarge("compressed, though only identity was accepted")
