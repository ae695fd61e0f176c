"""A JSON object together with the places of its members in the text.

What need not be understood is passed on byte for byte: a request is changed where it must be,
and not written anew.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from json.decoder import scanstring  # type: ignore[attr-defined]  # public in the module
from typing import Any

from .strict_json import DECODER, InvalidJSON, check_shape, decoded, parse

BY_ITEM = frozenset({"messages"})
"""The arrays of which the place of each item is needed."""

MAX_MEMBERS = 1_000
"""Written in the outermost object, be it again and again; OpenAI knows about forty parameters."""

_skip = re.compile(r"[ \t\n\r]*").match


class TooManyMembers(InvalidJSON):
    """The object is JSON, but nobody's request."""


@dataclass(frozen=True, slots=True)
class Span:
    """Where a value begins and ends in the text; for an array of BY_ITEM, also its items."""

    start: int
    end: int
    items: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class JSONObject:
    """A parsed object, its text, and the span of each member's value."""

    text: str
    value: Mapping[str, Any]
    spans: Mapping[str, Span]

    def changed(self, values: Mapping[str, str]) -> str:
        """Return the text with the JSON of some members replaced, or added at its end."""
        edits = [(self.spans[name], json_) for name, json_ in values.items() if name in self.spans]
        text = self.text
        for span, value in sorted(edits, key=lambda edit: edit[0].start, reverse=True):
            text = f"{text[: span.start]}{value}{text[span.end :]}"
        added = [
            f"{json.dumps(name)}:{value}"
            for name, value in values.items()
            if name not in self.spans
        ]
        if not added:
            return text
        end = text.rindex("}")
        return f"{text[:end]}{',' if self.value else ''}{','.join(added)}{text[end:]}"

    def without(self, name: str) -> str:
        """Return the text without a member that it has, and without one of its commas."""
        span = self.spans[name]
        others = [other for key, other in self.spans.items() if key != name]
        before = max((other.end for other in others if other.end <= span.start), default=None)
        if before is not None:
            return self.text[:before] + self.text[span.end :]
        start = self.text.index("{") + 1
        after = self.text[span.end :]
        return self.text[:start] + (after.lstrip().removeprefix(",") if others else after)


def parse_object(body: bytes) -> JSONObject | None:
    """Parse a JSON object as strictly as `strict_json.parse`; None for other JSON.

    Raises:
        InvalidJSON: It is not JSON.
    """
    text = decoded(body)
    try:
        found = scan(text)
    except TooManyMembers:
        raise
    except (ValueError, IndexError, RecursionError):
        parse(body)  # raises, and says where and why
        return None
    check_shape(text)
    return found


def scan(text: str, decoder: json.JSONDecoder = DECODER) -> JSONObject:
    """Parse the object that the text is.

    Args:
        text: As JSON means it; white space may stand around the object.
        decoder: How strictly the values are read.

    Raises:
        TooManyMembers: It has more than anybody writes.
        ValueError, IndexError: It is none.
    """
    at = _after(text, 0, "{")
    value: dict[str, Any] = {}
    spans: dict[str, Span] = {}
    more = text[at] != "}"
    written = 0
    while more:
        name, at = scanstring(text, _after(text, at, '"', skip=False), True)
        if decoder is DECODER and name in value:
            raise InvalidJSON("The body names a key twice in one object.")
        if written == MAX_MEMBERS:
            raise TooManyMembers(f"The body has more than {MAX_MEMBERS} members.")
        written += 1
        at = _after(text, at, ":")
        value[name], spans[name] = _value(text, at, decoder, by_item=name in BY_ITEM)
        at = _skip(text, spans[name].end).end()  # type: ignore[union-attr]  # it matches always
        more = text[at] == ","
        if more:
            at = _skip(text, at + 1).end()  # type: ignore[union-attr]  # as above
    end = _after(text, at, "}")
    if end != len(text):
        raise ValueError("there is more after the object")
    return JSONObject(text, value, spans)


def _value(text: str, start: int, decoder: json.JSONDecoder, *, by_item: bool) -> tuple[Any, Span]:
    """Parse a value; of an array, if wanted, item by item, which costs several times as much."""
    if text[start] != "[" or not by_item:
        value, end = decoder.raw_decode(text, start)
        return value, Span(start, end)
    items: list[Any] = []
    places: list[tuple[int, int]] = []
    at = _after(text, start, "[")
    more = text[at] != "]"
    while more:
        item, end = decoder.raw_decode(text, at)
        items.append(item)
        places.append((at, end))
        at = _skip(text, end).end()  # type: ignore[union-attr]  # it matches always
        more = text[at] == ","
        if more:
            at = _skip(text, at + 1).end()  # type: ignore[union-attr]  # as above
    if text[at] != "]":
        raise ValueError("the array does not end")
    return items, Span(start, at + 1, tuple(places))


def _after(text: str, at: int, sign: str, *, skip: bool = True) -> int:
    """Return the place after a sign and the white space around it."""
    at = _skip(text, at).end()  # type: ignore[union-attr]  # it matches always
    if text[at] != sign:
        raise ValueError(f"{sign} is missing")
    return _skip(text, at + 1).end() if skip else at + 1  # type: ignore[union-attr]  # as above


def containers(value: Any) -> Iterable[Any]:
    """Yield every object and array in a value, the value itself first."""
    level = [value]
    while level:
        yield from level
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, dict | list)
        ]
