"""A file `.env`: what it says, and every way in which it can be wrong."""

import os
from pathlib import Path

import pytest

from chatport.entrypoints.environment import load_environment


@pytest.fixture
def dotenv(tmp_path: Path) -> Path:
    return tmp_path / ".env"


def variables(dotenv: Path, **environment: str) -> dict[str, str]:
    """Return the variables of a file with which nothing is wrong."""
    found, problems = load_environment(environment, dotenv)
    assert problems == []
    return found


def test_a_dotenv_file_is_read_and_the_environment_wins(dotenv: Path) -> None:
    dotenv.write_text(
        'export OPENAI_API_KEY="sk-file"\n# a comment\nCHATPORT_MODEL=file\nCHATPORT_TOTAL_LIMIT=\n'
    )
    assert variables(dotenv, CHATPORT_MODEL="environment", PATH="/bin") == {
        "OPENAI_API_KEY": "sk-file",
        "CHATPORT_MODEL": "environment",
        "CHATPORT_TOTAL_LIMIT": "",
        "PATH": "/bin",
    }


def test_a_dotenv_file_need_not_be_there(dotenv: Path) -> None:
    assert variables(dotenv, A="1") == {"A": "1"}


def test_a_byte_order_mark_does_not_hide_the_first_line_of_a_dotenv_file(dotenv: Path) -> None:
    dotenv.write_bytes(b"\xef\xbb\xbfOPENAI_API_KEY=sk-file\n")
    assert variables(dotenv) == {"OPENAI_API_KEY": "sk-file"}


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("CHATPORT_USER_LIMIT 5/minute", [1]),
        ("sk-secret and more\nA=1\n\n\n  CHATPORT_MODEL: abc\nB=2\n", [1, 5]),
        ("A=1\r\n\r\n=secret x\r\nB='2'", [3]),
        ('B=2\nC="not closed\nA=1\n', [2]),
        ("# a comment\nA=1\nB=2\nC='x' y\n", [4]),
    ],
)
def test_a_line_that_says_nothing_is_a_problem_that_does_not_quote_it(
    dotenv: Path, text: str, lines: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    dotenv.write_bytes(text.encode())
    found, problems = load_environment({"Z": "26"}, dotenv)
    assert problems == [f"{dotenv}, line {line}, is not NAME=VALUE." for line in lines]
    assert found == {"Z": "26", **({"A": "1", "B": "2"} if "\n" in text else {})}
    assert caplog.messages == []


def test_a_file_that_is_no_text_is_a_problem(dotenv: Path) -> None:
    dotenv.write_bytes(b"A=\xff")
    assert load_environment({"B": "1"}, dotenv) == (
        {"B": "1"},
        [f"{dotenv} is not a text file in UTF-8."],
    )


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipe has a name here")
def test_a_pipe_is_not_waited_for(dotenv: Path) -> None:
    os.mkfifo(dotenv)
    assert load_environment({}, dotenv) == (
        {},
        [f"{dotenv} cannot be read: it is no regular file."],
    )


def test_a_folder_of_that_name_is_a_problem(dotenv: Path) -> None:
    dotenv.mkdir()
    assert load_environment({}, dotenv)[1] == [f"{dotenv} cannot be read: it is no regular file."]


def test_a_name_alone_is_a_problem_and_sets_nothing(dotenv: Path) -> None:
    dotenv.write_text("A=1\nCHATPORT_USER_LIMIT\nsk-canary\nexport B\nC=\n")
    found, problems = load_environment({}, dotenv)
    assert found == {"A": "1", "C": ""}
    assert problems == [f"{dotenv}, line {line}, is not NAME=VALUE." for line in (2, 3, 4)]


def test_a_value_is_taken_as_it_stands(dotenv: Path) -> None:
    dotenv.write_text('A=${HOME} and ${NONE}\nB="$A ${A}"\n')
    found, problems = load_environment({"HOME": "/"}, dotenv)
    assert (found["A"], found["B"], problems) == ("${HOME} and ${NONE}", "$A ${A}", [])
