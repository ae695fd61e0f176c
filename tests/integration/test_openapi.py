"""`/openapi.json`: it names what there is, and what it says is true of every request and answer."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from flask import Flask
from flask.testing import FlaskClient

from chatport.adapters import MemoryStore, OfflineGateway, SystemClock, random_id
from chatport.domain.chat import ChatService
from chatport.entrypoints.faults import STATUS
from chatport.entrypoints.flask_app import Authenticate, create_app
from chatport.entrypoints.routes import Access, access_of
from chatport.entrypoints.wiring import condition

from .callers import admin_of, by_path

PLUGIN = "schemathesis.pytest.plugin"
SEED, CHAT = "/openai-completion", "/v1/chat/completions"
HI = {"role": "user", "content": "Hi"}
BODIES: dict[str, dict[str, Any]] = {
    SEED: {"prompt": "Hi"},
    CHAT: {"model": "m", "messages": [HI]},
}


def service_app(authenticate: Authenticate = by_path) -> Flask:
    """Return the application with all that it has, but limits."""
    store = MemoryStore()
    service = ChatService(
        store=store,
        gateway=OfflineGateway(),
        clock=SystemClock(),
        new_id=random_id,
        model="m",
    )
    return create_app(
        service,
        partial(condition, store, lambda: "ok"),
        authenticate=authenticate,
        admin=admin_of(store),
    )


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


@pytest.mark.long
def test_every_request_and_answer_is_as_the_document_says(document: dict[str, Any]) -> None:
    requests = Path(__file__).with_name("openapi_requests.py")
    asked = [path for path, _, _ in operations(document) if path != "/openapi.json"]  # the first
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-pno:cacheprovider", f"-p{PLUGIN}", requests],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert f" {len(asked)} passed" in done.stdout


def test_the_names_of_the_operations_are_unique(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(names) == len(set(names))


def test_the_names_in_a_path_are_its_parameters(document: dict[str, Any]) -> None:
    for path, _, operation in operations(document):
        named = [each["name"] for each in operation.get("parameters", ()) if each["in"] == "path"]
        assert named == re.findall(r"\{(\w+)\}", path)


def test_every_code_of_the_service_is_documented_and_no_other(document: dict[str, Any]) -> None:
    edge = {"invalid_json", "invalid_encoding", "unknown_field", "forbidden_field", "bad_request"}
    edge |= {"request_timeout"}
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


def test_every_route_says_who_may_use_it_and_what_the_door_answers(
    document: dict[str, Any],
) -> None:
    for path, _, operation in operations(document):
        security, answers = operation["security"], operation["responses"]
        if path.startswith("/admin/"):
            assert security == [{"bearer": []}]
        elif path in {"/healthz", "/readyz", "/openapi.json", "/docs", "/docs.css"}:
            assert security == []
            assert not {"401", "403", "429"} & set(answers)
            continue
        else:
            assert security == [{"bearer": []}, {}]
        assert set(codes_of(answers["401"])) == {"invalid_api_key"}
        assert "WWW-Authenticate" in answers["401"]["headers"]
        assert set(codes_of(answers["403"])) == {"not_permitted"}
        assert "rate_limited" in set(codes_of(answers["429"]))
        assert "storage_unavailable" in set(codes_of(answers["503"]))
    scheme = document["components"]["securitySchemes"]["bearer"]
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")


@pytest.mark.parametrize(
    ("method", "rule", "access"),
    [
        ("GET", "/healthz", Access.OPEN),
        ("HEAD", "/healthz", Access.OPEN),
        ("HEAD", "/v1/models", Access.CALLER),
        ("GET", "/v1/models/<path:model>", Access.CALLER),
        ("DELETE", "/conversations/<user_id>", Access.CALLER),
        ("PATCH", "/admin/keys/<name>", Access.ADMIN),
        ("POST", "/healthz", Access.ADMIN),
        ("GET", "/nowhere", Access.ADMIN),
    ],
)
def test_a_route_that_nobody_described_is_for_admins_only(
    method: str, rule: str, access: Access
) -> None:
    assert access_of(method, rule) is access


def test_what_rules_refuse_is_documented_where_they_apply(document: dict[str, Any]) -> None:
    refusals = {"rate_limited", "exceeds_limit", "budget_exceeded"}
    for path, method, operation in operations(document):
        found = {
            status: set(codes_of(operation["responses"].get(status, {})))
            for status in ("400", "429")
        }
        limited = (path, method) in {(SEED, "post"), (CHAT, "post")}
        assert ("model_not_priced" in found["400"]) == limited
        assert found["429"] - {"rate_limited"} == (
            refusals - {"rate_limited"} if limited else set()
        )
        headers = set(operation["responses"]["200"]["headers"])
        assert {
            f"x-ratelimit-{fact}-{unit}"
            for fact in ("limit", "remaining", "reset")
            for unit in ("requests", "tokens")
        } == {name for name in headers if name.startswith("x-ratelimit")} or not limited


def test_the_document_is_made_once_and_is_small(client: FlaskClient) -> None:
    first, second = client.get("/openapi.json").data, client.get("/openapi.json").data
    assert first == second
    assert len(first) < 160_000
