"""What a call may use and cost at most, before anybody knows."""

from dataclasses import dataclass, replace

from .history import History, estimated_tokens, utf8_size
from .model import Exchange, Usage
from .ports import PriceList

DEFAULT_OUTPUT_TOKENS = 4_096
"""For an answer whose length nobody has bounded; few are longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The size of a call, and what follows from it.

    Attributes:
        own_bytes: UTF-8 bytes of the prompt alone.
        context_bytes: UTF-8 bytes of all that the model reads, but the history.
        output_tokens: The longest answer.
        prices: What tokens cost; None if nobody knows.
    """

    own_bytes: int
    context_bytes: int
    output_tokens: int = DEFAULT_OUTPUT_TOKENS
    prices: PriceList | None = None

    def with_history(self, history: History) -> "Estimate":
        """Return the estimate for the call with its history."""
        if not history.bytes:
            return self
        return replace(self, context_bytes=self.context_bytes + history.bytes)

    def tokens(self) -> int:
        """Return the most tokens that the call may use, prompt and answer."""
        return estimated_tokens(self.context_bytes) + self.output_tokens

    def usage(self, reply: str, size: int = 0) -> Usage:
        """Return what the call has used if it has answered this, or so many bytes if more.

        It may be more than `output_tokens`: not every provider heeds a bound that it was told.
        """
        return self._usage(estimated_tokens(max(utf8_size(reply), size)))

    def most(self) -> Usage:
        """Return the most that the call may use."""
        return self._usage(self.output_tokens)

    def of(self, exchange: Exchange) -> Exchange:
        """Return the open exchange with the most that it may use and cost."""
        usage = self.most()
        return replace(exchange, usage=usage, nanodollars=self.cost(exchange.model, usage))

    def cost(self, model: str, usage: Usage) -> int | None:
        """Return what the usage costs in nanodollars; None if the price is not known."""
        return self.prices.cost(model, usage) if self.prices else None

    def turn_tokens(self, usage: Usage) -> int:
        """Return the turn's own tokens: its share, by size, of the prompt, and its reply."""
        share = -(-usage.prompt_tokens * self.own_bytes // self.context_bytes)
        return share + usage.completion_tokens

    def _usage(self, completion_tokens: int) -> Usage:
        return Usage(
            prompt_tokens=estimated_tokens(self.context_bytes),
            completion_tokens=completion_tokens,
            estimated=True,
        )
