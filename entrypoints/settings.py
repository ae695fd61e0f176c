"""The settings: read from variables, and checked all at once."""

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from chatport.domain.chat import MAX_PROMPT_BYTES
from chatport.domain.history import HistoryBounds
from chatport.domain.rules import Budget, InFlight, Limit, parse_budgets, parse_limits

from .setting_values import (
    KEY,
    Secret,
    UpstreamSetting,
    count,
    count_or_none,
    database,
    file_or_none,
    hops,
    limit_store,
    must_be_text,
    names,
    nonempty,
    prompt_bytes,
    seconds,
    secret,
    text,
    upstreams,
    url,
)
from .terminal import printable_text

BEFORE_HOST = re.compile("//.*@", re.DOTALL)
QUERY = re.compile(r"[?#][^\s,]*")
NO_VARIABLE = re.compile(r"(?<![^\s,])(?!https?://|[A-Z][A-Z0-9_]*\s*(?:,|$))[^\s,]+")
"""What stands where a URL or a variable should: it may be the key itself."""

SCHEME = re.compile("[a-z0-9+.-]+://")
ADDRESSES = {url, upstreams, database, limit_store, file_or_none}

OURS = "CHATPORT_"


class SettingsError(Exception):
    """The settings cannot be used. `problems` holds one sentence for each thing that is wrong."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def _setting(name: str, parse: Callable[[str], Any], default: str, meaning: str) -> Any:
    return field(metadata={"name": name, "parse": parse, "default": default, "meaning": meaning})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What an operator can choose. Make it with `from_mapping`."""

    api_key: Secret | None = _setting(
        KEY, secret, "", "the provider's key; never leaves the server"
    )
    base_url: str = _setting(
        "OPENAI_BASE_URL",
        url,
        "https://api.openai.com/v1",
        "any OpenAI-compatible provider; a host with other letters than ASCII in its `xn--` form",
    )
    upstreams: tuple[UpstreamSetting, ...] = _setting(
        "CHATPORT_UPSTREAMS",
        upstreams,
        "",
        "several providers, the first preferred, instead of `OPENAI_BASE_URL`: URLs with commas"
        " between, after each a space and the variable with its key, if it has another",
    )
    model: str = _setting("CHATPORT_MODEL", nonempty, "gpt-5-mini", "the model that answers")
    models: tuple[str, ...] = _setting(
        "CHATPORT_MODELS",
        names,
        "",
        "the models that clients of `/v1` may name, with commas between; empty: all",
    )
    database: Path | None = _setting(
        "CHATPORT_DATABASE", database, "sqlite:///chatport.db", "`sqlite:///FILE` or `memory:`"
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
        count_or_none,
        "",
        "the longest answer, which is what budgets reserve; empty: no bound, 4096 are reserved",
    )
    prices: Path | None = _setting(
        "CHATPORT_PRICES", file_or_none, "", "a TOML file with prices of your own models"
    )
    limit_store: str = _setting(
        "CHATPORT_LIMIT_STORE", limit_store, "memory:", "where limits are counted"
    )
    proxy_hops: int = _setting(
        "CHATPORT_PROXY_HOPS",
        hops,
        "0",
        "how many proxies before this server add to `X-Forwarded-For`, which is believed so far",
    )
    max_in_flight: int = _setting(
        "CHATPORT_MAX_IN_FLIGHT",
        count,
        "4000",
        "how many completions are answered at once; what comes beyond is `overloaded`",
    )
    system_prompt: str = _setting(
        "CHATPORT_SYSTEM_PROMPT", text, "", "goes first in every call; empty: none"
    )
    history_tokens: int = _setting(
        "CHATPORT_HISTORY_TOKENS",
        count,
        str(HistoryBounds().tokens),
        "how much of a conversation goes along with the next prompt",
    )
    timeout_seconds: float = _setting(
        "CHATPORT_TIMEOUT_SECONDS",
        seconds,
        "120",
        "for a whole answer; a quarter of it may pass in silence",
    )
    max_prompt_bytes: int = _setting(
        "CHATPORT_MAX_PROMPT_BYTES",
        prompt_bytes,
        str(MAX_PROMPT_BYTES),
        "the longest prompt, in UTF-8",
    )
    max_body_bytes: int = _setting(
        "CHATPORT_MAX_BODY_BYTES",
        count,
        "1000000",
        "the largest request; images in messages need more",
    )

    @property
    def lacks_key(self) -> bool:
        """Return whether a provider has no key, so that only echoes can be served."""
        return any(upstream.key is None for upstream in self.upstreams)

    @classmethod
    def from_mapping(
        cls, environment: Mapping[str, str], problems: Sequence[str] = ()
    ) -> "Settings":
        """Read the settings; names that are neither ours nor OpenAI's are ignored.

        Args:
            environment: The variables.
            problems: What was wrong where they come from, to be reported with the rest.

        Raises:
            SettingsError: Values are not valid, or a name that begins with CHATPORT_ is unknown,
                or there were problems before.
        """
        found = [*problems, *_unknown_names(environment)]
        values: dict[str, Any] = {}
        for each in fields(cls):
            name, parse = each.metadata["name"], each.metadata["parse"]
            try:
                values[each.name] = parse(environment.get(name, each.metadata["default"]))
                must_be_text(environment.get(name, ""))
            except ValueError as error:
                found.append(f"{name} {error}.")
        named = values.get("upstreams") or ((values.get("base_url", ""), KEY),)
        values["upstreams"] = _with_keys(named, environment, found)
        if found:
            raise SettingsError(found)
        return cls(**values)


def _with_keys(
    named: tuple[tuple[str, str], ...], environment: Mapping[str, str], problems: list[str]
) -> tuple[UpstreamSetting, ...]:
    """Return the providers with their keys, and add what is wrong with these to the problems."""
    found = []
    for address, name in named:
        key = None
        try:
            key = secret(environment.get(name, ""))
        except ValueError as error:
            if name != KEY:  # which is a setting itself
                problems.append(f"{name} {error}.")
            continue
        if key is None and name != KEY:
            problems.append(f"CHATPORT_UPSTREAMS names {name} for a key, and that is not set.")
        found.append(UpstreamSetting(address, key))
    return tuple(found)


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
        shown.append((name, printable_text(_masked(each.metadata["parse"], value))))
    return shown


def _masked(parse: Callable[[str], Any], value: str) -> str:
    """Return a value without its secrets; an address is whole if it can be used: it has none."""
    if parse is secret:
        return "***" if value else ""
    if parse not in ADDRESSES:
        return value
    try:
        parse(value)
    except ValueError:
        return _masked_address(value) if parse is upstreams else _scheme_only(value)
    return value


def _masked_address(value: str) -> str:
    value = QUERY.sub("?***", BEFORE_HOST.sub("//***@", value))
    return NO_VARIABLE.sub("***", value)


def _scheme_only(value: str) -> str:
    """Return what kind of address it is: a password can stand anywhere behind that."""
    found = SCHEME.match(value)
    return f"{found.group() if found else ''}{'***' if value else ''}"


def _unknown_names(environment: Mapping[str, str]) -> list[str]:
    known = [each.metadata["name"] for each in fields(Settings)]
    unknown = [name for name in environment if name.startswith(OURS) and name not in known]
    return [f"{name} is not a setting of chatport{_hint(name, known)}" for name in sorted(unknown)]


def _hint(name: str, known: list[str]) -> str:
    words = [each.removeprefix(OURS) for each in known if each.startswith(OURS)]
    close = difflib.get_close_matches(name.removeprefix(OURS).upper(), words, n=1)
    return f"; did you mean {OURS}{close[0]}?" if close else "."
