"""The settings: their defaults, every refusal, and secrets that nobody can print."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest

from chatport.domain.rules import Budget, InFlight, Limit, Period, Unit
from chatport.entrypoints.setting_values import Secret, UpstreamSetting
from chatport.entrypoints.settings import (
    Settings,
    SettingsError,
    printable,
)

KEY = "sk-canary-0123456789"


def problems(**environment: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        Settings.from_mapping(environment)
    return caught.value.problems


def test_the_defaults_are_these() -> None:
    settings = Settings.from_mapping({})
    assert settings == Settings(
        api_key=None,
        base_url="https://api.openai.com/v1",
        upstreams=(UpstreamSetting("https://api.openai.com/v1", None),),
        model="gpt-5-mini",
        models=(),
        database=Path("chatport.db"),
        user_limit=(
            Limit(amount=20, window_seconds=60),
            Limit(amount=500, window_seconds=86400),
        ),
        caller_limit=(),
        total_limit=(Limit(amount=300, window_seconds=60),),
        user_budget=(),
        caller_budget=(),
        total_budget=(),
        max_output_tokens=None,
        prices=None,
        proxy_hops=0,
        max_in_flight=4000,
        limit_store="memory:",
        system_prompt="",
        history_tokens=8000,
        timeout_seconds=120.0,
        max_prompt_bytes=100_000,
        max_body_bytes=1_000_000,
    )


def test_every_setting_is_taken() -> None:
    settings = Settings.from_mapping(
        {
            "OPENAI_API_KEY": KEY,
            "OPENAI_BASE_URL": "http://127.0.0.1:9/v1/",
            "CHATPORT_MODEL": "m",
            "CHATPORT_DATABASE": "memory:",
            "CHATPORT_USER_LIMIT": "1/second",
            "CHATPORT_CALLER_LIMIT": "9 in flight",
            "CHATPORT_TOTAL_LIMIT": "",
            "CHATPORT_USER_BUDGET": "1 token/day",
            "CHATPORT_CALLER_BUDGET": "2 tokens/day",
            "CHATPORT_TOTAL_BUDGET": "3 USD/month",
            "CHATPORT_MAX_OUTPUT_TOKENS": "4",
            "CHATPORT_PRICES": "prices.toml",
            "CHATPORT_PROXY_HOPS": "1",
            "CHATPORT_LIMIT_STORE": "memory:",
            "CHATPORT_SYSTEM_PROMPT": "Be\nbrief.",
            "CHATPORT_HISTORY_TOKENS": "1",
            "CHATPORT_TIMEOUT_SECONDS": "0.5",
            "CHATPORT_MAX_PROMPT_BYTES": "2",
            "CHATPORT_MAX_BODY_BYTES": "3",
            "CHATPORT_MODELS": "a/b, c,",
        }
    )
    assert settings.api_key is not None
    assert settings.api_key.reveal() == KEY
    assert settings.base_url == "http://127.0.0.1:9/v1"
    assert settings.model == "m"
    assert settings.database is None
    assert settings.user_limit == (Limit(amount=1, window_seconds=1),)
    assert settings.caller_limit == (InFlight(amount=9),)
    assert settings.total_limit == ()
    assert settings.user_budget == (Budget(amount=1, unit=Unit.TOKENS, period=Period.DAY),)
    assert settings.caller_budget == (Budget(amount=2, unit=Unit.TOKENS, period=Period.DAY),)
    assert [str(budget) for budget in settings.total_budget] == ["3 USD per month"]
    assert settings.max_output_tokens == 4
    assert settings.prices == Path("prices.toml")
    assert settings.proxy_hops == 1
    assert settings.system_prompt == "Be\nbrief."
    assert settings.history_tokens == 1
    assert settings.timeout_seconds == 0.5
    assert settings.max_prompt_bytes == 2
    assert settings.max_body_bytes == 3
    assert settings.models == ("a/b", "c")


def test_an_empty_key_is_no_key() -> None:
    assert Settings.from_mapping({"OPENAI_API_KEY": ""}).api_key is None


def test_names_of_others_are_none_of_our_business() -> None:
    others = {"PATH": "/bin", "OPENAI_ORG_ID": "o", "chatport_model": "m", "XCHATPORT_MODEL": "m"}
    assert Settings.from_mapping(others) == Settings.from_mapping({})


def test_every_problem_is_reported_at_once() -> None:
    assert problems(
        CHATPORT_MODLE="m",
        OPENAI_BASE_URL="ftp://x",
        CHATPORT_HISTORY_TOKENS="0",
        CHATPORT_TIMEOUT_SECONDS="never",
    ) == [
        "CHATPORT_MODLE is not a setting of chatport; did you mean CHATPORT_MODEL?",
        "OPENAI_BASE_URL must be a URL such as https://api.openai.com/v1.",
        "CHATPORT_HISTORY_TOKENS must be a whole number from 1.",
        "CHATPORT_TIMEOUT_SECONDS must be a number of seconds, above 0 and up to 3600.",
    ]


def test_the_error_says_one_problem_a_line() -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_mapping({"CHATPORT_MODEL": "", "CHATPORT_LIMIT_STORE": ""})
    assert str(caught.value) == (
        "CHATPORT_MODEL must not be empty.\n"
        "CHATPORT_LIMIT_STORE must be memory:, which all processes of one server share."
    )


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("CHATPORT_MODELL", "; did you mean CHATPORT_MODEL?"),
        ("CHATPORT_DATABASE_URL", "; did you mean CHATPORT_DATABASE?"),
        ("CHATPORT_TIMEOUT", "; did you mean CHATPORT_TIMEOUT_SECONDS?"),
        ("CHATPORT_model", "; did you mean CHATPORT_MODEL?"),
    ],
)
def test_an_unknown_name_of_ours_is_refused_with_a_suggestion(name: str, hint: str) -> None:
    assert problems(**{name: "1"}) == [f"{name} is not a setting of chatport{hint}"]


def test_a_name_that_is_like_none_of_ours_gets_no_suggestion() -> None:
    assert problems(CHATPORT_ZZZ="1") == ["CHATPORT_ZZZ is not a setting of chatport."]


URL = "OPENAI_BASE_URL must be a URL such as https://api.openai.com/v1."
DATABASE = (
    "CHATPORT_DATABASE must be sqlite:///FILE (four slashes for an absolute path) or memory:."
)
OPTIONS = "hold a ?: there are no options, and a file needs no such name"
SPACE = "hold a space at an end, or what cannot be printed"
LIMITS = "must be limits such as 20/minute; 50000 tokens/hour; 8 in flight."
USER_LIMIT = f"CHATPORT_USER_LIMIT {LIMITS}"
SECONDS = "CHATPORT_TIMEOUT_SECONDS must be a number of seconds, above 0 and up to 3600."
BYTES = "CHATPORT_MAX_PROMPT_BYTES must be a whole number from 1."


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        *(
            ("OPENAI_BASE_URL", value, URL)
            for value in ("", "api.openai.com", "https://", "file:///x")
        ),
        (
            "OPENAI_BASE_URL",
            "https://ada:secret@example.com/v1",
            "OPENAI_BASE_URL must not hold a name or a password.",
        ),
        *(
            ("OPENAI_BASE_URL", value, "OPENAI_BASE_URL must end with its path, without ? or #.")
            for value in ("https://x/v1?api-version=1", "https://x/v1#a", "https://x?")
        ),
        ("CHATPORT_MODEL", " ", "CHATPORT_MODEL must not be empty."),
        ("CHATPORT_PRICES", "file:///p.toml", "CHATPORT_PRICES must be the path of a file."),
        *(
            ("CHATPORT_DATABASE", value, DATABASE)
            for value in ("", "chatport.db", "sqlite:", "sqlite://", "sqlite:///", "memory")
        ),
        *(
            ("CHATPORT_DATABASE", f"sqlite:///{path}", f"CHATPORT_DATABASE must not {problem}.")
            for path, problem in (
                ("log.db?mode=ro", OPTIONS),
                ("~/log.db", "begin with ~, which is no folder here: write out its path"),
                ("log.db ", SPACE),
                (" log.db", SPACE),
                ("log\n.db", SPACE),
                ("log\x00.db", SPACE),
                ("log\udcff.db", SPACE),
            )
        ),
        (
            "CHATPORT_DATABASE",
            "sqlite:///data/",
            "CHATPORT_DATABASE must name a file, and not a folder.",
        ),
        *(
            ("CHATPORT_PROXY_HOPS", value, "CHATPORT_PROXY_HOPS must be a whole number from 0.")
            for value in ("-1", "", "one", "1" * 5000)
        ),
        *(
            ("CHATPORT_USER_LIMIT", value, USER_LIMIT)
            for value in ("20", "20/fortnight", "0/minute", "-1/minute", "a/b", "20/minute;x")
        ),
        (
            "CHATPORT_LIMIT_STORE",
            "redis://127.0.0.1",
            "CHATPORT_LIMIT_STORE must be memory:, which all processes of one server share.",
        ),
        *(
            ("CHATPORT_TIMEOUT_SECONDS", value, SECONDS)
            for value in ("", "0", "-1", "3600.1", "nan", "inf", "1e999", "soon")
        ),
        *(
            ("CHATPORT_MAX_PROMPT_BYTES", value, BYTES)
            for value in ("", "0", "-1", "1.5", " 1", "1_000", "٣", "²")
        ),
    ],
)
def test_a_bad_value_is_refused_in_one_sentence(name: str, value: str, problem: str) -> None:
    assert problems(**{name: value}) == [problem]


def test_a_number_of_5000_digits_is_refused_in_our_own_words() -> None:
    (problem,) = problems(CHATPORT_HISTORY_TOKENS="9" * 5000)
    assert problem.startswith("CHATPORT_HISTORY_TOKENS must be a whole number")


def test_a_url_that_python_cannot_read_is_refused_in_our_own_words() -> None:
    assert problems(OPENAI_BASE_URL="http://[") == [URL]


@pytest.mark.parametrize(
    "host",
    [
        *("example.com:99999", "exa mple.com", "192.168.1.300:8000", "127.0.0.01", "i❤.example"),
        *("straße.example", "ex%61mple.com", "ex;x", 'exa"mple', "[::1::2]", ""),
        *("[v1.a]", "[::1]x", "x[::1]", "[::1%25eth0]"),
    ],
)
def test_a_url_that_no_client_can_call_is_refused(host: str) -> None:
    assert problems(OPENAI_BASE_URL=f"http://{host}/v1") == [URL]


@pytest.mark.parametrize(
    "host", ["127.1", "192.168.1.30:8000", "[::1]:8000", "my_llm", "xn--strae-oqa.example"]
)
def test_a_host_is_an_address_or_a_name_as_it_is_looked_up(host: str) -> None:
    url = f"http://{host}/v1"
    assert Settings.from_mapping({"OPENAI_BASE_URL": url}).base_url == url


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ("sqlite:///chatport.db", Path("chatport.db")),
        ("sqlite:///data/log.db", Path("data/log.db")),
        ("sqlite:////var/lib/log.db", Path("/var/lib/log.db")),
        ("sqlite:///my files/~log#1.db", Path("my files/~log#1.db")),
        ("memory:", None),
    ],
)
def test_a_database_is_a_relative_or_an_absolute_file_or_memory(
    value: str, path: Path | None
) -> None:
    assert Settings.from_mapping({"CHATPORT_DATABASE": value}).database == path


@pytest.mark.parametrize("key", [f"{KEY}\n", f"\n{KEY}", f"{KEY} ", f"{KEY}é", f"{KEY}\x00", " "])
def test_a_key_that_no_key_can_be_is_refused_without_being_quoted(key: str) -> None:
    reported = problems(OPENAI_API_KEY=key)
    assert reported == ["OPENAI_API_KEY holds a space or a character that no key has."]


def test_no_problem_quotes_the_value() -> None:
    canary = "canary canary"
    reported = problems(
        OPENAI_API_KEY=canary,
        OPENAI_BASE_URL=canary,
        CHATPORT_DATABASE=canary,
        CHATPORT_USER_LIMIT=canary,
        CHATPORT_TOTAL_LIMIT=canary,
        CHATPORT_LIMIT_STORE=canary,
        CHATPORT_HISTORY_TOKENS=canary,
        CHATPORT_TIMEOUT_SECONDS=canary,
        CHATPORT_MAX_PROMPT_BYTES=canary,
        CHATPORT_API_KEY=canary,
    )
    assert len(reported) == 10
    assert "canary" not in "".join(reported)


def test_a_secret_is_printed_as_three_stars() -> None:
    secret = Secret(KEY)
    assert secret.reveal() == KEY
    assert [str(secret), repr(secret), f"{secret}", f"{secret!r}", "%s" % secret] == ["***"] * 5  # noqa: UP031  # a way to print


def test_settings_are_printed_without_the_key() -> None:
    settings = Settings.from_mapping({"OPENAI_API_KEY": KEY})
    assert "api_key=***" in repr(settings)
    assert KEY not in repr(settings) + str(settings)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("holder", [Secret(KEY), Settings.from_mapping({"OPENAI_API_KEY": KEY})])
def test_a_secret_is_not_pickled(holder: Any, protocol: int) -> None:
    with pytest.raises(TypeError, match="a secret is not pickled"):
        pickle.dumps(holder, protocol)


def test_a_secret_is_not_copied() -> None:
    with pytest.raises(TypeError, match="a secret is not pickled"):
        copy.deepcopy(Settings.from_mapping({"OPENAI_API_KEY": KEY}))


def test_the_settings_can_be_shown_with_the_key_as_three_stars() -> None:
    shown = printable({"OPENAI_API_KEY": KEY, "CHATPORT_MODEL": "m", "PATH": "/bin"})
    assert shown == [
        ("OPENAI_API_KEY", "***"),
        ("OPENAI_BASE_URL", "https://api.openai.com/v1"),
        ("CHATPORT_UPSTREAMS", ""),
        ("CHATPORT_MODEL", "m"),
        ("CHATPORT_MODELS", ""),
        ("CHATPORT_DATABASE", "sqlite:///chatport.db"),
        ("CHATPORT_USER_LIMIT", "20/minute;500/day"),
        ("CHATPORT_CALLER_LIMIT", ""),
        ("CHATPORT_TOTAL_LIMIT", "300/minute"),
        ("CHATPORT_USER_BUDGET", ""),
        ("CHATPORT_CALLER_BUDGET", ""),
        ("CHATPORT_TOTAL_BUDGET", ""),
        ("CHATPORT_MAX_OUTPUT_TOKENS", ""),
        ("CHATPORT_PRICES", ""),
        ("CHATPORT_LIMIT_STORE", "memory:"),
        ("CHATPORT_PROXY_HOPS", "0"),
        ("CHATPORT_MAX_IN_FLIGHT", "4000"),
        ("CHATPORT_SYSTEM_PROMPT", ""),
        ("CHATPORT_HISTORY_TOKENS", "8000"),
        ("CHATPORT_TIMEOUT_SECONDS", "120"),
        ("CHATPORT_MAX_PROMPT_BYTES", "100000"),
        ("CHATPORT_MAX_BODY_BYTES", "1000000"),
    ]


def test_a_key_that_is_not_there_is_shown_as_nothing() -> None:
    assert printable({})[0] == ("OPENAI_API_KEY", "")


def test_a_password_in_a_url_is_not_shown_even_though_it_is_refused() -> None:
    shown = printable({"OPENAI_BASE_URL": f"https://ada:{KEY}@example.com/v1"})
    assert KEY not in str(shown)


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("CHATPORT_DATABASE", f"postgresql://ada:{KEY}@db/log", "postgresql://***"),
        ("CHATPORT_DATABASE", f"host=db password={KEY}", "***"),
        ("CHATPORT_DATABASE", f"sqlite:///log.db?key={KEY}", "sqlite://***"),
        ("CHATPORT_LIMIT_STORE", f"redis://:{KEY}@127.0.0.1", "redis://***"),
        ("CHATPORT_LIMIT_STORE", f"redis://127.0.0.1?password={KEY}", "redis://***"),
        ("CHATPORT_PRICES", f"https://ada:{KEY}@x/prices.toml", "https://***"),
        ("OPENAI_BASE_URL", KEY, "***"),
        ("OPENAI_BASE_URL", f"https://x/v1?key={KEY}", "https://***"),
        ("CHATPORT_UPSTREAMS", f"{KEY} https://x/v1", "*** https://x/v1"),
        ("CHATPORT_UPSTREAMS", f"https://x/v1?key={KEY}, https://y", "https://x/v1?***, https://y"),
        ("CHATPORT_UPSTREAMS", f"https://a:{KEY}\n@x", "https://***@x"),
    ],
)
def test_what_is_refused_may_hold_a_password_and_is_neither_shown_nor_quoted(
    name: str, value: str, shown: str
) -> None:
    assert dict(printable({name: value}))[name] == shown
    assert KEY not in "".join(problems(**{name: value}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CHATPORT_DATABASE", "sqlite:////srv/a@b/log.db"),
        ("CHATPORT_DATABASE", ""),
        ("CHATPORT_PRICES", "etc/prices@home.toml"),
        ("CHATPORT_UPSTREAMS", "https://a.example/v1, https://b.example/v1 B_KEY"),
    ],
)
def test_an_address_without_a_secret_is_shown_as_it_is(name: str, value: str) -> None:
    assert dict(printable({name: value}))[name] == value


def test_a_value_that_is_shown_cannot_command_the_terminal() -> None:
    shown = dict(printable({"CHATPORT_SYSTEM_PROMPT": "a\x1b[2J\n\udcff"}))
    assert shown["CHATPORT_SYSTEM_PROMPT"] == "a\\x1b[2J\n\\udcff"


def test_an_at_sign_outside_a_url_is_shown_and_a_slash_in_a_password_is_not() -> None:
    prompt = "see //x and mail a@b"
    url = "https://u:pa/ss@h/v1"
    shown = dict(printable({"CHATPORT_SYSTEM_PROMPT": prompt, "OPENAI_BASE_URL": url}))
    assert shown["CHATPORT_SYSTEM_PROMPT"] == prompt
    assert shown["OPENAI_BASE_URL"] == "https://***"


def addresses(value: str, **environment: str) -> list[tuple[str, str | None]]:
    settings = Settings.from_mapping({"CHATPORT_UPSTREAMS": value, **environment})
    return [(each.url, each.key.reveal() if each.key else None) for each in settings.upstreams]


def test_several_providers_have_an_order_and_keys_of_their_own() -> None:
    value = "https://a.example/v1/ , https://b.example/v1 B_KEY"
    assert addresses(value, OPENAI_API_KEY="sk-a", B_KEY="sk-b", OPENAI_BASE_URL="https://c") == [
        ("https://a.example/v1", "sk-a"),
        ("https://b.example/v1", "sk-b"),
    ]


def test_a_provider_without_a_key_is_lacking_one() -> None:
    assert Settings.from_mapping({}).lacks_key
    assert not Settings.from_mapping({"OPENAI_API_KEY": "sk-a"}).lacks_key
    environment = {"CHATPORT_UPSTREAMS": "https://b.example B_KEY", "B_KEY": "sk-b"}
    assert not Settings.from_mapping(environment).lacks_key


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("https://a B_KEY", "CHATPORT_UPSTREAMS names B_KEY for a key, and that is not set."),
        ("https://a C_KEY", "C_KEY holds a space or a character that no key has."),
        ("https://a,,", "CHATPORT_UPSTREAMS must be URLs with commas between, each perhaps"),
        ("https://a B C", "CHATPORT_UPSTREAMS must be URLs with commas between, each perhaps"),
        ("ftp://a", "CHATPORT_UPSTREAMS must be a URL such as https://api.openai.com/v1, for each"),
        ("https://a, https://a/", "CHATPORT_UPSTREAMS names an address twice."),
    ],
)
def test_providers_that_cannot_be_asked_are_refused(value: str, problem: str) -> None:
    (found,) = problems(CHATPORT_UPSTREAMS=value, C_KEY="sk with blanks")
    assert found.startswith(problem)


def test_a_key_in_place_of_its_variable_is_not_printed() -> None:
    value = f"https://a.example {KEY}, https://b.example B_KEY ,https://c.example"
    (found,) = problems(CHATPORT_UPSTREAMS=value)
    assert KEY not in found
    shown = dict(printable({"CHATPORT_UPSTREAMS": value}))["CHATPORT_UPSTREAMS"]
    assert shown == "https://a.example ***, https://b.example B_KEY ,https://c.example"


@pytest.mark.parametrize(
    "name", ["CHATPORT_SYSTEM_PROMPT", "CHATPORT_MODEL", "CHATPORT_MODELS", "CHATPORT_PRICES"]
)
@pytest.mark.parametrize("value", ["a\udcff", "\ud83d", "a\x00b"])
def test_what_no_database_and_no_provider_takes_is_refused(name: str, value: str) -> None:
    assert problems(**{name: value}) == [f"{name} holds a NUL or bytes that are not UTF-8."]


def test_text_beyond_the_first_plane_is_text() -> None:
    assert Settings.from_mapping({"CHATPORT_SYSTEM_PROMPT": "🦊 \uffff"}).system_prompt


def test_what_was_wrong_before_is_reported_with_the_rest() -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_mapping({"CHATPORT_MODEL": ""}, ["Something."])
    assert caught.value.problems == ["Something.", "CHATPORT_MODEL must not be empty."]
