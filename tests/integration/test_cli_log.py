"""`chatport log`: what was said, as a table, whole, and as JSON; and nothing that commands."""

import json
import re
import shutil
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from chatport.adapters import PeeweeStore, Script, ScriptedGateway, SystemClock, random_id
from chatport.domain.chat import ChatService
from chatport.domain.errors import UpstreamError, UpstreamModelUnavailable
from chatport.domain.model import ChatRequest
from chatport.entrypoints.cli import main

HOSTILE = (
    "word \x1b[2J\x1b]0;owned\x07 \x9b31m \u202egpj\r\x08\x7f\x85\u2066\u061c\u200b\ufeff\u2028"
)
Say = Callable[..., str]


@pytest.fixture(autouse=True)
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path of a log that the settings name, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CHATPORT_DATABASE", "sqlite:///log.db")
    return tmp_path / "log.db"


@pytest.fixture
def say(database: Path) -> Iterator[Say]:
    """Return what puts an exchange into the log, and returns its id."""
    with closing(PeeweeStore(database)) as store:

        def say(prompt: str, script: Script | str = "Hi", user: str = "ada") -> str:
            service = ChatService(
                store=store,
                gateway=ScriptedGateway(script),
                clock=SystemClock(),
                new_id=random_id,
                model="m",
            )
            request = ChatRequest(prompt=prompt, user_id=user, request_id=random_id())
            with suppress(UpstreamError):
                service.reply(request)
            assert request.request_id is not None
            return request.request_id

        yield say


def run(*arguments: str, width: int = 120) -> Result:
    return CliRunner(env={"COLUMNS": str(width)}).invoke(main, ["log", *arguments])


def objects(result: Result) -> list[dict[str, object]]:
    assert result.exit_code == 0
    return [json.loads(line) for line in result.stdout.splitlines()]


def column(result: Result, name: str) -> list[object]:
    return [each[name] for each in objects(result)]


def test_the_list_is_a_table_with_the_newest_last(say: Say) -> None:
    ids = [say("Hello"), say("Who\nam I?", "You are\n\nAda.")]
    header, *rows = run("list").stdout.splitlines()
    assert header.split() == ["id", "UTC", "user", "state", "prompt", "->", "reply"]
    assert [row[:32] for row in rows] == ids
    assert all(re.search(r"  \d\d-\d\d \d\d:\d\d:\d\d  ada   completed  ", row) for row in rows)
    assert rows[0].endswith("  Hello -> Hi")
    assert rows[1].endswith("  Who am I? -> You are Ada.")


def test_the_list_names_what_went_wrong(say: Say) -> None:
    say("Hello", Script(raises=UpstreamModelUnavailable()))
    assert "  upstream_model_unavailable  Hello ->\n" in run("list").stdout


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_the_table_fits_the_width_of_the_terminal(say: Say, width: int) -> None:
    say("word " * 500, "answer " * 500)
    lines = run("list", width=width).stdout.splitlines()
    assert max(map(len, lines)) <= width


def test_an_empty_list_says_so_and_is_no_failure(say: Say) -> None:
    say("Hello")
    result = run("list", "--user", "nobody")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "No exchanges.\n")


def test_the_list_is_chosen_by_user_state_and_number(say: Say) -> None:
    say("p1")
    say("p2", user="bob")
    say("p3", Script(raises=UpstreamModelUnavailable()))
    say("p4")
    assert column(run("list", "--json"), "prompt") == ["p1", "p2", "p3", "p4"]
    assert column(run("list", "--json", "--limit", "2"), "prompt") == ["p3", "p4"]
    assert column(run("list", "--json", "--user", "bob"), "prompt") == ["p2"]
    assert column(run("list", "--json", "--state", "failed"), "prompt") == ["p3"]
    assert column(run("list", "--json", "--since", "2001-01-01"), "prompt")[0] == "p1"
    assert column(run("list", "--json", "--since", "2999-01-01"), "prompt") == []


def test_an_exchange_is_one_flat_object(say: Say) -> None:
    exchange_id = say("Grüße 👋", "Hi")
    (shown,) = objects(run("list", "--json"))
    times = [shown.pop("started_at"), shown.pop("finished_at")]
    assert all(str(time).endswith("+00:00") for time in times)
    assert shown == {
        "id": exchange_id,
        "number": 1,
        "caller": "anonymous",
        "user_id": "ada",
        "state": "completed",
        "route": "embedded",
        "model": "m",
        "prompt": "Grüße 👋",
        "reply": "Hi",
        "sanitized": False,
        "context_from": None,
        "finish_reason": "stop",
        "prompt_tokens": 3,
        "cached_tokens": 0,
        "completion_tokens": 1,
        "tokens_estimated": True,
        "cost_usd": None,
        "error_code": None,
        "upstream_status": None,
        "upstream_request_id": None,
        "upstream_said": None,
        "attempts": 1,
        "idempotency_key": None,
    }


def test_words_are_searched_in_prompts_and_replies(say: Say) -> None:
    say("the red fox", "runs")
    say("the blue fox", "sleeps")
    assert column(run("search", "--json", "FOX"), "prompt") == ["the red fox", "the blue fox"]
    assert column(run("search", "--json", "fox", "sleeps"), "prompt") == ["the blue fox"]
    assert column(run("search", "--json", '"red fox"'), "prompt") == ["the red fox"]
    assert column(run("search", "--json", "--", "fox", "-red"), "prompt") == ["the blue fox"]
    assert column(run("search", "--json", "sle*"), "prompt") == ["the blue fox"]
    assert run("search", "wolf").stderr == "No exchanges.\n"


@pytest.mark.parametrize(
    "words",
    ['"', "-", "OR", "AND", "*", ":", "prompt:x", '"a', "NEAR(", "(", "^", "'", "", 'a b*c"'],
)
def test_no_words_break_the_search(say: Say, words: str) -> None:
    say("Hello")
    assert run("search", "--", words).exit_code == 0


def test_a_search_needs_words() -> None:
    assert run("search").exit_code == 2


def test_an_exchange_is_shown_whole(say: Say) -> None:
    exchange_id = say("Two\nlines", "and\n\nan answer")
    shown = run("show", exchange_id)
    assert shown.exit_code == 0
    assert shown.stdout.startswith(f"id                   {exchange_id}\nnumber               1\n")
    assert "\nstate                completed\n" in shown.stdout
    assert "error_code" not in shown.stdout
    assert shown.stdout.endswith("\n> Two\nlines\n\nand\n\nan answer\n")
    (as_json,) = objects(run("show", exchange_id, "--json"))
    assert (as_json["prompt"], as_json["reply"]) == ("Two\nlines", "and\n\nan answer")


def test_an_id_that_is_not_there_is_exit_code_1(say: Say) -> None:
    say("Hello")
    result = run("show", "nope")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "chatport: there is no exchange nope.\n"
    assert run("show", "\x9b2J").stderr == "chatport: there is no exchange \\x9b2J.\n"


def test_an_id_that_no_text_can_hold_is_exit_code_1(say: Say) -> None:
    say("Hello")
    result = run("show", chr(0xDCFF))  # how Python hands on an argument that is not UTF-8
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)


def test_the_export_is_json_lines_oldest_first(say: Say) -> None:
    for number in range(3):
        say(f"p{number}")
    result = run("export")
    assert column(result, "prompt") == ["p0", "p1", "p2"]
    assert result.stderr == ""
    assert column(run("export", "--user", "nobody"), "prompt") == []


def test_the_export_goes_over_all_pages(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chatport.entrypoints.log_cli.PAGE", 2)
    for number in range(5):
        say(f"p{number}", user="bob" if number == 3 else "ada")
    assert column(run("export"), "number") == [1, 2, 3, 4, 5]
    assert column(run("export", "--user", "ada"), "number") == [1, 2, 3, 5]


def test_the_export_is_written_into_a_file_in_ascii(say: Say, tmp_path: Path) -> None:
    say("Grüße 👋")
    assert run("export", "--output", "out.jsonl").stdout == ""
    (line,) = (tmp_path / "out.jsonl").read_text("ascii").splitlines()
    assert json.loads(line)["prompt"] == "Grüße 👋"


@pytest.mark.parametrize("running", [False, True], ids=["stopped", "running"])
@pytest.mark.parametrize("end", ["", "-wal", "-shm", ".lock", "-link"])
def test_an_export_into_the_database_itself_is_refused(
    say: Say, database: Path, monkeypatch: pytest.MonkeyPatch, end: str, *, running: bool
) -> None:
    say("Hello")
    if not running:
        database = Path(shutil.copy(database, database.with_name("stopped.db")))
        monkeypatch.setenv("CHATPORT_DATABASE", f"sqlite:///{database}")
    database.with_name(f"{database.name}-link").hardlink_to(database)
    result = run("export", "--output", f"{database}{end}")
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"{database}{end} belongs to the database" in result.stderr
    assert database.stat().st_size > 0


def test_an_export_of_nothing_leaves_no_older_export_behind(say: Say, tmp_path: Path) -> None:
    say("Hello")
    (tmp_path / "out.jsonl").write_text("an older export\n")
    assert run("export", "--user", "nobody", "--output", "out.jsonl").exit_code == 0
    assert (tmp_path / "out.jsonl").read_text() == ""


@pytest.mark.parametrize(
    "arguments",
    [
        *(["list"], ["list", "--json"], ["search", "word"], ["search", "word", "--json"]),
        *(["show", "ID"], ["show", "ID", "--json"], ["export"]),
    ],
    ids=" ".join,
)
def test_nothing_that_was_said_can_command_the_terminal(say: Say, arguments: list[str]) -> None:
    exchange_id = say(HOSTILE, HOSTILE)
    result = run(*(exchange_id if each == "ID" else each for each in arguments))
    assert result.exit_code == 0
    assert "word" in result.stdout
    unseen = {"Cc", "Cf", "Zl", "Zp"}
    assert {char for char in result.stdout if unicodedata.category(char) in unseen} == {"\n"}


@pytest.mark.parametrize("command", [["list", "--json"], ["export"]], ids=" ".join)
def test_json_holds_what_was_said_unchanged(say: Say, command: list[str]) -> None:
    say(HOSTILE)
    assert column(run(*command), "prompt") == [HOSTILE]


def test_without_a_log_there_is_nothing_to_read(database: Path) -> None:
    result = run("list")
    assert result.exit_code == 1
    assert result.stderr == "chatport: there is no log yet: log.db does not exist.\n"
    assert not database.exists()


def test_a_log_in_memory_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATPORT_DATABASE", "memory:")
    result = run("list")
    assert result.exit_code == 2
    assert result.stderr == "chatport: CHATPORT_DATABASE=memory: keeps no log that could be read.\n"
