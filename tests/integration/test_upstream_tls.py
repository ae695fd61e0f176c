"""The provider behind TLS, which may be as slow or as broken there as anywhere else.

All of it holds on plain threads and under gevent, whose sockets wait in another way.
"""

import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import TypeVar

import httpx2
import pytest
import trustme

from chatport.adapters.tls_socket import TLSSocket
from chatport.adapters.transport_limits import TransportLimits
from chatport.adapters.upstream_transport import UpstreamTransport

from .wire import EVENTS_HEAD, LAST_CHUNK, chunk, http

Result = TypeVar("Result")

HELLO = http("200 OK", b"Hello")
CLOSING = HELLO.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
DRIP_SECONDS = 0.02
PATIENCE_SECONDS = 10.0
SHORT = TransportLimits(total=0.8, silence=0.3, connect=0.3, heartbeat=0.1)


class Peer:
    """The provider's side of one connection, whose ciphertext goes out as the test wants."""

    def __init__(self, connection: socket.socket, context: ssl.SSLContext) -> None:
        self.connection = connection
        self._arrived, self._leaving = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._arrived, self._leaving, server_side=True)

    def shake_hands(self) -> None:
        self._do(self._tls.do_handshake)
        self.flush()

    def read_request(self) -> bytes:
        """Return a request and its body."""
        said = b""
        while b"\r\n\r\n" not in said or not said.endswith(b"}"):
            piece = self._do(lambda: self._tls.read(65_536))
            if not piece:
                return b""
            said += piece
        return said

    def say(self, data: bytes) -> None:
        self._tls.write(data)
        self.flush()

    def drip(self, data: bytes) -> None:
        """Send records byte by byte, for as long as the client stays."""
        self._tls.write(data)
        dripped(self.connection, self._leaving.read())

    def say_goodbye(self) -> None:
        with suppress(ssl.SSLWantReadError):
            self._tls.unwrap()
        self.flush()

    def flush(self) -> None:
        self.connection.sendall(self._leaving.read())

    def _do(self, step: Callable[[], Result]) -> Result:
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                self.flush()
                data = self.connection.recv(65_536)
                if not data:
                    raise ConnectionError from None
                self._arrived.write(data)


def dripped(connection: socket.socket, data: bytes) -> None:
    for byte in data:
        connection.sendall(bytes([byte]))
        time.sleep(DRIP_SECONDS)


Behave = Callable[[Peer], None]


class Provider:
    """Listens with a certificate; each connection behaves as it is told to."""

    def __init__(self, certificate: trustme.LeafCert) -> None:
        self.connections = 0
        self.behave: Behave = echoing
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(self.context)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        port = self._listener.getsockname()[1]
        self.url = f"https://127.0.0.1:{port}/v1/chat/completions"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        for each in (self._listener, *self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                self._open.append(connection)
                threading.Thread(target=self._serve, args=[connection], daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError):
            self.behave(Peer(connection, self.context))


def echoing(peer: Peer) -> None:
    peer.shake_hands()
    while peer.read_request():
        peer.say(HELLO)


def wanting_a_certificate(peer: Peer) -> None:
    with suppress(ssl.SSLError):  # with TLS 1.3 only after the client's part is done
        peer.shake_hands()
    peer.flush()
    peer.connection.recv(1)  # the request stays unread


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def provider(authority: trustme.CA) -> Iterator[Provider]:
    with closing(Provider(authority.issue_cert("127.0.0.1"))) as provider:
        yield provider


Ask = Callable[..., httpx2.Response]


@pytest.fixture
def ask(authority: trustme.CA, provider: Provider) -> Iterator[Ask]:
    """Return a function that sends a request through one transport, and returns the answer."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with ExitStack() as stack:
        transports: list[UpstreamTransport] = []

        def ask(limits: TransportLimits = SHORT, content: bytes = b"{}") -> httpx2.Response:
            if not transports:
                made = UpstreamTransport(limits, context)
                transports.append(stack.enter_context(closing(made)))
            request = httpx2.Request("POST", provider.url, content=content)
            return transports[0].handle_request(request)

        yield ask


def pieces(response: httpx2.Response) -> Iterator[bytes]:
    assert isinstance(response.stream, httpx2.SyncByteStream)
    return iter(response.stream)


def whole(response: httpx2.Response) -> bytes:
    with closing(response):
        return b"".join(pieces(response))


@contextmanager
def ending_within(seconds: float) -> Iterator[None]:
    began = time.monotonic()
    try:
        yield
    finally:
        assert time.monotonic() - began < seconds


def test_one_connection_serves_many_calls(ask: Ask, provider: Provider) -> None:
    assert [whole(ask(TransportLimits())) for _ in range(3)] == [b"Hello"] * 3
    assert provider.connections == 1


def test_a_large_request_arrives_whole(ask: Ask, provider: Provider) -> None:
    arrived: list[bytes] = []

    def reading(peer: Peer) -> None:
        peer.shake_hands()
        arrived.append(peer.read_request())
        peer.say(HELLO)

    provider.behave = reading
    content = b'{"x": "' + b"y" * 1_000_000 + b'"}'
    assert whole(ask(TransportLimits(), content)) == b"Hello"
    assert arrived[0].endswith(content)


@pytest.mark.parametrize("goodbye", [True, False], ids=["with goodbye", "without"])
def test_an_idle_connection_that_was_closed_is_not_used(
    ask: Ask, provider: Provider, *, goodbye: bool
) -> None:
    closed = threading.Event()

    def once(peer: Peer) -> None:
        peer.shake_hands()
        peer.read_request()
        peer.say(HELLO)
        if goodbye:
            peer.say_goodbye()
        peer.connection.shutdown(socket.SHUT_WR)
        closed.set()

    provider.behave = once
    assert whole(ask(TransportLimits())) == b"Hello"
    assert closed.wait(PATIENCE_SECONDS)
    provider.behave = echoing
    assert whole(ask()) == b"Hello"
    assert provider.connections == 2


@pytest.mark.parametrize("issued_by_a_stranger", [True, False])
def test_a_certificate_that_is_not_good_is_no_connection(
    authority: trustme.CA, *, issued_by_a_stranger: bool
) -> None:
    issuer = trustme.CA() if issued_by_a_stranger else authority
    name = "127.0.0.1" if issued_by_a_stranger else "elsewhere.example"
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with (
        closing(Provider(issuer.issue_cert(name))) as provider,
        closing(UpstreamTransport(SHORT, context)) as transport,
        pytest.raises(httpx2.ConnectError, match="SSLCertVerificationError"),
    ):
        transport.handle_request(httpx2.Request("POST", provider.url, content=b"{}"))


def hanging_up(peer: Peer) -> None:
    peer.connection.recv(1)
    peer.connection.shutdown(socket.SHUT_WR)


def test_a_provider_that_leaves_a_handshake_is_no_connection(ask: Ask, provider: Provider) -> None:
    provider.behave = hanging_up
    with pytest.raises(httpx2.ConnectError):
        ask(TransportLimits())


def silent(peer: Peer) -> None:
    peer.connection.recv(1)


def dripping_its_hello(peer: Peer) -> None:
    peer.connection.recv(1)
    dripped(peer.connection, b"\x16\x03\x03\x3f\xff\x02" + b"\0" * 300)


@pytest.mark.parametrize("behave", [silent, dripping_its_hello])
def test_a_handshake_has_the_time_of_a_connection(
    ask: Ask, provider: Provider, behave: Behave
) -> None:
    provider.behave = behave
    with pytest.raises(httpx2.ConnectTimeout), ending_within(SHORT.connect + 1):
        ask()


def dripping_its_answer(peer: Peer) -> None:
    peer.shake_hands()
    peer.read_request()
    peer.drip(http("200 OK", b"Hello" * 1000))


def test_a_record_that_drips_is_silence(ask: Ask, provider: Provider) -> None:
    provider.behave = dripping_its_answer
    with pytest.raises(httpx2.ReadTimeout, match="silent"), ending_within(SHORT.silence + 1):
        ask()


def dripping_its_second_piece(peer: Peer) -> None:
    peer.shake_hands()
    peer.read_request()
    peer.say(EVENTS_HEAD + chunk(b"Hel"))
    peer.drip(chunk(b"lo" * 5000) + LAST_CHUNK)


def test_a_stream_whose_record_drips_has_its_heartbeats_and_ends(
    ask: Ask, provider: Provider
) -> None:
    provider.behave = dripping_its_second_piece
    received: list[bytes] = []
    with (
        closing(ask()) as response,
        pytest.raises(httpx2.ReadTimeout, match="silent"),
        ending_within(SHORT.silence + 1),
    ):
        received.extend(pieces(response))
    assert received[0] == b"Hel"
    assert len(received) >= 2
    assert set(received[1:]) == {b""}


def test_a_provider_that_reads_nothing_is_given_up(ask: Ask, provider: Provider) -> None:
    def deaf(peer: Peer) -> None:
        peer.shake_hands()

    provider.behave = deaf
    content = b'{"x": "' + b"y" * 20_000_000 + b'"}'
    with pytest.raises(httpx2.WriteTimeout), ending_within(SHORT.silence + 2):
        ask(content=content)


def test_a_look_that_finds_nothing_does_not_wait_and_loses_nothing(authority: trustme.CA) -> None:
    said = threading.Event()

    def later(peer: Peer) -> None:
        peer.shake_hands()
        said.wait(PATIENCE_SECONDS)
        peer.say(b"later")

    context = ssl.create_default_context()
    authority.configure_trust(context)
    with closing(Provider(authority.issue_cert("127.0.0.1"))) as provider:
        provider.behave = later
        url = httpx2.URL(provider.url)
        connection = socket.create_connection((url.host, url.port or 0))
        with closing(TLSSocket(connection, context, url.host, PATIENCE_SECONDS)) as tls:
            tls.settimeout(0)
            with pytest.raises(BlockingIOError):
                tls.recv(1)
            tls.settimeout(PATIENCE_SECONDS)
            said.set()
            assert tls.recv(2) + tls.recv(9) == b"later"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_provider_that_wants_a_certificate_of_us_was_not_reached(
    version: ssl.TLSVersion, authority: trustme.CA, provider: Provider, ask: Ask
) -> None:
    provider.context.maximum_version = provider.context.minimum_version = version
    provider.context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(provider.context)
    provider.behave = wanting_a_certificate
    with pytest.raises(httpx2.ConnectError):  # after which another attempt cannot cost twice
        ask()


def test_all_of_this_holds_under_gevent_too() -> None:
    options = ["-q", "-x", "-p", "no:cacheprovider", "-k", "not gevent", __file__]
    code = f"from gevent.monkey import patch_all as p; p(); import pytest; pytest.main({options})"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert " passed" in run.stdout, run.stdout + run.stderr
    assert "failed" not in run.stdout, run.stdout
