"""The answers that no request can bring about alone: each is as `/openapi.json` says."""

import json
import re
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from chatport.adapters import (
    LimitsCounter,
    MemoryStore,
    Script,
    ScriptedGateway,
    SystemClock,
    random_id,
)
from chatport.domain import errors
from chatport.domain.chat import ChatService
from chatport.domain.errors import ChatportError
from chatport.domain.limits import RateLimiter
from chatport.domain.rules import Limit
from chatport.entrypoints.faults import STATUS
from chatport.entrypoints.flask_app import create_app

from .test_openapi import BODIES, CHAT, SEED, document_of, service_app, validator


@pytest.fixture(scope="module")
def client() -> FlaskClient:
    return service_app().test_client()


@pytest.fixture(scope="module")
def document(client: FlaskClient) -> dict[str, Any]:
    return document_of(client)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (SEED, {"user_id": "ada", "prompt": "Hello", "stream": True}),
        (CHAT, {**BODIES[CHAT], "stream": True}),
        (
            CHAT,
            {**BODIES[CHAT], "stream": True, "stream_options": {"include_usage": True}},
        ),
    ],
    ids=["seed", "chat", "usage"],
)
def test_every_event_of_a_stream_holds_the_record_that_the_document_names(
    client: FlaskClient, document: dict[str, Any], path: str, body: dict[str, Any]
) -> None:
    content = document["paths"][path]["post"]["responses"]["200"]["content"]
    options = content["text/event-stream"]["schema"]["anyOf"]
    text = client.post(path, json=body).text
    events = [event for event in text.split("\n\n") if event and not event.startswith(":")]
    assert len(events) > 2
    for event in events:
        name, data = re.fullmatch(r"(?:event: (\w+)\n)?data: (.*)", event).groups()  # type: ignore[union-attr]  # it matches
        fitting = [option for option in options if fits(document, option, name, data)]
        assert len(fitting) == 1, event


def fits(document: dict[str, Any], option: dict[str, Any], name: str | None, data: str) -> bool:
    expected = option["properties"]["data"]
    if option["properties"]["event"]["const"] != (name or "message"):
        return False
    if "const" in expected:
        return bool(data == expected["const"])
    try:
        value = json.loads(data)
    except ValueError:
        return False
    return validator(document, expected["contentSchema"]).is_valid(value)


GATEWAY_FAULTS = [
    kind
    for kind in STATUS
    if issubclass(
        kind, errors.UpstreamError | errors.ContentFiltered | errors.ContextLengthExceeded
    )
]
STORE_FAULTS = [kind for kind in STATUS if issubclass(kind, errors.StorageUnavailable)]


class FailingStore(MemoryStore):
    """A store that only fails."""

    def __init__(self, fault: BaseException) -> None:
        super().__init__()
        self._fault = fault

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_"):
            raise self._fault
        return super().__getattribute__(name)


def failing(
    gateway: BaseException | None = None, store: BaseException | None = None
) -> FlaskClient:
    """Return a client of a service whose provider or store fails, and that has limits."""
    service = ChatService(
        store=FailingStore(store) if store else MemoryStore(),
        gateway=ScriptedGateway(Script(raises=gateway), models=()),
        clock=SystemClock(),
        new_id=random_id,
        model="m",
        limiter=RateLimiter(LimitsCounter(), total=[Limit(amount=2, window_seconds=60)]),
    )
    return create_app(service, dict).test_client()


def check_answer(document: dict[str, Any], path: str, method: str, answer: TestResponse) -> None:
    """Hold an answer against what the document says of it."""
    described = document["paths"][path][method]["responses"][str(answer.status_code)]
    schema = described["content"][answer.mimetype]["schema"]
    assert validator(document, schema).is_valid(answer.json), answer.json
    for name, reference in described["headers"].items():
        header = document["components"]["headers"][name]
        assert reference == {"$ref": f"#/components/headers/{name}"}
        text = answer.headers.get(name)
        if text is None:
            assert "required" not in header, name
        else:
            value = int(text) if header["schema"]["type"] == "integer" else text
            assert validator(document, header["schema"]).is_valid(value), (name, text)
    ours = {"retry", "x-rat", "x-sho", "idemp"}
    assert not {
        name
        for name, _ in answer.headers
        if name.lower()[:5] in ours and name not in described["headers"]
    }


@pytest.mark.parametrize("kind", GATEWAY_FAULTS)
@pytest.mark.parametrize("path", [SEED, CHAT])
@pytest.mark.parametrize("stream", [False, True])
def test_a_fault_of_the_provider_is_as_documented(
    document: dict[str, Any], kind: type[ChatportError], path: str, *, stream: bool
) -> None:
    body = {**BODIES[path], "stream": stream}
    check_answer(document, path, "post", failing(gateway=kind()).post(path, json=body))


@pytest.mark.parametrize("kind", STORE_FAULTS)
@pytest.mark.parametrize(
    ("path", "method"),
    [
        (SEED, "post"),
        (CHAT, "post"),
        ("/conversations/{user_id}", "get"),
        ("/conversations/{user_id}", "delete"),
    ],
)
def test_a_fault_of_the_store_is_as_documented(
    document: dict[str, Any], kind: type[ChatportError], path: str, method: str
) -> None:
    client = failing(store=kind())
    answer = client.open(
        path.format(user_id="ada"),
        method=method,
        json=BODIES.get(path) if method == "post" else None,
    )
    assert answer.status_code == 503
    check_answer(document, path, method, answer)


@pytest.mark.parametrize("path", [SEED, CHAT])
def test_a_limited_answer_is_as_documented(document: dict[str, Any], path: str) -> None:
    client = failing()
    answers = [client.post(path, json=BODIES[path]) for _ in range(3)]
    assert answers[-1].status_code == 429
    assert int(answers[-1].headers["retry-after-ms"]) > 0
    for answer in answers:
        check_answer(document, path, "post", answer)


@pytest.mark.parametrize("path", [SEED, CHAT])
def test_an_answer_under_an_idempotency_key_is_as_documented(
    client: FlaskClient, document: dict[str, Any], path: str
) -> None:
    headers = {"Idempotency-Key": f"once for {path}"}
    first = client.post(path, json=BODIES[path], headers=headers)
    again = client.post(path, json=BODIES[path], headers=headers)
    other = client.post(path, json={**BODIES[path], "stream": True}, headers=headers)
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    assert other.status_code == 422
    for answer in (first, again, other):
        check_answer(document, path, "post", answer)
