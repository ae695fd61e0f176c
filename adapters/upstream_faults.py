"""What the provider, the SDK and the network raise, translated to the domain's errors.

The only place that knows both. The exception of the SDK holds the key and the prompt, hence
`from None`; of the provider's words only its machine code is read.
"""

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import httpx2
import openai

from chatport.domain.errors import (
    ChatportError,
    ContentFiltered,
    ContextLengthExceeded,
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
    UpstreamUnreachable,
)

from .upstream_connection import HungUp

logger = logging.getLogger(__name__)

BY_EXCEPTION: tuple[tuple[type[Exception], type[UpstreamError]], ...] = (
    (httpx2.ConnectTimeout, UpstreamUnreachable),
    (httpx2.ConnectError, UpstreamUnreachable),
    (httpx2.TimeoutException, UpstreamTimeout),
    (HungUp, UpstreamHungUp),
    (httpx2.NetworkError, UpstreamDisconnected),
    (httpx2.RemoteProtocolError, UpstreamInvalidResponse),
    (openai.APITimeoutError, UpstreamTimeout),
    (openai.APIConnectionError, UpstreamUnreachable),
    (openai.APIError, UpstreamError),
    (Exception, UpstreamInvalidResponse),
)
"""First match counts. The last row is for JSON, Unicode and recursion errors of a bad answer."""

BY_CODE: Mapping[str, type[ChatportError]] = {
    "content_filter": ContentFiltered,
    "content_policy_violation": ContentFiltered,
    "context_length_exceeded": ContextLengthExceeded,
    "insufficient_quota": UpstreamQuotaExhausted,
}
"""OpenAI's machine codes that say more than the status: platform.openai.com, "Error codes"."""

BY_WORDS: tuple[tuple[str, type[ChatportError]], ...] = (
    ("contextwindowexceeded", ContextLengthExceeded),
    ("maximum context length", ContextLengthExceeded),
    ("contentpolicyviolation", ContentFiltered),
    ("content management policy", ContentFiltered),
    ("exceeded your current quota", UpstreamQuotaExhausted),
)
"""Gateways such as LiteLLM send the status as the code, and say the rest in words only."""

BY_STATUS: Mapping[int, type[ChatportError]] = {
    401: UpstreamAuthFailed,
    403: UpstreamAuthFailed,
    404: UpstreamModelUnavailable,
    408: UpstreamError,
    409: UpstreamError,
    429: UpstreamRateLimited,
    503: UpstreamOverloaded,
    529: UpstreamOverloaded,
}
"""Other statuses: from 500 an UpstreamError, below UpstreamRejected."""


@contextmanager
def translated() -> Iterator[None]:
    """Turn whatever the block raises into an error of the domain, and forget the original."""
    try:
        yield
    except ChatportError:
        raise
    except Exception as error:  # noqa: BLE001  # the process boundary to the provider: anything may come
        try:
            raise translate(error) from None
        except ChatportError as fault:
            fault.__context__ = None  # `from None` hides the original, but keeps it
            raise


def translate(error: Exception) -> ChatportError:
    """Return the domain's error for one of the SDK, the transport or the parser."""
    if isinstance(error, openai.APIStatusError):
        return _from_status(error)
    cause = error.__cause__
    if isinstance(error, openai.APIConnectionError) and isinstance(cause, Exception):
        error = cause
    kind = next(ours for theirs, ours in BY_EXCEPTION if isinstance(error, theirs))
    logger.warning("upstream fault %s: %s", kind.code, type(error).__name__)
    return kind()


def _from_status(error: openai.APIStatusError) -> ChatportError:
    status = error.status_code
    kind = BY_STATUS.get(status, UpstreamError if status >= 500 else UpstreamRejected)  # noqa: PLR2004  # RFC 9110: server errors
    kind = BY_CODE.get(error.code or "", _by_words(error) or kind)
    logger.warning("upstream fault %s: HTTP status %s", kind.code, status)
    retry_after = None
    if kind in {UpstreamRateLimited, UpstreamOverloaded}:
        retry_after = _retry_after_seconds(error.response.headers)
    return kind(
        retry_after_seconds=retry_after,
        upstream_status=status,
        upstream_request_id=error.request_id,
    )


def _by_words(error: openai.APIStatusError) -> type[ChatportError] | None:
    """Look for what gateways write instead of a code; only where the caller can be at fault."""
    if error.status_code not in {400, 429}:
        return None
    said = str(error.body).lower()
    return next((kind for words, kind in BY_WORDS if words in said), None)


def _retry_after_seconds(headers: httpx2.Headers) -> float:
    """Return the provider's own waiting time, from 1 second to an hour; 1 where it names none."""
    try:
        seconds = float(headers.get("retry-after", "1"))
    except ValueError:  # a date, which no provider sends
        return 1.0
    return min(max(seconds, 1.0), 3600.0) if math.isfinite(seconds) else 1.0
