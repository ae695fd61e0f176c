"""Showing text that strangers wrote in a terminal."""

import re
from collections.abc import Sequence

CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Control characters but newline and tab, halves of surrogate pairs, and what turns text round."""


NARROWEST = 8
"""Characters of the last column of a table, even if that makes its lines too long to show."""


def printable_text(text: str) -> str:
    """Return the text with what could command a terminal written as an escape."""
    return CONTROL.sub(lambda match: f"\\x{ord(match.group()):02x}", text)


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
