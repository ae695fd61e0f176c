"""Every way in which chatport refuses or fails, as one tree split by who must act.

ChatportError
├── CallerError                 the caller changes the request, or waits
│   ├── InvalidField            invalid_field
│   │   ├── InvalidUserId       invalid_user_id
│   │   ├── InvalidUnicode      invalid_unicode
│   │   ├── ModelNotAllowed     model_not_allowed
│   │   ├── ModelNotFound       model_not_found
│   │   ├── ModelNotPriced      model_not_priced
│   │   └── InvalidIdempotencyKey invalid_idempotency_key
│   ├── InvalidApiKey           invalid_api_key
│   ├── NotPermitted            not_permitted
│   ├── CallerExists            caller_exists
│   ├── CallerNotFound          caller_not_found
│   ├── ExchangeNotFound        exchange_not_found
│   ├── Refused                 rate_limited: by a rule; nothing was consumed
│   │   ├── RateLimited         rate_limited
│   │   ├── TooManyInFlight     rate_limited
│   │   ├── ExceedsLimit        exceeds_limit
│   │   └── BudgetExceeded      budget_exceeded
│   ├── ConversationBusy        conversation_busy
│   ├── IdempotencyInProgress   idempotency_in_progress
│   ├── IdempotencyKeyReused    idempotency_key_reused
│   ├── ExchangeLost            exchange_lost
│   ├── CallerGone              client_gone
│   │   └── CallerTooSlow       client_too_slow
│   ├── ContentFiltered         content_filter
│   └── ContextLengthExceeded   context_length_exceeded
├── OperatorError               whoever runs chatport repairs something
│   ├── Overloaded              overloaded
│   └── StorageUnavailable      storage_unavailable
│       ├── StorageBusy         storage_busy
│       ├── StorageFull         storage_full
│       ├── StorageReadOnly     storage_readonly
│       ├── StorageCorrupt      storage_corrupt
│       ├── StorageLost         storage_lost
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
    ├── UpstreamUnavailable     upstream_unavailable
    └── UpstreamOverloaded      upstream_error

The text of an error is chatport's own and is safe to show to anybody: it never holds a key, a
prompt, an answer or a word of the provider's. HTTP statuses are the entrypoint's business.
"""

from .caller import (
    BudgetExceeded,
    CallerError,
    CallerExists,
    CallerGone,
    CallerNotFound,
    CallerTooSlow,
    ContentFiltered,
    ContextLengthExceeded,
    ConversationBusy,
    ExceedsLimit,
    ExchangeLost,
    ExchangeNotFound,
    IdempotencyInProgress,
    IdempotencyKeyReused,
    InvalidApiKey,
    InvalidField,
    InvalidIdempotencyKey,
    InvalidUnicode,
    InvalidUserId,
    ModelNotAllowed,
    ModelNotFound,
    ModelNotPriced,
    NotPermitted,
    RateLimited,
    Refused,
    TooManyInFlight,
)
from .chatport_error import (
    ChatportError,
)
from .operator import (
    OperatorError,
    Overloaded,
    StorageBusy,
    StorageCorrupt,
    StorageFull,
    StorageLost,
    StorageReadOnly,
    StorageTooNew,
    StorageUnavailable,
)
from .upstream import (
    UpstreamAuthFailed,
    UpstreamDisconnected,
    UpstreamError,
    UpstreamHungUp,
    UpstreamInvalidResponse,
    UpstreamModelUnavailable,
    UpstreamOverloaded,
    UpstreamQuotaExhausted,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamTruncated,
    UpstreamUnavailable,
    UpstreamUnreachable,
)

__all__ = [
    "BudgetExceeded",
    "CallerError",
    "CallerExists",
    "CallerGone",
    "CallerNotFound",
    "CallerTooSlow",
    "ChatportError",
    "ContentFiltered",
    "ContextLengthExceeded",
    "ConversationBusy",
    "ExceedsLimit",
    "ExchangeLost",
    "ExchangeNotFound",
    "IdempotencyInProgress",
    "IdempotencyKeyReused",
    "InvalidApiKey",
    "InvalidField",
    "InvalidIdempotencyKey",
    "InvalidUnicode",
    "InvalidUserId",
    "ModelNotAllowed",
    "ModelNotFound",
    "ModelNotPriced",
    "NotPermitted",
    "OperatorError",
    "Overloaded",
    "RateLimited",
    "Refused",
    "StorageBusy",
    "StorageCorrupt",
    "StorageFull",
    "StorageLost",
    "StorageReadOnly",
    "StorageTooNew",
    "StorageUnavailable",
    "TooManyInFlight",
    "UpstreamAuthFailed",
    "UpstreamDisconnected",
    "UpstreamError",
    "UpstreamHungUp",
    "UpstreamInvalidResponse",
    "UpstreamModelUnavailable",
    "UpstreamOverloaded",
    "UpstreamQuotaExhausted",
    "UpstreamRateLimited",
    "UpstreamRejected",
    "UpstreamTimeout",
    "UpstreamTruncated",
    "UpstreamUnavailable",
    "UpstreamUnreachable",
]
