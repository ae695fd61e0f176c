"""Asking for chat completions on OpenAI's wire, with the real gateway behind the application."""

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from chatport.adapters import MemoryStore, OpenAIGateway, SystemClock, random_id
from chatport.domain.chat import ChatService
from chatport.domain.model import Exchange, LogQuery
from chatport.domain.ports import Clock, ConversationStore, LLMGateway
from chatport.entrypoints.flask_app import create_app

from .faults import AMPLE_SECONDS, KEY
from .upstream import Upstream

PATH = "/v1/chat/completions"
SEED = "/openai-completion"
JSON = "application/json"
ASKED: dict[str, Any] = {"model": "model-1", "messages": [{"role": "user", "content": "Hi"}]}
STREAMED: dict[str, Any] = {**ASKED, "stream": True}
WITH_USAGE: dict[str, Any] = {**STREAMED, "stream_options": {"include_usage": True}}


class Wire:
    """An application, and what a test sees of it."""

    def __init__(
        self,
        gateway: LLMGateway,
        store: ConversationStore | None = None,
        clock: Clock | None = None,
        **options: Any,
    ) -> None:
        self.store = store or MemoryStore()
        service = ChatService(
            store=self.store,
            gateway=gateway,
            clock=clock or SystemClock(),
            new_id=random_id,
            model="model-1",
            **options,
        )
        self.client: FlaskClient = create_app(service, dict).test_client()

    def begin(self, body: Any = ASKED, path: str = PATH, **headers: str) -> TestResponse:
        """Send a request, written as JSON unless it is bytes; a stream is still to be read."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.post(path, data=data, content_type=JSON, headers=named)

    def ask(self, body: Any = ASKED, path: str = PATH, **headers: str) -> TestResponse:
        """Send a request, and read the whole answer."""
        response = self.begin(body, path, **headers)
        response.get_data()
        return response

    def stored(self) -> Exchange:
        """Return the one exchange, whole."""
        (exchange,) = self.store.search(LogQuery())
        found = self.store.find(exchange.id)
        assert found is not None
        return found

    def nothing_stored(self) -> bool:
        """Return whether the log is empty."""
        return not self.store.search(LogQuery())


@contextmanager
def wire_to(
    upstream: Upstream, timeout_seconds: float = AMPLE_SECONDS, **options: Any
) -> Iterator[Wire]:
    """Run an application in front of the provider."""
    with closing(
        OpenAIGateway(api_key=KEY, base_url=upstream.url, timeout_seconds=timeout_seconds)
    ) as gateway:
        yield Wire(gateway, **options)


def error_of(response: TestResponse) -> dict[str, Any]:
    """Return the error of an answer in OpenAI's form."""
    assert response.mimetype == JSON
    body = response.json
    assert isinstance(body, dict)
    assert list(body) == ["error"]
    return checked(body["error"])


def checked(error: Any) -> dict[str, Any]:
    """Return an error, if it is one as OpenAI's clients read it."""
    assert isinstance(error, dict)
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert isinstance(error["type"], str)
    assert error["message"]
    assert isinstance(error["param"], str | None)
    assert isinstance(error["code"], str | None)
    return error


def last_error(stream: bytes) -> dict[str, Any]:
    """Return the error that is the last event of a stream."""
    *_, last, rest = stream.split(b"\n\n")
    assert rest == b""
    return checked(json.loads(last.removeprefix(b"data: "))["error"])
