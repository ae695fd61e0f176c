"""`POST /openai-completion`: a user id and a prompt in, a completion out, whole or streamed."""

from collections.abc import Callable, Iterator

from flask import Blueprint, Response, g, json, request

from chatport.domain.chat import ChatService
from chatport.domain.model import ChatRequest, Delta
from chatport.domain.stream import ChatStream

from . import sse
from .client_presence import still_there
from .faults import Fault, seed_body
from .idempotency import mark_replayed, once
from .limit_headers import limit_headers
from .request_body import parsed_object
from .wire import CompletionBody, checked

PATH = "/openai-completion"


def blueprint(service: ChatService) -> Blueprint:
    """Return the route around a service."""
    api = Blueprint("completion", __name__)

    @api.post(PATH)
    def openai_completion() -> Response:
        body = checked(CompletionBody, parsed_object(g.body))
        chat = ChatRequest(
            prompt=body.prompt,
            user_id=body.user_id or None,
            caller=g.caller,
            route=PATH,
            request_id=g.line.request_id,
            once=once(g.body),
            still_wanted=still_there(request.environ),
        )
        if body.stream:
            return _streamed(service.stream(chat), chat.still_wanted)
        reply = service.reply(chat)
        g.line.request_id = reply.exchange_id
        answer = Response(
            json.dumps({"user_id": reply.user_id, "completion": reply.text}) + "\n",
            mimetype="application/json",
        )
        answer.headers.update(limit_headers(reply.allowances))
        mark_replayed(answer, replayed=reply.replayed)
        return answer

    return api


def _streamed(stream: ChatStream, still_wanted: Callable[[], bool]) -> Response:
    def error_event(fault: Fault) -> bytes:
        return sse.event("error", seed_body(fault, stream.exchange_id))

    return sse.answer(stream, _events(stream, still_wanted), error_event)


def _events(stream: ChatStream, still_wanted: Callable[[], bool]) -> Iterator[bytes]:
    """Yield the stream's events; the last is `done`, unless the client has left."""
    yield from sse.pieces(stream, _shown, still_wanted)
    if reply := stream.reply:
        yield sse.event("done", {"user_id": reply.user_id, "completion": reply.text})


def _shown(delta: Delta) -> bytes:
    return sse.event("delta", {"text": delta.text}) if delta.text else b""
