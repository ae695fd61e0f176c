"""Reading a request's JSON object, strictly."""

from typing import Any

from flask import request
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge

from .faults import BadRequest
from .strict_json import parse

MAX_BODY_BYTES = 1_000_000
"""Ten times the longest prompt that is allowed by default."""


def json_object(allowed: set[str]) -> dict[str, Any]:
    """Return the body, a JSON object with no other keys than those allowed.

    Raises:
        BadRequest: It is declared as something else than JSON, is no object, or has other keys.
        InvalidJSON: It is not JSON.
    """
    if request.mimetype != "application/json" or request.content_encoding:
        message = "Send the body as Content-Type: application/json, without Content-Encoding."
        raise BadRequest("unsupported_media_type", message, 415)
    body = parse(_read())
    if not isinstance(body, dict):
        raise BadRequest("invalid_json", "The body must be a JSON object.")
    if unknown := sorted(body.keys() - allowed):
        fields = ", ".join(sorted(allowed))
        message = f"The body has a field that this route does not know; it knows {fields}."
        raise BadRequest(
            "unknown_field", message, field=unknown[0] if unknown[0].isascii() else None
        )
    return body


def _read() -> bytes:
    """Return the body's bytes; of one without a length, no more than may be."""
    try:
        if request.content_length is not None or not request.environ.get("wsgi.input_terminated"):
            return request.get_data(cache=False)
        body: bytes = request.environ["wsgi.input"].read(MAX_BODY_BYTES + 1)
    except OSError:
        raise ClientDisconnected from None
    if len(body) > MAX_BODY_BYTES:
        raise RequestEntityTooLarge
    return body


def field(body: dict[str, Any], name: str, kind: type, default: Any = None) -> Any:
    """Return a field of the body, of exactly this type; `default` if it is left out.

    Raises:
        BadRequest: It has another type; a boolean is no integer here.
    """
    value = body.get(name, default)
    if name in body and type(value) is not kind:
        expected = {str: "a string", bool: "true or false"}[kind]
        raise BadRequest("invalid_field", f"{name} must be {expected}.", field=name)
    return value
