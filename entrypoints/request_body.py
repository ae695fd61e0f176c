"""Reading a request's JSON object, strictly."""

from typing import Any

from flask import request
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge

from .faults import BadRequest
from .strict_json import parse

MAX_BODY_BYTES = 1_000_000
"""Ten times the longest prompt that is allowed by default."""


def body_bytes() -> bytes:
    """Return the body as it was sent.

    Raises:
        BadRequest: It is declared as something else than JSON.
    """
    if request.mimetype != "application/json" or not _is_plain(request.content_encoding):
        message = "Send the body as Content-Type: application/json, without Content-Encoding."
        raise BadRequest("unsupported_media_type", message, 415)
    largest = request.max_content_length or MAX_BODY_BYTES
    try:
        if request.content_length is not None or not request.environ.get("wsgi.input_terminated"):
            return request.get_data(cache=False)
        body: bytes = request.environ["wsgi.input"].read(largest + 1)
    except OSError:
        raise ClientDisconnected from None
    if len(body) > largest:
        raise RequestEntityTooLarge
    return body


def _is_plain(content_encoding: str | None) -> bool:
    return (content_encoding or "identity").lower() == "identity"


def parsed_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object that these bytes are.

    Raises:
        BadRequest: They are other JSON.
        InvalidJSON: They are not JSON.
    """
    value = parse(body)
    if not isinstance(value, dict):
        raise BadRequest("invalid_json", "The body must be a JSON object.")
    return value
