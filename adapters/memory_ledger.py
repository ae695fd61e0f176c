"""What budgets hold and what was used, in memory."""

from dataclasses import dataclass

from chatport.domain.model import Exchange, State
from chatport.domain.rules import Period
from chatport.domain.spending import Claim, Spend, accounts, refusal, spend_of

Key = tuple[str, str, str]


@dataclass(slots=True)
class Used:
    """What one user of one caller has used of one model on one day."""

    calls: int = 0
    completed: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    estimated: int = 0
    unpriced: int = 0
    nanodollars: int = 0


@dataclass(slots=True)
class Balance:
    """What one account has spent and reserved."""

    spent: Spend = Spend()
    reserved: Spend = Spend()


class MemoryLedger:
    """Reserves, spends, and adds up. Whoever calls holds the store's lock.

    Attributes:
        usage: By caller, user id, day and model.
        balances: By caller, user id and period.
    """

    def __init__(self) -> None:
        self.usage: dict[tuple[str, str, str, str], Used] = {}
        self.balances: dict[Key, Balance] = {}
        self._held: dict[tuple[str, str], list[Key]] = {}

    def claim(self, claim: Claim, exchange: Exchange) -> None:
        """Reserve what the exchange may cost under all ceilings, or nothing.

        Raises:
            Refused: A rule is in the way.
        """
        asked = spend_of(exchange)._replace(calls=1)
        own = accounts(exchange.caller, exchange.user_id, exchange.started_at)
        keys = [own[ceiling.place][:3] for ceiling in claim.ceilings]
        there = [self.balances.setdefault(key, Balance(self._used(*key))) for key in keys]
        balances = [
            (ceiling, balance.spent, balance.reserved)
            for ceiling, balance in zip(claim.ceilings, there, strict=True)
        ]
        if error := refusal(balances, asked, exchange.started_at):
            raise error
        claim.admit(exchange)
        for key in keys:
            self.balances[key].reserved = _plus(self.balances[key].reserved, asked)
        self._held[_attempt(exchange)] = keys

    def settle(self, stored: Exchange, ended: Exchange) -> None:
        """Spend what an ended exchange has cost, give the rest back, and add it to the usage."""
        self._use(ended)
        held, actual = self._held.pop(_attempt(stored), []), spend_of(ended)
        reserved = spend_of(stored)._replace(calls=1)
        for account in accounts(ended.caller, ended.user_id, ended.started_at):
            balance = self.balances.get(account[:3])
            if balance is None:
                continue
            balance.spent = _plus(balance.spent, actual)
            if account[:3] in held:
                balance.reserved = _plus(balance.reserved, reserved, -1)

    def _used(self, caller: str, user_id: str, period: str) -> Spend:
        total = Spend()
        for (of_caller, of_user, day, _), used in self.usage.items():
            mine = caller in {"", of_caller} and user_id in {"", of_user}
            if mine and day.startswith(period):
                tokens = used.prompt_tokens + used.completion_tokens
                total = _plus(total, Spend(tokens, used.nanodollars))
        return total

    def _use(self, ended: Exchange) -> None:
        day = Period.DAY.of(ended.started_at)
        used = self.usage.setdefault((ended.caller, ended.user_id, day, ended.model), Used())
        used.calls += 1
        used.completed += ended.state is State.COMPLETED
        used.nanodollars += ended.nanodollars or 0
        if usage := ended.usage:
            used.prompt_tokens += usage.prompt_tokens
            used.cached_tokens += usage.cached_tokens
            used.completion_tokens += usage.completion_tokens
            used.estimated += usage.estimated
            used.unpriced += ended.nanodollars is None


def _attempt(exchange: Exchange) -> tuple[str, str]:
    return exchange.id, exchange.started_at.isoformat()


def _plus(one: Spend, other: Spend, times: int = 1) -> Spend:
    return Spend(*(a + times * b for a, b in zip(one, other, strict=True)))
