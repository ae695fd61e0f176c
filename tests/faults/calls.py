"""A call to a provider that does something wrong: how it is made, and what is checked of it."""

import json
import time
from typing import Any

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from chatport.adapters import MemoryStore, OpenAIGateway, SystemClock, random_id
from chatport.domain import Upstreams
from chatport.domain.chat import ChatService
from chatport.domain.model import Exchange, LogQuery, State
from chatport.domain.upstreams import Upstream as Provider
from chatport.entrypoints.flask_app import create_app
from integration.faults import KEY, PROMPT, QUOTED
from integration.relaying import PATH as V1
from integration.relaying import SEED, checked

from .modes import Ending

OURS = {400, 404, 413, 422}
"""On `/v1`, the provider's words about these mistakes are passed on with their status."""

ASKED: dict[str, dict[str, Any]] = {
    SEED: {"user_id": "ada", "prompt": PROMPT},
    V1: {"model": "m", "messages": [{"role": "user", "content": "Hi"}]},
}


class Patient(SystemClock):
    """A clock that lets no test wait: it only remembers for how long it should have slept."""

    def __init__(self) -> None:
        self.slept: list[float] = []
        self.skipped = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.skipped

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


class Service:
    """An application in front of a provider, and what a test sees of it."""

    def __init__(self, url: str, timeout_seconds: float) -> None:
        self.store = MemoryStore()
        self.clock = Patient()
        self.gateway = OpenAIGateway(api_key=KEY, base_url=url, timeout_seconds=timeout_seconds)
        upstreams = Upstreams(
            [Provider(name="1", gateway=self.gateway)], self.clock, total_seconds=timeout_seconds
        )
        chat = ChatService(
            store=self.store,
            gateway=upstreams,
            clock=self.clock,
            new_id=random_id,
            model="model-1",
        )
        self.client: FlaskClient = create_app(chat, dict).test_client()

    def row(self) -> Exchange:
        """Return the one exchange, whole."""
        (listed,) = self.store.search(LogQuery())
        found = self.store.find(listed.id)
        assert found is not None
        return found


def ask(service: Service, path: str, *, stream: bool, within: float) -> TestResponse:
    """Return the answer of one of the two routes, read to its end; it must come in time."""
    began = time.monotonic()
    response = service.client.post(path, json={**ASKED[path], "stream": stream})
    response.get_data()
    assert time.monotonic() - began < within
    return response


def seed_error(response: TestResponse) -> dict[str, Any]:
    """Return the error of an answer of the seed route, whole or the last event of a stream."""
    data = response.data
    if response.mimetype == "text/event-stream":
        *_, last, rest = data.split(b"\n\n")
        name, data = last.split(b"\n")
        assert (name, rest) == (b"event: error", b"")
        data = data.removeprefix(b"data: ")
    error: dict[str, Any] = json.loads(data)
    assert list(error) == ["error", "code", "request_id"]
    assert error["request_id"] == response.headers["X-Request-Id"]
    return error


def v1_error(response: TestResponse) -> dict[str, Any]:
    """Return the error of an answer in OpenAI's protocol."""
    data = response.data
    if response.mimetype == "text/event-stream":
        *_, last, rest = data.split(b"\n\n")
        assert (rest, b"[DONE]" in data) == (b"", False)
        data = last.removeprefix(b"data: ")
    return checked(json.loads(data)["error"])


def check_told(response: TestResponse, path: str, ending: Ending) -> None:
    """Check what the client is told: on `/v1`, of its own mistakes in the provider's words."""
    passed_on = path == V1 and ending.upstream_status in OURS
    assert response.status_code == (ending.upstream_status if passed_on else ending.status)
    assert "no-store" in response.headers["Cache-Control"]
    if ending.code is not None:
        error = v1_error(response) if path == V1 else seed_error(response)
        assert passed_on or error["code"] == ending.code
        check_error(response, passed_on=passed_on)


def check_row(row: Exchange, response: TestResponse, ending: Ending) -> None:
    """Check that the exchange has its one outcome, and the right one."""
    assert row.id == response.headers["X-Request-Id"]
    state = State.COMPLETED if ending.code is None else State.FAILED
    stored = (row.state, row.error_code, row.upstream_status, row.attempts)
    assert stored == (state, ending.code, ending.upstream_status, ending.calls)
    assert row.finished_at is not None


def check_error(response: TestResponse, *, passed_on: bool = False) -> None:
    """Check that the client learns neither the key nor, unless they are meant for it, the words."""
    told = response.get_data(as_text=True) + str(response.headers)
    assert KEY not in told
    assert passed_on or QUOTED[:8] not in told


def check_log(log: str) -> None:
    """Check that the log holds neither the key nor anybody's words, and no surprise."""
    for secret in (KEY, PROMPT, QUOTED[:8], "Traceback", "unexpected"):
        assert secret not in log
