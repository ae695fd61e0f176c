"""The caller changes the request, or waits."""

import math
from datetime import datetime

from .chatport_error import ChatportError

BUSY_RETRY_SECONDS = 1.0
"""OpenAI's SDKs try twice more, so a turn that ends within two seconds is waited for."""


class CallerError(ChatportError):
    """The caller can act: change the request, or wait."""


class InvalidField(CallerError):
    """A field of the request is missing, of the wrong type, or out of bounds."""

    code = "invalid_field"
    message = "A field of the request is not valid."

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field} {problem}.")
        self.field = field


class InvalidUserId(InvalidField):
    """The user id is not 1 to 128 characters of `A-Z a-z 0-9 . _ @ : -`."""

    code = "invalid_user_id"


class InvalidUnicode(InvalidField):
    """The text holds a NUL or half a surrogate pair, which no database keeps faithfully."""

    code = "invalid_unicode"


class Refused(CallerError):
    """A limit or a budget refused the request; nothing was consumed.

    Attributes:
        rule: The rule that refused, such as `user 20 requests per minute`.
    """

    code = "rate_limited"

    def __init__(
        self, scope: str, rule: str, message: str, *, retry_after_seconds: float | None = None
    ) -> None:
        super().__init__(message, retry_after_seconds=retry_after_seconds)
        self.rule = f"{scope} {rule}"


class RateLimited(Refused):
    """A rate limit refused the request; it would be admitted later."""

    def __init__(self, scope: str, rule: str, retry_after_seconds: float) -> None:
        wait = max(1, math.ceil(retry_after_seconds))
        super().__init__(
            scope,
            rule,
            f"The {scope} limit of {rule} is reached; try again in {wait} s.",
            retry_after_seconds=retry_after_seconds,
        )


class TooManyInFlight(Refused):
    """As many calls as are allowed are being answered."""

    def __init__(self, scope: str, rule: str) -> None:
        super().__init__(
            scope,
            rule,
            f"The {scope} limit of {rule} is reached; try again when an answer has come.",
            retry_after_seconds=BUSY_RETRY_SECONDS,
        )


class ExceedsLimit(Refused):
    """The request alone asks for more than a limit or budget ever admits; waiting cannot help."""

    code = "exceeds_limit"

    def __init__(self, scope: str, rule: str, asked: str) -> None:
        super().__init__(
            scope,
            rule,
            f"This request may take {asked}, and the {scope} is allowed {rule};"
            " send less, or ask for a shorter answer with max_completion_tokens.",
        )


class BudgetExceeded(Refused):
    """What is left of a budget is less than the request may cost; waiting helps in days."""

    code = "budget_exceeded"

    def __init__(
        self, scope: str, rule: str, amounts: tuple[str, str, str], resets_at: datetime
    ) -> None:
        spent, reserved, asked = amounts
        super().__init__(
            scope,
            rule,
            f"The {scope} budget of {rule} has no room for this request, which may cost {asked}:"
            f" {spent} are spent, {reserved} are reserved for calls in flight."
            f" It begins anew at {resets_at:%Y-%m-%d %H:%M} UTC.",
        )
        self.resets_at = resets_at


class ConversationBusy(CallerError):
    """Another turn of the same conversation is still open."""

    code = "conversation_busy"
    message = "This user's previous message is still being answered; try again shortly."

    def __init__(self) -> None:
        super().__init__(retry_after_seconds=BUSY_RETRY_SECONDS)


class ExchangeLost(CallerError):
    """The exchange was erased, or its lease ran out, while the provider was answering."""

    code = "exchange_lost"
    message = "The conversation was erased, or the answer took too long; the answer was not kept."


class ContentFiltered(CallerError):
    """The provider refused the prompt for its content."""

    code = "content_filter"
    message = "The provider's content filter refused this message."


class ContextLengthExceeded(CallerError):
    """The conversation does not fit into the model's context."""

    code = "context_length_exceeded"
    message = "The message and its conversation are longer than the model can read."


class ModelNotAllowed(InvalidField):
    """The operator has not listed the model."""

    code = "model_not_allowed"

    def __init__(self) -> None:
        super().__init__("model", "is not one of those that this server offers: see /v1/models")


class ModelNotFound(InvalidField):
    """The provider does not list the model, or the operator does not."""

    code = "model_not_found"

    def __init__(self) -> None:
        super().__init__("model", "is not one of those that this server offers: see /v1/models")


class ModelNotPriced(InvalidField):
    """A budget in dollars applies, and the model's price is not known."""

    code = "model_not_priced"

    def __init__(self) -> None:
        super().__init__(
            "model",
            "has no known price, and a budget in dollars applies; the operator can name its price"
            " in the file of CHATPORT_PRICES",
        )


class InvalidApiKey(CallerError):
    """There is no key, or it is unknown, malformed, revoked or expired; which, is not said."""

    code = "invalid_api_key"
    message = "There is no valid API key; send the header Authorization: Bearer cp_... of chatport."


class NotPermitted(CallerError):
    """The key is good, but not for this."""

    code = "not_permitted"
    message = "This API key has another role: callers chat, admins look after the service."


class CallerExists(CallerError):
    """There is a caller of this name."""

    code = "caller_exists"
    message = "There is a caller of this name already; rotate gives it a new key."


class CallerNotFound(CallerError):
    """There is no caller of this name, or no key with this id."""

    code = "caller_not_found"
    message = "There is no caller of this name, and no key with this id."


class ExchangeNotFound(CallerError):
    """There is no exchange with this id."""

    code = "exchange_not_found"
    message = "There is no exchange with this id; it is the X-Request-Id of a request that had one."


class InvalidIdempotencyKey(InvalidField):
    """The idempotency key is not 1 to 255 printable ASCII characters."""

    code = "invalid_idempotency_key"

    def __init__(self) -> None:
        super().__init__("Idempotency-Key", "must be 1 to 255 printable ASCII characters")


class IdempotencyInProgress(CallerError):
    """The request with the same idempotency key is still being answered."""

    code = "idempotency_in_progress"
    message = "A request with this Idempotency-Key is still being answered; try again shortly."

    def __init__(self) -> None:
        super().__init__(retry_after_seconds=BUSY_RETRY_SECONDS)


class IdempotencyKeyReused(CallerError):
    """The idempotency key was used for another request before."""

    code = "idempotency_key_reused"
    message = "This Idempotency-Key was used for another request; choose a new key."


class CallerGone(CallerError):
    """The client left before the provider answered; nobody will read this."""

    code = "client_gone"
    message = "The client left before there was an answer."


class CallerTooSlow(CallerGone):
    """The client takes the answer so slowly that the time for all of it is up."""

    code = "client_too_slow"
    message = "The answer was not read in time; read faster, or ask for a shorter one."
