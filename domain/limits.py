"""The one admission: which rules a request meets, what it takes from each, and how long to wait."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from .allowance import Allowance, Charge
from .callers import Caller
from .errors import ExceedsLimit, RateLimited, Refused
from .ports import LimitCounter
from .rules import Budget, InFlight, Limit, Rule, Scope, Unit
from .spending import Ceiling, ceilings

MAX_PLANS = 1_024
"""Callers whose rules are remembered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The rules that apply to a caller's requests, sorted once.

    Attributes:
        limits: Those in windows, each with its scope, and with whose window it is if that is not
            a user's.
        ceilings: Of the budgets, and the numbers of calls in flight.
        needs_price: A budget is in dollars.
    """

    caller: Caller
    limits: Sequence[tuple[Scope, str, Limit]]
    ceilings: Sequence[Ceiling]
    needs_price: bool


class RateLimiter:
    """Admits a request under every limit, or refuses it under one and takes nothing.

    Limits are counted in windows, here. Budgets, and how many calls are in flight, stand in the
    log beside the open exchange: the plan's ceilings go to the store, which reserves with it.

    Args:
        counter: Counts, atomically; None if no limit in windows will ever apply.
        user: Rules on each user of each caller that has none of its own for them.
        caller: Rules on each caller that has none of its own.
        total: Rules on the whole service.
    """

    def __init__(
        self,
        counter: LimitCounter | None = None,
        *,
        user: Sequence[Rule] = (),
        caller: Sequence[Rule] = (),
        total: Sequence[Rule] = (),
    ) -> None:
        self._counter = counter
        self._user = _split(user)
        self._caller = _split(caller)
        self._total = _split(total)
        self._plans: dict[str, Plan] = {}

    def plan(self, caller: Caller) -> Plan:
        """Return the rules that apply to a caller's requests."""
        known = self._plans.get(caller.name)
        if known is None or known.caller != caller:
            known = self._plans[caller.name] = self._planned(caller)
            if len(self._plans) > MAX_PLANS:
                self._plans.pop(next(iter(self._plans)))
        return known

    def admit(self, caller: Caller, user_id: str, tokens: int) -> Sequence[Allowance]:
        """Take one request, and its tokens, from every limit that applies.

        Args:
            caller: Who asks.
            user_id: For whom.
            tokens: What the request may use at most.

        Returns:
            What is left of each limit; the receipts for `settle` and `release`.

        Raises:
            RateLimited: A limit is reached. Nothing was taken from any.
            ExceedsLimit: The request alone is more than a limit. Nothing was taken.
        """
        owner = f"{caller.name}/{user_id}"
        charges = [
            Charge(
                rule=scope,
                key=owner if scope is Scope.USER else key,
                limit=limit,
                amount=tokens if limit.unit is Unit.TOKENS else 1,
            )
            for scope, key, limit in self.plan(caller).limits
        ]
        if not charges:
            return ()
        if self._counter is None:
            raise ValueError("there are limits in windows, but RateLimiter has no counter")
        allowances = self._counter.take(charges)
        refused = [allowance for allowance in allowances if not allowance.admitted]
        if refused:
            error = _refusal(max(refused, key=lambda allowance: allowance.reset_seconds))
            error.allowances = allowances
            raise error
        return allowances

    def settle(self, taken: Sequence[Allowance], tokens: int) -> None:
        """Make the tokens that were taken those that were used. To be called once."""
        counted = [each for each in taken if each.charge.limit.unit is Unit.TOKENS]
        if counted and self._counter is not None:
            self._counter.correct(counted, [tokens] * len(counted))

    def release(self, taken: Sequence[Allowance]) -> Sequence[Allowance]:
        """Give all back that was taken: the request was refused after all. To be called once.

        Returns:
            What is left of each limit then.
        """
        if taken and self._counter is not None:
            self._counter.correct(taken, [0] * len(taken))
        return [replace(each, remaining=each.remaining + each.charge.amount) for each in taken]

    def _planned(self, caller: Caller) -> Plan:
        rules = list(self._rules(caller))
        keys = {Scope.USER: "", Scope.CALLER: caller.name, Scope.TOTAL: ""}
        return Plan(
            caller=caller,
            limits=[(scope, keys[scope], rule) for scope, rule in rules if isinstance(rule, Limit)],
            ceilings=ceilings(rules),
            needs_price=any(
                isinstance(rule, Budget) and rule.unit is Unit.USD for _, rule in rules
            ),
        )

    def _rules(self, caller: Caller) -> Iterator[tuple[Scope, Rule]]:
        chosen = (
            (Scope.USER, self._user, caller.user_limits, caller.user_budgets),
            (Scope.CALLER, self._caller, caller.limits, caller.budgets),
            (Scope.TOTAL, self._total, None, None),
        )
        for scope, (limits, budgets), own_limits, own_budgets in chosen:
            for limit in dict.fromkeys(limits if own_limits is None else own_limits):
                yield scope, limit  # one that is written twice counts once
            for budget in budgets if own_budgets is None else own_budgets:
                yield scope, budget


def _split(rules: Sequence[Rule]) -> tuple[list[Limit | InFlight], list[Budget]]:
    limits = [rule for rule in rules if not isinstance(rule, Budget)]
    return limits, [rule for rule in rules if isinstance(rule, Budget)]


def _refusal(allowance: Allowance) -> Refused:
    charge = allowance.charge
    if charge.amount > charge.limit.amount:
        return ExceedsLimit(charge.rule, str(charge.limit), f"{charge.amount} tokens")
    return RateLimited(charge.rule, str(charge.limit), allowance.reset_seconds)
