"""Text of strangers in a terminal: nothing of it may command the terminal."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatport.entrypoints.terminal import one_line, printable_text, table


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("Grüße 👋 こんにちは", "Grüße 👋 こんにちは"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\x9b31m", "\\x9b31m"),
        ("over\rwritten", "over\\x0dwritten"),
        ("back\x08space\x7f", "back\\x08space\\x7f"),
        ("\u202egpj.exe", "\\x202egpj.exe"),
        ("\u2066isolated\u2069", "\\x2066isolated\\x2069"),
        ("\x00", "\\x00"),
    ],
)
def test_what_could_command_a_terminal_is_shown_as_an_escape(text: str, shown: str) -> None:
    assert printable_text(text) == shown


@given(st.text())
def test_no_control_character_but_newline_and_tab_is_left(text: str) -> None:
    left = {char for char in printable_text(text) if unicodedata.category(char) == "Cc"}
    assert left <= {"\n", "\t"}


@pytest.mark.parametrize("half", [chr(0xD83D), chr(0xDC4B)])
def test_half_a_surrogate_pair_can_be_printed(half: str) -> None:
    printable_text(f"a{half}b").encode("utf-8")


@pytest.mark.parametrize(
    ("text", "width", "line"),
    [
        ("short", 10, "short"),
        ("exactly 10", 10, "exactly 10"),
        ("one too long", 11, "one too lo…"),
        ("  many \n\n lines\tof   text ", 40, "many lines of text"),
        ("\x1b[2J", 40, "\\x1b[2J"),
        ("", 10, ""),
    ],
)
def test_the_beginning_of_a_text_is_shown_on_one_line(text: str, width: int, line: str) -> None:
    assert one_line(text, width) == line


@given(st.text(), st.integers(1, 100))
def test_one_line_is_one_line_of_at_most_that_width(text: str, width: int) -> None:
    line = one_line(text, width)
    assert len(line) <= width
    assert line.splitlines() in ([], [line])


def test_a_table_aligns_its_columns_and_cuts_the_last() -> None:
    rows = [("1", "ada", "a short text"), ("22", "bob", "a text that is longer than its room")]
    assert table(("id", "user", "text"), rows, 31) == [
        "id  user  text",
        "1   ada   a short text",
        "22  bob   a text that is longe…",
    ]


def test_a_table_without_rows_is_its_header() -> None:
    assert table(("id", "text"), [], 80) == ["id  text"]
