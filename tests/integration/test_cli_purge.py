"""`chatport purge` and `chatport erase`: what they delete, what they say, and when they refuse."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from chatport.adapters import PeeweeStore, PeeweeUsage
from chatport.domain import Exchange, HistoryBounds, LogQuery, State
from chatport.domain.errors import StorageBusy
from chatport.domain.usage import UsageQuery
from chatport.entrypoints.cli import main

Say = Callable[..., None]


@pytest.fixture(autouse=True)
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path of a log that the settings name, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CHATPORT_DATABASE", "sqlite:///log.db")
    return tmp_path / "log.db"


@pytest.fixture
def store(database: Path) -> Iterator[PeeweeStore]:
    with closing(PeeweeStore(database)) as opened:
        yield opened


@pytest.fixture
def say(store: PeeweeStore) -> Say:
    """Return what puts an exchange of so many days ago into the log."""

    def say(name: str, days: float, caller: str = "app", user: str | None = None) -> None:
        at = datetime.now(UTC) - timedelta(days=days)
        exchange = Exchange(
            id=name,
            caller=caller,
            user_id=user or name,
            route="test",
            model="m",
            prompt=f"prompt of {name}",
            started_at=at,
            lease_until=at + timedelta(hours=1),
        )
        store.begin(exchange, HistoryBounds())
        store.finish(replace(exchange, state=State.COMPLETED, finished_at=at, reply="Hi"))

    return say


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the commands believe that somebody sits before them."""
    monkeypatch.setattr("chatport.entrypoints.purge_cli._is_asked", lambda: True)


def run(*arguments: str, answer: str | None = None) -> Result:
    return CliRunner().invoke(main, arguments, input=answer)


def names(store: PeeweeStore) -> list[str]:
    return [exchange.id for exchange in store.search(LogQuery(oldest_first=True))]


def test_what_is_older_is_deleted_and_counted(store: PeeweeStore, say: Say) -> None:
    for name, days in (("old", 100), ("older", 91), ("young", 89)):
        say(name, days)
    result = run("purge", "--older-than", "90d")
    assert (result.exit_code, result.stdout) == (0, "2 exchanges were deleted.\n")
    assert names(store) == ["young"]
    assert run("purge", "--older-than", "90d").stdout == "0 exchanges were deleted.\n"


def test_content_goes_alone(store: PeeweeStore, say: Say, database: Path) -> None:
    say("old", 2)
    say("young", 0)
    result = run("purge", "--older-than", "1d", "--content-only")
    assert (result.exit_code, result.stdout) == (0, "1 exchange was emptied.\n")
    assert [found.prompt for found in store.search(LogQuery())] == ["prompt of young", ""]
    assert b"prompt of old" not in database.read_bytes()


def test_only_one_caller_is_purged(store: PeeweeStore, say: Say) -> None:
    say("a", 9, caller="app")
    say("b", 9, caller="other")
    assert run("purge", "--older-than", "1w", "--caller", "app").exit_code == 0
    assert names(store) == ["b"]


@pytest.mark.parametrize("age", ["0", "3m", "23h"])
def test_a_short_age_does_nothing_where_nobody_can_be_asked(
    store: PeeweeStore, say: Say, age: str
) -> None:
    say("old", 9)
    result = run("purge", "--older-than", age)
    assert result.exit_code == 2
    assert "add --yes" in result.stderr
    assert names(store) == ["old"]


def test_a_short_age_says_what_it_means(say: Say) -> None:
    said = [run("purge", "--older-than", age).stderr for age in ("0", "3m")]
    assert said[0].startswith("chatport: this purges everything, and nobody can be asked")
    assert said[1].startswith("chatport: this purges all but the last 0:03:00, and nobody")


def test_a_short_age_is_taken_with_yes(store: PeeweeStore, say: Say) -> None:
    say("old", 0.5)
    say("young", 0)
    assert run("purge", "--older-than", "3h", "--yes").stdout == "1 exchange was deleted.\n"
    assert names(store) == ["young"]


@pytest.mark.parametrize(
    "arguments",
    [["--older-than", "90"], ["--older-than", "-1d"], ["--older-than", "3 months"], []],
)
def test_a_slip_in_the_age_deletes_nothing(
    store: PeeweeStore, say: Say, arguments: list[str]
) -> None:
    say("old", 3000)
    result = run("purge", *arguments)
    assert result.exit_code == 2
    assert "--older-than" in result.stderr
    assert names(store) == ["old"]


@pytest.mark.usefixtures("terminal")
def test_a_terminal_is_asked_before_a_short_age(store: PeeweeStore, say: Say) -> None:
    say("old", 9)
    refused = run("purge", "--older-than", "0", answer="n\n")
    assert (refused.exit_code, names(store)) == (1, ["old"])
    assert "This purges everything. Go on? [y/N]" in refused.stderr
    assert "nothing was done." in refused.stderr
    assert run("purge", "--older-than", "0", answer="y\n").stdout == "1 exchange was deleted.\n"


def test_what_stops_in_the_middle_says_what_was_done_and_goes_on(
    store: PeeweeStore, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(28):
        say(f"old-{n}", 9)
    steps: list[int] = []
    purge = PeeweeStore.purge

    def stopped(self: PeeweeStore, *arguments: Any, **options: Any) -> Any:
        steps.append(1)
        if len(steps) == 2:
            raise KeyboardInterrupt
        return purge(self, *arguments, **options)

    monkeypatch.setattr(PeeweeStore, "purge", stopped)
    result = run("purge", "--older-than", "1d")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "stopped; 16 exchanges were deleted so far. Give the same command again" in result.stderr
    assert len(names(store)) == 12
    assert run("purge", "--older-than", "1d").stdout == "12 exchanges were deleted.\n"


def test_a_database_that_stays_busy_is_said_with_what_was_done(
    say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    say("old", 9)

    def busy(_: PeeweeStore) -> None:
        raise StorageBusy

    monkeypatch.setattr(PeeweeStore, "tidy", busy)
    result = run("purge", "--older-than", "1d")
    assert result.exit_code == 3
    assert "1 exchange was deleted so far." in result.stderr


def test_a_caller_is_erased(store: PeeweeStore, say: Say, database: Path) -> None:
    say("a", 9)
    say("b", 0)
    say("c", 0, caller="other")
    result = run("erase", "--caller", "app", "--yes")
    assert (result.exit_code, result.stdout) == (0, "2 exchanges were deleted.\n")
    assert names(store) == ["c"]
    assert b"prompt of b" not in database.read_bytes()


@pytest.mark.parametrize(
    "arguments",
    [
        ["erase", "--yes"],
        ["erase", "--yes", "--user", "ada"],
        ["purge", "--older-than", "1d"],
        ["purge", "--older-than", "1d", "--content-only"],
    ],
    ids=" ".join,
)
def test_a_caller_whom_nobody_knows_is_no_caller(
    store: PeeweeStore, say: Say, arguments: list[str]
) -> None:
    say("a", 9, user="ada")
    result = run(*arguments, "--caller", "ap\x9bp")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        "chatport: there is no caller ap\\x9bp: no key, no exchange, no usage.\n"
    )
    assert [found.prompt for found in store.search(LogQuery())] == ["prompt of a"]


def test_a_caller_of_whom_anything_is_kept_is_one(store: PeeweeStore, say: Say) -> None:
    assert run("keys", "create", "shop").exit_code == 0
    say("a", 9)
    assert run("purge", "--older-than", "1d").stdout == "1 exchange was deleted.\n"
    say("b", 9)
    assert run("erase", "--caller", "app", "--yes").stdout == "1 exchange was deleted.\n"
    assert [row.name for row in PeeweeUsage(store.session).usage(UsageQuery())] == ["app"]
    for caller in ("shop", "app", "anonymous"):
        for command in (["erase", "--yes"], ["purge", "--older-than", "1d"]):
            result = run(*command, "--caller", caller)
            assert (result.exit_code, result.stdout) == (0, "0 exchanges were deleted.\n")


def test_one_user_is_erased(store: PeeweeStore, say: Say) -> None:
    say("a", 9, user="ada")
    say("b", 9, user="bob")
    say("c", 9, user="ada", caller="other")
    result = run("erase", "--caller", "app", "--user", "ada", "--yes")
    assert (result.exit_code, result.stdout) == (0, "1 exchange was deleted.\n")
    assert names(store) == ["b", "c"]


def test_nothing_is_erased_unasked(store: PeeweeStore, say: Say) -> None:
    say("a", 9)
    result = run("erase", "--caller", "app")
    assert result.exit_code == 2
    assert "this deletes every exchange of caller app, and nobody can be asked" in result.stderr
    assert run("erase", "--yes").exit_code == 2
    assert names(store) == ["a"]


@pytest.mark.usefixtures("terminal")
def test_a_terminal_is_asked_before_an_erasure(store: PeeweeStore, say: Say) -> None:
    say("a", 9)
    refused = run("erase", "--caller", "app", "--user", "a\x1b[2J", answer="\n")
    assert (refused.exit_code, names(store)) == (1, ["a"])
    assert "every exchange of user a\\x1b[2J of caller app. Go on? [y/N]" in refused.stderr
    assert run("erase", "--caller", "app", answer="y\n").stdout == "1 exchange was deleted.\n"


@pytest.mark.parametrize(
    "arguments", [["purge", "--older-than", "90d"], ["erase", "--caller", "app", "--yes"]]
)
def test_a_log_that_is_not_there_is_said_and_not_made(
    database: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    result = run(*arguments)
    assert result.exit_code == 1
    assert "there is no log yet" in result.stderr
    assert not database.exists()
    monkeypatch.setenv("CHATPORT_DATABASE", "memory:")
    result = run(*arguments)
    assert result.exit_code == 2
    assert "keeps no log" in result.stderr


def test_the_bar_is_for_terminals_only(say: Say) -> None:
    say("old", 9)
    assert run("purge", "--older-than", "1d").stderr == ""
