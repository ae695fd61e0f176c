"""A provider that costs next to nothing, so that what is measured is what stands before it.

Speaks just enough HTTP/1.1 for `POST /latency-MS/v1/chat/completions`: after MS milliseconds the
answer, or the first of `STREAM_CHUNKS` pieces if the body asks for a stream. Run it as
`python fake_provider.py PORT`.
"""

import asyncio
import json
import sys
from collections import deque
from typing import cast

STREAM_CHUNKS = 50
CHUNK_SECONDS = 0.02
TICK_SECONDS = 0.001
BACKLOG = 4096
"""Two thousand calls may arrive within a second, each on a new connection."""

WORDS = "This is the answer of a model that does not exist."


def _event(payload: bytes) -> bytes:
    """Return a server-sent event, as one chunk of a chunked body."""
    event = b"data: " + payload + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(event), event)


def _answer(kind: str, **facts: object) -> bytes:
    common = {"id": "chatcmpl-1", "object": kind, "created": 1, "model": "fake"}
    return json.dumps({**common, **facts}).encode()


def _delta(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return _event(_answer("chat.completion.chunk", choices=[choice]))


USAGE = {"prompt_tokens": 10, "completion_tokens": 12, "total_tokens": 22}
BODY = _answer(
    "chat.completion",
    choices=[
        {
            "index": 0,
            "message": {"role": "assistant", "content": WORDS},
            "finish_reason": "stop",
        }
    ],
    usage=USAGE,
)
WHOLE = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(BODY)
) + BODY
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)
CHUNK = _delta({"content": "word "})
STREAM_END = (
    _delta({}, "stop")
    + _event(_answer("chat.completion.chunk", choices=[], usage=USAGE))
    + _event(b"[DONE]")
    + b"0\r\n\r\n"
)


class Pacer:
    """Sends the chunks of all streams; one timer for all, since hundreds would cost more."""

    def __init__(self) -> None:
        self._due: deque[tuple[float, asyncio.Transport, int]] = deque()
        self._clock = asyncio.get_running_loop().time

    def start(self, transport: asyncio.Transport) -> None:
        """Send the head and the first chunk, and plan the others."""
        transport.write(STREAM_HEAD + CHUNK)
        self._due.append((self._clock() + CHUNK_SECONDS, transport, STREAM_CHUNKS - 1))

    async def run(self) -> None:
        """Send what is due, until cancelled."""
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = self._clock()
            while self._due and self._due[0][0] <= now:
                self._send(*self._due.popleft())

    def _send(self, due: float, transport: asyncio.Transport, left: int) -> None:
        if transport.is_closing():
            return
        transport.write(CHUNK if left > 1 else CHUNK + STREAM_END)
        if left > 1:
            self._due.append((due + CHUNK_SECONDS, transport, left - 1))


class Provider(asyncio.Protocol):
    """One connection; the client sends one request at a time."""

    def __init__(self, pacer: Pacer) -> None:
        self._pacer = pacer
        self._buffer = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to write."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Answer once the request is whole."""
        self._buffer += data
        head, separator, body = self._buffer.partition(b"\r\n\r\n")
        if not separator or len(body) < _content_length(head):
            return
        self._buffer = b""
        seconds = _latency_seconds(head)
        streamed = b'"stream":true' in body.replace(b": ", b":")
        if seconds:
            asyncio.get_running_loop().call_later(seconds, self._respond, streamed)
        else:
            self._respond(streamed)

    def _respond(self, streamed: bool) -> None:
        if self._transport.is_closing():
            return
        if streamed:
            self._pacer.start(self._transport)
        else:
            self._transport.write(WHOLE)


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


def _latency_seconds(head: bytes) -> float:
    """Read the path `/latency-MS/...`."""
    segment = head.split(b" ", 2)[1].split(b"/")[1]
    return int(segment.removeprefix(b"latency-")) / 1000


async def serve(port: int) -> None:
    """Serve until the process is told to stop."""
    loop = asyncio.get_running_loop()
    pacer = Pacer()
    server = await loop.create_server(
        lambda: Provider(pacer), "127.0.0.1", port, backlog=BACKLOG, reuse_address=True
    )
    async with server:
        await pacer.run()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
