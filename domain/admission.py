"""One request's way through the limits: admitted with an estimate, settled with the truth."""

from collections.abc import Sequence

from .allowance import Allowance
from .callers import Caller
from .errors import ModelNotPriced
from .estimates import Estimate
from .history import History
from .limits import RateLimiter
from .model import Exchange, Usage
from .spending import Claim


class Admission:
    """Takes from all limits at once, when the history and so the size of the call is known.

    For one thread at a time.

    Attributes:
        allowances: What is left of each limit in windows.
        estimate: What the call may use.
        opened: The exchange as it is dated in the log; None until it is written there.
    """

    def __init__(self, limiter: RateLimiter, caller: Caller, estimate: Estimate) -> None:
        self.allowances: Sequence[Allowance] = ()
        self.estimate = estimate
        self.opened: Exchange | None = None
        self._without_history = estimate
        self._limiter = limiter
        self._caller = caller
        self._plan = limiter.plan(caller)

    def claim(self) -> Claim:
        """Return what the store is to ask, and to reserve, when it writes the open exchange."""
        return Claim(ceilings=self._plan.ceilings, estimated=self._estimated, admit=self._admit)

    def release(self) -> Sequence[Allowance]:
        """Give back what was taken: the exchange was not written; return what is left then."""
        taken, self.allowances = self.allowances, ()
        return self._limiter.release(taken)

    def settle(self, usage: Usage | None) -> None:
        """Make what was taken what was used. To be called once, with the outcome."""
        used = usage.prompt_tokens + usage.completion_tokens if usage else 0
        self._limiter.settle(self.allowances, used)

    def _estimated(self, exchange: Exchange, history: History) -> Exchange:
        """Return the exchange with the most that it may use and cost.

        Raises:
            ModelNotPriced: A budget in dollars applies, and the price is not known.
        """
        exchange = self.opened = exchange.after(history.latest)
        self.estimate = self._without_history.with_history(history)
        estimated = self.estimate.of(exchange)
        if self._plan.needs_price and estimated.nanodollars is None:
            raise ModelNotPriced
        return estimated

    def _admit(self, exchange: Exchange) -> None:
        """Take from the windows, instead of what was taken before.

        Raises:
            RateLimited, ExceedsLimit: A limit refuses the request. Nothing was taken.
        """
        self.release()
        tokens = self.estimate.tokens()
        self.allowances = self._limiter.admit(self._caller, exchange.user_id, tokens)
