"""What the headers say about a request that may be a repetition."""

import hashlib

from flask import Response, request

from chatport.domain.relay import Once

KEY = "Idempotency-Key"
RETRY_COUNT = "x-stainless-retry-count"
"""OpenAI's SDKs count in it how often they have sent this request before."""

REPLAYED = {"Idempotency-Replayed": "true"}


def once(body: bytes) -> Once | None:
    """Return what tells this request from a new one; None if nothing does.

    Raises:
        InvalidIdempotencyKey: The key has other characters or another length than it may have.
    """
    key, count = request.headers.get(KEY), request.headers.get(RETRY_COUNT)
    if key is None and count is None:
        return None
    request_hash = hashlib.sha256(request.path.encode() + b"\n" + body).hexdigest()
    return Once(request_hash=request_hash, key=key, retry=_is_retry(count))


def mark_replayed(answer: Response, *, replayed: bool) -> None:
    """Say in the headers that the answer was given before."""
    if replayed:
        answer.headers.update(REPLAYED)


def _is_retry(count: str | None) -> bool:
    return count is not None and count.isascii() and count.isdigit() and int(count[:9]) > 0
