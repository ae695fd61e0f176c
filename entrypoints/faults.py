"""What a client is told: one table from error to HTTP status, and one encoder a wire format."""

import json
import logging
import math
import traceback
from dataclasses import dataclass
from http import HTTPStatus

from werkzeug.exceptions import HTTPException

from chatport.domain import errors
from chatport.domain.errors import ChatportError

from .strict_json import InvalidJSON

logger = logging.getLogger(__name__)

MOST_FRAMES = 20
"""Of a defect, the last ones: a line of the log must not be longer than a pipe takes at once."""

SHUTDOWN, STOPPING = "server_shutdown", "The server is stopping; ask again in a moment."

STATUS: dict[type[ChatportError], int] = {
    errors.ChatportError: 500,
    errors.CallerError: 400,
    errors.InvalidField: 400,
    errors.InvalidUserId: 400,
    errors.InvalidUnicode: 400,
    errors.ModelNotAllowed: 400,
    errors.ModelNotFound: 404,
    errors.ModelNotPriced: 400,
    errors.InvalidIdempotencyKey: 400,
    errors.InvalidApiKey: 401,
    errors.NotPermitted: 403,
    errors.CallerExists: 409,
    errors.CallerNotFound: 404,
    errors.ExchangeNotFound: 404,
    errors.Refused: 429,
    errors.RateLimited: 429,
    errors.TooManyInFlight: 429,
    errors.ExceedsLimit: 429,
    errors.BudgetExceeded: 429,
    errors.ConversationBusy: 409,
    errors.IdempotencyInProgress: 409,
    errors.IdempotencyKeyReused: 422,
    errors.ExchangeLost: 409,
    errors.CallerGone: 499,  # nginx's number for it; nobody reads this answer
    errors.CallerTooSlow: 408,
    errors.ContentFiltered: 400,
    errors.ContextLengthExceeded: 400,
    errors.OperatorError: 500,
    errors.Overloaded: 503,
    errors.StorageUnavailable: 503,
    errors.StorageBusy: 503,
    errors.StorageFull: 503,
    errors.StorageReadOnly: 503,
    errors.StorageCorrupt: 503,
    errors.StorageLost: 503,
    errors.StorageTooNew: 503,
    errors.UpstreamError: 502,
    errors.UpstreamTimeout: 504,
    errors.UpstreamUnreachable: 502,
    errors.UpstreamHungUp: 502,
    errors.UpstreamDisconnected: 502,
    errors.UpstreamTruncated: 502,
    errors.UpstreamInvalidResponse: 502,
    errors.UpstreamAuthFailed: 502,
    errors.UpstreamModelUnavailable: 502,
    errors.UpstreamRejected: 502,
    errors.UpstreamRateLimited: 503,
    errors.UpstreamQuotaExhausted: 503,
    errors.UpstreamUnavailable: 503,
    errors.UpstreamOverloaded: 503,
}
"""The one table; a test asserts that it holds every error of the domain."""

NO_RETRY = (
    errors.CallerExists,
    errors.ExceedsLimit,
    errors.BudgetExceeded,
    errors.ExchangeLost,
    errors.UpstreamAuthFailed,
    errors.UpstreamModelUnavailable,
    errors.UpstreamRejected,
    errors.UpstreamQuotaExhausted,
)
"""Trying again cannot help: OpenAI's SDKs obey `x-should-retry`."""

KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
"""OpenAI's words for these; for all else below 500 it has one."""

HTTP_CODES = {
    400: "bad_request",
    404: "not_found",
    405: "method_not_allowed",
    413: "body_too_large",
    415: "unsupported_media_type",
}
"""For what Flask itself refuses."""

TOO_LARGE = "The body is larger than this server takes; CHATPORT_MAX_BODY_BYTES says how much."


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """An answer that is not the one hoped for.

    Attributes:
        field: The part of the request that is wrong, where it is one.
        headers: Retry advice, and what HTTP asks for.
    """

    status: int
    code: str
    message: str
    field: str | None
    headers: dict[str, str]


class BadRequest(Exception):
    """The request cannot be turned into a record of the domain."""

    def __init__(
        self, code: str, message: str, status: int = 400, field: str | None = None
    ) -> None:
        super().__init__(message)
        self.code, self.message, self.status, self.field = code, message, status, field


def fault_of(error: BaseException) -> Fault:
    """Return what to tell the client; what is not expected is logged, without its text."""
    if isinstance(error, ChatportError):
        return _of_domain(error)
    if isinstance(error, HTTPException) and error.code:
        return _of_http(error, error.code)
    if (fault := _of_edge(error)) is not None:
        return fault
    log_defect(error)
    return _fault(500, ChatportError.code, ChatportError.message)


def _of_edge(error: BaseException) -> Fault | None:
    """Return the fault for what the server and our own parsing raise."""
    if isinstance(error, BadRequest):
        return _fault(error.status, error.code, error.message, error.field)
    if isinstance(error, InvalidJSON):
        return _fault(400, error.code, str(error))
    if type(error).__module__ == "gunicorn.http.errors":  # a chunk that is none
        return _fault(400, "bad_request", "The request is not valid HTTP.")
    if not isinstance(error, Exception):
        fault = _fault(503, SHUTDOWN, STOPPING)
        if hasattr(error, "exchange_id"):  # the provider was called, and may bill it
            fault.headers["x-should-retry"] = "false"
        return fault
    return None


def log_defect(error: BaseException) -> None:
    """Log where an unexpected error came from. Its text may hold a prompt, its frames do not."""
    error = getattr(error, "original_exception", None) or error  # Flask has wrapped it
    frames = traceback.extract_tb(error.__traceback__)[: -MOST_FRAMES - 1 : -1]
    where = " < ".join(f"{frame.name} ({frame.filename}:{frame.lineno})" for frame in frames)
    logger.error("unexpected %s in %s", type(error).__name__, where)


def log_unhandled(_context: object, _kind: object, error: BaseException, _trace: object) -> None:
    """Log a failure outside of all requests, in place of gevent, which prints a traceback."""
    if isinstance(error, OSError) and error.strerror:
        logger.error("failed outside of all requests: %s", error.strerror)
    else:
        log_defect(error)


def seed_body(fault: Fault, request_id: str) -> dict[str, object]:
    """Return the error of `/openai-completion`."""
    return {"error": fault.message, "code": fault.code, "request_id": request_id}


def openai_body(fault: Fault) -> dict[str, object]:
    """Return the error as OpenAI's clients read it, with all four keys."""
    kind = KINDS.get(fault.status, "invalid_request_error")
    if fault.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        kind = "server_error"
    error = {"message": fault.message, "type": kind, "param": fault.field, "code": fault.code}
    return {"error": error}


def openai_answer(error: BaseException, fault: Fault) -> tuple[int, bytes]:
    """Return status and body of an error on OpenAI's wire.

    What the client did wrong in OpenAI's protocol is said in the provider's own words.
    """
    if isinstance(error, ChatportError) and error.passed_on and error.upstream_status:
        return error.upstream_status, error.passed_on
    return fault.status, f"{json.dumps(openai_body(fault))}\n".encode()


def _of_domain(error: ChatportError) -> Fault:
    status = next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)
    field = error.field if isinstance(error, errors.InvalidField) else None
    fault = _fault(status, error.code, str(error), field)
    if isinstance(error, errors.InvalidApiKey):
        fault.headers["WWW-Authenticate"] = "Bearer"  # RFC 9110 asks for it, 15.5.2
    if error.may_be_billed or isinstance(error, NO_RETRY):
        fault.headers["x-should-retry"] = "false"
    elif error.retry_after_seconds is not None:
        seconds = error.retry_after_seconds
        fault.headers["Retry-After"] = str(max(1, math.ceil(seconds)))
        fault.headers["retry-after-ms"] = str(max(1, math.ceil(seconds * 1000)))
    return fault


def _of_http(error: HTTPException, status: int) -> Fault:
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log_defect(error)
        return _fault(status, ChatportError.code, ChatportError.message)
    code = HTTP_CODES.get(status, "bad_request")
    message = TOO_LARGE if code == "body_too_large" else f"{HTTPStatus(status).phrase}."
    fault = _fault(status, code, message)
    if methods := getattr(error, "valid_methods", None):
        fault.headers["Allow"] = ", ".join(sorted(methods))
    return fault


def _fault(status: int, code: str, message: str, field: str | None = None) -> Fault:
    return Fault(status=status, code=code, message=message, field=field, headers={})
