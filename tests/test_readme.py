"""The README's promises: its examples run, and its tables are those of the code."""

import re
from pathlib import Path
from typing import Any

import pytest

from chatport.entrypoints.faults import HTTP_CODES, STATUS
from chatport.entrypoints.settings import describe

README = (Path(__file__).parent.parent / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
EDGE_CODES = {
    *("invalid_json", "invalid_encoding", "unknown_field", "forbidden_field", "bad_request"),
}


def table_after(heading: str) -> list[list[str]]:
    """Return the cells of the first table behind a heading, without its two header lines."""
    rows = re.search(r"\n((?:\|.*\n)+)", README.split(f"{heading}\n", 1)[1])
    assert rows is not None
    cells = [row.strip("| ").split("|") for row in rows[1].splitlines()[2:]]
    return [[cell.strip().strip("`") for cell in row] for row in cells]


def test_the_embedding_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    exec(EXAMPLES[0], {})
    assert capsys.readouterr().out == "You said: Hello\n"


def test_the_embedding_example_has_five_lines() -> None:
    assert len([line for line in EXAMPLES[0].splitlines() if line]) <= 5


def test_the_offline_test_example_runs() -> None:
    names: dict[str, Any] = {}
    exec(EXAMPLES[1], names)
    names["test_a_timeout_is_logged_and_the_chat_goes_on"]()


def test_the_table_of_settings_is_complete() -> None:
    expected = [[name, default, meaning] for name, default, meaning in describe()]
    rows = [[cell.replace("`", "") for cell in row] for row in table_after("## Settings")]
    assert rows == [[cell.replace("`", "") for cell in row] for row in expected]


SERVER_CODES = {"server_shutdown": 503, "request_timeout": 408}


def test_the_table_of_codes_is_complete() -> None:
    stated = {code: int(status) for code, status, _ in table_after("### Errors")}
    codes = {error.code: status for error, status in reversed(STATUS.items())}
    http = {code: status for status, code in HTTP_CODES.items()}
    expected = {**http, **dict.fromkeys(EDGE_CODES, 400), **codes, **SERVER_CODES}
    assert stated == expected
