"""`chatport keys`: what an operator does, likely mistakes, and what is said about them."""

import json
import re
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from chatport.adapters import PeeweeKeys, SqliteSession
from chatport.domain.callers import Caller, Role
from chatport.domain.keys import ApiKey, parse_key
from chatport.domain.rules import InFlight, Limit
from chatport.entrypoints.ages import AGE, parse_age
from chatport.entrypoints.cli import main

KEY_LINE = re.compile(r"cp_[0-9a-f]{16}_[A-Za-z0-9_-]{43}\n")
SHOWN_ONCE = "This key is shown once; keep it safe. Send it as: Authorization: Bearer KEY\n"
DAY = timedelta(days=1)


@pytest.fixture(autouse=True)
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path that the settings name, in a folder of its own where nothing is yet."""
    monkeypatch.chdir(tmp_path)
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CHATPORT_DATABASE", "sqlite:///keys.db")
    return tmp_path / "keys.db"


def run(*arguments: str, width: int = 120) -> Result:
    return CliRunner(env={"COLUMNS": str(width)}).invoke(main, ["keys", *arguments])


def said(result: Result) -> str:
    """Return the last line about a mistake; the command line was wrong."""
    assert result.exit_code == 2
    assert result.stdout == ""
    return result.stderr.splitlines()[-1]


def make(name: str = "shop", *options: str) -> str:
    """Create a caller and return its key."""
    result = run("create", name, *options)
    assert result.exit_code == 0, result.stderr
    return result.stdout.strip()


def shown(name: str = "shop") -> dict[str, Any]:
    result = run("show", name, "--json")
    assert result.exit_code == 0
    encoded: dict[str, Any] = json.loads(result.stdout)
    return encoded


def conditions(name: str = "shop") -> list[str]:
    return [key["condition"] for key in shown(name)["keys"]]


def kept(database: Path, name: str = "shop") -> tuple[Caller, list[ApiKey]]:
    with closing(SqliteSession(database)) as session:
        caller = PeeweeKeys(session).caller(name)
        assert caller is not None
        return caller, list(PeeweeKeys(session).keys_of(name))


def seconds_from_now(at: datetime | None) -> float:
    assert at is not None
    return (at - datetime.now(UTC)).total_seconds()


# A first key.


def test_only_the_key_is_on_standard_output(database: Path) -> None:
    result = run("create", "shop")
    assert result.exit_code == 0
    assert KEY_LINE.fullmatch(result.stdout)
    assert result.stderr == (
        f"Caller shop is in {database}.\n{SHOWN_ONCE}From now on every request needs a key.\n"
    )


def test_the_second_caller_changes_nothing_for_the_others(database: Path) -> None:
    make("shop")
    assert run("create", "other").stderr == f"Caller other is in {database}.\n{SHOWN_ONCE}"


def test_the_key_that_is_printed_is_the_one_that_is_kept(database: Path) -> None:
    presented = parse_key(make("shop"))
    caller, (key,) = kept(database)
    assert presented == (key.id, key.secret_hash)
    assert caller == Caller(name="shop")
    assert key.expires_at is None


def test_everything_about_a_caller_can_be_said_at_once(database: Path) -> None:
    make(
        *("shop", "--admin", "--limit", "20/minute; 8 in flight", "--budget", "5 USD/day"),
        *("--user-limit", "2/second", "--user-limit", "1 in flight", "--user-budget", ""),
        *("--models", "gpt-5-mini, vendor/größer:1 ,", "--expires", "30d"),
    )
    encoded = shown()
    (key,) = encoded.pop("keys")
    assert encoded == {
        "name": "shop",
        "role": "admin",
        "limits": "20 requests per minute; 8 in flight",
        "budgets": "5 USD per day",
        "user_limits": "2 requests per second; 1 in flight",
        "user_budgets": "",
        "models": ["gpt-5-mini", "vendor/größer:1"],
    }
    caller, _ = kept(database)
    assert caller.role is Role.ADMIN
    assert caller.limits == (Limit(amount=20, window_seconds=60), InFlight(amount=8))
    assert seconds_from_now(datetime.fromisoformat(key["expires_at"])) == pytest.approx(
        30 * 86_400, abs=60
    )


def test_a_name_that_is_taken_says_what_to_do_instead() -> None:
    make("shop")
    result = run("create", "shop")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        "chatport: There is a caller of this name already; rotate gives it a new key.\n"
    )


@pytest.mark.parametrize("name", ["my shop", "", "-shop", "größe", "a/b", "x" * 65, "\udcff"])
def test_a_name_that_is_none_is_explained(name: str, database: Path) -> None:
    assert said(run("create", "--", name)) == (
        "Error: NAME must be 1 to 64 of the characters A-Z a-z 0-9 . _ -,"
        " and begin with a letter or digit."
    )
    assert not database.exists() or run("list").stderr == "No callers.\n"


def test_a_name_must_be_given() -> None:
    assert said(run("create")) == "Error: Missing argument 'NAME'."


def test_anonymous_is_reserved() -> None:
    assert said(run("create", "anonymous")) == (
        "Error: NAME is reserved for requests without a key."
    )


OR = "; or default for what the service sets, or '' for none."
LIMITS = f"must be limits such as 20/minute; 50000 tokens/hour; 8 in flight{OR}"
BUDGETS = f"must be budgets such as 5 USD/day; 1000000 tokens/month{OR}"
AN_EXPIRY = "must be an age such as 30d, or a time in UTC such as 2027-01-31 or 2027-01-31T12:00."
AN_AGE = "must be a length of time such as 90d, 24h or 30m, where m is minutes."


@pytest.mark.parametrize(
    ("option", "value", "problem"),
    [
        ("--limit", "20", LIMITS),
        ("--limit", "20/min", LIMITS),
        ("--limit", "a lot", LIMITS),
        ("--limit", "5 USD/day", LIMITS),
        ("--limit", "default; 20/minute", LIMITS),
        ("--limit", "0/minute", LIMITS),
        ("--user-limit", "-1/minute", LIMITS),
        ("--budget", "$5/day", BUDGETS),
        ("--budget", "5/day", BUDGETS),
        ("--budget", "5 EUR/day", BUDGETS),
        ("--budget", "5 USD/week", BUDGETS),
        ("--user-budget", "20/minute", BUDGETS),
        ("--expires", "soon", AN_EXPIRY),
        ("--expires", "30", AN_EXPIRY),
        ("--expires", "30 days", AN_EXPIRY),
        ("--expires", "31.01.2027", AN_EXPIRY),
        ("--expires", "2027-02-30", AN_EXPIRY),
        ("--expires", "2027-01-31T25:00", AN_EXPIRY),
        ("--expires", "0001-01-01T00:00+14:00", AN_EXPIRY),
        ("--expires", "999999999d", AN_EXPIRY),
        ("--expires", "", AN_EXPIRY),
        (
            "--expires",
            "2020-01-31",
            "must be in the future, and 2020-01-31 00:00 UTC is not.",
        ),
    ],
)
def test_a_value_that_cannot_be_is_explained(option: str, value: str, problem: str) -> None:
    assert said(run("create", "shop", option, value)) == (
        f"Error: Invalid value for '{option}': {problem}"
    )


def test_a_list_without_a_name_does_not_allow_all_models() -> None:
    told = said(run("create", "shop", "--models", " , "))
    assert "--models" in told
    assert "holds no name; '' allows all models." in told


@pytest.mark.parametrize("models", ["a\nb", "\udcff", "good, \x1b[2J"])
def test_a_model_that_no_list_can_hold_is_explained(models: str) -> None:
    assert said(run("create", "shop", "--models", models)) == (
        "Error: --models must be names, without commas in them."
    )


def test_a_key_that_never_was_expires_at_no_past_time() -> None:
    assert "must be in the future" in said(run("create", "shop", "--expires", "0"))


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2999-01-31", datetime(2999, 1, 31, tzinfo=UTC)),
        ("2999-01-31T12:00", datetime(2999, 1, 31, 12, tzinfo=UTC)),
        ("2999-01-31 12:00:30", datetime(2999, 1, 31, 12, 0, 30, tzinfo=UTC)),
        ("2999-01-31t12:00z", datetime(2999, 1, 31, 12, tzinfo=UTC)),
        ("2999-01-31T12:00+02:00", datetime(2999, 1, 31, 10, tzinfo=UTC)),
    ],
)
def test_an_expiry_may_be_a_time_in_utc(text: str, moment: datetime, database: Path) -> None:
    make("shop", "--expires", text)
    _, (key,) = kept(database)
    assert key.expires_at == moment


# Looking.


def test_the_list_is_a_table_in_the_order_of_names() -> None:
    make("shop", "--limit", "20/minute", "--budget", "", "--models", "a,b")
    make("ops", "--admin")
    run("rotate", "shop", "--overlap", "0")
    assert run("list").stdout.splitlines() == [
        "name  role    keys         may",
        "ops   admin   1 of 1 good  as the service sets",
        "shop  caller  1 of 2 good  limits: 20 requests per minute, budgets: none, models: a, b",
    ]


def test_the_table_fits_the_width_of_the_terminal() -> None:
    make("shop", "--models", ",".join(f"model-{n}" for n in range(100)))
    assert max(map(len, run("list", width=80).stdout.splitlines())) <= 80


def test_the_list_as_json_has_an_object_a_line() -> None:
    make("shop")
    make("ops", "--admin", "--limit", "")
    ops, shop = (json.loads(line) for line in run("list", "--json").stdout.splitlines())
    assert (ops["name"], ops["role"], ops["limits"], ops["models"]) == ("ops", "admin", "", [])
    assert (shop["name"], shop["role"], shop["limits"]) == ("shop", "caller", None)
    assert [list(key) for key in shop["keys"]] == [
        ["id", "created_at", "expires_at", "revoked_at", "condition"]
    ]


def test_more_callers_than_a_page_are_all_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chatport.domain.keys.PAGE", 2)
    for name in "abcde":
        make(name)
    assert [line[0] for line in run("list").stdout.splitlines()] == list("nabcde")


def test_a_caller_is_shown_with_its_keys() -> None:
    key_id = make("shop", "--limit", "20/minute", "--user-limit", "", "--expires", "2999-01-31")
    lines = run("show", "shop").stdout.splitlines()
    assert lines[:9] == [
        "name          shop",
        "role          caller",
        "limits        20 requests per minute",
        "budgets       as the service sets",
        "user limits   none",
        "user budgets  as the service sets",
        "models        all",
        "",
        "key               created (UTC)     expires (UTC)     condition",
    ]
    assert lines[9].startswith(f"{key_id[3:19]}  20")
    assert lines[9].endswith("  2999-01-31 00:00  good")
    assert len(lines) == 10


@pytest.mark.parametrize("arguments", [["list"], ["list", "--json"], ["show", "shop"]])
def test_neither_secret_nor_hash_is_ever_shown_again(arguments: list[str], database: Path) -> None:
    secret = make("shop")[20:]
    _, (key,) = kept(database)
    output = run(*arguments).output
    assert "shop" in output
    assert secret not in output
    assert key.secret_hash.hex() not in output
    assert "hash" not in output


def test_what_a_host_has_stored_cannot_command_the_terminal(database: Path) -> None:
    make("shop")
    with closing(SqliteSession(database)) as session:
        PeeweeKeys(session).change(Caller(name="shop", models=("m\x1b[2J\u202e",)))
    for arguments in (["list"], ["show", "shop"]):
        result = run(*arguments)
        assert result.exit_code == 0
        assert "\\x1b[2J" in result.stdout
        assert not {"\x1b", "\u202e"} & set(result.stdout)


# Rotating.


def test_rotating_prints_a_new_key_and_how_long_the_old_ones_work(database: Path) -> None:
    first = make("shop")
    result = run("rotate", "shop")
    assert result.exit_code == 0
    assert KEY_LINE.fullmatch(result.stdout)
    assert result.stdout.strip() != first
    _, (old, new) = kept(database)
    assert old.expires_at is not None
    assert new.expires_at is None
    assert seconds_from_now(old.expires_at) == pytest.approx(86_400, abs=60)
    until = old.expires_at.strftime("%Y-%m-%d %H:%M")
    assert result.stderr == (
        f"{SHOWN_ONCE}The caller's other keys work until {until} UTC at most.\n"
    )


def test_the_overlap_is_chosen(database: Path) -> None:
    make("shop")
    assert run("rotate", "shop", "--overlap", "90d").exit_code == 0
    _, (old, _) = kept(database)
    assert seconds_from_now(old.expires_at) == pytest.approx(90 * 86_400, abs=60)


def test_without_overlap_the_old_keys_end_at_once() -> None:
    make("shop")
    result = run("rotate", "shop", "--overlap", "0")
    assert result.stderr == f"{SHOWN_ONCE}No other key of this caller works any more.\n"
    assert conditions() == ["expired", "good"]


def test_the_new_key_may_have_an_end(database: Path) -> None:
    make("shop")
    result = run("rotate", "shop", "--overlap", "0", "--expires", "2999-01-31")
    _, (_, new) = kept(database)
    assert new.expires_at == datetime(2999, 1, 31, tzinfo=UTC)
    assert result.stderr == f"{SHOWN_ONCE}No other key of this caller works any more.\n"


def test_rotating_brings_back_a_caller_whose_keys_are_revoked() -> None:
    make("shop")
    run("revoke", "shop")
    result = run("rotate", "shop")
    assert result.stderr == f"{SHOWN_ONCE}No other key of this caller works any more.\n"
    assert conditions() == ["revoked", "good"]


@pytest.mark.parametrize("overlap", ["5", "-1h", "1 day", "tomorrow", "", "1.5h", "24 hours"])
def test_an_overlap_that_is_none_is_explained(overlap: str) -> None:
    make("shop")
    assert said(run("rotate", "shop", "--overlap", overlap)) == (
        f"Error: Invalid value for '--overlap': {AN_AGE}"
    )


# Revoking.


def test_revoking_a_caller_says_how_many_keys_it_took() -> None:
    make("shop")
    run("rotate", "shop")
    refuse = "revoked; running servers refuse what is revoked within 5 s.\n"
    assert run("revoke", "shop").stdout == f"2 keys are {refuse}"
    assert run("revoke", "shop").stdout == f"0 keys are {refuse}"
    assert conditions() == ["revoked", "revoked"]
    run("rotate", "shop")
    assert run("revoke", "shop").stdout == f"1 key is {refuse}"


@pytest.mark.parametrize("form", ["id", "prefix", "whole", "pasted"])
def test_one_key_is_revoked_by_its_id_or_as_it_was_found(form: str) -> None:
    key = make("shop")
    run("rotate", "shop")
    given = {"id": key[3:19], "prefix": key[:19], "whole": key, "pasted": f" {key}\n"}[form]
    result = run("revoke", "--key", given)
    assert result.stdout == (
        "The key is revoked; running servers refuse what is revoked within 5 s.\n"
    )
    assert conditions() == ["revoked", "good"]


def test_revoking_wants_a_caller_or_a_key_and_not_both() -> None:
    make("shop")
    wanted = "Error: Give either the NAME of a caller, or one key with --key ID."
    assert said(run("revoke")) == wanted
    assert said(run("revoke", "shop", "--key", "0123456789abcdef")) == wanted
    assert conditions() == ["good"]


# Changing.


def test_only_what_is_given_changes(database: Path) -> None:
    make("shop", "--limit", "20/minute", "--models", "a", "--expires", "2999-01-31")
    _, before = kept(database)
    result = run("set", "shop", "--budget", "5 USD/day")
    assert result.exit_code == 0
    assert "\nlimits        20 requests per minute\nbudgets       5 USD per day\n" in result.stdout
    encoded = shown()
    assert (encoded["limits"], encoded["budgets"]) == ("20 requests per minute", "5 USD per day")
    assert (encoded["role"], encoded["models"]) == ("caller", ["a"])
    assert kept(database)[1] == before


def test_default_returns_to_the_services_setting_and_nothing_to_none() -> None:
    make("shop", "--limit", "20/minute", "--budget", "5 USD/day", "--models", "a,b")
    run("set", "shop", "--limit", "Default", "--budget", "", "--models", "", "--user-limit", " ")
    encoded = shown()
    assert encoded["limits"] is None
    assert encoded["budgets"] == ""
    assert encoded["user_limits"] == ""
    assert encoded["user_budgets"] is None
    assert encoded["models"] == []


def test_a_caller_becomes_an_admin_and_a_caller_again() -> None:
    make("shop")
    run("set", "shop", "--admin")
    assert shown()["role"] == "admin"
    run("set", "shop", "--limit", "1/minute")
    assert shown()["role"] == "admin"
    run("set", "shop", "--no-admin")
    assert shown()["role"] == "caller"


def test_nothing_to_change_is_a_mistake() -> None:
    make("shop")
    assert said(run("set", "shop")) == (
        "Error: There is nothing to change: give at least one option."
    )


def test_the_expiry_of_a_key_is_not_changed_and_it_is_said_how_else() -> None:
    make("shop")
    assert said(run("set", "shop", "--expires", "30d")) == (
        "Error: When a key expires is settled when it is made;"
        " make another with: chatport keys rotate NAME --expires WHEN"
    )
    assert "--expires" not in run("set", "--help").stdout


# What is not there.


@pytest.mark.parametrize(
    "arguments",
    [
        ["show", "nobody"],
        ["show", "nobody", "--json"],
        ["rotate", "nobody"],
        ["revoke", "nobody"],
        ["revoke", ""],
        ["revoke", "--key", "0123456789abcdef"],
        ["revoke", "--key", "shop"],
        ["set", "nobody", "--admin"],
    ],
    ids=" ".join,
)
def test_who_is_not_there_is_exit_code_1(arguments: list[str]) -> None:
    make("shop")
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        "chatport: There is no caller of this name, and no key with this id.\n"
    )
    assert conditions() == ["good"]


def test_a_key_in_place_of_a_name_is_not_repeated() -> None:
    key = make("shop")
    for command in ("show", "rotate", "revoke", "create"):
        result = run(command, key)
        assert result.exit_code == (2 if command == "create" else 1)
        assert key[20:] not in result.output
    assert said(run("create", key)) == (
        "Error: NAME must not be an API key, since names are no secret."
    )


def test_a_name_that_no_text_can_hold_is_exit_code_1() -> None:
    make("shop")
    for command in ("show", "rotate", "revoke"):
        result = run(command, chr(0xDCFF))  # how Python hands on an argument that is not UTF-8
        assert result.exit_code == 1
        assert result.stderr == "chatport: an argument holds bytes that are not UTF-8.\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["list"],
        ["show", "shop"],
        ["rotate", "shop"],
        ["revoke", "shop"],
        ["set", "shop", "--admin"],
    ],
    ids=" ".join,
)
def test_without_a_database_only_the_first_key_makes_one(
    arguments: list[str], database: Path
) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "chatport: there are no keys yet: keys.db does not exist.\n"
    assert not database.exists()


@pytest.mark.parametrize("arguments", [["list"], ["create", "shop"]], ids=" ".join)
def test_memory_cannot_hold_keys(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATPORT_DATABASE", "memory:")
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        "chatport: CHATPORT_DATABASE=memory: cannot hold keys;"
        " name a file: sqlite:///chatport.db.\n"
    )


def test_a_database_that_is_none_is_exit_code_3_and_no_key_is_printed(database: Path) -> None:
    database.write_text("this is no database, and long enough to be looked at as one" * 20)
    result = run("create", "shop")
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.splitlines()[-1] == (
        "chatport: The database file is damaged; stop whatever uses it, move it and "
        "its -wal and -shm to another folder, copy a backup into its place, and start again."
    )


# Lengths of time.


@pytest.mark.parametrize(
    ("text", "age"),
    [
        ("90d", 90 * DAY),
        ("24h", DAY),
        ("30m", timedelta(minutes=30)),
        ("10s", timedelta(seconds=10)),
        ("2w", 14 * DAY),
        (" 7 D ", 7 * DAY),
        ("0", timedelta(0)),
        ("0h", timedelta(0)),
        ("36500d", 36_500 * DAY),
    ],
)
def test_ages_are_numbers_with_a_unit(text: str, age: timedelta) -> None:
    assert parse_age(text) == age
    assert AGE.convert(text, None, None) == age
    assert AGE.convert(age, None, None) == age


@pytest.mark.parametrize("text", ["36501d", "999999999w"])
def test_an_age_is_a_century_at_most(text: str) -> None:
    with pytest.raises(ValueError, match=r"^must be at most 36500d$"):
        parse_age(text)
    with pytest.raises(click.BadParameter, match=r"^must be at most 36500d\.$"):
        AGE.convert(text, None, None)


@pytest.mark.parametrize("text", ["", "d", "5", "1y", "-1d", "1d2h", "١d", "1e3d", "1234567890d"])  # noqa: RUF001  # meant
def test_what_is_no_age_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be a length of time such as 90d, 24h or 30m"):
        parse_age(text)
