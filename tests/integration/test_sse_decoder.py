"""SSEDecoder, byte by byte."""

import time

import pytest

from chatport.adapters.sse import SSEDecoder

STREAM = (
    b": comment\n\n"
    b"data: one\n\n"
    b"event: x\ndata: two\nid: 5\n\n"
    b"data:three\n\n"
    b"data: four\ndata:  4\n\n"
    b"event: no data\n\n"
    b"data: \xe2\x98\x83\n\n"
)
PAYLOADS = [b"one", b"two", b"three", b"four\n 4", b"\xe2\x98\x83"]


def decoded(*pieces: bytes) -> list[bytes]:
    decoder = SSEDecoder()
    return [payload for piece in pieces for payload in decoder.feed(piece)]


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
def test_the_events_are_the_same_wherever_the_bytes_are_cut(line_end: bytes) -> None:
    stream = STREAM.replace(b"\n", line_end)
    for cut in range(len(stream) + 1):
        assert decoded(stream[:cut], stream[cut:]) == PAYLOADS
    assert decoded(*(bytes([byte]) for byte in stream)) == PAYLOADS


def test_line_ends_may_be_mixed() -> None:
    assert decoded(b"data: one\r\n\ndata: two\n\r\ndata: three\r\r") == [b"one", b"two", b"three"]


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
def test_an_event_without_its_blank_line_is_not_delivered(line_end: bytes) -> None:
    assert decoded(b"data: one" + line_end * 2 + b"data: two" + line_end) == [b"one"]


def test_an_event_is_delivered_as_soon_as_its_blank_line_is_there() -> None:
    decoder = SSEDecoder()
    assert [decoder.feed(piece) for piece in (b"data: a\r\n", b"\r\n", b"data: b\n", b"\n")] == [
        [],
        [b"a"],
        [],
        [b"b"],
    ]


def test_a_byte_order_mark_before_the_first_event_is_skipped() -> None:
    assert decoded(b"\xef\xbb\xbfdata: one\n\n") == [b"one"]
    assert decoded(b"\xef", b"\xbb", b"\xbf", b"data: one\n\n") == [b"one"]


def test_fields_whose_names_only_begin_with_data_are_not_data() -> None:
    assert decoded(b"database: one\n\ndata: two\n\n") == [b"two"]


def test_an_event_in_many_pieces_costs_no_more_than_its_bytes() -> None:
    packets = [b"data: ", *[b"x" * 1_400] * 1_500, b"\n\n"]
    started = time.process_time()
    assert [len(payload) for payload in decoded(*packets)] == [2_100_000]
    assert time.process_time() - started < 1.0
