"""Requests that are passed on as they are, and what tells a repeated request from a new one."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from .errors import InvalidIdempotencyKey, InvalidUnicode
from .text import is_storable

IDEMPOTENCY_KEY = re.compile(r"[ -~]{1,255}")
"""Printable ASCII; 255 characters is what Stripe, whose rules the field follows, takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestText:
    """A request in the provider's own protocol, as the client wrote it.

    Attributes:
        messages: The text of each message; oldest first.
        parameters: The text of all the rest.

    Raises:
        InvalidUnicode: A text holds a NUL or a lone surrogate.
    """

    messages: Sequence[str]
    parameters: str

    def __post_init__(self) -> None:
        if not all(map(is_storable, (*self.messages, self.parameters))):
            raise InvalidUnicode("request", "holds a NUL or half a surrogate pair")


@dataclass(frozen=True, slots=True, kw_only=True)
class Relay:
    """A request to pass on as it is. It says all that the model needs, so nothing is remembered.

    Attributes:
        body: What the provider gets.
        text: What is kept.
        size: How much the model reads, in UTF-8 bytes of text; None for that of the body.
        max_tokens: How long all answers together may get; None if nobody knows.
    """

    model: str
    body: bytes
    text: RequestText
    size: int | None = None
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Once:
    """What tells a repeated request from a new one.

    Attributes:
        request_hash: Of all that the request asks for.
        key: The client's own name for the request, 1 to 255 printable ASCII characters.
        retry: The client says that it has sent the request before.

    Raises:
        InvalidIdempotencyKey: The key has other characters, or another length.
    """

    request_hash: str
    key: str | None = None
    retry: bool = False

    def __post_init__(self) -> None:
        if self.key is not None and not IDEMPOTENCY_KEY.fullmatch(self.key):
            raise InvalidIdempotencyKey
