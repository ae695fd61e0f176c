"""`/openapi.json`: it names what there is, and what it says is true of every request and answer."""

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest
import schemathesis
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import HealthCheck, settings
from schemathesis import Case

from chatport.adapters import MemoryStore, OfflineGateway, SystemClock, random_id
from chatport.domain.chat import ChatService
from chatport.entrypoints.faults import STATUS
from chatport.entrypoints.flask_app import create_app
from chatport.entrypoints.wiring import Parts

SEED, CHAT = "/openai-completion", "/v1/chat/completions"
HI = {"role": "user", "content": "Hi"}
BODIES: dict[str, dict[str, Any]] = {
    SEED: {"prompt": "Hi"},
    CHAT: {"model": "m", "messages": [HI]},
}


def service_app() -> Flask:
    """Return the application with all that it has, but limits."""
    store = MemoryStore()
    service = ChatService(
        store=store,
        gateway=OfflineGateway(),
        clock=SystemClock(),
        new_id=random_id,
        model="m",
    )
    return create_app(service, Parts(service=service, store=store, upstream="ok").ready)


api = schemathesis.openapi.from_wsgi("/openapi.json", service_app())


@api.parametrize()
@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
def test_every_request_and_answer_is_as_the_document_says(case: Case[Any]) -> None:
    case.call_and_validate()


@pytest.fixture(scope="module")
def client() -> FlaskClient:
    return service_app().test_client()


def document_of(client: FlaskClient) -> dict[str, Any]:
    """Return the document."""
    answer = client.get("/openapi.json")
    assert answer.status_code == 200
    assert answer.content_type == "application/json"
    assert isinstance(answer.json, dict)
    return answer.json


@pytest.fixture(scope="module")
def document(client: FlaskClient) -> dict[str, Any]:
    return document_of(client)


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def codes_of(schema: Any) -> Iterator[str]:
    """Yield the machine words that a schema lists."""
    if isinstance(schema, dict):
        if "const" in schema and "description" in schema:
            yield schema["const"]
        for part in schema.values():
            yield from codes_of(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from codes_of(part)


def test_the_document_names_the_routes_that_there_are(
    client: FlaskClient, document: dict[str, Any]
) -> None:
    rules = {
        (re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule), method.lower())
        for rule in client.application.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD"}
    }
    assert rules == {(path, method) for path, method, _ in operations(document)}


def test_the_names_of_the_operations_are_unique(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(names) == len(set(names))


def test_the_names_in_a_path_are_its_parameters(document: dict[str, Any]) -> None:
    for path, _, operation in operations(document):
        named = [each["name"] for each in operation.get("parameters", ()) if each["in"] == "path"]
        assert named == re.findall(r"\{(\w+)\}", path)


def test_every_code_of_the_service_is_documented_and_no_other(document: dict[str, Any]) -> None:
    edge = {"invalid_json", "invalid_encoding", "unknown_field", "forbidden_field", "bad_request"}
    http = {"not_found", "body_too_large", "unsupported_media_type", "server_shutdown"}
    domain = {kind.code for kind in STATUS} - {"client_gone"}  # nobody is left to read that
    assert set(codes_of(document["paths"])) == edge | http | domain


def test_a_code_is_documented_with_its_own_status(document: dict[str, Any]) -> None:
    statuses = {kind.code: str(status) for kind, status in reversed(STATUS.items())}
    for _, _, operation in operations(document):
        for status, answer in operation["responses"].items():
            for code in set(codes_of(answer)) & set(statuses):
                assert status == statuses[code] or code == "upstream_error"


def test_the_document_is_open_api_3_1_and_holds_no_title_or_default_that_is_none(
    document: dict[str, Any],
) -> None:
    assert document["openapi"] == "3.1.0"
    text = json.dumps(document["components"]["schemas"])
    assert '"title"' not in text
    user_id = document["components"]["schemas"]["CompletionBody"]["properties"]["user_id"]
    assert "default" not in user_id


def validator(document: dict[str, Any], schema: dict[str, Any]) -> jsonschema_rs.Validator:
    """Return what holds a value against a schema of the document."""
    return jsonschema_rs.Draft202012Validator({**schema, "components": document["components"]})


BLANKS = "".join(chr(code) for code in range(0x110000) if chr(code).isspace())


@pytest.mark.parametrize("prompt", [*BLANKS, BLANKS, "", "\0", "a\0", "\ufeff", "\u200b", "\x1b"])
def test_the_pattern_of_a_prompt_takes_what_the_service_takes(
    client: FlaskClient, document: dict[str, Any], prompt: str
) -> None:
    schema = document["components"]["schemas"]["CompletionBody"]
    for text in (prompt, f" {prompt}x\n"):
        taken = client.post(SEED, json={"prompt": text}).status_code == 200
        assert validator(document, schema).is_valid({"prompt": text}) == taken


REFUSED_ANYWHERE = ["api_base", "base_url", "api_key", "extra_headers", "organization", "proxy"]


@pytest.mark.parametrize("name", [*REFUSED_ANYWHERE, "temperature", "API_KEY", "a\0b"])
def test_the_names_that_are_not_passed_on_are_not_in_the_schema(
    client: FlaskClient, document: dict[str, Any], name: str
) -> None:
    schema = document["components"]["schemas"]["ChatCompletionBody"]
    bodies: list[dict[str, Any]] = [
        {"model": "m", "messages": [HI], name: 1},
        {"model": "m", "messages": [{**HI, name: 1}]},
        {"model": "m", "messages": [HI], "stream_options": {name: None}},
        {"model": "m", "messages": [HI], "metadata": [{"deep": [{name: "x"}]}]},
        {"model": "m", "messages": [HI], "tools": [{"properties": {name: {}}}]},
        {"model": "m", "messages": [HI], "tools": [{"properties": {"x": {name: {}}}}]},
        {"model": "m", "messages": [HI], "tools": [{"$defs": {name: {}}}]},
        {"model": "m", "messages": [HI], "tools": [{"definitions": {name: {name: 1}}}]},
        {"model": "m", "messages": [HI], "properties": {name: 1}},
        {"model": "m", "messages": [HI], "properties": [{name: 1}]},
    ]
    for body in bodies:
        taken = client.post(CHAT, json=body).status_code == 200
        assert validator(document, schema).is_valid(body) == taken, body


def test_the_document_is_made_once_and_is_small(client: FlaskClient) -> None:
    first, second = client.get("/openapi.json").data, client.get("/openapi.json").data
    assert first == second
    assert len(first) < 100_000
