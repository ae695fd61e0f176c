"""JSON as RFC 8259 means it, and nothing beyond.

Python's parser and Flask take more: NaN, duplicate keys (the last wins), UTF-16, integers that
no database holds, and 100,000 brackets until the interpreter gives up.
"""

import json
import re
from typing import Any, NoReturn

MAX_DEPTH = 32
"""Nobody nests deeper by intention; RFC 8259, section 9, allows a limit."""

MAX_CONTAINERS = 100_000
"""Objects and arrays in one body; each costs a few microseconds until the request is refused."""

STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
NO_BRACKET = re.compile(r"[^\[\]]+")
ONE_KIND = str.maketrans("{}", "[]")

INTEGERS = range(-(2**63), 2**63)
"""What SQLite and PostgreSQL can keep."""

MAX_DIGITS = 20
"""Of a 64-bit integer with its sign; longer ones cost quadratic time to parse."""


class InvalidJSON(ValueError):
    """The text is not JSON; the message says why, without quoting it."""

    code = "invalid_json"


class InvalidEncoding(InvalidJSON):
    """The bytes are not UTF-8 without a byte order mark."""

    code = "invalid_encoding"


def parse(body: bytes) -> Any:
    """Parse one JSON text in UTF-8.

    Raises:
        InvalidJSON: It is none, nests too deep, repeats a key, or holds a number out of range.
        InvalidEncoding: The bytes are not UTF-8.
    """
    text = decoded(body)
    try:
        value = DECODER.decode(text)
    except RecursionError:
        raise _too_deep() from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise InvalidJSON(
            f"The body is not valid JSON: {error.msg.removesuffix(' at')} at {where}."
        ) from None
    check_shape(text)
    return value


def decoded(body: bytes) -> str:
    """Return the body's text.

    Raises:
        InvalidEncoding: The bytes are not UTF-8, or begin with a byte order mark.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidEncoding("The body is not valid UTF-8.") from None
    if text.startswith("\ufeff"):
        raise InvalidEncoding("The body begins with a byte order mark; send plain UTF-8.")
    return text


def check_shape(text: str) -> None:
    """Return if the JSON text nests no deeper, and holds no more, than may be.

    Works on the text, since a megabyte may hold half a million objects: it takes the strings out,
    and then from the brackets one level after another, the innermost first.

    Raises:
        InvalidJSON: It does.
    """
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    brackets = NO_BRACKET.sub("", STRING.sub("", text).translate(ONE_KIND))
    if len(brackets) > 2 * MAX_CONTAINERS:
        raise InvalidJSON(f"The body holds more than {MAX_CONTAINERS} objects and arrays.")
    for _ in range(MAX_DEPTH):
        brackets = brackets.replace("[]", "")
    if brackets:
        raise _too_deep()


def _too_deep() -> InvalidJSON:
    return InvalidJSON(f"The body nests more than {MAX_DEPTH} levels deep.")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise InvalidJSON("The body names a key twice in one object.")
    return value


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS or int(digits) not in INTEGERS:
        raise InvalidJSON("The body holds an integer of more than 64 bits.")
    return int(digits)


def _float(digits: str) -> float:
    value = float(digits)
    if value in {float("inf"), float("-inf")}:
        raise InvalidJSON("The body holds a number that is too large.")
    return value


def _constant(_name: str) -> NoReturn:
    raise InvalidJSON("The body holds NaN or Infinity, which are not JSON.")


DECODER = json.JSONDecoder(
    object_pairs_hook=_object,
    parse_int=_integer,
    parse_float=_float,
    parse_constant=_constant,
)
