"""`/conversations/{user_id}`: what was said, and the way to have it forgotten."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from flask import Blueprint, g

from chatport.domain.chat import ChatService
from chatport.domain.history import utf8_size
from chatport.domain.model import Exchange

from .request_query import parsed_query
from .wire import PageQuery

PAGE_BYTES = 2_000_000
"""Of text in a page, after which it ends; a page of 80 MB held a worker up for 1.5 s."""

READ_AT_ONCE = 10
"""Exchanges. An answer may have 8 MB, but few are larger than some kilobytes."""


def blueprint(service: ChatService) -> Blueprint:
    """Return the routes around a service."""
    api = Blueprint("conversations", __name__)

    @api.get("/conversations/<user_id>")
    def read_conversation(user_id: str) -> dict[str, Any]:
        query = parsed_query(PageQuery)
        read = partial(service.conversation, g.caller.name, user_id)
        page, goes_on = _page(read, query.before or None, query.limit)
        return {
            "user_id": user_id,
            "exchanges": [_encode(exchange) for exchange in reversed(page)],
            "before": page[-1].number if goes_on else None,
        }

    @api.delete("/conversations/<user_id>")
    def erase_conversation(user_id: str) -> dict[str, Any]:
        return {"user_id": user_id, "erased": service.erase(g.caller.name, user_id)}

    return api


def _page(
    read: Callable[..., Sequence[Exchange]], before: int | None, limit: int
) -> tuple[list[Exchange], bool]:
    """Return the newest exchanges, newest first, and whether there may be more.

    They are as many as are asked for, or fewer if these would be too large for one answer.
    """
    found: list[Exchange] = []
    size = 0
    while size < PAGE_BYTES:
        wanted = min(limit + 1 - len(found), READ_AT_ONCE)
        part = read(before=before, limit=wanted)
        found += reversed(part)
        if len(found) > limit or len(part) < wanted:
            return found[:limit], len(found) > limit
        before = part[0].number
        size += sum(utf8_size(each.prompt) + utf8_size(each.reply) for each in part)
    return found, True


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
