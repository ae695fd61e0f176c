"""Usage as a table with bars, for people at a terminal."""

from collections.abc import Iterator, Sequence
from textwrap import wrap
from typing import NamedTuple

from chatport.domain.rules import dollars
from chatport.domain.usage import By, Refusal, UsageRow

from .terminal import one_line

WIDEST_BAR, NARROWEST_BAR = 30, 4
LONGEST_NAME, SHORTEST_NAME = 40, 8
EIGHTHS = " ▏▎▍▌▋▊▉█"
MARGIN = 2

ESTIMATED = "~ holds an estimate: for some calls the provider sent no token counts."
UNPRICED = (
    "Unpriced calls are in no sum: chatport does not know what their model costs."
    " The file of CHATPORT_PRICES can say it."
)


class Refused(NamedTuple):
    """What one rule refused one caller in a span of time.

    Attributes:
        last: The newest minute of it.
    """

    caller: str
    rule: str
    times: int
    last: str


def added_up(rows: Sequence[UsageRow]) -> UsageRow:
    """Return the total of the rows."""
    return UsageRow(
        name="total",
        calls=sum(row.calls for row in rows),
        completed=sum(row.completed for row in rows),
        prompt_tokens=sum(row.prompt_tokens for row in rows),
        cached_tokens=sum(row.cached_tokens for row in rows),
        completion_tokens=sum(row.completion_tokens for row in rows),
        estimated=sum(row.estimated for row in rows),
        unpriced=sum(row.unpriced for row in rows),
        nanodollars=sum(row.nanodollars for row in rows),
    )


def usage_lines(
    rows: Sequence[UsageRow], total: UsageRow, *, by: By, width: int, blocks: bool
) -> Iterator[str]:
    """Yield the lines of the table, its total, and what its signs mean.

    Numbers are never cut. Where the terminal is narrow, bars go first, and then names.

    Args:
        rows: In the order in which they are shown.
        total: Of all rows, also those that are not shown.
        by: What the rows are.
        width: How many characters go on a line.
        blocks: Whether the terminal can show block elements; else bars are of `#`.
    """
    header = (by.value, "calls", "failed", "tokens in", "tokens out", "USD")
    cells = [header, *map(_cells, rows), _cells(total)]
    numbers = [max(map(len, column)) for column in [*zip(*cells, strict=True)][1:]]
    left = width - sum(numbers) - MARGIN * len(numbers)
    longest = min(max(len(row[0]) for row in cells), LONGEST_NAME)
    names = min(longest, max(SHORTEST_NAME, left))
    room = min(WIDEST_BAR, left - names - MARGIN)
    by_cost = total.nanodollars > 0
    bars = [
        "by cost" if by_cost else "by tokens",
        *_bars(rows, room, by_cost=by_cost, blocks=blocks),
    ]
    bars.append("")
    for row, drawn in zip(cells, bars, strict=True):
        figures = [cell.rjust(size) for cell, size in zip(row[1:], numbers, strict=True)]
        line = (" " * MARGIN).join([one_line(row[0], names).ljust(names), *figures])
        yield f"{line}{' ' * MARGIN}{drawn}".rstrip() if room >= NARROWEST_BAR else line
    yield from _footnotes(" ".join(row[-1] for row in cells), width)


def refusal_lines(refused: Sequence[Refused], width: int) -> Iterator[str]:
    """Yield the lines of a table of refusals; a rule that is too long is cut."""
    header = ("refused", "rule", "times", "last, UTC")
    rows = [header, *((each.caller, each.rule, f"{each.times:,}", each.last) for each in refused)]
    callers, longest, times, lasts = (max(map(len, column)) for column in zip(*rows, strict=True))
    rules = min(longest, max(SHORTEST_NAME, width - callers - times - lasts - 3 * MARGIN))
    for caller, rule, count, last in rows:
        cut = one_line(rule, rules).ljust(rules)
        yield f"{one_line(caller, callers).ljust(callers)}  {cut}  {count.rjust(times)}  {last}"


def gathered(refusals: Iterator[Refusal]) -> list[Refused]:
    """Return the refusals of all minutes together, those with the newest minute first."""
    found: dict[tuple[str, str], Refused] = {}
    for refusal in refusals:  # newest first
        key = (refusal.caller, refusal.rule)
        before = found.get(key) or Refused(*key, 0, f"{refusal.minute:%Y-%m-%d %H:%M}")
        found[key] = before._replace(times=before.times + refusal.count)
    return list(found.values())


def _cells(row: UsageRow) -> tuple[str, ...]:
    name = f"{row.name}(erased)" if row.name.endswith("/") else row.name
    counts = (row.calls, row.calls - row.completed, row.prompt_tokens, row.completion_tokens)
    return (name, *(f"{count:,}" for count in counts), _cost(row))


def _cost(row: UsageRow) -> str:
    if row.unpriced and not row.nanodollars:
        return "price unknown"
    cost = f"{'~' if row.estimated else ''}{dollars(row.nanodollars)}"
    return f"{cost} + {row.unpriced:,} unpriced" if row.unpriced else cost


def _bars(rows: Sequence[UsageRow], room: int, *, by_cost: bool, blocks: bool) -> Iterator[str]:
    sizes = [
        row.nanodollars if by_cost else row.prompt_tokens + row.completion_tokens for row in rows
    ]
    largest = max(sizes, default=0) or 1
    return (_bar(size, largest, max(room, 0), blocks=blocks) for size in sizes)


def _bar(size: int, largest: int, room: int, *, blocks: bool) -> str:
    """Return a bar that fills the room for the largest, and shows something of all but nothing."""
    if not size:
        return ""
    if not blocks:
        return "#" * max(1, size * room // largest)
    whole, eighths = divmod(max(1, size * room * 8 // largest), 8)
    return "█" * whole + EIGHTHS[eighths].strip()


def _footnotes(costs: str, width: int) -> Iterator[str]:
    """Yield what the signs in the costs mean, if there are any."""
    signs = {"~": ESTIMATED, "unpriced": UNPRICED, "unknown": UNPRICED}
    notes = dict.fromkeys(note for sign, note in signs.items() if sign in costs)
    if notes:
        yield ""
    for note in notes:
        yield from wrap(note, width)
