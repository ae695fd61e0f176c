"""What the provider, the SDK and the network raise, translated to the domain's errors.

The only place that knows both. The exception of the SDK holds the key and the prompt, hence
`from None`; of the provider's words only its machine code is read.
"""

import json
import logging
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any

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


FOR_OPERATORS = frozenset({UpstreamAuthFailed, UpstreamQuotaExhausted})
"""Only people can repair these. The breaker sees to it that they are not logged for ever."""

PASSED_ON = frozenset({400, 404, 413, 422})
"""The statuses that say what the client did wrong, which a developer needs to read."""

KEY_LIKE = re.compile(
    r"\bsk[-_][\w*.\-]{4,}"
    r"|\b(?:pk|rk|gsk|xai|hf|r8|cp|sess|org|proj)[-_](?=[\w\-]*\d)[\w\-]{6,}"
    r"|\bAIza[\w\-]{8,}"
    r"|\bBearer\s+\S+"
    r"|(?<![\w\-])(?=[a-z]*\d)(?=\d*[a-z])[a-z0-9]{40,}(?![\w\-])",
    re.IGNORECASE,
)
"""Known beginnings of keys, and what is too long and too mixed for a word, a name or an id."""

UNEXPLAINED = "The provider refused the request, and did not say why."

LONGEST_WORDS = 4_000
"""Characters of a message that is passed on. OpenAI's longest known have some hundreds."""


class translated:  # noqa: N801  # it is used as a function that makes a block
    """Turn whatever a block raises into an error of the domain, and forget the original.

    The error has crossed no frame whose variables hold the original, the key or an answer: tools
    that report errors show them.

    Args:
        relayed: The request was passed on as it was; its mistakes are told in the provider's
            words, without secrets.
        key: The key of the call, which they must not hold.
    """

    def __init__(self, *, relayed: bool = False, key: str = "") -> None:
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
        if self._relayed and isinstance(error, openai.APIStatusError):
            fault.passed_on = _passed_on(error, self._key)
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
    return kind()


def _from_status(error: openai.APIStatusError) -> ChatportError:
    status = error.status_code
    kind = BY_STATUS.get(status, UpstreamError if status >= 500 else UpstreamRejected)  # noqa: PLR2004  # RFC 9110: server errors
    kind = BY_CODE.get(error.code or "", _by_words(error) or kind)
    level = logging.ERROR if kind in FOR_OPERATORS else logging.WARNING
    logger.log(level, "upstream fault %s: HTTP status %s", kind.code, status)
    fault = kind(upstream_status=status, upstream_request_id=error.request_id)
    if kind in {UpstreamRateLimited, UpstreamOverloaded}:
        told = _told_seconds(error.response.headers)
        fault.waits_as_told = told is not None
        fault.retry_after_seconds = 1.0 if told is None else told
    return fault


def _by_words(error: openai.APIStatusError) -> type[ChatportError] | None:
    """Look for what gateways write instead of a code; only where the caller can be at fault."""
    if error.status_code not in {400, 429}:
        return None
    said = str(error.body).lower()
    return next((kind for words, kind in BY_WORDS if words in said), None)


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


def _passed_on(error: openai.APIStatusError, key: str) -> bytes | None:
    """Return the provider's error as it may be shown; None if it is not the caller's mistake."""
    if error.status_code not in PASSED_ON:
        return None
    said = _words(error.response.content)
    words = {name: _masked(said.get(name), key) for name in ("message", "type", "param", "code")}
    words["message"] = words["message"] or UNEXPLAINED
    words["type"] = words["type"] or "invalid_request_error"
    return json.dumps({"error": words}).encode()


def _words(body: bytes) -> dict[str, Any]:
    """Return what an error says, in OpenAI's form or in one of those that servers use instead."""
    try:
        answer = json.loads(body.decode())
    except (ValueError, RecursionError):
        return {}
    said = answer.get("error", answer) if isinstance(answer, dict) else {}
    if not isinstance(said, dict):
        return {"message": said}  # Ollama, TGI
    detail = said.get("detail")  # FastAPI
    if isinstance(detail, list):
        detail = "; ".join(_problem(each) for each in detail if isinstance(each, dict))
    return said if said.get("message") else {**said, "message": detail}


def _problem(detail: dict[str, Any]) -> str:
    place = detail.get("loc")
    where = ".".join(str(each) for each in place) if isinstance(place, list) else ""
    return f"{where}: {detail.get('msg')}"


def _masked(word: object, key: str) -> str | None:
    """Return a word of the provider's without anything that is, or looks like, a key."""
    if not isinstance(word, str | int) or isinstance(word, bool):
        return None
    said = str(word)
    if len(said) > LONGEST_WORDS:  # not in the middle of what may be a key
        said = " ".join(said[:LONGEST_WORDS].split()[:-1])
    if key:
        said = said.replace(key, "***")
    return KEY_LIKE.sub("***", said)
