"""The settings: read from the environment and a `.env` file, checked all at once."""

import difflib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from chatport.domain.chat import MAX_PROMPT_BYTES
from chatport.domain.history import HistoryBounds
from chatport.domain.rules import Budget, InFlight, Limit, parse_budgets, parse_limits

PASSWORD_IN_URL = re.compile("//.*@")
OURS = "CHATPORT_"
LARGEST_PROMPT = 900_000
MAX_DIGITS = 12
"""More than any count that a setting can mean."""


class SettingsError(Exception):
    """The settings cannot be used. `problems` holds one sentence for each thing that is wrong."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


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


def _text(value: str) -> str:
    return value


def _secret(value: str) -> Secret | None:
    if not value:
        return None
    if not value.isascii() or not value.isprintable() or " " in value:
        raise ValueError("holds a space or a character that no key has")
    return Secret(value)


def _nonempty(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be empty")
    return value


def _names(value: str) -> tuple[str, ...]:
    return tuple(name for each in value.split(",") if (name := each.strip()))


def _url(value: str) -> str:
    try:
        parts = urlsplit(value)
        good = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port out of range, a bracket that is not closed
        good = False
    if not good or not value.isprintable() or " " in value:
        raise ValueError("must be a URL such as https://api.openai.com/v1")
    if parts.username or parts.password:
        raise ValueError("must not hold a name or a password")
    return value.rstrip("/")


def _database(value: str) -> Path | None:
    if value == "memory:":
        return None
    path = value.removeprefix("sqlite:///")
    if path == value or not path or path == ":memory:":
        raise ValueError("must be sqlite:///FILE (four slashes for an absolute path) or memory:")
    return Path(path)


def _limit_store(value: str) -> str:
    if value != "memory:":
        raise ValueError("must be memory:, which all processes of one server share")
    return value


def _count(value: str) -> int:
    if not value.isascii() or not value.isdigit() or len(value) > MAX_DIGITS or int(value) < 1:
        raise ValueError("must be a whole number from 1")
    return int(value)


def _count_or_none(value: str) -> int | None:
    return _count(value) if value else None


def _hops(value: str) -> int:
    return 0 if value == "0" else _count(value)


def _file_or_none(value: str) -> Path | None:
    return Path(value) if value else None


def _prompt_bytes(value: str) -> int:
    size = _count(value)
    if size > LARGEST_PROMPT:
        raise ValueError(f"must be at most {LARGEST_PROMPT}, since a request may have 1 MB")
    return size


def _seconds(value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= 3600:  # noqa: PLR2004  # an hour; also false for NaN
        raise ValueError("must be a number of seconds, above 0 and up to 3600")
    return seconds


def _setting(name: str, parse: Callable[[str], Any], default: str, meaning: str) -> Any:
    return field(metadata={"name": name, "parse": parse, "default": default, "meaning": meaning})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What an operator can choose. Make it with `from_mapping`."""

    api_key: Secret | None = _setting(
        "OPENAI_API_KEY", _secret, "", "the provider's key; never leaves the server"
    )
    base_url: str = _setting(
        "OPENAI_BASE_URL", _url, "https://api.openai.com/v1", "any OpenAI-compatible provider"
    )
    model: str = _setting("CHATPORT_MODEL", _nonempty, "gpt-5-mini", "the model that answers")
    models: tuple[str, ...] = _setting(
        "CHATPORT_MODELS",
        _names,
        "",
        "the models that clients of `/v1` may name, with commas between; empty: all",
    )
    database: Path | None = _setting(
        "CHATPORT_DATABASE", _database, "sqlite:///chatport.db", "`sqlite:///FILE` or `memory:`"
    )
    user_limit: tuple[Limit | InFlight, ...] = _setting(
        "CHATPORT_USER_LIMIT", parse_limits, "20/minute;500/day", "of each user; empty: none"
    )
    caller_limit: tuple[Limit | InFlight, ...] = _setting(
        "CHATPORT_CALLER_LIMIT", parse_limits, "", "of each caller that has no limit of its own"
    )
    total_limit: tuple[Limit | InFlight, ...] = _setting(
        "CHATPORT_TOTAL_LIMIT", parse_limits, "300/minute", "of all together; empty: none"
    )
    user_budget: tuple[Budget, ...] = _setting(
        "CHATPORT_USER_BUDGET",
        parse_budgets,
        "",
        "of each user, such as `0.50 USD/day; 2000000 tokens/month`; empty: none",
    )
    caller_budget: tuple[Budget, ...] = _setting(
        "CHATPORT_CALLER_BUDGET", parse_budgets, "", "of each caller that has none of its own"
    )
    total_budget: tuple[Budget, ...] = _setting(
        "CHATPORT_TOTAL_BUDGET", parse_budgets, "", "of all together"
    )
    max_output_tokens: int | None = _setting(
        "CHATPORT_MAX_OUTPUT_TOKENS",
        _count_or_none,
        "",
        "the longest answer, which is what budgets reserve; empty: no bound, 4096 are reserved",
    )
    prices: Path | None = _setting(
        "CHATPORT_PRICES", _file_or_none, "", "a TOML file with prices of your own models"
    )
    limit_store: str = _setting(
        "CHATPORT_LIMIT_STORE", _limit_store, "memory:", "where limits are counted"
    )
    proxy_hops: int = _setting(
        "CHATPORT_PROXY_HOPS",
        _hops,
        "0",
        "how many proxies before this server add to `X-Forwarded-For`, which is believed so far",
    )
    system_prompt: str = _setting(
        "CHATPORT_SYSTEM_PROMPT", _text, "", "goes first in every call; empty: none"
    )
    history_tokens: int = _setting(
        "CHATPORT_HISTORY_TOKENS",
        _count,
        str(HistoryBounds().tokens),
        "how much of a conversation goes along with the next prompt",
    )
    timeout_seconds: float = _setting(
        "CHATPORT_TIMEOUT_SECONDS",
        _seconds,
        "120",
        "for a whole answer; a quarter of it may pass in silence",
    )
    max_prompt_bytes: int = _setting(
        "CHATPORT_MAX_PROMPT_BYTES",
        _prompt_bytes,
        str(MAX_PROMPT_BYTES),
        "the longest prompt, in UTF-8",
    )
    max_body_bytes: int = _setting(
        "CHATPORT_MAX_BODY_BYTES",
        _count,
        "1000000",
        "the largest request; images in messages need more",
    )

    @classmethod
    def from_mapping(cls, environment: Mapping[str, str]) -> "Settings":
        """Read the settings; names that are neither ours nor OpenAI's are ignored.

        Raises:
            SettingsError: Values are not valid, or a name that begins with CHATPORT_ is unknown.
        """
        problems = _unknown_names(environment)
        values: dict[str, Any] = {}
        for each in fields(cls):
            name, parse = each.metadata["name"], each.metadata["parse"]
            try:
                values[each.name] = parse(environment.get(name, each.metadata["default"]))
            except ValueError as error:
                problems.append(f"{name} {error}.")
        if problems:
            raise SettingsError(problems)
        return cls(**values)


def load_environment(environment: Mapping[str, str], dotenv: Path) -> dict[str, str]:
    """Return the variables of a `.env` file, if it exists, and of the environment, which wins.

    Raises:
        SettingsError: The file is no text.
    """
    from dotenv import dotenv_values  # noqa: PLC0415  # 15 ms that `--help` need not pay

    try:
        in_file = {name: value or "" for name, value in dotenv_values(dotenv).items()}
    except UnicodeDecodeError:
        raise SettingsError([f"{dotenv} is not a text file in UTF-8."]) from None
    return {**in_file, **environment}


def describe() -> list[tuple[str, str, str]]:
    """Return name, default and meaning of every setting: the README's table."""
    return [
        (each.metadata["name"], each.metadata["default"], each.metadata["meaning"])
        for each in fields(Settings)
    ]


def printable(environment: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return each setting's name and value, as text that may be shown to anybody."""
    shown = []
    for each in fields(Settings):
        name = each.metadata["name"]
        value = environment.get(name, each.metadata["default"])
        if each.metadata["parse"] is _secret:
            value = "***" if value else ""
        if each.metadata["parse"] is _url:
            value = PASSWORD_IN_URL.sub("//***@", value)
        shown.append((name, value))
    return shown


def _unknown_names(environment: Mapping[str, str]) -> list[str]:
    known = [each.metadata["name"] for each in fields(Settings)]
    unknown = [name for name in environment if name.startswith(OURS) and name not in known]
    return [f"{name} is not a setting of chatport{_hint(name, known)}" for name in sorted(unknown)]


def _hint(name: str, known: list[str]) -> str:
    words = [each.removeprefix(OURS) for each in known if each.startswith(OURS)]
    close = difflib.get_close_matches(name.removeprefix(OURS).upper(), words, n=1)
    return f"; did you mean {OURS}{close[0]}?" if close else "."
