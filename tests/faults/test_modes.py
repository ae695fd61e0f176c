"""Everything that a provider is known to do wrong, and what exactly becomes of each call."""

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from chatport.adapters import (
    MemoryStore,
    OpenAIGateway,
    SystemClock,
    random_id,
    upstream_transport,
)
from chatport.domain import Upstreams
from chatport.domain.chat import ChatService
from chatport.domain.model import Exchange, LogQuery, State
from chatport.domain.upstreams import Upstream as Provider
from chatport.entrypoints.flask_app import create_app
from integration.faults import KEY, PROMPT, QUOTED, SOON
from integration.relaying import PATH as V1
from integration.relaying import SEED, checked
from integration.upstream import Answer, Upstream, running_upstream
from torture import THOROUGH

from .answers import WITHIN
from .modes import ELSEWHERE, Ending, Half, Mode, Place
from .places import address
from .refusals import BEFORE

MODES = (*BEFORE, *WITHIN)
OURS = {400, 404, 413, 422}
"""On `/v1`, the provider's words about these mistakes are passed on with their status."""

modes = partial(pytest.mark.parametrize, "mode", ids=lambda mode: mode.name)
both_ways = pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])


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


Serve = Callable[[Mode, Half], Service]


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for the rest of a refusal for less than two seconds; the call has ten."""
    monkeypatch.setattr(upstream_transport, "ERROR_SECONDS", SOON)


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    """Return a provider that has no script yet."""
    with running_upstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Upstream]:
    """Return a listener that nobody may connect to."""
    with running_upstream() as elsewhere:
        yield elsewhere
        assert elsewhere.connections == 0


@pytest.fixture
def serve(upstream: Upstream, elsewhere: Upstream) -> Iterator[Serve]:
    """Return a function that makes an application whose provider does something wrong."""
    with ExitStack() as stack:

        def serve(mode: Mode, half: Half) -> Service:
            upstream.plays(*(_to(elsewhere, answer) for answer in half.script))
            url = stack.enter_context(address(mode.place, upstream))
            service = Service(url, mode.timeout_seconds)
            stack.enter_context(closing(service.gateway))
            return service

        yield serve


def _to(elsewhere: Upstream, answer: Answer) -> Answer:
    return replace(answer, data=answer.data.replace(ELSEWHERE, elsewhere.host.encode()))


def ask(service: Service, mode: Mode, path: str, body: dict[str, Any]) -> TestResponse:
    """Return the answer, read to its end; it must come in time."""
    began = time.monotonic()
    response = service.client.post(path, json=body)
    response.get_data()
    assert time.monotonic() - began < mode.within
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


def check_row(row: Exchange, ending: Ending) -> None:
    """Check that the exchange has its one outcome, and the right one."""
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


def check_calls(mode: Mode, upstream: Upstream, ending: Ending) -> None:
    """Check how often the provider was asked, and that no connection to it stays open."""
    calls = ending.calls if mode.place is Place.HERE else 0
    assert len(upstream.received) == calls
    assert upstream.sees_the_end_of(upstream.connections)


@both_ways
@modes(MODES if THOROUGH else MODES[::2])
def test_a_fault_has_its_status_its_code_its_row_and_its_time(
    serve: Serve,
    upstream: Upstream,
    mode: Mode,
    caplog: pytest.LogCaptureFixture,
    *,
    stream: bool,
) -> None:
    caplog.set_level(logging.INFO)
    half = mode.stream if stream else mode.plain
    ending = half.ending
    service = serve(mode, half)
    response = ask(service, mode, SEED, {"user_id": "ada", "prompt": PROMPT, "stream": stream})

    assert response.status_code == ending.status
    if ending.code is not None:
        assert seed_error(response)["code"] == ending.code
        check_error(response)
    assert response.headers["Cache-Control"] == "no-store"
    row = service.row()
    check_row(row, ending)
    assert (row.id, row.reply) == (response.headers["X-Request-Id"], ending.reply)
    assert len(service.clock.slept) == ending.calls - 1
    check_log(caplog.text)
    service.gateway.close()
    check_calls(mode, upstream, ending)


@both_ways
@modes(MODES if THOROUGH else MODES[1::2])
def test_a_fault_of_a_relayed_call_ends_as_it_should(
    serve: Serve,
    upstream: Upstream,
    mode: Mode,
    caplog: pytest.LogCaptureFixture,
    *,
    stream: bool,
) -> None:
    caplog.set_level(logging.INFO)
    half = mode.stream if stream else mode.plain
    ending = mode.relayed[stream] if mode.relayed else half.ending
    service = serve(mode, half)
    asked = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": stream}
    response = ask(service, mode, V1, asked)
    row = service.row()

    passed_on = ending.upstream_status in OURS
    assert response.status_code == (ending.upstream_status if passed_on else ending.status)
    check_row(row, ending)
    assert row.id == response.headers["X-Request-Id"]
    if ending.code is not None:
        error = v1_error(response)
        assert passed_on or error["code"] == ending.code
        check_error(response, passed_on=passed_on)
    check_log(caplog.text)
    service.gateway.close()
    check_calls(mode, upstream, ending)


def test_the_table_is_as_long_as_it_should_be() -> None:
    names = {mode.name for mode in MODES}
    assert len(names) == len(MODES) >= 60
