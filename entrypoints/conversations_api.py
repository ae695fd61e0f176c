"""`/conversations/{user_id}`: what was said, and the way to have it forgotten."""

from typing import Any

from flask import Blueprint, g

from chatport.domain.chat import ChatService
from chatport.domain.model import Exchange

from .request_query import parsed_query
from .wire import PageQuery


def blueprint(service: ChatService) -> Blueprint:
    """Return the routes around a service."""
    api = Blueprint("conversations", __name__)

    @api.get("/conversations/<user_id>")
    def read_conversation(user_id: str) -> dict[str, Any]:
        query = parsed_query(PageQuery)
        page = service.conversation(
            g.caller.name, user_id, before=query.before or None, limit=query.limit + 1
        )
        shown = page[-query.limit :]
        return {
            "user_id": user_id,
            "exchanges": [_encode(exchange) for exchange in shown],
            "before": shown[0].number if len(page) > query.limit else None,
        }

    @api.delete("/conversations/<user_id>")
    def erase_conversation(user_id: str) -> dict[str, Any]:
        return {"user_id": user_id, "erased": service.erase(g.caller.name, user_id)}

    return api


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
