"""The headers of answers, as the OpenAPI document describes them."""

from http import HTTPStatus
from typing import Any

Schema = dict[str, Any]

HEADERS: dict[str, Schema] = {
    "X-Request-Id": {
        "description": "The id of the request, and of its exchange in the log.",
        "required": True,
        "schema": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
    },
    "Retry-After": {
        "description": "After so many seconds, trying again can help.",
        "schema": {"type": "integer", "minimum": 1},
    },
    "retry-after-ms": {
        "description": "The same in milliseconds; OpenAI's clients read it first.",
        "schema": {"type": "integer", "minimum": 1},
    },
    "x-should-retry": {
        "description": "Trying again cannot help, or may be billed twice.",
        "schema": {"type": "string", "enum": ["false"]},
    },
    "Idempotency-Replayed": {
        "description": "This is the first answer again; the provider was not asked.",
        "schema": {"type": "string", "enum": ["true"]},
    },
    "WWW-Authenticate": {
        "description": "How to say who you are.",
        "required": True,
        "schema": {"type": "string", "enum": ["Bearer"]},
    },
}
for _unit in ("requests", "tokens"):
    HEADERS |= {
        f"x-ratelimit-limit-{_unit}": {
            "description": f"How many {_unit} the limit allows that is nearest to refusing.",
            "schema": {"type": "integer", "minimum": 1},
        },
        f"x-ratelimit-remaining-{_unit}": {
            "description": "How many of them are left.",
            "schema": {"type": "integer", "minimum": 0},
        },
        f"x-ratelimit-reset-{_unit}": {
            "description": "Until more are allowed: `12ms`, `1s`, `6m0s`, `1h0m0s`.",
            "schema": {"type": "string", "pattern": "^([0-9]+h)?([0-9]+m)?([0-9]+s|[0-9]+ms)$"},
        },
    }
RETRY_HEADERS = ("Retry-After", "retry-after-ms", "x-should-retry")
LIMIT_HEADERS = tuple(name for name in HEADERS if name.startswith("x-ratelimit"))


def headers_of(status: int) -> tuple[str, ...]:
    """Return the headers that errors of this status may have."""
    if status == HTTPStatus.UNAUTHORIZED:
        return ("WWW-Authenticate",)
    retry = status == HTTPStatus.CONFLICT or status >= HTTPStatus.TOO_MANY_REQUESTS
    return RETRY_HEADERS if retry else ()
