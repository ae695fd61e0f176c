"""What budgets hold: what was spent in a period, and what is reserved for open calls."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from .errors import BudgetExceeded, ExceedsLimit, Refused, TooManyInFlight
from .history import History
from .model import Exchange
from .rules import Budget, InFlight, Period, Rule, Scope, Unit, dollars

OPEN = "open"
"""The period of an account that counts calls in flight: as long as they are open."""

NO_LIMIT = 2**62


class Spend(NamedTuple):
    """Tokens, nanodollars, and calls that are open."""

    tokens: int = 0
    nanodollars: int = 0
    calls: int = 0


class Account(NamedTuple):
    """Whose spending in which period: empty names are those of the wider scopes.

    Attributes:
        period: `2026-11-23`, `2026-11`, or `open`.
        bit: Stands for this account among the nine of an exchange.
    """

    caller: str
    user_id: str
    period: str
    bit: int


def accounts(caller: str, user_id: str, started_at: datetime) -> list[Account]:
    """Return the accounts of an exchange: of user, caller and all; of the month, the day, and now.

    The ones whose rules hold longest come first.
    """
    month, day = Period.MONTH.of(started_at), Period.DAY.of(started_at)
    return [
        Account(caller, user_id, month, 1),
        Account(caller, "", month, 2),
        Account("", "", month, 4),
        Account(caller, user_id, day, 8),
        Account(caller, "", day, 16),
        Account("", "", day, 32),
        Account(caller, user_id, OPEN, 64),
        Account(caller, "", OPEN, 128),
        Account("", "", OPEN, 256),
    ]


def _place(scope: Scope, rule: Budget | InFlight) -> int:
    """Return which of the nine accounts a rule is over."""
    if isinstance(rule, InFlight):
        return 6 + list(Scope).index(scope)
    return (3 if rule.period is Period.DAY else 0) + list(Scope).index(scope)


def spend_of(exchange: Exchange) -> Spend:
    """Return what an exchange has cost, or what it will, as far as it says."""
    usage = exchange.usage
    tokens = usage.prompt_tokens + usage.completion_tokens if usage else 0
    return Spend(tokens, exchange.nanodollars or 0)


class Ceiling(NamedTuple):
    """The rules over one account.

    Attributes:
        place: Of the account among those of an exchange.
        most: What may be spent and reserved.
    """

    place: int
    rules: tuple[tuple[Scope, Budget | InFlight], ...]
    most: Spend

    def has_room(self, spent: Spend, reserved: Spend, asked: Spend) -> bool:
        """Return whether so much more can be reserved."""
        most = self.most
        return (
            spent.tokens + reserved.tokens + asked.tokens <= most.tokens
            and spent.nanodollars + reserved.nanodollars + asked.nanodollars <= most.nanodollars
            and reserved.calls < most.calls
        )

    def refusal(self, spent: Spend, reserved: Spend, asked: Spend, at: datetime) -> Refused:
        """Return the error that names the rule in the way, and when it will not be."""
        short = [each for each in self.rules if _is_short(each[1], spent, reserved, asked)]
        scope, rule = max(short, key=lambda each: _is_hopeless(each[1], asked))
        if isinstance(rule, InFlight):
            return TooManyInFlight(scope, str(rule))
        used, held, more = (_counted(rule, each) for each in (spent, reserved, asked))
        show = str if rule.unit is Unit.TOKENS else dollars
        if _is_hopeless(rule, asked):
            return ExceedsLimit(scope, str(rule), f"{show(more)} {rule.unit}")
        amounts = (show(used), show(held), show(more))
        return BudgetExceeded(scope, str(rule), amounts, rule.period.end(at))


def _is_short(rule: Budget | InFlight, spent: Spend, reserved: Spend, asked: Spend) -> bool:
    if isinstance(rule, InFlight):
        return reserved.calls >= rule.amount
    return sum(_counted(rule, each) for each in (spent, reserved, asked)) > rule.amount


def _is_hopeless(rule: Budget | InFlight, asked: Spend) -> bool:
    """Return whether so much can never be reserved; then waiting cannot help."""
    return isinstance(rule, Budget) and _counted(rule, asked) > rule.amount


def _counted(budget: Budget, spend: Spend) -> int:
    return spend.tokens if budget.unit is Unit.TOKENS else spend.nanodollars


def ceilings(rules: Sequence[tuple[Scope, Rule]]) -> tuple[Ceiling, ...]:
    """Return what the rules that a store keeps set as ceilings, those that hold longest first."""
    found: dict[int, list[tuple[Scope, Budget | InFlight]]] = {}
    for scope, rule in rules:
        if isinstance(rule, (Budget, InFlight)):
            found.setdefault(_place(scope, rule), []).append((scope, rule))
    return tuple(
        Ceiling(
            place,
            tuple(found[place]),
            Spend(
                _least(found[place], Unit.TOKENS),
                _least(found[place], Unit.USD),
                _least(found[place], Unit.REQUESTS),
            ),
        )
        for place in sorted(found)
    )


def _least(rules: Sequence[tuple[Scope, Budget | InFlight]], unit: Unit) -> int:
    of_unit = (
        rule.amount
        for _, rule in rules
        if (rule.unit if isinstance(rule, Budget) else Unit.REQUESTS) is unit
    )
    return min(of_unit, default=NO_LIMIT)


def refusal(
    balances: Sequence[tuple[Ceiling, Spend, Spend]], asked: Spend, at: datetime
) -> Refused | None:
    """Return why so much cannot be reserved, or None if it can.

    Of several reasons, that waiting cannot help counts most, and then the first.

    Args:
        balances: Each ceiling, with what its account has spent and reserved.
        asked: What is to be reserved in each.
        at: When.
    """
    refusals = [
        ceiling.refusal(spent, reserved, asked, at)
        for ceiling, spent, reserved in balances
        if not ceiling.has_room(spent, reserved, asked)
    ]
    hopeless = (each for each in refusals if isinstance(each, ExceedsLimit))
    return next(hopeless, refusals[0] if refusals else None)


def as_it_is(exchange: Exchange, _history: History) -> Exchange:
    """Return the exchange."""
    return exchange


def let_in(_exchange: Exchange) -> None:
    """Do nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What an open exchange asks of the rules that a store keeps.

    Attributes:
        ceilings: Of the budgets and the numbers of calls in flight that apply.
        estimated: Returns the exchange, of which the history is known now, with what it may use
            and cost at most, or raises what refuses it.
        admit: Called when nothing but this is in the way any more, and nothing is written yet;
            it raises what refuses the exchange. If it is called again, the last call counts.
    """

    ceilings: Sequence[Ceiling] = ()
    estimated: Callable[[Exchange, History], Exchange] = field(default=as_it_is)
    admit: Callable[[Exchange], None] = field(default=let_in)


NO_CLAIM = Claim()
