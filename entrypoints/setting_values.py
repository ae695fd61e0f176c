"""What a setting may say: one function for each kind of value, from its text to what it means.

Each raises ValueError with the end of a sentence that begins with the setting's name.
"""

import math
import re
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

KEY = "OPENAI_API_KEY"
VARIABLE = re.compile("[A-Z][A-Z0-9_]*")
"""A name of a variable; no key of a provider looks like one."""

HOST = re.compile(r"[\w.-]+|[0-9a-f:.%]*:[\w:.%-]*", re.ASCII)
BRACKETED = re.compile(r"(?:^|@)\[[0-9A-Fa-f:.]+\](?::\d*)?$")
"""An address of IPv6 with brackets around it, and nothing after it but a port."""

ADDRESS = re.compile(r"\d+\.\d+\.\d+\.\d+", re.ASCII)

LARGEST_PROMPT = 900_000
MAX_DIGITS = 12
"""More than any count that a setting can mean."""


class Secret:
    """A text that cannot be printed by accident."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text itself, for the one place that needs it."""
        return self._text

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__

    def __reduce__(self) -> str:
        raise TypeError("a secret is not pickled")


def must_be_text(value: str) -> None:
    """Refuse what the system's bytes were not, and what no database or provider takes."""
    if "\0" in value or any("\ud800" <= each <= "\udfff" for each in value):
        raise ValueError("holds a NUL or bytes that are not UTF-8")


def text(value: str) -> str:
    """Take any text."""
    return value


def secret(value: str) -> Secret | None:
    """Take a key; None for none."""
    if not value:
        return None
    if not value.isascii() or not value.isprintable() or " " in value:
        raise ValueError("holds a space or a character that no key has")
    return Secret(value)


def nonempty(value: str) -> str:
    """Take a text that says something."""
    if not value.strip():
        raise ValueError("must not be empty")
    return value


def names(value: str) -> tuple[str, ...]:
    """Take names with commas between."""
    return tuple(name for each in value.split(",") if (name := each.strip()))


def url(value: str) -> str:
    """Take an address of HTTP."""
    try:
        parts = urlsplit(value)
        good = (
            parts.scheme in {"http", "https"}
            and parts.port != 0
            and _is_host(parts.hostname)
            and ("[" not in parts.netloc or BRACKETED.search(parts.netloc) is not None)
        )
    except ValueError:  # a port out of range, a bracket that is not closed
        good = False
    if not good or not value.isprintable() or " " in value:
        raise ValueError("must be a URL such as https://api.openai.com/v1")
    if parts.username or parts.password:
        raise ValueError("must not hold a name or a password")
    if "?" in value or "#" in value:  # the path of each route is put behind it
        raise ValueError("must end with its path, without ? or #")
    return value.rstrip("/")


def _is_host(name: str | None) -> bool:
    """Return whether it is an address, or a name as it is looked up: `xn--` for other letters.

    Raises:
        ValueError: It looks like an address, and is none.
    """
    if name is None or not HOST.fullmatch(name):
        return False
    if ":" in name or ADDRESS.fullmatch(name):
        ip_address(name)
    return True


@dataclass(frozen=True, slots=True)
class UpstreamSetting:
    """A provider's address, and the key that is sent there."""

    url: str
    key: Secret | None


def upstreams(value: str) -> tuple[tuple[str, str], ...]:
    """Return the address of each provider, and the name of the variable with its key."""
    named = [each.split() for each in value.split(",")] if value.strip() else []
    if not all(
        words and all(map(VARIABLE.fullmatch, words[1:2])) and not words[2:] for words in named
    ):
        raise ValueError(
            "must be URLs with commas between, each perhaps followed by a space and the name of"
            " the variable that holds its key"
        )
    try:
        found = tuple((url(words[0]), words[-1] if words[1:] else KEY) for words in named)
    except ValueError as error:
        raise ValueError(f"{error}, for each of them") from None
    if len({url for url, _ in found}) < len(found):
        raise ValueError("names an address twice")
    return found


def database(value: str) -> Path | None:
    """Take where the log is kept; None for in memory."""
    if value == "memory:":
        return None
    path = value.removeprefix("sqlite:///")
    if path == value or not path or path == ":memory:":
        raise ValueError("must be sqlite:///FILE (four slashes for an absolute path) or memory:")
    if "?" in path:
        raise ValueError("must not hold a ?: there are no options, and a file needs no such name")
    if path.startswith("~"):
        raise ValueError("must not begin with ~, which is no folder here: write out its path")
    if path.endswith("/"):
        raise ValueError("must name a file, and not a folder")
    if path != path.strip() or not path.isprintable():
        raise ValueError("must not hold a space at an end, or what cannot be printed")
    return Path(path)


def limit_store(value: str) -> str:
    """Take where limits are counted."""
    if value != "memory:":
        raise ValueError("must be memory:, which all processes of one server share")
    return value


def count(value: str, least: int = 1) -> int:
    """Take a whole number from 1, or from another one."""
    good = value.isascii() and value.isdigit() and len(value) <= MAX_DIGITS
    if not good or int(value) < least:
        raise ValueError(f"must be a whole number from {least}")
    return int(value)


def count_or_none(value: str) -> int | None:
    """Take a whole number from 1; None for none."""
    return count(value) if value else None


def hops(value: str) -> int:
    """Take a number of proxies."""
    return count(value, least=0)


def file_or_none(value: str) -> Path | None:
    """Take the path of a file; None for none."""
    if "://" in value:
        raise ValueError("must be the path of a file")
    return Path(value) if value else None


def prompt_bytes(value: str) -> int:
    """Take the size of a prompt."""
    size = count(value)
    if size > LARGEST_PROMPT:
        raise ValueError(f"must be at most {LARGEST_PROMPT}, since a request may have 1 MB")
    return size


def seconds(value: str) -> float:
    """Take a duration."""
    try:
        found = float(value)
    except ValueError:
        found = math.nan
    if not 0 < found <= 3600:  # noqa: PLR2004  # an hour; also false for NaN
        raise ValueError("must be a number of seconds, above 0 and up to 3600")
    return found
