"""Every way in which chatport refuses or fails, as one tree split by who must act.

ChatportError
├── CallerError                 the caller changes the request, or waits
│   ├── InvalidField            invalid_field
│   │   ├── InvalidUserId       invalid_user_id
│   │   └── InvalidUnicode      invalid_unicode
│   ├── RateLimited             rate_limited
│   ├── ConversationBusy        conversation_busy
│   ├── ExchangeLost            exchange_lost
│   ├── ContentFiltered         content_filter
│   └── ContextLengthExceeded   context_length_exceeded
├── OperatorError               whoever runs chatport repairs something
│   └── StorageUnavailable      storage_unavailable
│       ├── StorageBusy         storage_busy
│       ├── StorageFull         storage_full
│       ├── StorageReadOnly     storage_readonly
│       ├── StorageCorrupt      storage_corrupt
│       └── StorageTooNew       storage_too_new
└── UpstreamError               upstream_error: the provider failed
    ├── UpstreamTimeout         upstream_timeout
    ├── UpstreamUnreachable     upstream_unreachable
    │   └── UpstreamHungUp      upstream_unreachable
    ├── UpstreamDisconnected    upstream_disconnected
    ├── UpstreamTruncated       upstream_truncated
    ├── UpstreamInvalidResponse upstream_invalid_response
    ├── UpstreamAuthFailed      upstream_auth_failed
    ├── UpstreamModelUnavailable upstream_model_unavailable
    ├── UpstreamRejected        upstream_rejected
    ├── UpstreamRateLimited     upstream_rate_limited
    ├── UpstreamQuotaExhausted  upstream_quota_exhausted
    └── UpstreamOverloaded      upstream_error

The text of an error is chatport's own and is safe to show to anybody: it never holds a key, a
prompt, an answer or a word of the provider's. HTTP statuses are the entrypoint's business.
"""

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from .model import Allowance

BUSY_RETRY_SECONDS = 1.0
"""OpenAI's SDKs try twice more, so a turn that ends within two seconds is waited for."""


class ChatportError(Exception):
    """Anything that chatport reports; its facts are attributes.

    Attributes:
        code: The machine word, stored with the exchange and sent to the client.
        retry_after_seconds: How long to wait before trying again can help; None if unknown.
        upstream_status: The HTTP status of the provider's answer, where there was one.
        upstream_request_id: The provider's own id of the call, where it sent one.
        allowance: What is left of the nearest limit; set once the request has met the limiter.
        may_be_billed: The provider answered, but the answer was not kept: trying again costs.
    """

    code: ClassVar[str] = "internal_error"
    message: ClassVar[str] = (
        "Something went wrong inside chatport; the operator finds it in the log."
    )

    def __init__(
        self,
        message: str = "",
        *,
        retry_after_seconds: float | None = None,
        upstream_status: int | None = None,
        upstream_request_id: str | None = None,
    ) -> None:
        super().__init__(message or self.message)
        self.retry_after_seconds = retry_after_seconds
        self.upstream_status = upstream_status
        self.upstream_request_id = upstream_request_id
        self.allowance: Allowance | None = None
        self.may_be_billed = False


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


class OperatorError(ChatportError):
    """Whoever runs chatport has something to repair."""


class StorageUnavailable(OperatorError):
    """The database does not answer, so nothing may be called or acknowledged."""

    code = "storage_unavailable"
    message = "The database cannot be used at the moment; the answer was not kept."


class StorageBusy(StorageUnavailable):
    """Another process held the database's write lock for too long."""

    code = "storage_busy"
    message = "The database is busy; try again shortly."

    def __init__(self) -> None:
        super().__init__(retry_after_seconds=1.0)


class StorageFull(StorageUnavailable):
    """The disk, or the size allowed for the database, is full."""

    code = "storage_full"
    message = "The disk of the database is full; free some space and it works again."


class StorageReadOnly(StorageUnavailable):
    """The database file or its folder may not be written."""

    code = "storage_readonly"
    message = "The database cannot be written; check that its folder is there, and the permissions."


class StorageCorrupt(StorageUnavailable):
    """The database file is damaged, or is no database."""

    code = "storage_corrupt"
    message = "The database file is damaged; restore it from a backup."


class StorageTooNew(StorageUnavailable):
    """A newer version of chatport wrote the database; it was left as it is."""

    code = "storage_too_new"
    message = "The database was written by a newer version of chatport; run that version."


class UpstreamError(ChatportError):
    """The provider failed in a way that has no better name."""

    code = "upstream_error"
    message = "The provider of the model failed."


class UpstreamTimeout(UpstreamError):
    """The provider did not answer, or did not finish, in time. It may bill the call."""

    code = "upstream_timeout"
    message = "The provider of the model did not answer in time."


class UpstreamUnreachable(UpstreamError):
    """No connection to the provider could be made."""

    code = "upstream_unreachable"
    message = "The provider of the model cannot be reached."


class UpstreamHungUp(UpstreamUnreachable):
    """The request was sent, and the connection broke before an answer came. It may be billed."""

    message = "The connection to the provider broke before it answered."


class UpstreamDisconnected(UpstreamError):
    """The connection broke while the provider was answering."""

    code = "upstream_disconnected"
    message = "The connection to the provider broke before the answer was complete."


class UpstreamTruncated(UpstreamError):
    """The stream ended politely, but without the finish reason that marks a whole answer."""

    code = "upstream_truncated"
    message = "The provider's answer ended before it was complete."


class UpstreamInvalidResponse(UpstreamError):
    """The provider answered with something that is no completion."""

    code = "upstream_invalid_response"
    message = "The provider sent an answer that cannot be understood."


class UpstreamAuthFailed(UpstreamError):
    """The provider refused chatport's own key."""

    code = "upstream_auth_failed"
    message = "The provider refused the server's key; the operator must check it."


class UpstreamModelUnavailable(UpstreamError):
    """The provider does not know the model, or does not offer it to this key."""

    code = "upstream_model_unavailable"
    message = "The provider does not know the configured model, or the address is not its API's."


class UpstreamRejected(UpstreamError):
    """The provider refused the request as malformed."""

    code = "upstream_rejected"
    message = "The provider refused the request."


class UpstreamRateLimited(UpstreamError):
    """The provider's own limit on chatport's key is reached."""

    code = "upstream_rate_limited"
    message = "The provider is limiting this server's requests; try again shortly."


class UpstreamQuotaExhausted(UpstreamError):
    """The account behind chatport's key has no credit left."""

    code = "upstream_quota_exhausted"
    message = "The server's account at the provider has no credit left."


class UpstreamOverloaded(UpstreamError):
    """The provider says that it is overloaded; in its code a plain `upstream_error`."""

    message = "The provider of the model is overloaded; try again shortly."
