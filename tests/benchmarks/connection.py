"""The client's end of one connection. Only what is needed of HTTP/1.1 is understood."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

LAST_CHUNK = b"\r\n0\r\n\r\n"
_arrival = memoryview(bytearray(65_536))


@dataclass(slots=True)
class Outcome:
    """What came back. Latencies are in seconds, from sending to the last byte.

    Attributes:
        refused: Of those that were answered with 503, which are failures too.
        first: Seconds to the first event of each stream.
        at_once: The most requests in flight at one time.
        seconds: From the first request to the last answer.
    """

    latencies: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    at_once: int = 0
    seconds: float = 0.0


class Connection(asyncio.BufferedProtocol):
    """One keep-alive connection; `settled` is called after each answer or failure."""

    def __init__(self, outcome: Outcome, settled: "Callable[[Connection], None]") -> None:
        self._outcome = outcome
        self._settled = settled
        self._buffer = bytearray()
        self._sent_at = 0.0
        self._first_at = 0.0
        self._busy = False
        self.idle_since = 0.0
        self._transport: asyncio.Transport | None = None
        self.open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to write."""
        self._transport = cast("asyncio.Transport", transport)
        self.open = True

    def ask(self, request: bytes, sent_at: float) -> None:
        """Send a request."""
        assert self._transport is not None
        self._busy, self._sent_at, self._first_at = True, sent_at, 0.0
        self._buffer.clear()
        self._transport.write(request)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where to put what has arrived; one place for all saves an allocation each."""
        return _arrival

    def buffer_updated(self, nbytes: int) -> None:
        """Collect the answer until it is whole."""
        self._buffer += _arrival[:nbytes]
        if not self._first_at and b"data: " in self._buffer:
            self._first_at = time.perf_counter()
        whole = self._buffer.endswith(LAST_CHUNK) if self._first_at else _whole(self._buffer)
        if whole and self._busy:
            self._finish(_fault(self._buffer))

    def connection_lost(self, exc: Exception | None) -> None:
        """Count a failure if an answer was still to come."""
        self.open = False
        if self._busy:
            self._finish("connection lost")

    def close(self) -> None:
        """Close; an answer that is still out was too slow."""
        if self._busy:
            self._busy = False
            self._outcome.failures["no answer in time"] += 1
        if self._transport is not None:
            self._transport.close()

    def _finish(self, fault: str | None) -> None:
        self._busy = False
        self.idle_since = time.perf_counter()
        seconds = self.idle_since - self._sent_at
        if fault:
            self._outcome.failures[fault] += 1
        else:
            self._outcome.latencies.append(seconds)
        if fault and fault.startswith("HTTP/1.1 503"):
            self._outcome.refused.append(seconds)
        if self._first_at:
            self._outcome.first.append(self._first_at - self._sent_at)
        self._settled(self)


def _whole(answer: bytearray) -> bool:
    end = answer.find(b"\r\n\r\n")
    if end < 0:
        return False
    head = bytes(answer[:end]).lower()
    _, found, length = head.partition(b"content-length:")
    if found:
        return len(answer) >= end + 4 + int(length.split(b"\r\n", 1)[0])
    return len(answer) > end + 4 and answer.endswith(LAST_CHUNK)


def _fault(answer: bytearray) -> str | None:
    """Return what is wrong with a whole answer, if anything is."""
    if not answer.startswith(b"HTTP/1.1 200"):
        return answer[: answer.find(b"\r\n")].decode("latin-1")
    is_stream = b"data: " in answer
    if is_stream and b"event: done" not in answer and b"data: [DONE]" not in answer:
        return "stream without its end"
    return None
