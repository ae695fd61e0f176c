"""Showing text that strangers wrote in a terminal."""

import unicodedata
from collections.abc import Sequence

UNSEEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Categories of what does something, but is not seen: controls, what turns text round or hides in
it, halves of surrogate pairs, ends of lines and of paragraphs. Private use, and what is assigned
later (as next year's emoji), is seen, if only as a box."""

WANTED = frozenset("\n\t\u200c\u200d")
"""Those of them that texts need: the last two join emoji, and part letters in Persian and Hindi."""

NARROWEST = 8
"""Characters of the last column of a table, even if that makes its lines too long to show."""


def printable_text(text: str) -> str:
    """Return the text with what could command a terminal, or hide in it, written as an escape."""
    return text if text.isprintable() else "".join(map(_printable, text))


def _printable(char: str) -> str:
    shown = char in WANTED or unicodedata.category(char) not in UNSEEN
    return char if shown else char.encode("unicode_escape").decode("ascii")


def one_line(text: str, width: int) -> str:
    """Return the beginning of the text on one line of at most `width` characters."""
    line = printable_text(" ".join(text[: 4 * width].split()))
    return line if len(line) <= width else line[: width - 1] + "…"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Return the lines of a table; the last column gets the room that the others leave."""
    columns = list(zip(*([header, *rows]), strict=True))
    widths = [max(len(cell) for cell in column) for column in columns[:-1]]
    room = max(NARROWEST, width - sum(widths) - 2 * len(widths))
    return [
        "  ".join(
            [
                *(cell.ljust(size) for cell, size in zip(row[:-1], widths, strict=True)),
                one_line(row[-1], room),
            ]
        )[:width].rstrip()
        for row in [header, *rows]
    ]
