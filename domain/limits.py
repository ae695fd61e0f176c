"""Rate limits: which rules a request meets, what it takes from each, and how long to wait."""

from collections.abc import Sequence

from .allowance import Allowance, Charge, Limit
from .errors import RateLimited
from .ports import LimitCounter


class RateLimiter:
    """Admits a request under every rule, or refuses it under one and takes nothing.

    Args:
        counter: Counts, atomically.
        user: Limits on each user of each caller.
        total: Limits on the whole service.
    """

    def __init__(
        self, counter: LimitCounter, *, user: Sequence[Limit] = (), total: Sequence[Limit] = ()
    ) -> None:
        self._counter = counter
        self._user = tuple(user)
        self._total = tuple(total)

    def admit(self, caller: str, user_id: str) -> Allowance | None:
        """Take one request from every limit that applies.

        Returns:
            The limit that is nearest to refusing, or None where there is no limit at all.

        Raises:
            RateLimited: One limit is reached. Nothing was taken from any.
        """
        charges = [
            *(Charge(rule="user", key=f"{caller}/{user_id}", limit=limit) for limit in self._user),
            *(Charge(rule="total", key="", limit=limit) for limit in self._total),
        ]
        if not charges:
            return None
        allowances = self._counter.take(charges)
        refused = [allowance for allowance in allowances if not allowance.admitted]
        if refused:
            raise _refusal(max(refused, key=lambda allowance: allowance.reset_seconds))
        return min(allowances, key=lambda allowance: allowance.remaining)


def _refusal(allowance: Allowance) -> RateLimited:
    error = RateLimited(allowance.charge.rule, str(allowance.charge.limit), allowance.reset_seconds)
    error.allowance = allowance
    return error
