"""Text of strangers in a terminal: nothing of it may command the terminal."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatport.entrypoints.terminal import one_line, printable_text, table

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
HEART = "\u2764\ufe0f"
PERSIAN = "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"
UNASSIGNED, PRIVATE = "\U0001fbff", "\ue000"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("Grüße 👋 こんにちは", "Grüße 👋 こんにちは"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\x9b31m", "\\x9b31m"),
        ("over\rwritten", "over\\rwritten"),
        ("back\x08space\x7f", "back\\x08space\\x7f"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
        ("\u2066isolated\u2069", "\\u2066isolated\\u2069"),
        ("\u061cturned\u200f", "\\u061cturned\\u200f"),
        ("hid\u200bden\ufeff\u00ad", "hid\\u200bden\\ufeff\\xad"),
        ("\u2028line\u2029", "\\u2028line\\u2029"),
        ("\U000e0041", "\\U000e0041"),
        ("\x00", "\\x00"),
        (FAMILY, FAMILY),
        (HEART, HEART),
        (PERSIAN, PERSIAN),
        (UNASSIGNED + PRIVATE, UNASSIGNED + PRIVATE),
    ],
)
def test_what_could_command_a_terminal_is_shown_as_an_escape(text: str, shown: str) -> None:
    assert printable_text(text) == shown


@given(st.text(st.characters(categories=["Cc", "Cf", "Cs", "Zl", "Zp", "L", "S"])))
def test_nothing_unseen_but_newline_tab_and_what_joins_letters_is_left(text: str) -> None:
    shown = printable_text(text)
    left = {
        char for char in shown if unicodedata.category(char)[0] == "C" or char in "\u2028\u2029"
    }
    assert left <= {"\n", "\t", "\u200c", "\u200d"}


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
