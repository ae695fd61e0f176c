"""The program as a process: exit codes, messages, and files that it must not touch."""

import hashlib
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import IO

import pytest

from chatport.adapters import OfflineGateway, PeeweeStore, SystemClock, random_id
from chatport.domain.chat import ChatService
from chatport.domain.model import ChatRequest
from integration.programs import PROGRAM, PROGRAMS, SERVERS, Process

KEY = "sk-canary-0123456789"
NO_KEY = (
    "chatport: OPENAI_API_KEY is not set. Set it, in the environment or in a file .env,"
    " or add --offline to try chatport without a provider.\n"
)
DISK_FULL = "chatport: the output cannot be written: No space left on device.\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder that the programs run in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str, typed: str | bytes = "", **environment: str) -> Process:
    """Run the program with this environment, and no other."""
    if sys.platform == "win32":
        return run_anew(*arguments, typed=typed, output=subprocess.PIPE, **environment)
    serves = arguments[0] == "serve" and "--check" not in arguments
    return (SERVERS if serves else PROGRAMS).run(arguments, as_bytes(typed), only(environment))


def run_anew(
    *arguments: str,
    typed: str | bytes = "",
    output: int | IO[bytes] = subprocess.PIPE,
    **environment: str,
) -> Process:
    """Run the program as `run` does, in a process that has imported nothing."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        input=as_bytes(typed),
        env=only(environment),
        stdout=output,
        stderr=subprocess.PIPE,
        timeout=20,
        check=False,
    )
    said = (done.stdout or b"").decode()
    return Process(done.args, done.returncode, said, done.stderr.decode())


def run_by_shell(script: str, *arguments: str, **environment: str) -> Process:
    """Let a shell run the program, which is `"$@"` in its script."""
    return subprocess.run(
        ["/bin/sh", "-c", script, "sh", sys.executable, "-c", PROGRAM, *arguments],
        env=only(environment),
        capture_output=True,
        timeout=20,
        check=False,
        text=True,
    )


def as_bytes(typed: str | bytes) -> bytes:
    return typed if isinstance(typed, bytes) else typed.encode()


def only(environment: dict[str, str]) -> dict[str, str]:
    """Return all of the environment that a program has."""
    return {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **environment}


@pytest.fixture
def busy_port() -> Iterator[int]:
    """Return a port that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def write_log(path: Path, *prompts: str) -> None:
    """Make a log, closed and whole in its one file."""
    with closing(PeeweeStore(path)) as store:
        service = ChatService(
            store=store, gateway=OfflineGateway(), clock=SystemClock(), new_id=random_id, model="m"
        )
        for prompt in prompts:
            service.reply(ChatRequest(prompt=prompt, user_id="ada"))


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_help_teaches_the_exit_codes() -> None:
    done = run("--help")
    assert done.returncode == 0
    assert (
        "  Exit codes:\n"
        "    0  done\n"
        "    1  what was asked for failed, or was not found\n"
        "    2  the command line or a setting is wrong\n"
        "    3  the database cannot be used\n"
        "    5  the database was written by a newer version\n"
    ) in done.stdout


@pytest.mark.parametrize(
    "arguments", [["-h"], ["serve", "-h"], ["chat", "-h"], ["log", "list", "-h"]]
)
def test_every_command_has_help(arguments: list[str]) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: chatport")


def test_the_version_is_told() -> None:
    assert run_anew("--version").stdout == "chatport, version 0.1.0\n"


def test_help_imports_neither_flask_nor_openai_nor_peewee() -> None:
    script = (
        "import sys\n"
        "from chatport.entrypoints.cli import main\n"
        "for page in ([], ['serve'], ['chat'], ['log']):\n"
        "    main([*page, '--help'], standalone_mode=False)\n"
        "heavy = {'flask', 'openai', 'peewee', 'gunicorn', 'gevent', 'httpx2', 'limits'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stderr == b"[]\n"


@pytest.mark.parametrize("command", ["serve", "chat"])
def test_without_a_key_both_ways_out_are_named(folder: Path, command: str) -> None:
    done = run(command)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", NO_KEY)
    assert list(folder.iterdir()) == []


def test_a_check_shows_the_settings_but_not_the_key(folder: Path) -> None:
    (folder / ".env").write_text(f"OPENAI_API_KEY={KEY}\nCHATPORT_MODEL=file\n")
    done = run("serve", "--check", CHATPORT_MODEL="environment")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "OPENAI_API_KEY=***\n"
        "OPENAI_BASE_URL=https://api.openai.com/v1\n"
        "CHATPORT_UPSTREAMS=\n"
        "CHATPORT_MODEL=environment\n"
        "CHATPORT_MODELS=\n"
        "CHATPORT_DATABASE=sqlite:///chatport.db\n"
        "CHATPORT_USER_LIMIT=20/minute;500/day\n"
        "CHATPORT_CALLER_LIMIT=\n"
        "CHATPORT_TOTAL_LIMIT=300/minute\n"
        "CHATPORT_USER_BUDGET=\n"
        "CHATPORT_CALLER_BUDGET=\n"
        "CHATPORT_TOTAL_BUDGET=\n"
        "CHATPORT_MAX_OUTPUT_TOKENS=\n"
        "CHATPORT_PRICES=\n"
        "CHATPORT_LIMIT_STORE=memory:\n"
        "CHATPORT_PROXY_HOPS=0\n"
        "CHATPORT_MAX_IN_FLIGHT=4000\n"
        "CHATPORT_SYSTEM_PROMPT=\n"
        "CHATPORT_HISTORY_TOKENS=8000\n"
        "CHATPORT_TIMEOUT_SECONDS=120\n"
        "CHATPORT_MAX_PROMPT_BYTES=100000\n"
        "CHATPORT_MAX_BODY_BYTES=1000000\n"
    )
    assert [path.name for path in folder.iterdir()] == [".env"]


def test_a_check_without_a_key_fails_unless_offline() -> None:
    assert run("serve", "--check").returncode == 2
    assert run("serve", "--check", "--offline").returncode == 0


def test_a_check_does_not_show_a_password_in_a_url() -> None:
    done = run("serve", "--check", OPENAI_BASE_URL=f"https://ada:{KEY}@example.com/v1")
    assert done.returncode == 2
    assert KEY not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "arguments", [["serve", "--offline"], ["chat", "--offline"], ["log", "list"]]
)
def test_all_problems_of_the_settings_are_listed(arguments: list[str]) -> None:
    done = run(
        *arguments,
        OPENAI_API_KEY=f"{KEY} {KEY}",
        CHATPORT_MODLE="m",
        CHATPORT_USER_LIMIT="many",
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "chatport: these settings cannot be used:\n"
        "  CHATPORT_MODLE is not a setting of chatport; did you mean CHATPORT_MODEL?\n"
        "  OPENAI_API_KEY holds a space or a character that no key has.\n"
        "  CHATPORT_USER_LIMIT must be limits such as 20/minute; 50000 tokens/hour; 8 in flight.\n"
    )


@pytest.mark.parametrize(
    "arguments", [["serve", "--check"], ["serve"], ["chat"], ["serve", "--offline"]], ids=" ".join
)
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "cannot be read: No such file or directory."),
        ('["m"]\ninput = 1\n', "output of 'm' is missing."),
        ("input: 1", "is not TOML: "),
    ],
)
def test_prices_that_cannot_be_used_are_exit_code_2(
    folder: Path, arguments: list[str], text: str | None, problem: str
) -> None:
    if text is not None:
        (folder / "prices.toml").write_text(text)
    done = run(*arguments, OPENAI_API_KEY=KEY, CHATPORT_PRICES="prices.toml")
    assert done.returncode == 2
    assert done.stderr.startswith(
        f"chatport: these settings cannot be used:\n  CHATPORT_PRICES names prices.toml: {problem}"
    )
    assert [path.name for path in folder.iterdir()] == ["prices.toml"] * (text is not None)


def test_a_dotenv_file_that_is_no_text_is_refused_in_a_sentence(folder: Path) -> None:
    (folder / ".env").write_bytes(b"OPENAI_API_KEY=\xff\xfe\n")
    done = run("serve", "--check")
    assert done.returncode == 2
    assert done.stderr.startswith("chatport: ")
    assert "Traceback" not in done.stderr


def test_a_line_of_a_dotenv_file_that_says_nothing_is_a_problem_like_all_others(
    folder: Path,
) -> None:
    (folder / ".env").write_text(f"\nCHATPORT_USER_LIMIT 5/minute\nCHATPORT_MODEL=\n{KEY} x\n")
    done = run("serve", "--check", "--offline")
    assert done.returncode == 2
    assert done.stderr == (
        "chatport: these settings cannot be used:\n"
        "  .env, line 2, is not NAME=VALUE.\n"
        "  .env, line 4, is not NAME=VALUE.\n"
        "  CHATPORT_MODEL must not be empty.\n"
    )
    assert KEY not in done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="its environment is text")
def test_a_system_prompt_that_is_not_utf_8_is_refused_in_a_sentence() -> None:
    done = run("serve", "--check", "--offline", CHATPORT_SYSTEM_PROMPT="Be k\udcfcnd.")
    assert done.returncode == 2
    assert "CHATPORT_SYSTEM_PROMPT=Be k\\udcfcnd.\n" in done.stdout
    assert done.stderr == (
        "chatport: these settings cannot be used:\n"
        "  CHATPORT_SYSTEM_PROMPT holds a NUL or bytes that are not UTF-8.\n"
    )


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com", ""])
def test_an_address_that_strangers_can_reach_is_refused(folder: Path, host: str) -> None:
    done = run("serve", "--offline", "--host", host)
    assert done.returncode == 2
    assert done.stderr.endswith(
        f"chatport: {host} can be reached from other machines, and there is no key yet that"
        " would keep strangers out. Make one with: chatport keys create NAME\n"
    )
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_port_in_use_is_told_in_a_sentence(busy_port: int, host: str) -> None:
    assert run("keys", "create", "shop").returncode == 0
    done = run("serve", "--offline", "--port", str(busy_port), "--host", host)
    assert done.returncode == 2
    assert done.stderr.endswith(
        f"chatport: Cannot listen on {host}:{busy_port}: Address already in use."
        " Choose another with --host or --port.\n"
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["--port", "65536"],
        ["--port", "-1"],
        ["--workers", "0"],
        ["--workers", "8000"],
        ["--nonsense"],
        ["surplus"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_exit_code_2(arguments: list[str]) -> None:
    done = run("serve", "--offline", *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("Usage: chatport serve [OPTIONS]\n")


def test_a_talk_can_be_piped_and_is_continued(folder: Path) -> None:
    assert run("chat", "--offline", typed="Hello\n\n  \nAgain\n").stdout == (
        "You said: Hello\nYou said: Again\nBefore that you said: Hello\nEarlier turns: 1\n"
    )
    third = run_anew("chat", "--offline", typed="Still here?")
    assert (third.returncode, third.stderr) == (0, "")
    assert third.stdout == (
        "You said: Still here?\nBefore that you said: Again\nEarlier turns: 2\n"
    )
    other = run("chat", "--offline", "--user", "bob", typed="Hello\n")
    assert other.stdout == "You said: Hello\n"


def test_nothing_typed_is_nothing_asked() -> None:
    done = run("chat", "--offline")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_an_answer_cannot_command_the_terminal() -> None:
    done = run_anew("chat", "--offline", typed="\x1b[31m \x9b2J \u202e\n")
    assert done.stdout == "You said: \\x1b[31m \\x9b2J \\u202e\n"


@pytest.mark.parametrize(
    ("arguments", "typed", "problem"),
    [
        ([], b"too long\n", "prompt is longer than 5 bytes."),
        ([], b"a\x00b\n", "prompt holds a NUL or half a surrogate pair."),
        ([], b"\xff\n", "prompt holds a NUL or half a surrogate pair."),
        (
            ["--user", "a b"],
            b"Hi\n",
            "user_id must be 1 to 128 of the characters A-Z a-z 0-9 . _ @ : -.",
        ),
    ],
)
def test_a_piped_prompt_that_fails_is_told_and_is_exit_code_1(
    arguments: list[str], typed: bytes, problem: str
) -> None:
    done = run("chat", "--offline", *arguments, typed=typed, CHATPORT_MAX_PROMPT_BYTES="5")
    assert (done.stdout, done.stderr) == ("", f"chatport: {problem}\n")
    assert done.returncode == 1


LATER = "INSERT INTO schema_migration (name, applied) VALUES ('9999_later', '2099-01-01')"
COMMANDS = [
    ["log", "list"],
    ["log", "export"],
    ["chat", "--offline"],
    ["serve", "--offline", "--port", "0"],
]


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_file_that_is_no_database_is_exit_code_3_and_left_alone(
    folder: Path, arguments: list[str]
) -> None:
    database = folder / "chatport.db"
    database.write_bytes(b"this is no database at all\n" * 100)
    before = digest(database)
    done = run(*arguments, typed="Hello\n")
    assert (done.returncode, done.stdout) == (3, "")
    problem = (
        "chatport: The database file is damaged; stop whatever uses it, move it and "
        "its -wal and -shm to another folder, copy a backup into its place, and start again.\n"
    )
    assert done.stderr.endswith(problem)
    assert done.stderr == problem or arguments[0] == "serve"  # which has a log
    assert "Traceback" not in done.stderr
    assert digest(database) == before


@pytest.mark.parametrize("arguments", [COMMANDS[2], COMMANDS[3]], ids=" ".join)
def test_a_folder_that_is_not_there_is_exit_code_3(arguments: list[str]) -> None:
    done = run(*arguments, typed="Hello\n", CHATPORT_DATABASE="sqlite:///missing/chatport.db")
    assert (done.returncode, done.stdout) == (3, "")
    assert "Traceback" not in done.stderr
    problem = (
        "chatport: The database cannot be written; check that its folder is there,"
        " and the permissions.\n"
    )
    assert done.stderr.endswith(problem)
    assert (done.stderr == problem) == (arguments[0] == "chat")
    assert ('"message": "storage fault storage_readonly: ' in done.stderr) == (
        arguments[0] == "serve"
    )


@pytest.mark.parametrize("length", [220, 300])
@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_name_that_no_file_or_none_beside_it_can_have_is_exit_code_3(
    folder: Path, arguments: list[str], length: int
) -> None:
    name = "x" * length
    done = run(*arguments, typed="Hello\n", CHATPORT_DATABASE=f"sqlite:///{name}")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == f"chatport: the database {name} cannot be used: File name too long.\n"
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="no pipe has a name there")
@pytest.mark.parametrize("path", ["/dev/null", "pipe"])
@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_pipe_or_a_device_in_place_of_the_file_is_exit_code_3(
    folder: Path, arguments: list[str], path: str
) -> None:
    os.mkfifo(folder / "pipe")
    done = run(*arguments, typed="Hello\n", CHATPORT_DATABASE=f"sqlite:///{path}")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.endswith(
        "chatport: The database's path leads to a pipe or a device; name a file instead.\n"
    )
    assert [each.name for each in folder.iterdir()] == ["pipe"]


@pytest.mark.skipif(sys.platform == "win32", reason="links need a permission there")
@pytest.mark.parametrize("arguments", [COMMANDS[2], COMMANDS[3]], ids=" ".join)
def test_a_link_that_leads_to_itself_is_exit_code_3(folder: Path, arguments: list[str]) -> None:
    (folder / "loop").symlink_to("loop")
    done = run(*arguments, typed="Hello\n", CHATPORT_DATABASE="sqlite:///loop")
    assert (done.returncode, done.stdout) == (3, "")
    assert "Traceback" not in done.stderr


def digests(folder: Path) -> dict[str, str]:
    return {path.name: digest(path) for path in folder.iterdir()}


def leave_hot(away: Path, folder: Path, *statements: str) -> None:
    """Leave a database as kill -9 leaves it: what the statements wrote stands in its -wal only."""
    with closing(sqlite3.connect(away / "chatport.db")) as connection:
        connection.execute("PRAGMA journal_mode=wal")
        for statement in statements:
            connection.execute(statement)
        connection.commit()
        for path in away.iterdir():
            shutil.copy(path, folder)


@pytest.mark.parametrize("journal", ["wal", "hot", "delete"])
@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_database_of_another_program_is_exit_code_3_and_left_alone(
    folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
    arguments: list[str],
    journal: str,
) -> None:
    made = ("CREATE TABLE notes (text)", "INSERT INTO notes VALUES ('mine')")
    if journal == "hot":
        leave_hot(tmp_path_factory.mktemp("away"), folder, *made)
    else:
        with closing(sqlite3.connect(folder / "chatport.db")) as connection:
            connection.execute(f"PRAGMA journal_mode={journal}")
            for statement in made:
                connection.execute(statement)
            connection.commit()
    before = digests(folder)
    done = run(*arguments, typed="Hello\n")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.endswith(
        "chatport: The database file belongs to another program; name another file.\n"
    )
    assert digests(folder) == before


@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_what_a_killed_newer_version_has_left_is_left_alone(
    folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
    arguments: list[str],
    index: bool,
) -> None:
    away = tmp_path_factory.mktemp("away")
    write_log(away / "chatport.db", "Hello")
    leave_hot(away, folder, LATER)
    if not index:
        (folder / "chatport.db-shm").unlink()
    before = digests(folder)
    done = run(*arguments, typed="Hello\n")
    assert (done.returncode, done.stdout) == (5, "")
    after = digests(folder)
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) <= {"chatport.db-shm"}


@pytest.mark.parametrize(
    "arguments",
    [*COMMANDS, ["usage"], ["keys", "list"], ["purge", "--older-than", "1h", "--yes"]],
    ids=" ".join,
)
def test_a_backup_beside_the_wal_of_another_day_is_left_alone(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, arguments: list[str]
) -> None:
    away = tmp_path_factory.mktemp("away")
    write_log(away / "chatport.db", "Hello")
    backup = (away / "chatport.db").read_bytes()
    write_log(away / "chatport.db", *("Hello" * 500 for _ in range(50)))
    leave_hot(away, folder, "UPDATE exchange SET prompt = prompt || '!'")
    (folder / "chatport.db").write_bytes(backup)
    files = [folder / "chatport.db", folder / "chatport.db-wal"]
    before = [*map(digest, files)]
    done = run(*arguments, typed="Hello\n")
    assert (done.returncode, done.stdout) == (3, "")
    assert [*map(digest, files)] == before


@pytest.mark.parametrize("journal", ["wal", "delete"])
@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_database_of_a_newer_version_is_exit_code_5_and_left_alone(
    folder: Path, arguments: list[str], journal: str
) -> None:
    database = folder / "chatport.db"
    write_log(database, "Hello")
    with closing(sqlite3.connect(database)) as connection:
        connection.execute(f"PRAGMA journal_mode={journal}")
        connection.execute(LATER)
        connection.commit()
    before = digest(database)
    done = run(*arguments, typed="Hello\n")
    assert (done.returncode, done.stdout) == (5, "")
    assert done.stderr.endswith(
        "chatport: The database was written by a newer version of chatport; run that version.\n"
    )
    assert digest(database) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["log", "list"],
        ["log", "export"],
        ["serve", "--check", "--offline"],
        ["doctor", "--offline", "--no-network"],
    ],
)
def test_an_output_that_cannot_be_written_is_told_in_a_sentence(
    folder: Path, arguments: list[str]
) -> None:
    write_log(folder / "chatport.db", "Hello")
    with Path("/dev/full").open("wb") as full:
        done = run_anew(*arguments, output=full)
    assert (done.returncode, done.stderr) == (1, DISK_FULL)


def test_an_export_that_cannot_be_written_is_told_in_a_sentence(folder: Path) -> None:
    write_log(folder / "chatport.db", "Hello")
    done = run("log", "export", "--output", "/dev/full")
    assert (done.returncode, done.stderr) == (1, DISK_FULL)


@pytest.mark.skipif(sys.platform == "win32", reason="a shell closes the output")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["usage"], "the output cannot be written: Bad file descriptor."),
        (["log", "export"], "the output cannot be written: Bad file descriptor."),
        (
            ["keys", "create", "shop"],
            (
                "a key of shop was made, and could not be written: Bad file descriptor."
                " Nobody has it; make another with: chatport keys rotate shop"
            ),
        ),
    ],
    ids=["usage", "log export", "keys create"],
)
def test_an_output_that_is_closed_is_told_in_a_sentence(
    folder: Path, arguments: list[str], said: str
) -> None:
    write_log(folder / "chatport.db", "Hello")
    done = run_by_shell('exec "$@" >&-', *arguments)
    assert (done.returncode, done.stderr) == (1, f"chatport: {said}\n")


@pytest.mark.skipif(sys.platform == "win32", reason="a shell closes the input")
@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["purge", "--older-than", "2h"], 2), (["chat", "--offline"], 0)],
    ids=["purge", "chat"],
)
def test_an_input_that_is_closed_is_an_empty_one(
    folder: Path, arguments: list[str], code: int
) -> None:
    write_log(folder / "chatport.db", "Hello")
    closed = run_by_shell('exec "$@" <&-', *arguments)
    empty = run_by_shell('exec "$@" </dev/null', *arguments)
    assert (closed.returncode, closed.stderr) == (empty.returncode, empty.stderr)
    assert closed.returncode == code


@pytest.mark.skipif(sys.platform == "win32", reason="a shell closes the output")
@pytest.mark.parametrize("arguments", [["log", "export"], ["purge", "--older-than", "9d"]])
def test_a_command_that_nobody_hears_does_its_work(folder: Path, arguments: list[str]) -> None:
    write_log(folder / "chatport.db", "Hello")
    done = run_by_shell('exec "$@" 2>&-', *arguments)
    assert (done.returncode, bool(done.stdout)) == (0, True)


@pytest.mark.parametrize("command", ["create", "rotate"])
def test_a_key_that_cannot_be_written_is_told_to_be_lost(folder: Path, command: str) -> None:
    if command == "rotate":
        run("keys", "create", "shop")
    with Path("/dev/full").open("wb") as full:
        done = run_anew("keys", command, "shop", output=full)
    assert done.returncode == 1
    assert done.stderr == (
        "chatport: a key of shop was made, and could not be written: No space left on device."
        " Nobody has it; make another with: chatport keys rotate shop\n"
    )


@pytest.mark.skipif(sys.platform == "win32", reason="no folder that is in use can be deleted")
@pytest.mark.parametrize(
    ("arguments", "database", "code", "said"),
    [
        (
            ["log", "list"],
            "sqlite:///chatport.db",
            3,
            "the database chatport.db cannot be used: the current folder was deleted.",
        ),
        (
            ["serve", "--offline"],
            "memory:",
            2,
            "The current folder was deleted. Start the server in another.",
        ),
    ],
    ids=["log list", "serve"],
)
def test_a_folder_that_was_deleted_is_told_in_a_sentence(
    folder: Path, arguments: list[str], database: str, code: int, said: str
) -> None:
    (folder / "gone").mkdir()
    script = 'cd gone && rmdir ../gone && exec "$@"'
    done = run_by_shell(script, *arguments, CHATPORT_DATABASE=database)
    assert (done.returncode, done.stderr) == (code, f"chatport: {said}\n")


def test_an_export_to_where_nothing_can_be_is_told_in_a_sentence(folder: Path) -> None:
    write_log(folder / "chatport.db", "Hello")
    done = run("log", "export", "--output", "x" * 300)
    assert done.returncode == 1
    assert done.stderr.endswith("File name too long\n")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["list", "show"])
def test_what_the_terminal_has_no_sign_for_is_shown_as_a_code(folder: Path, command: str) -> None:
    write_log(folder / "chatport.db", "Gr\u00fc\u00dfe \u20ac")
    exchange = json.loads(run("log", "list", "--json").stdout)
    which = [exchange["id"]] if command == "show" else []
    with (folder / "said").open("wb") as said:
        done = run_anew("log", command, *which, output=said, PYTHONIOENCODING="latin-1:strict")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Gr\u00fc\u00dfe \\u20ac" in (folder / "said").read_text("latin-1")


def test_an_output_that_nobody_reads_any_more_is_left_in_silence(folder: Path) -> None:
    write_log(folder / "chatport.db", "Hello")
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as left:
        done = run_anew("log", "export", output=left)
    assert (done.returncode, done.stderr) == (1, "")


def test_the_database_can_be_read_by_its_owner_only(folder: Path) -> None:
    run("chat", "--offline", typed="Hello\n")
    assert (folder / "chatport.db").stat().st_mode & 0o777 == 0o600
