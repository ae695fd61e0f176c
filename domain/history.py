"""How much of a conversation goes along with the next prompt."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

BYTES_PER_TOKEN = 4
"""English prose and source code: 4.25 characters a token were measured with o200k_base."""


class PastTurn(NamedTuple):
    """A completed exchange, as the model needs it. A tuple, since a history may hold hundreds."""

    number: int
    prompt: str
    reply: str
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryBounds:
    """How much history a call may carry; the newest turns that fit every bound are taken.

    Attributes:
        turns: Completed exchanges. Also bounds what a store reads.
        bytes: UTF-8 bytes of their texts.
        tokens: The provider's own counts, as far as it sent them.
    """

    turns: int = 500
    bytes: int = 1_000_000
    tokens: int = 8_000


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """The turns that go along, oldest first.

    Attributes:
        bytes: Their size in UTF-8.
        latest: When the newest exchange of the whole log began or ended.
    """

    turns: Sequence[PastTurn] = ()
    bytes: int = 0
    latest: datetime | None = None

    @property
    def context_from(self) -> int | None:
        """Return the number of the oldest turn that goes along, or None."""
        return self.turns[0].number if self.turns else None


def newest_within(bounds: HistoryBounds, newest_first: Iterable[PastTurn]) -> History:
    """Take the newest turns that fit; the first that does not fit ends the history."""
    taken: list[PastTurn] = []
    size = tokens = 0
    for turn in newest_first:
        _, prompt, reply, turn_tokens = turn
        turn_size = utf8_size(prompt) + utf8_size(reply)
        tokens += turn_tokens
        if len(taken) == bounds.turns or size + turn_size > bounds.bytes or tokens > bounds.tokens:
            break
        size += turn_size
        taken.append(turn)
    taken.reverse()
    return History(turns=taken, bytes=size)


def utf8_size(text: str) -> int:
    """Return the size of the text in UTF-8 bytes."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def estimated_tokens(size: int) -> int:
    """Estimate the tokens of `size` bytes of text; rounded up."""
    return -(-size // BYTES_PER_TOKEN)
