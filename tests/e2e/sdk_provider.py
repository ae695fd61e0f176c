"""A provider for the official SDKs: real sockets, and a behaviour for each kind of prompt.

What a prompt says before `#` chooses the behaviour: a row of `FAULTS` or of `BEHAVIOURS`, or else
an answer that fits the request. The whole prompt names the call, so that each test counts its
own. Programs in other languages ask and steer over HTTP, below `/control/`.
"""

import json
import select
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from .sdk_answers import FAULTS, MODELS, chunks, completion, error_body

PATIENCE_SECONDS = 20.0
"""How long to wait for what must happen; reached only when it does not."""

LOOK_SECONDS = 0.02
"""How often a call that waits looks whether chatport has left."""


@dataclass(eq=False)
class Call:
    """A completion that chatport asked for.

    Attributes:
        connection: On which connection, counted from 1.
        left: Set once chatport has closed the connection instead of waiting for the answer.
        left_at: When that was, on the monotonic clock.
    """

    connection: int
    headers: dict[str, str]
    raw: bytes
    body: dict[str, Any]
    left: threading.Event = field(default_factory=threading.Event)
    left_at: float = 0.0

    @property
    def prompt(self) -> str:
        """Return the text of the last message of the user."""
        said = [m["content"] for m in self.body["messages"] if m["role"] == "user"][-1]
        if isinstance(said, str):
            return said
        return str(next(part["text"] for part in said if part["type"] == "text"))


class SdkProvider(ThreadingHTTPServer):
    """Speaks OpenAI's chat completions and models."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Conversation)
        self.ending = threading.Event()
        self._calls: defaultdict[str, list[Call]] = defaultdict(list)
        self._gates: defaultdict[str, threading.Event] = defaultdict(threading.Event)
        self._changed = threading.Condition()
        self._connections = 0

    @property
    def origin(self) -> str:
        """Return the address without a path."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def calls(self, prompt: str, at_least: int = 0) -> list[Call]:
        """Return the calls with this prompt, once there are so many."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._calls[prompt]) >= at_least, PATIENCE_SECONDS)
            assert len(self._calls[prompt]) >= at_least, f"too few calls of {prompt!r}"
            return list(self._calls[prompt])

    def open(self, prompt: str) -> None:
        """Let the calls with this prompt go on that wait, and those that come."""
        self.gate(prompt).set()

    def gate(self, prompt: str) -> threading.Event:
        """Return what calls with this prompt wait for, if their behaviour is to wait."""
        with self._changed:
            return self._gates[prompt]

    def took(self, call: Call) -> int:
        """Write down a call, and return how many with this prompt there are now."""
        with self._changed:
            self._calls[call.prompt].append(call)
            self._changed.notify_all()
            return len(self._calls[call.prompt])

    def connected(self) -> int:
        """Count a connection and return its number."""
        with self._changed:
            self._connections += 1
            return self._connections


class _Conversation(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are written one after the other
    server: SdkProvider

    def setup(self) -> None:
        super().setup()
        self.number = self.server.connected()

    def handle(self) -> None:
        with suppress(OSError):  # chatport left
            super().handle()

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["Content-Length"] or "0"))
        if self.path.startswith("/control/open?"):
            self.server.open(self._query()["prompt"])
            return self.answer(204, b"", "text/plain")
        if self.path != "/v1/chat/completions":
            return self.answer_json(404, error_body("No such route", code="unknown_url"))
        headers = {name.lower(): value for name, value in self.headers.items()}
        call = Call(connection=self.number, headers=headers, raw=raw, body=json.loads(raw))
        count = self.server.took(call)
        kind = call.prompt.split(" #")[0]
        if kind in FAULTS or (kind == "error once" and count == 1):
            return self._fault(FAULTS["error 500" if kind == "error once" else kind])
        try:
            BEHAVIOURS.get(kind, _whole)(self, call)
        except OSError:
            call.left_at = time.monotonic()
            call.left.set()
            raise

    def do_GET(self) -> None:
        path, query = urlsplit(self.path).path, self._query()
        if path == "/control/calls":
            calls = self.server.calls(query["prompt"], int(query["at_least"]))
            return self.answer_json(
                200, [{"body": c.body, "headers": c.headers, "raw": c.raw.decode()} for c in calls]
            )
        if path == "/control/left":
            call = self.server.calls(query["prompt"], 1)[-1]
            return self.answer_json(200, call.left.wait(float(query["within"])))
        if path == "/v1/models":
            return self.answer_json(200, {"object": "list", "data": MODELS})
        wanted = unquote(path.removeprefix("/v1/models/"))
        found = [model for model in MODELS if model["id"] == wanted]
        if found:
            return self.answer_json(200, found[0])
        missing = error_body(f"The model '{wanted}' does not exist", code="model_not_found")
        return self.answer_json(404, missing)

    def _query(self) -> dict[str, str]:
        return {name: values[-1] for name, values in parse_qs(urlsplit(self.path).query).items()}

    def _fault(self, fault: tuple[int, dict[str, str], Any]) -> None:
        status, headers, body = fault
        if isinstance(body, bytes):
            return self.answer(status, body, "text/html", headers)
        return self.answer_json(status, body, headers)

    def answer_json(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.answer(status, data, "application/json", headers)

    def answer(
        self, status: int, data: bytes, kind: str, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        named = {"Content-Type": kind, "x-request-id": "req_upstream", **(headers or {})}
        for name, value in named.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def begin_stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header("x-request-id", "req_upstream")
        self.end_headers()

    def say(self, *events: bytes) -> None:
        for event in events:
            data = b"data: " + event + b"\n\n"
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def end_stream(self) -> None:
        self.wfile.write(b"0\r\n\r\n")

    def stay(self, seconds: float = float("inf"), gate: threading.Event | None = None) -> None:
        """Wait for the gate or the time.

        Raises:
            BrokenPipeError: Chatport has closed the connection, or the provider is to end.
        """
        while seconds > 0 and not (gate and gate.is_set()):
            seconds -= LOOK_SECONDS
            readable, _, _ = select.select([self.connection], [], [], LOOK_SECONDS)
            if self.server.ending.is_set():
                raise BrokenPipeError
            if readable and not self.connection.recv(1, socket.MSG_PEEK):
                raise BrokenPipeError

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class's name
        """Be quiet."""


def _whole(talk: _Conversation, call: Call) -> None:
    """Answer with what fits the request, whole or as a stream that may be slow to end."""
    if not call.body.get("stream"):
        return talk.answer_json(200, completion(call.body, call.prompt))
    talk.begin_stream()
    talk.say(*chunks(call.body, call.prompt), b"[DONE]")
    if call.prompt == "ends slowly":
        talk.stay(LOOK_SECONDS)
    return talk.end_stream()


def _waits(talk: _Conversation, call: Call) -> None:
    """Answer as always once the gate is open; a stream says two chunks before."""
    gate = talk.server.gate(call.prompt)
    if not call.body.get("stream"):
        talk.stay(gate=gate)
        return _whole(talk, call)
    talk.begin_stream()
    said = chunks(call.body, call.prompt)
    talk.say(*said[:2])
    talk.stay(gate=gate)
    talk.say(*said[2:], b"[DONE]")
    return talk.end_stream()


def _hangs(talk: _Conversation, call: Call) -> None:
    """Say nothing, for ever."""
    talk.stay()


def _falls_silent(talk: _Conversation, call: Call) -> None:
    """Say two chunks and then nothing, for ever."""
    talk.begin_stream()
    talk.say(*chunks(call.body, call.prompt)[:2])
    talk.stay()


def _talks(talk: _Conversation, call: Call) -> None:
    """Say the third chunk, which has text, again and again, for ever."""
    talk.begin_stream()
    while True:
        talk.say(chunks(call.body, call.prompt)[2])
        talk.stay(LOOK_SECONDS)


def _hangs_up(talk: _Conversation, call: Call) -> None:
    """Close the connection instead of answering."""
    talk.close_connection = True


def _cut(talk: _Conversation, call: Call, *last: bytes, clean: bool = True) -> None:
    """Say three chunks and then the last word, and end or break off the body."""
    talk.begin_stream()
    talk.say(*chunks(call.body, call.prompt)[:3], *last)
    if clean:
        return talk.end_stream()
    talk.close_connection = True
    return None


ERROR_EVENT = json.dumps(error_body("upstream-canary broke", code="boom")).encode()

BEHAVIOURS: dict[str, Callable[[_Conversation, Call], None]] = {
    "waits": _waits,
    "hangs": _hangs,
    "falls silent": _falls_silent,
    "talks for ever": _talks,
    "hangs up": _hangs_up,
    "ends early": _cut,
    "breaks off": lambda talk, call: _cut(talk, call, clean=False),
    "error event": lambda talk, call: _cut(talk, call, ERROR_EVENT),
}


@contextmanager
def running_provider() -> Iterator[SdkProvider]:
    """Run a provider on a free port; its calls end with it."""
    with SdkProvider() as provider:
        thread = threading.Thread(target=provider.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield provider
        finally:
            provider.ending.set()
            provider.shutdown()
            thread.join()
