"""A JSON object and the places of its members: what is found, cut out, changed and left alone."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatport.entrypoints.json_spans import TooManyMembers, containers, parse_object, scan
from chatport.entrypoints.strict_json import InvalidJSON, parse
from torture import times

PATIENT = settings(deadline=None, max_examples=times(30, 1_000))
"""A busy machine may take its time for one example."""

SPACE = st.text(" \t\n\r", max_size=3)
NUMBERS = st.sampled_from(
    ["0", "-0", "1.10", "1e2", "-1.5E+3", "0.0", "9223372036854775807", "-9223372036854775808"]
) | st.integers(-(2**63), 2**63 - 1).map(str)
AWKWARD = st.sampled_from(
    [
        r'"\/"',
        r'"\u00e9"',
        r'"\ud83d\ude00"',
        r'"\ud83d"',
        r'"\\\""',
        r'"\"usage\":null}"',
        r'"{[,:]}"',
        r'"\\"',
        '"\u2028 \u00a0 🙂"',
        '"]"',
    ]
)
TEXTS = st.builds(
    json.dumps,
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    ensure_ascii=st.booleans(),
)
STRINGS = AWKWARD | TEXTS


@dataclass(frozen=True)
class Member:
    """The text of one member of an object."""

    name: str
    before: str
    colon: str
    value: str
    after: str

    @property
    def key(self) -> str:
        return str(json.loads(self.name))

    def __str__(self) -> str:
        return f"{self.before}{self.name}{self.colon}{self.value}{self.after}"


@dataclass(frozen=True)
class Written:
    """An object as somebody wrote it."""

    members: tuple[Member, ...]
    before: str
    inside: str
    after: str

    def __str__(self) -> str:
        inner = ",".join(map(str, self.members)) or self.inside
        return f"{self.before}{{{inner}}}{self.after}"


def lists(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    item = st.tuples(SPACE, values, SPACE).map("".join)
    return st.lists(item, min_size=1, max_size=4).map(lambda items: f"[{','.join(items)}]") | (
        SPACE.map(lambda space: f"[{space}]")
    )


def objects(values: st.SearchStrategy[str]) -> st.SearchStrategy[Written]:
    colon = st.tuples(SPACE, SPACE).map(":".join)
    member = st.builds(Member, STRINGS, SPACE, colon, values, SPACE)
    members = st.lists(member, max_size=4, unique_by=lambda one: one.key)
    return st.builds(Written, members.map(tuple), SPACE, SPACE, SPACE)


VALUES = st.recursive(
    NUMBERS | STRINGS | st.sampled_from(["true", "false", "null"]),
    lambda inner: lists(inner) | objects(inner).map(lambda one: str(one).strip(" \t\n\r")),
    max_leaves=5,
)
OBJECTS = objects(VALUES)


@PATIENT
@given(OBJECTS)
def test_an_object_is_read_as_json_reads_it_and_each_member_is_found(written: Written) -> None:
    text = str(written)
    found = scan(text)
    assert found.value == json.loads(text)
    assert list(found.spans) == [member.key for member in written.members]
    for member in written.members:
        span = found.spans[member.key]
        assert text[span.start : span.end] == member.value


@PATIENT
@given(OBJECTS)
def test_the_bytes_of_an_object_are_read_as_strictly_as_any_body(written: Written) -> None:
    body = str(written).encode()
    found = parse_object(body)
    assert found is not None
    assert (found.text.encode(), found.value) == (body, parse(body))


@PATIENT
@given(lists(VALUES), SPACE)
def test_each_message_is_found(array: str, space: str) -> None:
    text = f'{{"messages":{space}{array}{space}}}'
    found = scan(text)
    span = found.spans["messages"]
    assert [json.loads(text[start:end]) for start, end in span.items] == json.loads(array)
    pieces = [text[start:end] for start, end in span.items]
    assert all(piece == piece.strip(" \t\n\r") for piece in pieces)
    rest = text[span.start : span.end]
    for piece in pieces:
        rest = rest.replace(piece, "", 1)
    assert set(rest) <= set("[], \t\n\r")


@PATIENT
@given(OBJECTS, st.data())
def test_changed_members_have_their_new_values_and_no_other_byte_changes(
    written: Written, data: st.DataObject
) -> None:
    keys = [member.key for member in written.members]
    chosen = data.draw(st.lists(st.sampled_from(keys), unique=True)) if keys else []
    values = {key: data.draw(VALUES) for key in chosen}
    expected = [
        Member(one.name, one.before, one.colon, values.get(one.key, one.value), one.after)
        for one in written.members
    ]
    changed = scan(str(written)).changed(values)
    assert changed == str(Written(tuple(expected), written.before, written.inside, written.after))


@PATIENT
@given(OBJECTS, st.dictionaries(st.text(max_size=3), VALUES, min_size=1, max_size=3))
def test_new_members_are_added_at_the_end(written: Written, new: dict[str, str]) -> None:
    old = {member.key for member in written.members}
    added = {name: value for name, value in new.items() if name not in old}
    text = str(written)
    changed = scan(text).changed(added)
    assert json.loads(changed) == {
        **json.loads(text),
        **{name: json.loads(value) for name, value in added.items()},
    }
    head, _, tail = text.rpartition("}")
    assert changed.startswith(head)
    assert changed.endswith("}" + tail)


@PATIENT
@given(OBJECTS.filter(lambda written: written.members), st.data())
def test_a_member_is_left_out_with_one_comma_and_nothing_else(
    written: Written, data: st.DataObject
) -> None:
    text = str(written)
    gone = data.draw(st.sampled_from(written.members))
    left = scan(text).without(gone.key)
    others = [member for member in written.members if member is not gone]
    assert list(json.loads(left).items()) == [
        (member.key, json.loads(member.value)) for member in others
    ]
    at = -1
    for member in others:
        at = left.index(f"{member.name}{member.colon}{member.value}", at + 1)
    removed = len(text) - len(left)
    assert any(left == text[:i] + text[i + removed :] for i in range(len(left) + 1))
    spaces = sum(len(part) for part in (gone.before, gone.colon, gone.after))
    around = max(len(member.before + member.after) for member in written.members)
    assert removed <= len(gone.name + gone.value) + spaces + 1 + around


def outcome(read: Callable[[bytes], Any], body: bytes) -> object:
    try:
        return read(body)
    except InvalidJSON as error:
        return type(error), str(error), error.code


def value_of(body: bytes) -> Any:
    found = parse_object(body)
    return "no object" if found is None else found.value


def strictly(body: bytes) -> Any:
    value = parse(body)
    return value if isinstance(value, dict) else "no object"


@PATIENT
@given(OBJECTS, st.data())
def test_a_body_with_one_wrong_sign_is_told_what_the_strict_parser_would_tell(
    written: Written, data: st.DataObject
) -> None:
    body = bytearray(str(written).encode())
    at = data.draw(st.integers(0, len(body) - 1))
    length = data.draw(st.integers(0, 2))
    signs = st.sampled_from([b"", b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"0", b"NaN"])
    body[at : at + length] = data.draw(signs | st.binary(max_size=2))
    broken = bytes(body)
    assert outcome(value_of, broken) == outcome(strictly, broken)


BAD_BODIES = {
    "nothing": b"",
    "white space": b" \n",
    "an open brace": b"{",
    "an open name": b'{"a',
    "no colon": b'{"a" 1}',
    "no value": b'{"a":}',
    "no comma": b'{"a":1 "b":2}',
    "a trailing comma": b'{"a":1,}',
    "a leading comma": b'{,"a":1}',
    "no name": b"{1:2}",
    "an open array": b'{"a":[1',
    "an open array after a comma": b'{"a":[1,',
    "a trailing comma in an array": b'{"a":[1,]}',
    "no comma in an array": b'{"a":[1 2]}',
    "the wrong bracket": b'{"a":[1}',
    "more after the end": b'{"a":1} x',
    "two objects": b'{"a":1}{"a":1}',
    "a key twice": b'{"a":1,"a":1}',
    "a key twice by an escape": b'{"a":1,"\\u0061":1}',
    "a key twice inside": b'{"x":[{"a":1,"a":2}]}',
    "a key twice inside an object": b'{"x":{"a":1,"a":2}}',
    "a key twice and then an error": b'{"a":1,"a":1,}',
    "NaN": b'{"a":NaN}',
    "NaN in an array": b'{"a":[NaN]}',
    "-Infinity": b'{"a":-Infinity}',
    "1e999": b'{"a":1e999}',
    "65 bits": b'{"a":9223372036854775808}',
    "a long number": b'{"a":' + b"9" * 10_000 + b"}",
    "65 bits in an array": b'{"a":[-9223372036854775809]}',
    "a leading zero": b'{"a":01}',
    "a raw line end in a string": b'{"a":"\n"}',
    "a raw NUL in a name": b'{"\x00":1}',
    "a bad escape": b'{"a":"\\x41"}',
    "half an escape": b'{"a":"\\u12"}',
    "a no-break space": '{"a":\u00a01}'.encode(),
    "a form feed": b'{\x0c"a":1}',
    "a byte order mark": b'\xef\xbb\xbf{"a":1}',
    "a byte order mark at the end": '{"a":1}\ufeff'.encode(),
    "UTF-16": '{"a":1}'.encode("utf-16"),
    "UTF-16 without a mark": '{"a":1}'.encode("utf-16-le"),
    "UTF-32": '{"a":1}'.encode("utf-32"),
    "latin-1": '{"a":"é"}'.encode("latin-1"),
    "a surrogate in bytes": b'{"a":"\xed\xa0\x80"}',
    "an overlong slash": b'{"a":"\xc0\xaf"}',
    "33 levels": b'{"a":' + b"[" * 32 + b"]" * 32 + b"}",
    "33 levels of objects": b'{"a":' * 33 + b"1" + b"}" * 33,
    "100,000 open brackets": b'{"a":' + b"[" * 100_000,
    "100,000 open braces": b'{"a":' * 100_000,
    "100,000 brackets": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
}
OTHER_JSON = {"null": b"null", "a list": b"[1]", "a text": b'"{}"', "a number": b" 1 "}


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES)
def test_what_is_no_json_is_refused_in_the_words_of_the_strict_parser(
    body: bytes,
) -> None:
    refused = outcome(value_of, body)
    assert isinstance(refused, tuple)
    assert refused == outcome(strictly, body)


@pytest.mark.parametrize("body", OTHER_JSON.values(), ids=OTHER_JSON)
def test_json_that_is_no_object_is_none(body: bytes) -> None:
    assert parse_object(body) is None


def test_32_levels_are_taken() -> None:
    body = b'{"a":' + b"[" * 31 + b"]" * 31 + b"}"
    found = parse_object(body)
    assert found is not None
    assert found.value == parse(body)


@pytest.mark.parametrize("text", ["", " ", "[]", "1", "{", '{"a":1}x', '{"a":1', '{"a"', "{} {}"])
def test_scan_raises_for_what_is_no_object(text: str) -> None:
    with pytest.raises((ValueError, IndexError)):
        scan(text)


def test_every_container_is_seen_and_parents_come_before_their_children() -> None:
    value = {"a": [1, {"b": []}, [[2]]], "c": {"d": {}}, "e": "x"}
    seen = list(containers(value))
    assert seen == [
        value,
        value["a"],
        {"d": {}},
        {"b": []},
        [[2]],
        {},
        [],
        [2],
    ]


def calls_of(work: Callable[[], object]) -> int:
    """Return how many functions, of C and of Python, the work calls."""
    count = 0

    def see(frame: FrameType, event: str, arg: object) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    sys.setprofile(see)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize(
    "piece",
    ['"{}":1', '"{}":[[]]', '"{}":{{}}', '"{}":"x"', '"{}"  :  "\\u00e9"  '],
    ids=["numbers", "arrays", "objects", "texts", "spaces"],
)
def test_twice_as_many_members_cost_twice_as_many_steps(piece: str) -> None:
    def steps(count: int) -> int:
        text = "{" + ",".join(piece.format(n) for n in range(count)) + "}"
        return calls_of(lambda: scan(text))

    assert steps(1000) <= 2.02 * steps(500)
    assert steps(1000) <= 40_000


def test_an_object_of_more_members_than_anybody_knows_is_refused() -> None:
    def members(count: int) -> bytes:
        return ("{" + ",".join(f'"{n}":1' for n in range(count)) + "}").encode()

    assert parse_object(members(1000)) is not None
    with pytest.raises(InvalidJSON, match="more than 1000 members"):
        parse_object(members(1001))


def test_names_that_come_again_and_again_are_members_too() -> None:
    def members(count: int) -> str:
        return "{" + ",".join(['"a":1'] * count) + "}"

    assert scan(members(1000), json.JSONDecoder()).value == {"a": 1}
    with pytest.raises(TooManyMembers):
        scan(members(1001), json.JSONDecoder())


def test_twice_as_many_messages_cost_twice_as_many_steps() -> None:
    def steps(count: int) -> int:
        text = '{"messages":[' + ",".join(['{"role":"user"}'] * count) + "]}"
        return calls_of(lambda: scan(text))

    assert steps(2000) <= 2.01 * steps(1000)
    assert steps(1000) <= 40_000
