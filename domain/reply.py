"""What the user gets, once and again."""

from collections.abc import Sequence
from dataclasses import dataclass

from .allowance import Allowance
from .model import Exchange, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What the user gets.

    Attributes:
        answer: The provider's own answer, if the request was passed on as it was.
        allowances: What is left of each limit.
        replayed: This answer was given before; nothing was called or consumed.
    """

    exchange_id: str
    user_id: str
    text: str
    finish_reason: str
    usage: Usage
    answer: bytes = b""
    allowances: Sequence[Allowance] = ()
    replayed: bool = False


def reply_again(earlier: Exchange) -> Reply:
    """Return the answer of an exchange that was completed before."""
    return Reply(
        exchange_id=earlier.id,
        user_id=earlier.user_id,
        text=earlier.reply,
        finish_reason=earlier.finish_reason or "",
        usage=earlier.usage or Usage(prompt_tokens=0, completion_tokens=0, estimated=True),
        answer=b"".join(earlier.answer),
        replayed=True,
    )
