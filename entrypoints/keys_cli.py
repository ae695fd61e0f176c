"""`chatport keys`: who may ask, and with which keys."""

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NoReturn

import click

from chatport.domain.callers import Caller
from chatport.domain.errors import InvalidField
from chatport.domain.keys import ApiKey, Keys, parse_key
from chatport.domain.rules import Rule, notation

from .ages import AGE
from .caller_options import expires, terms
from .cli_exits import EXIT_FAILED, EXIT_SETTINGS, faults_end_the_program, load_settings, stop
from .terminal import printable_text, table

if TYPE_CHECKING:
    from pathlib import Path

ARGUMENTS = {"name": "NAME", "models": "--models", "expires_at": "--expires"}
"""What the fields of the domain's errors are called here."""

SHOWN_ONCE = "This key is shown once; keep it safe. Send it as: Authorization: Bearer KEY"

_as_json = click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")


@click.group()
def keys() -> None:
    """Give out API keys, and take them back.

    A caller is an application. With the first one, every request needs a key. Running servers
    notice each change within 5 seconds.

    \b
    Limits and budgets: '20/minute; 50000 tokens/hour; 8 in flight', '5 USD/day'.
    Give the option more than once, or quote the semicolons. The word `default`
    stands for what the service sets for everybody, '' for none.
    """  # noqa: D301  # click reads \b, a control character, as: keep these lines as they are


def _tell(key: str, name: str) -> None:
    """Print a new key; where that cannot be, say what has become of it."""
    try:
        click.echo(key)
    except OSError as error:
        with suppress(OSError):
            sys.stdout.close()  # or it would be tried again at the end
        what = f"a key of {name} was made, and could not be written: {error.strerror}."
        stop(EXIT_FAILED, f"{what} Nobody has it; make another with: chatport keys rotate {name}")


@keys.command()
@click.argument("name")
@terms
@expires
def create(name: str, terms: dict[str, Any], expires: datetime | None) -> None:
    """Add the caller NAME, and print its first key."""
    with _operator(may_be_new=True) as (operator, database):
        first = next(operator.list(), None) is None
        key = operator.create(Caller(name=name, **terms), expires)
    _tell(key, name)
    _explain(f"Caller {name} is in {database.absolute()}.", SHOWN_ONCE)
    if first:
        _explain("From now on every request needs a key.")


@keys.command("list")
@_as_json
def list_(*, as_json: bool) -> None:
    """Show all callers."""
    with _operator() as (operator, _):
        found = list(operator.list())
    if as_json:
        for caller, kept in found:
            click.echo(json.dumps(encode(caller, kept)))
        return
    if not found:
        _explain("No callers.")
        return
    rows = [
        (caller.name, caller.role.value, _how_many(kept), _in_short(caller))
        for caller, kept in found
    ]
    header = ("name", "role", "keys", "may")
    click.echo("\n".join(table(header, rows, shutil.get_terminal_size().columns)))


@keys.command()
@click.argument("name")
@_as_json
def show(name: str, *, as_json: bool) -> None:
    """Show the caller NAME, and what is known of its keys."""
    with _operator() as (operator, _):
        caller, kept = operator.show(name)
    if as_json:
        click.echo(json.dumps(encode(caller, kept)))
    else:
        _show(caller, kept)


@keys.command()
@click.argument("name")
@click.option(
    "--overlap",
    type=AGE,
    default="24h",
    show_default=True,
    help="How long the other keys still work: 90d, 24h, 30m; 0 for not at all.",
)
@expires
def rotate(name: str, overlap: timedelta, expires: datetime | None) -> None:
    """Print a new key of the caller NAME.

    Its other keys work for a while beside the new one. A caller whose keys are all revoked or
    expired has a good key again.
    """
    with _operator() as (operator, _):
        key = operator.rotate(name, overlap, expires)
        _, kept = operator.show(name)
    _tell(key, name)
    _explain(SHOWN_ONCE, _until_when([each for each in kept if each.id not in key]))


@keys.command()
@click.argument("name", required=False)
@click.option(
    "--key", "key_id", metavar="ID", help="Only this key: the 16 digits after cp_, or all of it."
)
def revoke(name: str | None, key_id: str | None) -> None:
    """Revoke all keys of the caller NAME, or one key."""
    if (name is None) == (key_id is None):
        raise click.UsageError("Give either the NAME of a caller, or one key with --key ID.")
    with _operator() as (operator, _):
        if key_id is not None:
            presented = parse_key(key_id.strip())  # a key that was found where it must not be
            operator.revoke_key(presented.id if presented else key_id.removeprefix("cp_"))
            done = "The key is revoked"
        else:
            count = operator.revoke(name or "")
            done = f"{count} {'key is' if count == 1 else 'keys are'} revoked"
    click.echo(f"{done}; running servers refuse what is revoked within 5 s.")


def _expires_here(_context: click.Context, _parameter: click.Parameter, value: object) -> None:
    if value is not None:
        raise click.UsageError(
            "When a key expires is settled when it is made;"
            " make another with: chatport keys rotate NAME --expires WHEN"
        )


@keys.command("set")
@click.argument("name")
@terms
@click.option("--expires", hidden=True, expose_value=False, callback=_expires_here)
def set_(name: str, terms: dict[str, Any]) -> None:
    """Change what the caller NAME may do; what is not given stays.

    Its keys stay as well: rotate makes one with another expiry.
    """
    if not terms:
        raise click.UsageError("There is nothing to change: give at least one option.")
    with _operator() as (operator, _):
        caller, kept = operator.show(name)
        changed = replace(caller, **terms)
        operator.change(changed)
    _show(changed, kept)


@contextmanager
def _operator(*, may_be_new: bool = False) -> "Iterator[tuple[Keys, Path]]":
    """Open the keys in the database that the settings name."""
    from chatport.adapters import (  # noqa: PLC0415  # `--help` needs no database
        PeeweeKeys,
        SqliteSession,
        SystemClock,
        random_key_id,
        random_secret,
    )

    database = load_settings().database
    if database is None:
        stop(
            EXIT_SETTINGS,
            "CHATPORT_DATABASE=memory: cannot hold keys; name a file: sqlite:///chatport.db.",
        )
    if not may_be_new and not database.exists():
        stop(EXIT_FAILED, f"there are no keys yet: {database} does not exist.")
    with faults_end_the_program(database), closing(SqliteSession(database)) as session:
        store, clock = PeeweeKeys(session), SystemClock()
        try:
            yield Keys(store, clock=clock, new_id=random_key_id, new_secret=random_secret), database
        except InvalidField as error:
            _wrong_argument(error)


def _wrong_argument(error: InvalidField) -> NoReturn:
    problem = str(error).removeprefix(error.field)
    raise click.UsageError(f"{ARGUMENTS.get(error.field, error.field)}{problem}") from None


def _explain(*sentences: str) -> None:
    """Say something beside the output, which a script may want to read."""
    for sentence in sentences:
        click.echo(sentence, err=True)


def encode(caller: Caller, kept: Sequence[ApiKey]) -> dict[str, Any]:
    """Return a caller for machines; null where the service's own rules apply."""
    now = datetime.now(UTC)
    return {
        "name": caller.name,
        "role": caller.role.value,
        "limits": _written(caller.limits),
        "budgets": _written(caller.budgets),
        "user_limits": _written(caller.user_limits),
        "user_budgets": _written(caller.user_budgets),
        "models": list(caller.models),
        "keys": [
            {
                "id": key.id,
                "created_at": key.created_at.isoformat(),
                "expires_at": key.expires_at.isoformat() if key.expires_at else None,
                "revoked_at": key.revoked_at.isoformat() if key.revoked_at else None,
                "condition": key.condition(now).value,
            }
            for key in kept
        ],
    }


def _written(rules: Sequence[Rule] | None) -> str | None:
    return None if rules is None else notation(rules)


def _rules(caller: Caller) -> dict[str, Sequence[Rule] | None]:
    return {
        "limits": caller.limits,
        "budgets": caller.budgets,
        "user limits": caller.user_limits,
        "user budgets": caller.user_budgets,
    }


def _show(caller: Caller, kept: Sequence[ApiKey]) -> None:
    """Print a caller and its keys, for people."""
    click.echo(f"{'name':14}{caller.name}\n{'role':14}{caller.role.value}")
    for name, rules in _rules(caller).items():
        said = "as the service sets" if rules is None else notation(rules) or "none"
        click.echo(f"{name:14}{said}")
    click.echo(f"{'models':14}{printable_text(', '.join(caller.models)) or 'all'}\n")
    now = datetime.now(UTC)
    header = ("key", "created (UTC)", "expires (UTC)", "condition")
    rows = [
        (key.id, _minute(key.created_at), _minute(key.expires_at), key.condition(now).value)
        for key in kept
    ]
    click.echo("\n".join(table(header, rows, shutil.get_terminal_size().columns)))


def _minute(at: datetime | None) -> str:
    return at.strftime("%Y-%m-%d %H:%M") if at else "never"


def _how_many(kept: Sequence[ApiKey]) -> str:
    now = datetime.now(UTC)
    return f"{sum(key.is_good(now) for key in kept)} of {len(kept)} good"


def _in_short(caller: Caller) -> str:
    own = [
        f"{name}: {notation(rules) or 'none'}"
        for name, rules in _rules(caller).items()
        if rules is not None
    ]
    models = [f"models: {', '.join(caller.models)}"] if caller.models else []
    return ", ".join([*own, *models]) or "as the service sets"


def _until_when(kept: Sequence[ApiKey]) -> str:
    """Say how long the keys work that rotation has left."""
    now = datetime.now(UTC)
    ends = [key.expires_at for key in kept if key.expires_at and key.is_good(now)]
    if not ends:
        return "No other key of this caller works any more."
    return f"The caller's other keys work until {_minute(max(ends))} UTC at most."
