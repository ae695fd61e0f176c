"""Which models the clients may ask for."""

import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .callers import ANONYMOUS, Caller
from .errors import ChatportError, ModelNotFound

if TYPE_CHECKING:
    from .ports import Clock, LLMGateway

CACHE_SECONDS = 60.0
"""Providers add models a few times a month; clients ask at each of their starts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """What the provider says of one model.

    Attributes:
        id: The model's name; it may hold slashes.
        facts: All that the provider says, the id too.
    """

    id: str
    facts: Mapping[str, object]


class ModelCatalog:
    """The provider's models, asked for once a minute, and of those the ones that are allowed.

    Args:
        allowed: The models that the operator has listed; empty for all.
    """

    def __init__(
        self, gateway: "LLMGateway", clock: "Clock", allowed: Collection[str] = ()
    ) -> None:
        self._gateway = gateway
        self._clock = clock
        self._allowed = frozenset(allowed)
        self._asking = threading.Lock()
        self._cards: Sequence[ModelCard] = ()
        self._fresh_until = clock.monotonic()
        self._failure: ChatportError | None = None
        self._failed_at = 0.0

    def cards(self, caller: Caller = ANONYMOUS) -> Sequence[ModelCard]:
        """Return the models that a caller may use, in the provider's order.

        Raises:
            UpstreamError: The provider was asked, and failed.
        """
        came_at = self._clock.monotonic()
        with self._asking:  # whoever comes meanwhile waits for the same answer, or failure
            if self._failure is not None and came_at < self._failed_at:
                raise self._failure.with_traceback(None)
            if self._clock.monotonic() >= self._fresh_until:
                self._ask()
            return [card for card in self._cards if caller.may_use(card.id)]

    def card(self, model: str, caller: Caller = ANONYMOUS) -> ModelCard:
        """Return what the provider says of one model.

        Raises:
            ModelNotFound: The provider does not list it, or the caller may not use it.
            UpstreamError: The provider was asked, and failed.
        """
        for card in self.cards(caller):
            if card.id == model:
                return card
        raise ModelNotFound

    def _ask(self) -> None:
        self._failure = None
        try:
            cards = self._gateway.models()
        except ChatportError as error:
            self._failure, self._failed_at = error, self._clock.monotonic()
            raise
        self._cards = [card for card in cards if self._is_allowed(card.id)]
        self._fresh_until = self._clock.monotonic() + CACHE_SECONDS

    def _is_allowed(self, model: str) -> bool:
        return not self._allowed or model in self._allowed
