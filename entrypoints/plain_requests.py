"""Requests as gunicorn has parsed them, and the answer to those that it could not parse."""

import json
import logging
import secrets
from http import HTTPStatus
from typing import Any

from gunicorn.http import errors

from .faults import BadRequest, fault_of, openai_body, seed_body

logger = logging.getLogger(__name__)

STATUS = {
    errors.LimitRequestLine: HTTPStatus.REQUEST_URI_TOO_LONG,
    errors.LimitRequestHeaders: HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    errors.UnsupportedTransferCoding: HTTPStatus.NOT_IMPLEMENTED,
    errors.ExpectationFailed: HTTPStatus.EXPECTATION_FAILED,
}
"""For what gunicorn's parser refuses; anything else of its errors is a 400."""


def _headers(req: Any, name: str) -> list[str]:
    return [value for key, value in req.headers if key == name]


def connection_options(req: Any) -> set[str]:
    """Return what a request asks of its connection, in lower case."""
    listed = ",".join(_headers(req, "CONNECTION")).lower()
    return {option.strip() for option in listed.split(",")}


def check_coding(req: Any) -> None:
    """Refuse a body that is coded in more than chunks; gunicorn would hand it on as it is.

    Raises:
        errors.UnsupportedTransferCoding: It is.
    """
    for coding in _headers(req, "TRANSFER-ENCODING"):
        if coding.strip().lower() != "chunked":
            raise errors.UnsupportedTransferCoding(coding)


def refusal(exc: BaseException, *, seed: bool) -> bytes:
    """Return the whole answer to a request that reached no application, or none that answered."""
    if type(exc).__module__ == errors.__name__:
        status = next((STATUS[kind] for kind in STATUS if isinstance(exc, kind)), 400)
        logger.warning("refused a request: %s", type(exc).__name__)
        phrase = HTTPStatus(status).phrase
        fault = fault_of(
            BadRequest("bad_request", f"The request is not valid HTTP: {phrase}.", status)
        )
    else:
        fault = fault_of(exc)
    request_id = secrets.token_hex(16)
    body = json.dumps(seed_body(fault, request_id) if seed else openai_body(fault)).encode()
    head = (
        f"HTTP/1.1 {fault.status} {HTTPStatus(fault.status).phrase}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        f"Cache-Control: no-store\r\nX-Request-Id: {request_id}\r\n\r\n"
    )
    return head.encode("ascii") + body
