"""`chatport usage`: who used what, what it cost, and what was refused."""

import csv
import io
import json
import re
import shutil
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, date, datetime
from itertools import islice

import click

from chatport.domain.admin_ports import UsageLog
from chatport.domain.usage import By, RefusalQuery, UsageQuery, UsageRow

from .ages import parse_age
from .cli_exits import EXIT_FAILED, EXIT_SETTINGS, faults_end_the_program, load_settings, stop
from .terminal import printable_text
from .usage_json import encode_usage, midnight, refusals
from .usage_table import EIGHTHS, Refused, added_up, gathered, refusal_lines, usage_lines

ALL = 2**62
PAGE = 10_000
SHOWN_REFUSALS = 10

FORMULA = re.compile(r"[\s\u200c\u200d]*[=+\-\u2212@]|[\t\r\n]")
"""With what a spreadsheet sees a cell begin that it computes (OWASP, CSV injection); some take
white space away first. U+2212 is the minus of typographers, which LibreOffice reads as one."""


class DayType(click.ParamType):  # type: ignore[type-arg]  # older ones of click take none
    """An option that takes a day in UTC, or how long ago it was."""

    name = "day"

    def convert(
        self, value: str | date, param: click.Parameter | None, ctx: click.Context | None
    ) -> date:
        """Return the day, or end the command with what is wrong."""
        if isinstance(value, date):
            return value
        try:
            if re.fullmatch(r"\d{4}-\d{2}-\d{2}", value, re.ASCII):
                return date.fromisoformat(value)
            return (datetime.now(UTC) - parse_age(value)).date()
        except ValueError:
            message = "must be a day such as 2026-11-23, or an age such as 7d or 12h."
            self.fail(message, param, ctx)


@click.command()
@click.option(
    "--by",
    type=click.Choice([by.value for by in By]),
    default=By.CALLER.value,
    show_default=True,
    help="What to add up by.",
)
@click.option("--since", type=DayType(), help="From this day on, in UTC: 2026-11-23, or 7d.")
@click.option("--until", type=DayType(), help="Up to this day, which counts.")
@click.option("--caller", help="Only this caller's.")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 1_000_000))
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option(
    "--csv",
    "as_csv",
    is_flag=True,
    help="With a header. A name that a spreadsheet would take for a formula gets a ' before it.",
)
def usage(
    *,
    by: str,
    since: date | None,
    until: date | None,
    caller: str | None,
    limit: int,
    as_json: bool,
    as_csv: bool,
) -> None:
    """Show who used what, what it cost, and what was refused.

    The dearest first; of days, the newest first. Usage stays when exchanges are erased.
    """
    if as_json and as_csv:
        raise click.UsageError("Choose --json or --csv.")
    query = UsageQuery(by=By(by), since=since, until=until, caller=caller, limit=ALL)
    with _log() as log:
        rows = log.usage(query)
        if as_json or as_csv:
            refused = []
        else:
            asked = RefusalQuery(since=midnight(since), caller=caller, limit=PAGE)
            refused = gathered(refusals(log, asked, until))
    if not rows:
        click.echo("Nothing was used.", err=True)
    if as_json:
        lines: Iterator[str] = (json.dumps(encode_usage(row)) for row in rows[:limit])
    elif as_csv:
        lines = _csv(rows[:limit]) if rows else iter(())
    else:
        lines = _tables(rows, refused, query.by, limit)
    for line in lines:
        click.echo(line)


@contextmanager
def _log() -> Iterator[UsageLog]:
    """Open the log of usage that the settings name."""
    from chatport.adapters import PeeweeStore, PeeweeUsage  # noqa: PLC0415  # `--help` needs none

    settings = load_settings()
    if settings.database is None:
        stop(EXIT_SETTINGS, "CHATPORT_DATABASE=memory: keeps no log that could be read.")
    if not settings.database.exists():
        stop(EXIT_FAILED, f"there is no log yet: {settings.database} does not exist.")
    with (
        faults_end_the_program(settings.database),
        closing(PeeweeStore(settings.database)) as store,
    ):
        yield PeeweeUsage(store.session)


def _tables(
    rows: Sequence[UsageRow], refused: Sequence[Refused], by: By, limit: int
) -> Iterator[str]:
    """Yield the lines for people, in characters that the terminal has."""
    encoding = sys.stdout.encoding or "ascii"
    lines = _table_lines(rows, refused, by, limit, blocks=_can_show(EIGHTHS, encoding))
    return (line.encode(encoding, "backslashreplace").decode(encoding) for line in lines)


def _table_lines(
    rows: Sequence[UsageRow], refused: Sequence[Refused], by: By, limit: int, *, blocks: bool
) -> Iterator[str]:
    width = shutil.get_terminal_size().columns
    if rows:
        total = added_up(rows)
        yield from usage_lines(rows[:limit], total, by=by, width=width, blocks=blocks)
    if len(rows) > limit:
        yield f"\n{len(rows) - limit:,} more, which are in the total: see --limit."
    if refused:
        yield ""
        yield from refusal_lines([*islice(refused, SHOWN_REFUSALS)], width)
    if (more := len(refused) - SHOWN_REFUSALS) > 0:
        yield f"{more:,} more rules refused before that: see --until and --caller."


def _can_show(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def _csv(rows: Sequence[UsageRow]) -> Iterator[str]:
    encoded = [encode_usage(row) for row in rows]
    written = io.StringIO()
    table = csv.DictWriter(written, fieldnames=list(encoded[0]), lineterminator="\n")
    table.writeheader()
    table.writerows({**row, "name": _no_formula(row["name"])} for row in encoded)
    yield written.getvalue().removesuffix("\n")


def _no_formula(name: str) -> str:
    """Return a name that neither a spreadsheet nor a terminal takes for a command.

    The full-width and small forms of the signs count as the signs: some spreadsheets change them
    into those, as NFKC does.
    """
    taken = FORMULA.match(unicodedata.normalize("NFKC", name))
    return f"'{printable_text(name)}" if taken else printable_text(name)
