"""`chatport log`: read the log of exchanges."""

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import click

from chatport.domain.model import Exchange, LogQuery, State
from chatport.domain.ports import ConversationStore

from .cli_exits import EXIT_FAILED, EXIT_SETTINGS, faults_end_the_program, load_settings, stop
from .exchange_json import encode
from .terminal import one_line, printable_text, table

PAGE = 500
Decorator = Callable[[Callable[..., None]], Callable[..., None]]


@click.group()
def log() -> None:
    """Read the log: every prompt, and what became of it."""


def _filters(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that choose exchanges."""
    options: list[Decorator] = [
        click.option("--user", help="Only this user's."),
        click.option("--state", type=click.Choice([state.value for state in State])),
        click.option("--since", type=click.DateTime(), help="Only from this time on, in UTC."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


_limit: Decorator = click.option(
    "--limit", default=20, show_default=True, type=click.IntRange(1, 10_000)
)
_as_json: Decorator = click.option(
    "--json", "as_json", is_flag=True, help="One JSON object a line."
)


@log.command("list")
@_filters
@_limit
@_as_json
def list_(*, limit: int, as_json: bool, **filters: Any) -> None:
    """Show the newest exchanges, the newest last."""
    with _store() as store:
        _show(store.search(_query(filters, limit=limit))[::-1], as_json=as_json)


@log.command()
@click.argument("words", nargs=-1, required=True)
@_filters
@_limit
@_as_json
def search(words: tuple[str, ...], *, limit: int, as_json: bool, **filters: Any) -> None:
    """Show the newest exchanges in which all WORDS occur, the newest last.

    "quoted words" must follow each other; OR, -word and word* do what search engines do.
    """
    with _store() as store:
        query = _query(filters, limit=limit, text=" ".join(words))
        _show(store.search(query)[::-1], as_json=as_json)


@log.command()
@click.argument("exchange_id")
@_as_json
def show(exchange_id: str, *, as_json: bool) -> None:
    """Show one exchange whole. Its id is the X-Request-Id of the request."""
    with _store() as store:
        exchange = store.find(exchange_id)
    if exchange is None:
        stop(EXIT_FAILED, f"there is no exchange {exchange_id}.")
    if as_json:
        click.echo(json.dumps(encode(exchange)))
        return
    encoded = encode(exchange)
    for name, value in encoded.items():
        if value is not None and name not in {"prompt", "reply", "request", "response"}:
            click.echo(f"{name:20} {printable_text(str(value))}")
    click.echo(f"\n> {printable_text(exchange.prompt)}\n\n{printable_text(exchange.reply)}")
    for name in ("request", "response"):
        if (whole := encoded.get(name)) is not None:
            click.echo(f"\n{name}:\n{json.dumps(whole, indent=2)}")


@log.command()
@_filters
@click.option("--output", type=click.File("w", encoding="utf-8", lazy=True), default="-")
def export(output: TextIO, **filters: Any) -> None:
    """Write exchanges as JSON Lines, oldest first, with a progress bar on a terminal.

    All is ASCII: other characters, such as those that command a terminal, are escaped as in JSON.
    """
    with _store(output.name) as store:
        output.write("")  # empties an older file even if there is nothing to export
        newest = store.search(_query(filters, limit=1))
        last = newest[0].number if newest else 0
        hidden = not sys.stderr.isatty()
        with click.progressbar(
            length=last, label="exporting", hidden=hidden, file=sys.stderr
        ) as bar:
            done = 0
            for found in _all(store, _query(filters, limit=PAGE), last):
                exchange = store.find(found.id) or found  # the list leaves out what may be large
                output.write(json.dumps(encode(exchange)) + "\n")
                bar.update(exchange.number - done)
                done = exchange.number
        output.flush()  # click, which closes it, hides that it cannot


@contextmanager
def _store(output: str = "-") -> Iterator[ConversationStore]:
    """Open the log that the settings name; stop if that is where the output would go."""
    from chatport.adapters import PeeweeStore  # noqa: PLC0415  # `--help` needs no database

    settings = load_settings()
    if settings.database is None:
        stop(EXIT_SETTINGS, "CHATPORT_DATABASE=memory: keeps no log that could be read.")
    if not settings.database.exists():
        stop(EXIT_FAILED, f"there is no log yet: {settings.database} does not exist.")
    if _is_part(settings.database, Path(output)):
        stop(EXIT_SETTINGS, f"{output} belongs to the database; name another file.")
    with (
        faults_end_the_program(settings.database),
        closing(PeeweeStore(settings.database)) as store,
    ):
        yield store


def _is_part(database: Path, output: Path) -> bool:
    """Return whether a file is the database, or one that it needs: writing would empty it."""
    own = [Path(f"{os.path.realpath(database)}{end}") for end in ("", "-wal", "-shm", ".lock")]
    try:
        if not output.exists():
            return Path(os.path.realpath(output)) in own
        return any(output.samefile(each) for each in own if each.exists())
    except OSError:
        return False  # and whoever opens it is told what is wrong with it


def _query(filters: dict[str, Any], *, limit: int, text: str | None = None) -> LogQuery:
    since: datetime | None = filters["since"]
    return LogQuery(
        text=text,
        user_id=filters["user"],
        state=State(filters["state"]) if filters["state"] else None,
        since=since.replace(tzinfo=UTC) if since else None,
        limit=limit,
    )


def _all(store: ConversationStore, query: LogQuery, last: int) -> Iterator[Exchange]:
    """Yield the exchanges up to number `last`, oldest first, a page at a time."""
    after = 0
    while page := store.search(replace(query, after=after, before=last + 1, oldest_first=True)):
        yield from page
        after = page[-1].number


def _show(exchanges: Sequence[Exchange], *, as_json: bool) -> None:
    if as_json:
        for exchange in exchanges:
            click.echo(json.dumps(encode(exchange)))
        return
    if not exchanges:
        click.echo("No exchanges.", err=True)
        return
    header = ("id", "UTC", "user", "state", "prompt -> reply")
    rows = [
        (
            exchange.id,
            exchange.started_at.strftime("%m-%d %H:%M:%S"),
            one_line(exchange.user_id, 20),
            exchange.error_code or exchange.state.value,
            f"{one_line(exchange.prompt, 200)} -> {one_line(exchange.reply, 200)}",
        )
        for exchange in exchanges
    ]
    click.echo("\n".join(table(header, rows, shutil.get_terminal_size().columns)))
