"""The options that say what a caller may do, and until when its key works."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import wraps
from typing import Any

import click

from chatport.domain.callers import Role
from chatport.domain.rules import parse_budgets, parse_limits

from .ages import parse_age

DATE = re.compile(
    r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d)?(Z|[+-]\d\d:\d\d)?)?", re.ASCII | re.IGNORECASE
)
EXPIRY = "must be an age such as 30d, or a time in UTC such as 2027-01-31 or 2027-01-31T12:00"

DEFAULT = "default"
"""Of a limit or budget: what the service sets for everybody."""

Command = Callable[..., None]


class ExpiryType(click.ParamType):  # type: ignore[type-arg]  # older ones of click take none
    """An option that takes an age from now on, or a time, in UTC unless it says otherwise."""

    name = "expiry"

    def convert(
        self, value: str | datetime, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        """Return the time, or end the command with what is wrong."""
        if isinstance(value, datetime):
            return value
        try:
            moment = _moment(value.strip())
        except (ValueError, OverflowError):
            self.fail(f"{EXPIRY}.", param, ctx)
        if moment <= datetime.now(UTC):
            self.fail(f"must be in the future, and {moment:%Y-%m-%d %H:%M} UTC is not.", param, ctx)
        return moment


def _moment(text: str) -> datetime:
    if not DATE.fullmatch(text):
        return datetime.now(UTC) + parse_age(text)
    moment = datetime.fromisoformat(text.upper())
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


expires: Callable[[Command], Command] = click.option(
    "--expires",
    type=ExpiryType(),
    metavar="WHEN",
    help="When the new key stops working: 30d, 2027-01-31 or 2027-01-31T12:00, in UTC."
    "  [default: never]",
)


def terms(command: Command) -> Command:
    """Give a command the options for what a caller may do.

    What was chosen comes as the argument `terms`: fields of `Caller`, and only those given.
    """

    @wraps(command)
    def with_terms(**arguments: Any) -> None:
        fields = {name: arguments.pop(name) for name in FIELDS}
        given = {name: field for name, field in fields.items() if field is not _NOT_GIVEN}
        command(terms=given, **arguments)

    decorated: Command = with_terms
    for option in reversed(_options()):
        decorated = option(decorated)
    return decorated


FIELDS = ("role", "limits", "budgets", "user_limits", "user_budgets", "models")
_NOT_GIVEN = object()


def _options() -> list[Callable[[Command], Command]]:
    return [
        click.option(
            "--admin/--no-admin",
            "role",
            default=None,
            callback=_role,
            help="May look after the service, and not chat.",
        ),
        _of_rules(
            "limit", parse_limits, "Of all its requests together, such as '20/minute; 8 in flight'."
        ),
        _of_rules(
            "budget",
            parse_budgets,
            "Of all its requests together, such as '5 USD/day; 1000000 tokens/month'.",
        ),
        _of_rules("user-limit", parse_limits, "Of each of its users."),
        _of_rules("user-budget", parse_budgets, "Of each of its users."),
        click.option(
            "--models",
            metavar="NAMES",
            callback=_models,
            help="The models that it may name, with commas between; '' for all.",
        ),
    ]


def _of_rules(
    name: str, parse: Callable[[str], object], meaning: str
) -> Callable[[Command], Command]:
    return click.option(
        f"--{name}",
        f"{name}s".replace("-", "_"),
        multiple=True,
        metavar="RULES",
        callback=_rules(parse),
        help=meaning,
    )


def _role(_context: click.Context, _parameter: click.Parameter, admin: bool | None) -> object:
    if admin is None:
        return _NOT_GIVEN
    return Role.ADMIN if admin else Role.CALLER


def _models(_context: click.Context, _parameter: click.Parameter, names: str | None) -> object:
    if names is None:
        return _NOT_GIVEN
    found = tuple(name for each in names.split(",") if (name := each.strip()))
    if names and not found:
        raise click.BadParameter("holds no name; '' allows all models.")
    return found


def _rules(
    parse: Callable[[str], object],
) -> Callable[[click.Context, click.Parameter, tuple[str, ...]], object]:
    """Return what reads a rule from each time the option was given."""

    def read(
        _context: click.Context, _parameter: click.Parameter, given: tuple[str, ...]
    ) -> object:
        if not given:
            return _NOT_GIVEN
        if [text.strip().lower() for text in given] == [DEFAULT]:
            return None
        try:
            return parse(";".join(given))
        except ValueError as error:
            raise click.BadParameter(
                f"{error}; or {DEFAULT} for what the service sets, or '' for none."
            ) from None

    return read
