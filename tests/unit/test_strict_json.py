"""JSON as RFC 8259 means it: what the parser takes, and every trick that it refuses."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatport.domain.errors import InvalidUnicode
from chatport.domain.model import ChatRequest
from chatport.entrypoints.strict_json import InvalidEncoding, InvalidJSON, parse

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20
)


@given(VALUES, st.booleans())
def test_what_json_dumps_writes_comes_back_as_it_was(value: Any, ascii_only: bool) -> None:
    body = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "replace")
    assert parse(body) == json.loads(body)


@given(st.binary(max_size=64))
def test_no_bytes_raise_anything_but_the_two_errors(body: bytes) -> None:
    try:
        parse(body)
    except InvalidJSON as error:
        assert error.code in {"invalid_json", "invalid_encoding"}  # noqa: PT017  # either is right


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b' \r\n\t{"a": [1, 2.5, true, null, "x"]} ', {"a": [1, 2.5, True, None, "x"]}),
        (b"0", 0),
        (b"-0", 0),
        (b'""', ""),
        (b"1e308", 1e308),
        (b"1e-999", 0.0),
        (b"9223372036854775807", 9223372036854775807),
        (b"-9223372036854775807", -9223372036854775807),
        (b'{"a": {"x": 1}, "b": {"x": 2}}', {"a": {"x": 1}, "b": {"x": 2}}),
        ('"Grüße 👋"'.encode(), "Grüße 👋"),
        (b'"\\ud83d\\udc4b"', "👋"),
    ],
)
def test_a_json_text_is_taken(body: bytes, value: Any) -> None:
    assert parse(body) == value


def test_the_least_integer_of_64_bits_is_taken() -> None:
    assert parse(b"-9223372036854775808") == -9223372036854775808


@pytest.mark.parametrize(
    ("opening", "closing", "innermost"),
    [("[", "]", ""), ("[", "]", "1"), ('{"a":', "}", "1"), ('[{"a":', "}]", "[]")],
)
def test_32_levels_are_taken_and_33_are_refused(opening: str, closing: str, innermost: str) -> None:
    brackets = sum(opening.count(bracket) for bracket in "[{")
    own = innermost.count("[")

    def nested(levels: int) -> bytes:
        times, rest = divmod(levels - own, brackets)
        text = opening * times + "[" * rest + innermost + "]" * rest + closing * times
        return text.encode()

    parse(nested(32))
    with pytest.raises(InvalidJSON, match="nests more than 32 levels deep"):
        parse(nested(33))


@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b"[" * 100_000 + b"]" * 100_000, b'{"a":' * 100_000]
)
def test_100_000_brackets_are_refused_and_nothing_else_happens(body: bytes) -> None:
    with pytest.raises(InvalidJSON, match="nests more than 32 levels deep"):
        parse(body)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"NaN", "The body holds NaN or Infinity, which are not JSON."),
        (b'{"a": [Infinity]}', "The body holds NaN or Infinity, which are not JSON."),
        (b"-Infinity", "The body holds NaN or Infinity, which are not JSON."),
        (b"1e999", "The body holds a number that is too large."),
        (b"[-1e999]", "The body holds a number that is too large."),
        (b'{"a": 1, "a": 1}', "The body names a key twice in one object."),
        (b'[{"b": {"a": 1, "\\u0061": 2}}]', "The body names a key twice in one object."),
        (b"9223372036854775808", "The body holds an integer of more than 64 bits."),
        (b"-9223372036854775809", "The body holds an integer of more than 64 bits."),
        (b"9" * 5_000, "The body holds an integer of more than 64 bits."),
        (b"-" + b"9" * 5_000, "The body holds an integer of more than 64 bits."),
    ],
)
def test_what_python_takes_beyond_json_is_refused(body: bytes, message: str) -> None:
    with pytest.raises(InvalidJSON) as caught:
        parse(body)
    assert (str(caught.value), caught.value.code) == (message, "invalid_json")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "Expecting value at line 1, column 1"),
        (b" ", "Expecting value at line 1, column 2"),
        (b'{"a": 1} x', "Extra data at line 1, column 10"),
        (b'{"a": 1}{"a": 1}', "Extra data at line 1, column 9"),
        (b'{"a": 1,\n}', "property name"),
        (b"[1,]", "at line 1"),
        (b"{'a': 1}", "property name"),
        (b'"\\x41"', "Invalid"),
        (b"01", "Extra data at line 1, column 2"),
        (b"+1", "Expecting value at line 1, column 1"),
        (b"// comment\n1", "Expecting value at line 1, column 1"),
        (b"\x00", "Expecting value at line 1, column 1"),
        (b'\xc2\xa0{"a": 1}', "Expecting value at line 1, column 1"),
        (b'"open', "Unterminated string"),
    ],
)
def test_what_is_no_json_is_refused_with_the_place(body: bytes, reason: str) -> None:
    with pytest.raises(InvalidJSON, match=reason) as caught:
        parse(body)
    assert caught.value.code == "invalid_json"


def test_a_raw_control_character_is_refused_in_a_sentence() -> None:
    with pytest.raises(InvalidJSON) as caught:
        parse(b'"a\nb"')
    assert " at at " not in str(caught.value)


@pytest.mark.parametrize(
    "body", [b'{"canary": }', b'"canary', b"canary", b'["canary" "canary"]', b'"\\canary"']
)
def test_a_refusal_does_not_quote_the_body(body: bytes) -> None:
    with pytest.raises(InvalidJSON) as caught:
        parse(body)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "body",
    [
        b'"\xff"',
        b'"\xc3"',
        b'"\xc0\xaf"',  # `/`, written longer than it is
        b'"\xed\xa0\x80"',  # half a surrogate pair, as CESU-8 writes it
        b'"\xf4\x90\x80\x80"',  # beyond U+10FFFF
        '{"a": "é"}'.encode("latin-1"),
        '{"a": 1}'.encode("utf-16"),
        '{"a": 1}'.encode("utf-32"),
    ],
)
def test_bytes_that_are_not_utf_8_are_refused(body: bytes) -> None:
    with pytest.raises(InvalidEncoding) as caught:
        parse(body)
    message = "The body is not valid UTF-8."
    assert (str(caught.value), caught.value.code) == (message, "invalid_encoding")


def test_a_byte_order_mark_is_refused_by_name() -> None:
    with pytest.raises(InvalidEncoding) as caught:
        parse(b'\xef\xbb\xbf{"a": 1}')
    message = "The body begins with a byte order mark; send plain UTF-8."
    assert (str(caught.value), caught.value.code) == (message, "invalid_encoding")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_mark_is_no_json(encoding: str) -> None:
    with pytest.raises(InvalidJSON):
        parse('{"a": 1}'.encode(encoding))


@pytest.mark.parametrize("half", [chr(0xD83D), chr(0xDC4B)])
def test_half_a_surrogate_pair_passes_the_parser_and_the_record_refuses_it(half: str) -> None:
    text = parse(json.dumps(half).encode("ascii"))
    assert text == half
    with pytest.raises(InvalidUnicode) as caught:
        ChatRequest(prompt=text)
    assert caught.value.code == "invalid_unicode"


def test_a_body_of_more_objects_than_may_be_is_refused() -> None:
    assert len(parse(b"[" + b",".join([b"[]"] * 99_999) + b"]")) == 99_999
    with pytest.raises(InvalidJSON, match="more than 100000 objects and arrays"):
        parse(b"[" + b",".join([b"{}"] * 100_000) + b"]")


def test_brackets_in_a_text_are_none() -> None:
    text = "[{" * 100_000 + '"\\" \\\\'
    assert parse(json.dumps([text] * 3).encode()) == [text] * 3


@pytest.mark.parametrize("sides", ["[]", "{}"])
def test_the_depth_is_counted_whatever_stands_beside_it(sides: str) -> None:
    deep = f"{'[' * 31}{sides}{']' * 31}"
    assert parse(f"[{deep[1:-1]},{'[],' * 50}{{}}]".encode())
    with pytest.raises(InvalidJSON, match="more than 32 levels"):
        parse(f"[{deep},{'[],' * 50}{{}}]".encode())
