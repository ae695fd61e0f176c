"""One place for one answer: who takes it, from when, and that it is always given back."""

import io
import json
import logging
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from flask.testing import FlaskClient
from pytest_mock import MockerFixture

from chatport.adapters import MemoryStore, Script, ScriptedGateway, SystemClock, random_id
from chatport.domain import ChatService, LogQuery, State
from chatport.domain.errors import CallerTooSlow, StorageBusy
from chatport.entrypoints.flask_app import create_app
from chatport.entrypoints.overload import Overload

PATH = "/openai-completion"
V1 = "/v1/chat/completions"
SEED_BODY = {"user_id": "ada", "prompt": "Hello", "stream": True}
V1_BODY = {"model": "m", "messages": [{"role": "user", "content": "Hello"}], "stream": True}
BOTH = pytest.mark.parametrize(("path", "body"), [(PATH, SEED_BODY), (V1, V1_BODY)])


class Slow(io.BytesIO):
    """A body that is on its way: whoever reads it first sees what others are told meanwhile."""

    def __init__(self, body: bytes, meanwhile: Callable[[], None]) -> None:
        super().__init__(body)
        self._meanwhile = [meanwhile]

    def readinto(self, buffer: Any) -> int:
        if self._meanwhile:
            self._meanwhile.pop()()
        return super().readinto(buffer)


def client_of(gateway: ScriptedGateway, store: MemoryStore | None = None) -> FlaskClient:
    """Return a client of an application that answers one completion at a time."""
    service = ChatService(
        store=store or MemoryStore(),
        gateway=gateway,
        clock=SystemClock(),
        new_id=random_id,
        model="m",
    )
    return create_app(service, dict, overload=Overload(1)).test_client()


def answers(client: FlaskClient) -> bool:
    """Return whether there is a place."""
    with closing(client.post(PATH, json={"prompt": "Another"})) as response:
        assert response.status_code in {200, 503}
        return response.status_code == 200


@BOTH
def test_a_stream_holds_its_place_until_it_is_closed(path: str, body: object) -> None:
    client = client_of(ScriptedGateway(Script(chunks=("one", "two"))))
    response = client.post(path, json=body, buffered=False)
    assert next(iter(response.response))
    assert not answers(client)
    response.close()
    assert answers(client)


@BOTH
def test_a_place_is_given_back_although_the_outcome_could_not_be_kept(
    path: str, body: object, mocker: MockerFixture, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore()
    client = client_of(ScriptedGateway(Script(chunks=("one", "two"))), store)
    caplog.set_level(logging.INFO)
    response = client.post(path, json=body, buffered=False)
    assert next(iter(response.response))
    finish = mocker.patch.object(store, "finish", side_effect=StorageBusy())
    response.close()
    mocker.stop(finish)
    id_ = response.headers["X-Request-Id"]
    assert f"the outcome of {id_} was not kept: storage_busy" in caplog.messages
    lines = [record for record in caplog.records if record.name == "chatport.access"]
    assert len(lines) == 1
    assert answers(client)


@BOTH
def test_who_is_still_sending_holds_no_place(path: str, body: object) -> None:
    client = client_of(ScriptedGateway("Hi"))
    told: list[bool] = []
    data = json.dumps(body).encode()
    response = client.post(
        path,
        input_stream=Slow(data, lambda: told.append(answers(client))),
        content_length=len(data),
        content_type="application/json",
    )
    assert (response.status_code, told) == (200, [True])


@BOTH
def test_who_is_refused_is_not_read(path: str, body: object) -> None:
    client = client_of(ScriptedGateway(Script(chunks=("one", "two"))))
    first = client.post(path, json=body, buffered=False)
    data = json.dumps(body).encode()
    refused = client.post(
        path,
        input_stream=Slow(data, lambda: pytest.fail("it was read")),
        content_length=len(data),
        content_type="application/json",
    )
    assert refused.status_code == 503
    first.close()


@BOTH
def test_a_client_that_reads_too_slowly_is_told_so_and_has_left(path: str, body: object) -> None:
    store = MemoryStore()
    client = client_of(ScriptedGateway(Script(chunks=("one",), raises=CallerTooSlow())), store)
    response = client.post(path, json=body)
    assert b"client_too_slow" in response.data.split(b"\n\n")[-2]
    [exchange] = store.search(LogQuery())
    assert (exchange.state, exchange.reply) == (State.CANCELLED, "one")
