"""The prices of the `genai-prices` package: of 47 providers (0.2.3), as of its release.

Of the package only the data and the search in them are used. Its `calc_price` takes 110 us a call,
and it remembers every name it was ever asked for; its updater, a thread, is never started.
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING

from chatport.domain.model import Usage
from chatport.domain.ports import Clock, PriceList

from .price import Price, nanodollars
from .system import SystemClock

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, Provider, TieredPrices

MAX_NAME = 200
"""Characters of a model's name; the longest that genai-prices 0.2.3 knows has 61."""

MAX_NAMES = 256
"""How many names are remembered. They come from strangers; looking one up takes 0.1 to 0.5 ms."""

MAKERS = {
    "openai": re.compile(r"(?:openai/)?((?:ft:)?gpt-\d.*|chatgpt-.*|o\d.*)"),
    "anthropic": re.compile(r"(?:anthropic/)?(claude-.*)"),
    "google": re.compile(r"(?:google/|gemini/)?(gemini-.*)"),
    "x-ai": re.compile(r"(?:x-ai/|xai/)?(grok-.*)"),
}
"""Which models only their maker sells, by the names they have there and behind most gateways."""

FEE_NANODOLLARS = 1_000_000
"""One USD per thousand calls, as the package says it, is a million nanodollars a call."""


class GenaiPriceList(PriceList):
    """Knows the list prices of the provider that the base URL names, and the operator's own.

    - A price of the operator's own, for exactly this name, is the one that counts.
    - If the package knows the provider by its URL, such as api.openai.com or openrouter.ai, then
      only that provider's prices count, under the names that it uses.
    - Any other host may be a proxy before a provider, or a machine of one's own: there the names
      of OpenAI's, Anthropic's, Google's and xAI's own models have their makers' prices. What
      anybody may run for himself (gpt-oss, Llama, Mistral, DeepSeek, Qwen) has no known price.

    The price depends on the time, where the provider's does. A model that is only sold by other
    things than tokens has no known price; one whose name the provider ends with `:free` costs 0.
    """

    def __init__(
        self,
        *,
        base_url: str,
        overrides: Mapping[str, Price] = {},
        clock: Clock | None = None,
    ) -> None:
        from genai_prices.data_snapshot import get_snapshot  # noqa: PLC0415  # takes 0.2 s

        self._overrides = dict(overrides)
        self._clock = clock or SystemClock()
        self._snapshot = get_snapshot()
        self._provider = self._provider_at(base_url)
        self._known = lru_cache(MAX_NAMES)(self._find)

    def cost(self, model: str, usage: Usage) -> int | None:
        """Return what the tokens cost in nanodollars, and a fee for the call where there is one."""
        own = self._overrides.get(model)
        if own is not None:
            return own.cost(usage)
        found = self._known(model) if len(model) <= MAX_NAME else None
        if found is None:
            return None
        prices = found.get_prices(self._clock.now())
        if not vars(prices) and found.id.endswith(":free"):
            return 0
        return _cost(prices, usage)

    def _provider_at(self, base_url: str) -> "Provider | None":
        with suppress(LookupError):
            return self._snapshot.find_provider(None, None, base_url.lower())
        return None

    def _find(self, model: str) -> "ModelInfo | None":
        """Return the package's model of this name; not by its own cache, which has no bound."""
        provider, name = self._provider, model
        if provider is None:
            provider, name = self._maker(model.lower())
        if provider is None:
            return None
        found = provider.find_model(name, all_providers=self._snapshot.providers)
        return found if found is not None and found.prices else None

    def _maker(self, model: str) -> "tuple[Provider | None, str]":
        """Return who alone sells this model, if so, and its name there."""
        for maker, names in MAKERS.items():
            if match := names.fullmatch(model):
                with suppress(LookupError):
                    return self._snapshot.find_provider(None, maker, None), match[1]
        return None, model


def _cost(prices: "ModelPrice", usage: Usage) -> int | None:
    known = vars(prices)
    new_input = _rate(known.get("input_mtok"), usage)
    output = _rate(known.get("output_mtok"), usage)
    if new_input is None or output is None:
        return None
    cached_input = _rate(known.get("cache_read_mtok"), usage)
    fee = _rate(known.get("requests_kcount"), usage) or Decimal(0)
    return nanodollars(
        usage,
        new_input,
        new_input if cached_input is None else cached_input,
        output,
        fee * FEE_NANODOLLARS,
    )


def _rate(price: "Decimal | TieredPrices | None", usage: Usage) -> Decimal | None:
    """Return the price of the tier that the prompt falls into; it holds for all of its tokens."""
    if price is None or isinstance(price, Decimal):
        return price
    reached = (tier.price for tier in reversed(price.tiers) if usage.prompt_tokens > tier.start)
    return next(reached, price.base)
