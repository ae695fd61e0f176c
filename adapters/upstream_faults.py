"""What the provider, the SDK and the network raise, translated to the domain's errors.

The only place that knows both. The exception of the SDK holds the key and the prompt, hence
`from None`; of the provider's words only its machine code is read.
"""

import logging
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import chain
from types import TracebackType

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
from .upstream_words import id_of_call, passed_on, quoted, words_of

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
    "model_not_found": UpstreamModelUnavailable,
    "billing_hard_limit_reached": UpstreamQuotaExhausted,
    "billing_not_active": UpstreamQuotaExhausted,
    "Arrearage": UpstreamQuotaExhausted,
    "exceeded_current_quota_error": UpstreamQuotaExhausted,
    "AccessDenied.Unpurchased": UpstreamModelUnavailable,
    "Model.AccessDenied": UpstreamModelUnavailable,
    "model_permission_blocked_org": UpstreamModelUnavailable,
    "model_permission_blocked_project": UpstreamModelUnavailable,
    "no_access": UpstreamModelUnavailable,
}
"""Machine codes, and types, that say more than the status: OpenAI's (platform.openai.com, "Error
codes"); DashScope's and Moonshot's for an account without credit; those of DashScope, Groq and
GitHub for a model that an account may not use, which is the mistake of who has named it."""

BY_WORDS: Mapping[int, Mapping[str, type[ChatportError]]] = {
    400: {
        "contextwindowexceeded": ContextLengthExceeded,
        "maximum context length": ContextLengthExceeded,
        "contentpolicyviolation": ContentFiltered,
        "content management policy": ContentFiltered,
        "exceeds the maximum number of tokens": ContextLengthExceeded,
    },
    402: {
        "can only afford 0.": UpstreamQuotaExhausted,
        **dict.fromkeys(("fewer max_tokens", "tokens limit exceeded"), UpstreamRejected),
    },
    403: {"requires moderation": ContentFiltered},
}
"""Gateways such as LiteLLM send the status as the code, and say the rest in words only; the last
of a 400 are Gemini's. OpenRouter says with 402 and 403 also what is wrong with one request."""

BY_MESSAGE: Mapping[str, type[ChatportError]] = {
    r"prompt is too long.*": ContextLengthExceeded,
    r"your credit balance is too low\b[\w ]*\.( please go to plans & billing to [\w ]+\.)?": (
        UpstreamQuotaExhausted
    ),
    r"api key (not valid|not found|expired)\. please [\w ]+ api key\.": UpstreamAuthFailed,
    r"incorrect api key provided: \S+ you can obtain an api key from \S+": UpstreamAuthFailed,
}
"""Of a 400, patterns of the whole message: Anthropic's, Gemini's and xAI's. What is for operators
closes the way for all, so no words of a client that a provider may quote must make it one of them.
"""

NO_CREDIT = (
    r"((\w+exception )?[\w.]+(: | - )|error code: 429 - |429 )*(\{'error': \{'message': ['\"])?"
    r"you exceeded your current quota, please check your plan\b.*"
    r"|your team \S+ has either used all available credits or reached its monthly spending\b.*"
)
SOON_AGAIN = ("retry in", "resource_exhausted")
"""Of a 429: OpenAI's, by itself or behind what gateways set before it, and xAI's. Gemini says of
each limit, also of one for a minute, that the quota is exceeded."""

BY_STATUS: Mapping[int, type[ChatportError]] = {
    401: UpstreamAuthFailed,
    402: UpstreamQuotaExhausted,
    403: UpstreamAuthFailed,
    404: UpstreamModelUnavailable,
    408: UpstreamError,
    409: UpstreamError,
    429: UpstreamRateLimited,
    503: UpstreamOverloaded,
    529: UpstreamOverloaded,
}
"""Other statuses: from 500 an UpstreamError, below UpstreamRejected."""


FOR_OPERATORS = frozenset({UpstreamAuthFailed, UpstreamQuotaExhausted})
"""Only people can repair these. The breaker sees to it that they are not logged for ever."""


class translated:  # noqa: N801  # it is used as a function that makes a block
    """Turn whatever a block raises into an error of the domain, and forget the original.

    The error has crossed no frame whose variables hold the original, the key or an answer: tools
    that report errors show them.

    Args:
        key: The key of the call, which no words of the provider's may hold.
        relayed: The request was passed on as it was; its mistakes are told in the provider's
            words, without secrets.
    """

    def __init__(self, key: str, *, relayed: bool = False) -> None:
        self._relayed, self._key = relayed, key

    def __enter__(self) -> None:
        """Begin the block."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        """Raise the domain's error in place of the block's."""
        if not isinstance(error, Exception):
            return
        fault = error if isinstance(error, ChatportError) else translate(error)
        if isinstance(error, openai.APIStatusError):
            fault.upstream_said = error.response.content.decode("utf-8", "replace")
            if self._relayed and type(fault) not in FOR_OPERATORS:
                fault.passed_on = passed_on(error.status_code, error.response.content, self._key)
        fault.upstream_said = quoted(fault.upstream_said, self._key)
        fault.upstream_request_id = id_of_call(fault.upstream_request_id, self._key)
        del error, _
        try:
            raise fault.with_traceback(None) from None
        except ChatportError:
            fault.__context__ = None  # `from None` hides the original, but keeps it
            raise


def translate(error: Exception) -> ChatportError:
    """Return the domain's error for one of the SDK, the transport or the parser."""
    if isinstance(error, openai.APIStatusError):
        return _from_status(error)
    cause = error.__cause__
    if isinstance(cause, ChatportError):  # the transport's own, which the SDK has wrapped
        return cause
    if isinstance(error, openai.APIConnectionError) and isinstance(cause, Exception):
        error = cause
    kind = next(ours for theirs, ours in BY_EXCEPTION if isinstance(error, theirs))
    logger.warning("upstream fault %s: %s", kind.code, type(error).__name__)
    fault = kind()
    fault.upstream_said = getattr(error, "upstream_said", "")
    return fault


def _from_status(error: openai.APIStatusError) -> ChatportError:
    status = error.status_code
    kind = BY_STATUS.get(status, UpstreamError if status >= 500 else UpstreamRejected)  # noqa: PLR2004  # RFC 9110: server errors
    codes = (BY_CODE.get(str(word)) for word in (error.code, error.type))
    kind = next(filter(None, codes), _by_words(error) or kind)
    level = logging.ERROR if kind in FOR_OPERATORS else logging.WARNING
    logger.log(level, "upstream fault %s: HTTP status %s", kind.code, status)
    fault = kind(upstream_status=status, upstream_request_id=error.request_id)
    if kind in {UpstreamRateLimited, UpstreamOverloaded}:
        told = _told_seconds(error.response.headers)
        fault.waits_as_told = told is not None
        fault.retry_after_seconds = 1.0 if told is None else told
    return fault


def _by_words(error: openai.APIStatusError) -> type[ChatportError] | None:
    """Look for what gateways, and some providers, write instead of a code."""
    said = str(error.body).lower()
    message = str(words_of(error.response.content).get("message")).lower()
    if error.status_code == 429:  # noqa: PLR2004  # RFC 6585
        is_empty = re.fullmatch(NO_CREDIT, message, re.DOTALL) is not None
        is_soon = any(words in said for words in SOON_AGAIN)
        return UpstreamQuotaExhausted if is_empty and not is_soon else None
    found = (kind for words, kind in BY_WORDS.get(error.status_code, {}).items() if words in said)
    if error.status_code != 400:  # noqa: PLR2004  # the caller can be at fault
        return next(found, None)
    whole = (kind for form, kind in BY_MESSAGE.items() if re.fullmatch(form, message, re.DOTALL))
    return next(chain(whole, found), None)


def _told_seconds(headers: httpx2.Headers) -> float | None:
    """Return the provider's own waiting time, from 1 second to an hour; None if it names none."""
    for name, read in (("retry-after-ms", _milliseconds), ("retry-after", _seconds)):
        with suppress(KeyError, ValueError, OverflowError):
            seconds = read(headers[name])
            if math.isfinite(seconds):
                return min(max(seconds, 1.0), 3600.0)
    return None


def _milliseconds(retry_after: str) -> float:
    return float(retry_after) / 1000


def _seconds(retry_after: str) -> float:
    """Return the seconds that a header names, as a number or as a date."""
    try:
        return float(retry_after)
    except ValueError:
        at = parsedate_to_datetime(retry_after)
        return (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
