"""What a request takes from the windows of its limits, and what is left."""

from dataclasses import dataclass

from .rules import Limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """What to take from one window.

    Attributes:
        rule: `user`, `caller` or `total`; named in refusals and statistics.
        key: Whose window it is.
        amount: Requests or tokens, as the limit counts.
    """

    rule: str
    key: str
    limit: Limit
    amount: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """What is left of one limit, and the receipt for what was taken.

    Attributes:
        remaining: Requests or tokens that would be admitted now.
        reset_seconds: Until more would be admitted than now; of a refusal, until the charge would.
        admitted: False if this limit refused the request.
        window: Which window it was taken from, as the counter knows it.
    """

    charge: Charge
    remaining: int
    reset_seconds: float
    admitted: bool = True
    window: float = 0.0
