"""`POST /openai-completion`: a user id and a prompt in, a completion out, whole or streamed."""

from collections.abc import Iterator

from flask import Blueprint, Response, g, json

from chatport.domain.chat import ChatService
from chatport.domain.errors import InvalidField
from chatport.domain.model import ChatRequest
from chatport.domain.stream import ChatStream

from . import sse
from .access_log import AccessLine
from .faults import fault_of, seed_body
from .limit_headers import limit_headers
from .request_body import field, json_object

PATH = "/openai-completion"


def blueprint(service: ChatService) -> Blueprint:
    """Return the route around a service."""
    api = Blueprint("completion", __name__)

    @api.post(PATH)
    def openai_completion() -> Response:
        body = json_object({"user_id", "prompt", "stream"})
        if "prompt" not in body:
            raise InvalidField("prompt", "is missing")
        chat = ChatRequest(
            prompt=field(body, "prompt", str),
            user_id=field(body, "user_id", str),
            route=PATH,
            request_id=g.line.request_id,
        )
        if field(body, "stream", bool, default=False):
            return _streamed(service.stream(chat))
        reply = service.reply(chat)
        answer = Response(
            json.dumps({"user_id": reply.user_id, "completion": reply.text}) + "\n",
            mimetype="application/json",
        )
        answer.headers.update(limit_headers(reply.allowance))
        return answer

    return api


def _streamed(stream: ChatStream) -> Response:
    answer = Response(_events(stream, g.line), content_type="text/event-stream")
    answer.headers.update(sse.HEADERS)
    answer.headers.update(limit_headers(stream.allowance))
    answer.call_on_close(stream.close)
    return answer


def _events(stream: ChatStream, line: AccessLine) -> Iterator[bytes]:
    """Yield the stream's events; the last is `done` or `error`."""
    try:
        for text in stream:
            yield sse.event("delta", {"text": text}) if text else sse.HEARTBEAT
        reply = stream.reply
        assert reply is not None, "a stream that ends has its reply"
        yield sse.event("done", {"user_id": reply.user_id, "completion": reply.text})
    except GeneratorExit:
        raise
    except BaseException as error:  # after `200 OK`, this event is the only answer left
        fault = fault_of(error)
        line.code = fault.code
        yield sse.event("error", seed_body(fault, line.request_id))
        if not isinstance(error, Exception):
            raise
