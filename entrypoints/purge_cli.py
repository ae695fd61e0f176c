"""`chatport purge` and `chatport erase`: delete what is old, and what somebody wants gone."""

import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import click

from chatport.domain.callers import ANONYMOUS
from chatport.domain.errors import StorageUnavailable
from chatport.domain.model import LogQuery
from chatport.domain.ports import Clock, ConversationStore
from chatport.domain.retention import Purged, PurgeSpan, Retention
from chatport.domain.usage import UsageQuery

from .ages import AGE
from .cli_exits import EXIT_FAILED, EXIT_SETTINGS, faults_end_the_program, load_settings, stop
from .terminal import printable_text

if TYPE_CHECKING:
    from chatport.adapters import PeeweeStore

UNUSUAL = timedelta(days=1)
"""A shorter age may be a slip, as `3m` is: three minutes, not months."""

AGAIN = "Give the same command again to go on; until it ends, deleted words may be in the file."

_yes = click.option("--yes", is_flag=True, help="Do not ask.")


@click.command()
@click.option(
    "--older-than", "age", type=AGE, required=True, help="90d, 24h; below 1d it asks first."
)
@click.option(
    "--content-only", is_flag=True, help="Keep who, when and how much; delete what was said."
)
@click.option("--caller", metavar="NAME", help="Only this caller's.")
@_yes
def purge(age: timedelta, caller: str | None, *, content_only: bool, yes: bool) -> None:
    """Delete old exchanges for good, while the service goes on.

    It works in steps of a few milliseconds, and may be stopped and started again. Without
    --content-only and --caller, counts of usage and refusals that old are deleted too. What is
    still being answered stays.

    \b
    Every night, from cron:
      chatport purge --older-than 90d
    """  # noqa: D301  # click reads \b, a control character, as: keep these lines as they are
    if age < UNUSUAL:
        what = f"all but the last {age}" if age else "everything"
        _ask(f"this purges {what}", yes=yes)
    done = "emptied" if content_only else "deleted"
    with _retention(caller) as (retention, _, clock):
        span = retention.span(before=clock.now() - age, content_only=content_only, caller=caller)
        _run(retention.purge(span), span, done)


@click.command()
@click.option("--caller", metavar="NAME", required=True, help="`anonymous` if there are no keys.")
@click.option("--user", metavar="USER", help="Only this user of the caller.")
@_yes
def erase(caller: str, user: str | None, *, yes: bool) -> None:
    """Delete all exchanges of a caller or of one user, those being answered too.

    What they have cost stays in the counts of usage, under no user's name. Revoke a caller's keys
    first, or it goes on writing.
    """
    whose = f"user {user} of caller {caller}" if user is not None else f"caller {caller}"
    _ask(f"this deletes every exchange of {printable_text(whose)}", yes=yes)
    with _retention(caller) as (retention, _, _):
        if user is not None:
            span = retention.span_of_user(caller, user)
            _run(retention.erase_user(caller, user), span, "deleted")
        else:
            _run(retention.erase_caller(caller), retention.span(caller=caller), "deleted")


def _run(steps: Iterator[Purged], span: PurgeSpan, done: str) -> None:
    """Go through the steps with a progress bar on a terminal, and say how many were purged."""
    count, last = 0, span.after
    hidden = not sys.stderr.isatty()
    try:
        with click.progressbar(
            length=span.size, label="purging", hidden=hidden, file=sys.stderr
        ) as bar:
            for step in steps:
                count += step.count
                bar.update(step.until - last)
                last = step.until
    except KeyboardInterrupt:
        stop(EXIT_FAILED, f"stopped; {_counted(count, done)} so far. {AGAIN}")
    except StorageUnavailable:
        click.echo(f"chatport: {_counted(count, done)} so far. {AGAIN}", err=True)
        raise
    _say(count, done)


def _say(count: int, done: str) -> None:
    click.echo(f"{_counted(count, done)}.")


def _counted(count: int, done: str) -> str:
    return f"1 exchange was {done}" if count == 1 else f"{count} exchanges were {done}"


def _ask(what: str, *, yes: bool) -> None:
    """Return if the operator wants it; where nobody can be asked, --yes must say so."""
    if yes:
        return
    if not _is_asked():
        stop(EXIT_SETTINGS, f"{what}, and nobody can be asked whether to; add --yes.")
    if not click.confirm(f"{what[0].upper()}{what[1:]}. Go on?", err=True):
        stop(EXIT_FAILED, "nothing was done.")


def _is_asked() -> bool:
    """Return whether somebody can answer."""
    return sys.stdin.isatty()


@contextmanager
def _retention(caller: str | None) -> Iterator[tuple[Retention, ConversationStore, Clock]]:
    """Open the log that the settings name; stop if a caller is named whom nobody knows."""
    from chatport.adapters import PeeweeStore, SystemClock  # noqa: PLC0415  # `--help` needs no database

    settings = load_settings()
    if settings.database is None:
        stop(EXIT_SETTINGS, "CHATPORT_DATABASE=memory: keeps no log that could be purged.")
    if not settings.database.exists():
        stop(EXIT_FAILED, f"there is no log yet: {settings.database} does not exist.")
    with (
        faults_end_the_program(settings.database),
        closing(PeeweeStore(settings.database)) as store,
    ):
        clock = SystemClock()
        if caller is not None and not _is_known(store, caller):
            stop(EXIT_FAILED, f"there is no caller {caller}: no key, no exchange, no usage.")
        yield Retention(store, clock), store, clock


def _is_known(store: "PeeweeStore", caller: str) -> bool:
    """Return whether anything of a caller is kept; a name with a slip in it would purge nothing."""
    from chatport.adapters import PeeweeKeys, PeeweeUsage  # noqa: PLC0415  # as above

    return (
        caller == ANONYMOUS.name
        or PeeweeKeys(store.session).caller(caller) is not None
        or bool(store.search(LogQuery(caller=caller, limit=1)))
        or bool(PeeweeUsage(store.session).usage(UsageQuery(caller=caller, limit=1)))
    )
