"""OpenAI's wire: what a client sends goes to the provider, and what that answers comes back."""

from collections.abc import Callable
from functools import partial
from typing import Any

from flask import Blueprint, Response, g, request

from chatport.domain.chat import ChatService
from chatport.domain.model import ChatRequest
from chatport.domain.stream import ChatStream

from . import openai_stream, sse
from .client_presence import still_there
from .idempotency import mark_replayed, once
from .limit_headers import limit_headers
from .relayed_request import read

CHAT_COMPLETIONS = "/v1/chat/completions"


def blueprint(service: ChatService) -> Blueprint:
    """Return the routes around a service."""
    api = Blueprint("openai", __name__)

    @api.post(CHAT_COMPLETIONS)
    def chat_completions() -> Response:
        pseudonym = partial(service.pseudonym, g.caller.name)
        asked = read(g.body, pseudonym, service.max_output_tokens)
        chat = ChatRequest(
            prompt=asked.prompt,
            user_id=asked.user_id,
            caller=g.caller,
            route=CHAT_COMPLETIONS,
            request_id=g.line.request_id,
            relay=asked.relay,
            once=once(g.body),
            still_wanted=still_there(request.environ),
        )
        if asked.stream:
            return _streamed(service.stream(chat), chat.still_wanted, asked.wants_usage)
        reply = service.reply(chat)
        g.line.request_id = reply.exchange_id
        answer = Response(reply.answer, mimetype="application/json")
        answer.headers.update(limit_headers(reply.allowances))
        mark_replayed(answer, replayed=reply.replayed)
        return answer

    @api.get("/v1/models")
    def list_models() -> dict[str, Any]:
        return {"object": "list", "data": [card.facts for card in service.models.cards(g.caller)]}

    @api.get("/v1/models/<path:model>")
    def retrieve_model(model: str) -> dict[str, Any]:
        return dict(service.models.card(model, g.caller).facts)

    return api


def _streamed(stream: ChatStream, still_wanted: Callable[[], bool], wants_usage: bool) -> Response:
    events = openai_stream.events(stream, wants_usage=wants_usage, still_wanted=still_wanted)
    answer = sse.answer(stream, events, openai_stream.error_event)
    answer.headers["Cache-Control"] = "no-cache, no-store"
    return answer
