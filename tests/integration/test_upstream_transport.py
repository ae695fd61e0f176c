"""The transport's own bounds, with limits that a test can wait for."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import httpx2
import pytest
from pytest_mock import MockerFixture

from chatport.adapters import upstream_connection
from chatport.adapters.transport_limits import TransportLimits
from chatport.adapters.upstream_connection import STILL_WANTED, ResponseTooLarge
from chatport.adapters.upstream_transport import (
    BODY,
    END_SECONDS,
    UpstreamBody,
    UpstreamTransport,
)
from chatport.domain.errors import CallerGone, CallerTooSlow

from .upstream import Answer, Then, Upstream
from .wire import EVENTS_HEAD, LAST_CHUNK, chunk, chunks, http

FIVE_BYTES = http("200 OK", b"Hello")


@contextmanager
def body(upstream: Upstream, limits: TransportLimits) -> Iterator[Iterator[bytes]]:
    with closing(UpstreamTransport(limits)) as transport, closing(send(transport, upstream)) as got:
        yield pieces(got)


def send(transport: UpstreamTransport, upstream: Upstream) -> httpx2.Response:
    return transport.handle_request(httpx2.Request("POST", upstream.url, content=b"{}"))


def pieces(response: httpx2.Response) -> Iterator[bytes]:
    assert isinstance(response.stream, httpx2.SyncByteStream)
    return iter(response.stream)


def read(transport: UpstreamTransport, upstream: Upstream) -> bytes:
    with closing(send(transport, upstream)) as response:
        return b"".join(pieces(response))


def test_a_silent_body_delivers_empty_pieces(upstream: Upstream) -> None:
    upstream.plays(Answer(EVENTS_HEAD + chunk(b"Hel"), then=Then.HANG))
    with body(upstream, TransportLimits(heartbeat=0.02)) as received:
        assert [next(received) for _ in range(4)] == [b"Hel", b"", b"", b""]


def test_a_body_that_flows_has_no_empty_pieces(upstream: Upstream) -> None:
    upstream.plays(Answer(chunks(b"Hel", b"lo")))
    with body(upstream, TransportLimits(heartbeat=0.5)) as received:
        pieces = list(received)
    assert b"".join(pieces) == b"Hello"
    assert b"" not in pieces


def test_silence_ends_a_body_although_there_were_heartbeats(upstream: Upstream) -> None:
    upstream.plays(Answer(EVENTS_HEAD + chunk(b"Hel"), then=Then.HANG))
    limits = TransportLimits(silence=0.2, heartbeat=0.05)
    with (
        body(upstream, limits) as received,
        pytest.raises(httpx2.ReadTimeout, match=r"silent for 0\.2 s"),
    ):
        list(received)


@pytest.mark.parametrize("data", [b"", EVENTS_HEAD], ids=["before the head", "after the head"])
def test_silence_may_be_shorter_than_a_heartbeat(data: bytes, upstream: Upstream) -> None:
    upstream.plays(Answer(data, then=Then.HANG))
    started = time.monotonic()
    with (
        pytest.raises(httpx2.ReadTimeout),
        body(upstream, TransportLimits(silence=0.1, heartbeat=2.0)) as received,
    ):
        list(received)
    assert 0.1 <= time.monotonic() - started < 1.0


@pytest.mark.parametrize(
    "drip",
    [
        Answer(b"HTTP/1.1 200 OK\r\n", drip=b"X: y\r\n"),
        Answer(EVENTS_HEAD, drip=chunk(b"x")),
        Answer(EVENTS_HEAD + b"5", drip=b"; x=y"),
        Answer(drip=b"HTTP/1.1 103 Early Hints\r\n\r\n"),
    ],
    ids=["the head", "the body", "the size of a chunk", "hints"],
)
def test_the_total_deadline_ends_a_drip(drip: Answer, upstream: Upstream) -> None:
    upstream.plays(drip)
    started = time.monotonic()
    with (
        pytest.raises(httpx2.ReadTimeout, match=r"not done within 0\.3 s"),
        body(upstream, TransportLimits(total=0.3)) as received,
    ):
        list(received)
    assert 0.3 <= time.monotonic() - started < 1.0
    assert upstream.sees_the_end_of(1, within=1.0)


def test_the_deadline_is_that_of_the_call_and_not_of_the_connection(upstream: Upstream) -> None:
    upstream.plays(Answer(FIVE_BYTES))
    with closing(UpstreamTransport(TransportLimits(total=0.3))) as transport:
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            assert read(transport, upstream) == b"Hello"
    assert upstream.connections == 1


def test_a_body_may_be_as_large_as_the_cap_and_no_larger(upstream: Upstream) -> None:
    upstream.plays(Answer(chunks(b"12345", b"67890")))
    with body(upstream, TransportLimits(body_bytes=10)) as received:
        assert b"".join(received) == b"1234567890"
    with (
        body(upstream, TransportLimits(body_bytes=9)) as received,
        pytest.raises(ResponseTooLarge, match="more than 9 bytes"),
    ):
        list(received)


def test_the_cap_ends_a_body_without_end(upstream: Upstream) -> None:
    upstream.plays(Answer(EVENTS_HEAD, drip=chunk(b"x" * 1000)))
    with (
        body(upstream, TransportLimits(body_bytes=5000)) as received,
        pytest.raises(ResponseTooLarge),
    ):
        list(received)
    assert upstream.sees_the_end_of(1, within=1.0)


@pytest.mark.parametrize(("encoding", "accepted"), [("identity", True), ("br", False)])
def test_only_an_uncompressed_body_is_accepted(
    encoding: str, accepted: bool, upstream: Upstream
) -> None:
    upstream.plays(Answer(http("200 OK", b"Hello", f"Content-Encoding: {encoding}")))
    try:
        with body(upstream, TransportLimits()) as received:
            assert (b"".join(received), accepted) == (b"Hello", True)
    except ResponseTooLarge:
        assert not accepted


def test_a_connection_that_was_idle_for_too_long_is_replaced(upstream: Upstream) -> None:
    upstream.plays(Answer(FIVE_BYTES))
    with closing(UpstreamTransport(TransportLimits(idle=0.0))) as transport:
        assert [read(transport, upstream) for _ in range(2)] == [b"Hello", b"Hello"]
        assert upstream.sees_the_end_of(2, within=1.0)
    assert [received.connection for received in upstream.received] == [1, 2]


@pytest.mark.parametrize(
    ("told", "connections"),
    [("timeout=1", [1, 2]), ("Timeout = 0, max=5", [1, 2]), ("timeout=5, max=100", [1, 1])],
)
def test_a_connection_that_the_provider_is_about_to_close_is_replaced(
    told: str, connections: list[int], upstream: Upstream
) -> None:
    upstream.plays(Answer(http("200 OK", b"Hello", f"Keep-Alive: {told}")))
    with closing(UpstreamTransport(TransportLimits())) as transport:
        assert [read(transport, upstream) for _ in range(2)] == [b"Hello", b"Hello"]
    assert [received.connection for received in upstream.received] == connections


def test_an_answer_that_is_closed_unread_costs_its_connection(upstream: Upstream) -> None:
    upstream.plays(Answer(EVENTS_HEAD + chunk(b"Hel"), then=Then.HANG), Answer(FIVE_BYTES))
    with closing(UpstreamTransport(TransportLimits())) as transport:
        send(transport, upstream).close()
        assert upstream.sees_the_end_of(1, within=1.0)
        assert read(transport, upstream) == b"Hello"
    assert [received.connection for received in upstream.received] == [1, 2]


@pytest.mark.parametrize(
    "answer",
    [
        http("200 OK", b"Hello", "Connection: close"),
        b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nHello",
    ],
    ids=["Connection: close", "HTTP/1.0"],
)
def test_a_connection_that_the_provider_will_not_keep_is_closed(
    answer: bytes, upstream: Upstream
) -> None:
    upstream.plays(Answer(answer))
    with closing(UpstreamTransport(TransportLimits())) as transport:
        assert [read(transport, upstream) for _ in range(2)] == [b"Hello", b"Hello"]
        assert upstream.sees_the_end_of(2, within=1.0)
    assert [received.connection for received in upstream.received] == [1, 2]


def test_a_large_request_arrives_whole(upstream: Upstream) -> None:
    upstream.plays(Answer(FIVE_BYTES))
    request = httpx2.Request("POST", upstream.url, content=b"x" * 3_000_000)
    with closing(UpstreamTransport(TransportLimits())) as transport:
        transport.handle_request(request).close()
    assert upstream.received[0].body == b"x" * 3_000_000


def test_a_provider_that_reads_nothing_is_not_waited_for() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as deaf,
        closing(UpstreamTransport(TransportLimits(silence=0.2))) as transport,
    ):
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        started = time.monotonic()
        with pytest.raises(httpx2.WriteTimeout):
            transport.handle_request(httpx2.Request("POST", url, content=b"x" * 30_000_000))
        assert 0.2 <= time.monotonic() - started < 2.0


def test_calls_at_the_same_time_have_connections_of_their_own(upstream: Upstream) -> None:
    upstream.plays(Answer(EVENTS_HEAD + chunk(b"Hel") + LAST_CHUNK))
    with closing(UpstreamTransport(TransportLimits())) as transport:
        responses = [send(transport, upstream) for _ in range(3)]
        assert [b"".join(pieces(response)) for response in responses] == [b"Hel"] * 3
        for response in responses:
            response.close()
        assert read(transport, upstream) == b"Hel"
    assert [received.connection for received in upstream.received] == [1, 2, 3, 3]


def test_an_answer_that_nobody_wants_any_more_is_not_waited_for(upstream: Upstream) -> None:
    upstream.plays(Answer(then=Then.HANG))
    wanted = iter([True, True, False])
    request = httpx2.Request(
        "POST", upstream.url, content=b"{}", extensions={STILL_WANTED: lambda: next(wanted)}
    )
    with (
        closing(UpstreamTransport(TransportLimits(heartbeat=0.02, silence=5))) as transport,
        pytest.raises(CallerGone),
    ):
        transport.handle_request(request)
    assert list(wanted) == []


def test_closing_the_transport_closes_idle_connections(upstream: Upstream) -> None:
    upstream.plays(Answer(FIVE_BYTES))
    transport = UpstreamTransport(TransportLimits())
    read(transport, upstream)
    transport.close()
    assert upstream.sees_the_end_of(1, within=1.0)


def test_an_answer_that_is_whole_is_none_of_a_slow_client(upstream: Upstream) -> None:
    upstream.plays(Answer(EVENTS_HEAD + chunk(b"Hel"), then=Then.HANG))
    limits = TransportLimits(total=0.2)
    with closing(UpstreamTransport(limits)) as transport:
        response = send(transport, upstream)
        whole: UpstreamBody = response.extensions[BODY]
        for piece in whole:
            assert piece == b"Hel"
            time.sleep(0.3)
            whole.end()
            break
        response.close()


def read_at_leisure(received: Iterator[bytes], seconds: float) -> None:
    for _ in received:
        time.sleep(seconds)


def test_a_client_that_is_slow_is_to_blame_when_the_time_is_up(upstream: Upstream) -> None:
    upstream.plays(Answer(EVENTS_HEAD + chunk(b"Hel"), drip=chunk(b"lo")))
    limits = TransportLimits(total=0.3)
    with body(upstream, limits) as received, pytest.raises(CallerTooSlow):
        read_at_leisure(received, 0.1)


def test_a_provider_that_is_slow_is_to_blame_although_the_client_took_some_time(
    upstream: Upstream,
) -> None:
    upstream.plays(Answer(EVENTS_HEAD + chunk(b"Hel"), then=Then.HANG))
    limits = TransportLimits(total=0.5, heartbeat=0.1)
    with body(upstream, limits) as received, pytest.raises(httpx2.ReadTimeout):
        read_at_leisure(received, 0.01)


@pytest.mark.parametrize(
    "answer",
    [
        Answer(EVENTS_HEAD + chunk(b"Hel") + b"5;", drip=b"a"),
        Answer(EVENTS_HEAD + chunk(b"Hel") + b"0\r\nA: ", drip=b"a"),
        Answer(EVENTS_HEAD + chunk(b"Hel") + b"5", drip=b"0"),
    ],
    ids=["an extension", "a trailer", "a size"],
)
def test_what_drips_between_two_pieces_is_silence_to_the_client(
    upstream: Upstream, answer: Answer
) -> None:
    upstream.plays(answer)
    with body(upstream, TransportLimits(heartbeat=0.05)) as received:
        assert [next(received) for _ in range(4)] == [b"Hel", b"", b"", b""]


@pytest.mark.parametrize(
    "answer",
    [
        Answer(b"HTTP/1.1 200 OK\r\nA: ", drip=b"a"),
        Answer(b"", drip=b"HTTP/1.1 102 Wait\r\n\r\n"),
    ],
    ids=["a header", "interim answers"],
)
def test_a_client_that_leaves_while_a_head_drips_ends_the_call(
    upstream: Upstream, answer: Answer
) -> None:
    upstream.plays(answer)
    looks = iter([True, True, False])
    request = httpx2.Request(
        "POST", upstream.url, content=b"{}", extensions={STILL_WANTED: lambda: next(looks)}
    )
    limits = TransportLimits(heartbeat=0.05)
    with closing(UpstreamTransport(limits)) as transport, pytest.raises(CallerGone):
        transport.handle_request(request)
    assert upstream.sees_the_end_of(1)


def test_a_flood_that_says_nothing_has_an_end_and_leaves_others_their_turn(
    upstream: Upstream, mocker: MockerFixture
) -> None:
    flood = b"1;%b\r\nx\r\n" % (b"a" * 1000) * 20_000
    upstream.plays(Answer(EVENTS_HEAD + flood, then=Then.HANG))
    turn = mocker.spy(upstream_connection, "let_others_run")
    limits = TransportLimits(body_bytes=160_000, silence=3)
    with closing(UpstreamTransport(limits)) as transport, pytest.raises(ResponseTooLarge):
        read(transport, upstream)
    assert turn.call_count > 0


def test_an_answer_byte_by_byte_leaves_others_a_turn_after_each_row_of_its_bytes(
    upstream: Upstream, mocker: MockerFixture
) -> None:
    upstream.plays(Answer(chunks(*[b"x"] * 10_000)))
    turn = mocker.spy(upstream_connection, "let_others_run")
    with closing(UpstreamTransport(TransportLimits())) as transport:
        assert read(transport, upstream) == b"x" * 10_000
    assert turn.call_count >= 10_000 // 256


def test_a_long_answer_leaves_others_a_turn_after_each_of_its_reads(
    upstream: Upstream, mocker: MockerFixture
) -> None:
    upstream.plays(Answer(chunks(*[b"x" * 65_536] * 32)))
    turn = mocker.spy(upstream_connection, "let_others_run")
    with closing(UpstreamTransport(TransportLimits())) as transport:
        assert len(read(transport, upstream)) == 32 * 65_536
    assert turn.call_count >= 24


def test_a_thousand_heads_may_come_before_an_answer_and_leave_others_their_turn(
    upstream: Upstream, mocker: MockerFixture
) -> None:
    upstream.plays(Answer(b"HTTP/1.1 102 Wait\r\n\r\n" * 1_000 + FIVE_BYTES))
    turn = mocker.spy(upstream_connection, "let_others_run")
    with closing(UpstreamTransport(TransportLimits())) as transport:
        assert read(transport, upstream) == b"Hello"
    assert turn.call_count >= 1_000 // 256


def test_more_heads_before_an_answer_are_none(upstream: Upstream) -> None:
    upstream.plays(Answer(b"HTTP/1.1 102 Wait\r\n\r\n" * 1_001 + FIVE_BYTES))
    transport = UpstreamTransport(TransportLimits())
    with closing(transport), pytest.raises(httpx2.RemoteProtocolError, match="too many heads"):
        send(transport, upstream)
    assert upstream.sees_the_end_of(1)


def test_the_status_of_an_error_counts_whatever_becomes_of_its_text(upstream: Upstream) -> None:
    upstream.plays(Answer(b"HTTP/1.1 503 No\r\nContent-Length: 99\r\n\r\n{", then=Then.CLOSE))
    with closing(UpstreamTransport(TransportLimits())) as transport:
        response = send(transport, upstream)
        assert (response.status_code, response.content) == (503, b"{")
        upstream.plays(Answer(http("503 No", b"whole")), Answer(FIVE_BYTES))
        assert send(transport, upstream).content == b"whole"
        assert read(transport, upstream) == b"Hello"
    assert upstream.connections == 2


def test_an_end_that_does_not_come_is_not_waited_for(upstream: Upstream) -> None:
    upstream.plays(Answer(EVENTS_HEAD + chunk(b"Hel"), drip=b""))
    with closing(UpstreamTransport(TransportLimits())) as transport:
        with closing(send(transport, upstream)) as response:
            whole: UpstreamBody = response.extensions[BODY]
            assert next(iter(whole)) == b"Hel"
            began = time.monotonic()
            whole.end()
            assert time.monotonic() - began < END_SECONDS + 1
        assert upstream.sees_the_end_of(1)


def test_a_request_that_flows_has_more_time_than_one_that_stands_still() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        port = server.getsockname()[1]
        thread = threading.Thread(target=_read_slowly, args=[server], daemon=True)
        thread.start()
        content = b"{}".ljust(12_000_000)
        request = httpx2.Request("POST", f"http://127.0.0.1:{port}/", content=content)
        limits = TransportLimits(silence=1.0)
        with (
            closing(UpstreamTransport(limits)) as transport,
            closing(transport.handle_request(request)) as response,
        ):
            assert b"".join(pieces(response)) == b"Hello"
        thread.join()


def _read_slowly(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection:
        left = 12_000_000
        while left > 0:
            left -= len(connection.recv(1_000_000, socket.MSG_WAITALL))
            time.sleep(0.15)
        connection.sendall(FIVE_BYTES)


def test_an_answer_that_comes_before_the_request_was_read_is_read() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        connections: list[socket.socket] = []

        def refuse() -> None:
            connection, _ = server.accept()
            connections.append(connection)
            connection.sendall(http("413 Too Much", b""))

        thread = threading.Thread(target=refuse, daemon=True)
        thread.start()
        content = b"{}".ljust(12_000_000)
        request = httpx2.Request("POST", f"http://127.0.0.1:{port}/", content=content)
        with closing(UpstreamTransport(TransportLimits(silence=0.3))) as transport:
            assert transport.handle_request(request).status_code == 413
        thread.join()
        connections[0].close()


def test_a_name_in_ascii_is_looked_up_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the letters that it stands for, Python would code it by older rules, as another name."""
    asked: list[str] = []

    def look_up(host: str, *_: object, **__: object) -> list[object]:
        asked.append(host)
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    request = httpx2.Request("POST", "http://xn--strae-oqa.example/v1", content=b"{}")
    transport = UpstreamTransport(TransportLimits())
    with closing(transport), pytest.raises(httpx2.ConnectError):
        transport.handle_request(request)
    assert asked == ["xn--strae-oqa.example"]


def test_with_no_time_left_nobody_is_called(upstream: Upstream) -> None:
    late = UpstreamTransport(TransportLimits(total=0.0))
    with closing(late), pytest.raises(httpx2.ConnectTimeout):
        send(late, upstream)
    assert upstream.connections == 0
