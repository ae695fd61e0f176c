"""An exchange as JSON, for the command line and for admins."""

from typing import Any

from chatport.domain.model import Exchange
from chatport.domain.rules import dollars

from .whole_exchange import request_of, response_of


def encode(exchange: Exchange) -> dict[str, Any]:
    """Return the exchange for machines: times in ISO 8601, null for what is not there.

    Flat, but for the request and the response of an exchange that was passed on.
    """
    usage = exchange.usage
    return {
        "id": exchange.id,
        "number": exchange.number,
        "caller": exchange.caller,
        "user_id": exchange.user_id,
        "state": exchange.state.value,
        "route": exchange.route,
        "model": exchange.model,
        "prompt": exchange.prompt,
        "reply": exchange.reply,
        "sanitized": exchange.sanitized,
        "context_from": exchange.context_from,
        "finish_reason": exchange.finish_reason,
        "prompt_tokens": usage.prompt_tokens if usage else None,
        "cached_tokens": usage.cached_tokens if usage else None,
        "completion_tokens": usage.completion_tokens if usage else None,
        "tokens_estimated": usage.estimated if usage else None,
        "cost_usd": None if exchange.nanodollars is None else dollars(exchange.nanodollars),
        "error_code": exchange.error_code,
        "upstream_status": exchange.upstream_status,
        "upstream_request_id": exchange.upstream_request_id,
        "upstream_said": exchange.upstream_said,
        "attempts": exchange.attempts,
        "idempotency_key": exchange.idempotency_key,
        "started_at": exchange.started_at.isoformat(),
        "finished_at": exchange.finished_at.isoformat() if exchange.finished_at else None,
        **_passed_on(exchange),
    }


def _passed_on(exchange: Exchange) -> dict[str, Any]:
    """Return request and response of an exchange that was passed on."""
    if exchange.request is None:
        return {}
    return {"request": request_of(exchange.request), "response": response_of(exchange)}
