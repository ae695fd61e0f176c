"""The caller changes the request, or waits."""

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


class RateLimited(CallerError):
    """A rate limit refused the request; nothing was consumed."""

    code = "rate_limited"

    def __init__(self, rule: str, limit: str, retry_after_seconds: float) -> None:
        wait = max(1, round(retry_after_seconds))
        super().__init__(
            f"The {rule} limit of {limit} is reached; try again in {wait} s.",
            retry_after_seconds=retry_after_seconds,
        )
        self.rule = rule


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
