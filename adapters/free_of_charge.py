"""Models that cost nothing."""

from chatport.domain.model import Usage
from chatport.domain.ports import PriceList


class FreeOfCharge(PriceList):
    """Says that every model is free, as the offline one is."""

    def cost(self, model: str, usage: Usage) -> int:  # noqa: ARG002  # whatever they are
        """Return 0."""
        return 0
