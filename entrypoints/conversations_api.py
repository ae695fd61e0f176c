"""`/conversations/{user_id}`: what was said, and the way to have it forgotten."""

from typing import Any

from flask import Blueprint, request

from chatport.domain.chat import ChatService
from chatport.domain.model import ANONYMOUS, Exchange

from .faults import BadRequest

PAGE = 50
LARGEST_PAGE = 200


def blueprint(service: ChatService) -> Blueprint:
    """Return the routes around a service."""
    api = Blueprint("conversations", __name__)

    @api.get("/conversations/<user_id>")
    def read_conversation(user_id: str) -> dict[str, Any]:
        before, limit = _whole_number("before"), _whole_number("limit") or PAGE
        if limit > LARGEST_PAGE:
            raise BadRequest(
                "invalid_field", f"limit must be at most {LARGEST_PAGE}.", field="limit"
            )
        page = service.conversation(ANONYMOUS, user_id, before=before, limit=limit + 1)
        shown = page[-limit:]
        return {
            "user_id": user_id,
            "exchanges": [_encode(exchange) for exchange in shown],
            "before": shown[0].number if len(page) > limit else None,
        }

    @api.delete("/conversations/<user_id>")
    def erase_conversation(user_id: str) -> dict[str, Any]:
        return {"user_id": user_id, "erased": service.erase(ANONYMOUS, user_id)}

    return api


def _whole_number(name: str) -> int | None:
    text = request.args.get(name)
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or not 0 < len(text) < 19 or int(text) < 1:  # noqa: PLR2004  # below 64 bits
        raise BadRequest("invalid_field", f"{name} must be a whole number from 1.", field=name)
    return int(text)


def _encode(exchange: Exchange) -> dict[str, Any]:
    usage = exchange.usage
    return {
        "id": exchange.id,
        "state": exchange.state.value,
        "prompt": exchange.prompt,
        "completion": exchange.reply,
        "model": exchange.model,
        "finish_reason": exchange.finish_reason,
        "prompt_tokens": usage.prompt_tokens if usage else None,
        "completion_tokens": usage.completion_tokens if usage else None,
        "error_code": exchange.error_code,
        "started_at": exchange.started_at.isoformat(),
        "finished_at": exchange.finished_at.isoformat() if exchange.finished_at else None,
    }
