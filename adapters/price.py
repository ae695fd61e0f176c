"""What the tokens of one model cost, and the arithmetic of it."""

from dataclasses import dataclass
from decimal import ROUND_CEILING, Context, Decimal

from chatport.domain.model import Usage

MAX_PRICE = 1_000_000
"""USD per million tokens, that is a dollar a token: what is above was given in another unit."""

UPWARDS = Context(prec=100, rounding=ROUND_CEILING)
"""Exact for prices and counts of any sensible length, and beyond that never too low."""

NANODOLLARS_PER_TOKEN = 1_000
"""One USD per million tokens is a thousand nanodollars a token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """USD per million tokens of one model.

    Attributes:
        cached_input: For what the provider had cached of the prompt; None if it costs the same.
    """

    input: Decimal
    output: Decimal
    cached_input: Decimal | None = None

    def __post_init__(self) -> None:
        for amount in (self.input, self.output, self.cached_input):
            if amount is not None and not is_price(amount):
                raise ValueError(f"a price is a number from 0 to {MAX_PRICE}")

    def cost(self, usage: Usage) -> int:
        """Return what these tokens cost in nanodollars, rounded up."""
        cached = self.input if self.cached_input is None else self.cached_input
        return nanodollars(usage, self.input, cached, self.output)


def is_price(amount: Decimal) -> bool:
    """Return whether the amount can be a price in USD per million tokens."""
    return amount.is_finite() and 0 <= amount <= MAX_PRICE


def nanodollars(
    usage: Usage,
    new_input: Decimal,
    cached_input: Decimal,
    output: Decimal,
    fee: Decimal = Decimal(0),
) -> int:
    """Return what the tokens cost in nanodollars, rounded up, at these prices.

    Args:
        usage: Counts that make no sense are read as the nearest that do.
        new_input: USD per million tokens of the prompt that were not cached.
        cached_input: USD per million tokens of the prompt that were.
        output: USD per million tokens of the answer.
        fee: Nanodollars of the call itself.
    """
    prompt = max(0, usage.prompt_tokens)
    cached = min(max(0, usage.cached_tokens), prompt)
    total = UPWARDS.multiply(output, max(0, usage.completion_tokens))
    total = UPWARDS.fma(cached_input, cached, total)
    total = UPWARDS.fma(new_input, prompt - cached, total)
    total = UPWARDS.fma(total, NANODOLLARS_PER_TOKEN, fee)
    return int(total.to_integral_value(ROUND_CEILING))
