"""OpenAI's wire at the sockets of a live service: every byte that comes out, and who leaves."""

import http.client
import json
import re
import socket
import socketserver
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from chatport.adapters import PeeweeStore
from chatport.domain import Exchange, LogQuery, State

from .conftest import Service

PATH = "/v1/chat/completions"
PATIENCE_SECONDS = 20.0
"""How long to wait for what must happen; reached only when it does not."""

NOTICED_SECONDS = 8.0
"""chatport looks for its client after every 5 s of silence; the rest is for a busy machine."""

STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)
DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"
PAYLOADS = (
    b'{"id":"c","choices":[{"index":0,"delta":{"role":"assistant","content":""}}],"x":1.10}',
    b'{ "id":"c" , "choices" : [ {"delta":{"content":"Gr\\u00fc\xc3\x9fe \xf0\x9f\x99\x82"}} ]}',
    b'{"choices":[{"index":0,"delta":{"content":"\xe2\x80\xa8 end"},"finish_reason":"stop"}]}',
)
PLAIN = b"".join(b"data: " + payload + b"\n\n" for payload in PAYLOADS) + DONE
COUNTS = b'{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2},"x":1e2}'
COMPLETION = (
    b'{"id":"c", "choices":[{"message":{"content":"Hi \\u00e9"},'
    b'"finish_reason":"stop"}],"x":1.10}\n'
)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def with_usage(usage: bytes) -> bytes:
    return b"".join(
        b"data: " + payload[:-1] + b',"usage":' + usage + b"}\n\n" for payload in PAYLOADS
    )


STREAMS: dict[str, tuple[bytes, bytes]] = {
    "as OpenAI writes it": (PLAIN, PLAIN),
    "CRLF": (PLAIN.replace(b"\n", b"\r\n"), PLAIN),
    "CR": (PLAIN.replace(b"\n", b"\r"), PLAIN),
    "comments": (b":\n\n" + PLAIN.replace(b"data: {", b": wait\n\n:\ndata: {"), PLAIN),
    "fields": (PLAIN.replace(b"data: {", b"id: 7\nevent: message\nretry: 9\ndata:{"), PLAIN),
    "lines": (PLAIN.replace(b'"id":"c"', b'"id":\ndata: "c"'),) * 2,
    "no [DONE]": (PLAIN.removesuffix(DONE), PLAIN),
    "usage of null": (with_usage(b"null") + b"data: " + COUNTS + b"\n\n" + DONE, PLAIN),
    "usage on every chunk": (with_usage(b'{"a": [1, {}]}') + DONE, PLAIN),
    "a usage chunk": (PLAIN.removesuffix(DONE) + b"data: " + COUNTS + b"\n\n" + DONE, PLAIN),
}
"""What the provider sends, and what the client is to get of it."""


class Provider(socketserver.ThreadingTCPServer):
    """Speaks HTTP by hand. The text of a prompt is the name of what happens."""

    daemon_threads = True
    request_queue_size = 64
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Connection)
        self.calls: defaultdict[str, list[int]] = defaultdict(list)
        self.said: defaultdict[str, threading.Event] = defaultdict(threading.Event)
        self.left: defaultdict[str, threading.Event] = defaultdict(threading.Event)
        self.gates: defaultdict[str, threading.Event] = defaultdict(threading.Event)
        self.changed = threading.Condition()
        self.connections = 0

    def has(self, prompt: str, calls: int = 1) -> bool:
        """Wait until so many calls of a prompt have come; say whether they have."""
        with self.changed:
            return self.changed.wait_for(lambda: len(self.calls[prompt]) >= calls, PATIENCE_SECONDS)


class Connection(socketserver.BaseRequestHandler):
    """One connection of the service's."""

    server: Provider
    request: socket.socket

    def handle(self) -> None:
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self.server.changed:
            self.server.connections += 1
            number = self.server.connections
        with self.request.makefile("rb") as stream, suppress(OSError):
            while (body := self._body(stream)) is not None:
                asked = json.loads(body)
                prompt = asked["messages"][-1]["content"]
                with self.server.changed:
                    self.server.calls[prompt].append(number)
                    self.server.changed.notify_all()
                self._answer(prompt)

    @staticmethod
    def _body(stream: Any) -> bytes | None:
        length = 0
        while (line := stream.readline()) != b"\r\n":
            if not line:
                return None
            name, _, value = line.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        return bytes(stream.read(length))

    def _answer(self, prompt: str) -> None:
        kind, _, detail = prompt.partition("/")
        behaviours: dict[str, Callable[[], None]] = {
            "one by one": lambda: self._stream(STREAMS[detail][0], size=1),
            "at once": lambda: self._stream(STREAMS[detail][0], size=100_000),
            "sevens": lambda: self._stream(STREAMS[detail][0], size=7),
            "hangs": lambda: self._hang(prompt, b""),
            "head": lambda: self._hang(prompt, STREAM_HEAD),
            "half": lambda: self._hang(prompt, STREAM_HEAD + chunk(self._event(0))),
            "talks": lambda: self._talk(prompt),
            "gate": lambda: self._wait(prompt),
            "plain": self._plain,
            "cut": lambda: self._send(STREAM_HEAD + chunk(self._event(0)) + b"0\r\n\r\n"),
            "resets": self._reset,
        }
        behaviours[kind]()

    @staticmethod
    def _event(n: int) -> bytes:
        return b"data: " + PAYLOADS[n] + b"\n\n"

    def _send(self, data: bytes) -> None:
        self.request.sendall(data)

    def _stream(self, data: bytes, size: int) -> None:
        """Send a stream in pieces: each a segment, and each cut once more within its framing."""
        self._send(STREAM_HEAD)
        for at in range(0, len(data), size):
            piece = chunk(data[at : at + size])
            if size == 1:
                self._send(piece[:1])
                self._send(piece[1:])
            else:
                self._send(piece)
        self._send(b"0\r\n\r\n")

    def _plain(self) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        self._send(head % len(COMPLETION) + COMPLETION)

    def _wait(self, prompt: str) -> None:
        self.server.gates[prompt].wait(PATIENCE_SECONDS)
        self._plain()

    def _hang(self, prompt: str, data: bytes) -> None:
        self._send(data)
        self.server.said[prompt].set()
        try:
            self.request.recv(1)
        finally:
            self.server.left[prompt].set()

    def _talk(self, prompt: str) -> None:
        self._send(STREAM_HEAD)
        self.request.settimeout(0.02)
        try:
            while True:
                self._send(chunk(self._event(1)))
                with suppress(TimeoutError):
                    if not self.request.recv(1):
                        return
        finally:
            self.server.left[prompt].set()

    def _reset(self) -> None:
        self._send(STREAM_HEAD + chunk(self._event(0)))
        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        socket.close(self.request.detach())


@pytest.fixture(scope="module")
def upstream() -> Iterator[Provider]:
    with Provider() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def live(upstream: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    environment = {
        "OPENAI_API_KEY": "sk-canary-key",
        "OPENAI_BASE_URL": f"http://127.0.0.1:{upstream.server_address[1]}/v1",
        "CHATPORT_USER_LIMIT": "",
        "CHATPORT_TOTAL_LIMIT": "",
    }
    # One process, since each has connections to the provider of its own.
    service = Service(tmp_path_factory.mktemp("chatport"), environment, "--workers", "1")
    try:
        yield service
    finally:
        service.kill()


def sent(live: Service, prompt: str, *, stream: bool = True, **more: Any) -> socket.socket:
    """Send a request, and return its connection."""
    headers = "".join(f"{name}: {value}\r\n" for name, value in more.pop("headers", {}).items())
    asked = {"model": "m", "messages": [{"role": "user", "content": prompt}], **more}
    body = json.dumps({**asked, "stream": stream}).encode()
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    connection = socket.create_connection(("127.0.0.1", live.port), timeout=PATIENCE_SECONDS)
    connection.sendall(head.encode() + body)
    return connection


def answer(connection: socket.socket) -> tuple[bytes, bytes]:
    """Return head and body of an answer, read to its end; the body without its framing."""
    data = b""
    while piece := connection.recv(65_536):
        data += piece
    connection.close()
    head, _, body = data.partition(b"\r\n\r\n")
    return head, unchunked(body) if b"chunked" in head.lower() else body


def unchunked(framed: bytes) -> bytes:
    body = b""
    size = -1
    while size:
        line, _, framed = framed.partition(b"\r\n")
        size = int(line, 16)
        body += framed[:size]
        assert framed[size : size + 2] == b"\r\n"
        framed = framed[size + 2 :]
    assert framed == b""
    return body


def ended(live: Service, prompt: str) -> Exchange:
    """Return the newest exchange with this prompt, once it has ended."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    with closing(PeeweeStore(live.folder / "chatport.db")) as store:
        while time.monotonic() < deadline:
            found = [one for one in store.search(LogQuery(limit=500)) if one.prompt == prompt]
            if found and found[0].state is not State.OPEN:
                return found[0]
    raise AssertionError(f"{prompt} has not ended")


@dataclass
class Left:
    """A request whose client has left."""

    prompt: str
    state: State
    reply: str = ""
    at: float = field(default_factory=time.monotonic)


def leave(connection: socket.socket, *, reset: bool = False) -> None:
    if reset:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@pytest.fixture(scope="module", autouse=True)
def leavers(live: Service, upstream: Provider) -> dict[str, Left]:
    """Leave in every way; that it is noticed is waited for while the other tests run."""
    left: dict[str, Left] = {}
    for kind in ("hangs", "head", "half"):
        for how in ("closed", "reset"):
            prompt = f"{kind}/{how}"
            connection = sent(live, prompt)
            assert upstream.said[prompt].wait(PATIENCE_SECONDS)
            if kind == "half":  # all of it: what is left unread would turn a close into a reset
                read_until(connection, b"}\n\n\r\n")
            leave(connection, reset=how == "reset")
            left[prompt] = Left(prompt, State.CANCELLED)
    return left


def read_until(connection: socket.socket, end: bytes) -> bytes:
    data = b""
    while end not in data:
        piece = connection.recv(1)
        assert piece, data
        data += piece
    return data


@pytest.mark.parametrize("pieces", ["one by one", "sevens", "at once"])
@pytest.mark.parametrize("writing", STREAMS)
def test_the_bytes_of_every_chunk_come_out_as_they_went_in(
    writing: str, pieces: str, live: Service
) -> None:
    prompt = f"{pieces}/{writing}"
    head, body = answer(sent(live, prompt))
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert re.search(rb"(?mi)^content-type: text/event-stream\r?$", head)
    assert body.replace(PING, b"") == STREAMS[writing][1]
    stored = ended(live, prompt)
    assert (stored.state, stored.finish_reason) == (State.COMPLETED, "stop")
    assert stored.reply == "Grüße 🙂\u2028 end"
    with closing(PeeweeStore(live.folder / "chatport.db")) as store:
        whole = store.find(stored.id)
    assert whole is not None
    assert f"X-Request-Id: {stored.id}".encode() in head
    assert (whole.usage is not None and not whole.usage.estimated) == (
        b"prompt_tokens" in sent_for(writing)
    )


def sent_for(writing: str) -> bytes:
    return STREAMS[writing][0]


def test_who_asks_for_usage_gets_the_providers_bytes(live: Service) -> None:
    asked: dict[str, Any] = {"stream_options": {"include_usage": True}}
    _, body = answer(sent(live, "one by one/usage of null", **asked))
    assert body.replace(PING, b"") == STREAMS["usage of null"][0]


@pytest.mark.parametrize(
    ("prompt", "code"), [("cut/", "upstream_truncated"), ("resets/", "upstream_disconnected")]
)
def test_a_stream_that_breaks_ends_well_framed_with_an_error(
    prompt: str, code: str, live: Service
) -> None:
    head, body = answer(sent(live, prompt))
    first, last = body.replace(PING, b"").removesuffix(b"\n\n").split(b"\n\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert first == b"data: " + PAYLOADS[0]
    assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == code
    assert (ended(live, prompt).state, ended(live, prompt).error_code) == (State.FAILED, code)


def test_the_bytes_of_a_plain_answer_come_out_as_they_went_in(live: Service) -> None:
    head, body = answer(sent(live, "plain/", stream=False))
    assert body == COMPLETION
    assert re.search(rb"(?mi)^content-length: %d\r?$" % len(COMPLETION), head)
    assert re.search(rb"(?mi)^content-type: application/json\r?$", head)


def test_five_streams_use_one_connection_to_the_provider_and_one_to_the_client(
    live: Service, upstream: Provider
) -> None:
    prompt = "at once/as OpenAI writes it"
    before = len(upstream.calls[prompt])
    connection = http.client.HTTPConnection("127.0.0.1", live.port, timeout=PATIENCE_SECONDS)
    asked = {"model": "m", "stream": True, "messages": [{"role": "user", "content": prompt}]}
    for _ in range(5):
        connection.request("POST", PATH, json.dumps(asked), {"Content-Type": "application/json"})
        assert connection.getresponse().read() == PLAIN
    connection.close()
    used = upstream.calls[prompt][before:]
    assert len(used) == 5
    assert len(set(used)) == 1


def test_a_client_that_leaves_in_mid_stream_ends_the_call(
    live: Service, upstream: Provider
) -> None:
    for how in ("closed", "reset"):
        prompt = f"talks/{how}"
        connection = sent(live, prompt)
        read_until(connection, b"}\n\n")
        leave(connection, reset=how == "reset")
        assert upstream.left[prompt].wait(2.0)
        stored = ended(live, prompt)
        assert (stored.state, stored.error_code) == (State.CANCELLED, None)
        assert stored.reply.startswith("Grüße 🙂")


def test_a_client_that_leaves_after_the_last_event_has_its_answer(live: Service) -> None:
    prompt = "at once/no [DONE]"
    connection = sent(live, prompt)
    read_until(connection, DONE)
    leave(connection, reset=True)
    assert ended(live, prompt).state is State.COMPLETED


def test_a_plain_call_is_finished_without_its_client_and_replayed_to_the_next(
    live: Service, upstream: Provider
) -> None:
    for how in ("closed", "reset"):
        prompt = f"gate/{how}"
        headers = {"Idempotency-Key": prompt}
        connection = sent(live, prompt, stream=False, headers=headers)
        assert upstream.has(prompt)
        leave(connection, reset=how == "reset")
        upstream.gates[prompt].set()
        stored = ended(live, prompt)
        assert (stored.state, stored.reply) == (State.COMPLETED, "Hi é")
        head, body = answer(sent(live, prompt, stream=False, headers=headers))
        assert body == COMPLETION
        assert b"Idempotency-Replayed: true" in head
        assert f"X-Request-Id: {stored.id}".encode() in head
        assert len(upstream.calls[prompt]) == 1


def test_a_retry_of_a_plain_call_whose_client_has_left_joins_it(
    live: Service, upstream: Provider
) -> None:
    prompt = "gate/joined"
    leave(sent_and_called(live, upstream, prompt, {"x-stainless-retry-count": "0"}))
    retry = sent(live, prompt, stream=False, headers={"x-stainless-retry-count": "1"})
    upstream.gates[prompt].set()
    head, body = answer(retry)
    assert body == COMPLETION
    assert b"Idempotency-Replayed: true" in head
    assert len(upstream.calls[prompt]) == 1


def sent_and_called(
    live: Service, upstream: Provider, prompt: str, headers: dict[str, str]
) -> socket.socket:
    connection = sent(live, prompt, stream=False, headers=headers)
    assert upstream.has(prompt)
    return connection


def test_32_at_once_with_one_key_are_one_call(live: Service, upstream: Provider) -> None:
    prompt = "gate/stampede"
    headers = {"Idempotency-Key": "stampede"}
    connections = [sent(live, prompt, stream=False, headers=headers) for _ in range(32)]
    refused: list[bytes] = []
    pending = set(connections)
    for connection in connections:
        connection.settimeout(PATIENCE_SECONDS)
    threads = [
        threading.Thread(target=lambda one=one: refused.append(answer(one)[0])) for one in pending
    ]
    for thread in threads:
        thread.start()
    assert upstream.has(prompt)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(refused) < 31 and time.monotonic() < deadline:
        threads[0].join(0.01)
    upstream.gates[prompt].set()
    for thread in threads:
        thread.join()
    statuses = sorted(head.split(b" ")[1] for head in refused)
    assert statuses == [b"200", *[b"409"] * 31]
    assert len(upstream.calls[prompt]) == 1


@pytest.mark.parametrize("how", ["closed", "reset"])
@pytest.mark.parametrize("kind", ["hangs", "head", "half"])
def test_a_client_that_left_in_silence_has_been_noticed(
    kind: str, how: str, live: Service, upstream: Provider, leavers: dict[str, Left]
) -> None:
    left = leavers[f"{kind}/{how}"]
    rest = left.at + NOTICED_SECONDS - time.monotonic()
    assert upstream.left[left.prompt].wait(max(rest, 0.0))
    stored = ended(live, left.prompt)
    assert (stored.state, stored.reply, stored.error_code) == (State.CANCELLED, "", None)
    assert (stored.attempts, stored.finish_reason) == (1, None)


def test_nothing_of_all_this_was_a_defect(live: Service) -> None:
    log = Path(live.log).read_text()
    assert "unexpected" not in log
    assert "Traceback" not in log
    assert "sk-canary-key" not in log
    assert '"level": "error"' not in log
