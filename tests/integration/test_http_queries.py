"""Queries: each filter is heeded, or the request is refused."""

from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from chatport.entrypoints.route import Route
from chatport.entrypoints.routes import ROUTES

from .test_documented_answers import check_answer
from .test_openapi import document_of, service_app

QUERIES = [
    (route, name)
    for route in ROUTES
    if route.query is not None
    for name in route.query.model_fields
]
GOOD = {"by": "day", "since": "2026-11-23", "until": "2026-11-23", "state": "open"}
"""Values of the fields that do not take every number."""

NO_TEXT = ["%ff", "%c3%28", "%ED%A0%80", "a%80", "%f8%88%80%80%80", "%c0%af"]


@pytest.fixture(scope="module")
def client() -> FlaskClient:
    return service_app().test_client()


@pytest.fixture(scope="module")
def document(client: FlaskClient) -> dict[str, Any]:
    return document_of(client)


def send(client: FlaskClient, route: Route, query: str) -> TestResponse:
    names = {name: schema["examples"][0] for name, schema in route.path_values.items()}
    path = route.path.format(**names)
    body = dict(route.example) if route.example else None
    return client.open(path, method=route.method, query_string=query, json=body)


def problem(answer: TestResponse) -> tuple[str, str | None, str]:
    """Return the code, the field and the sentence of a request that is refused as bad."""
    assert answer.status_code == 400, answer.text
    assert answer.json is not None
    error = answer.json["error"]
    if isinstance(error, str):
        return answer.json["code"], None, error
    return error["code"], error["param"], error["message"]


@pytest.mark.parametrize(("route", "name"), QUERIES, ids=lambda it: getattr(it, "path", it))
def test_a_field_that_is_given_twice_is_refused(
    client: FlaskClient, document: dict[str, Any], route: Route, name: str
) -> None:
    value = GOOD.get(name, "1")
    assert send(client, route, f"{name}={value}").status_code == 200
    encoded = f"%{ord(name[0]):02x}{name[1:]}"
    for query in (f"{name}={value}&{name}={value}", f"{name}=&{encoded}={value}"):
        answer = send(client, route, query)
        assert problem(answer) == (
            "invalid_field",
            name,
            f"{name} must stand in the query only once.",
        )
        check_answer(document, route.path, route.method, answer)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
@pytest.mark.parametrize("value", NO_TEXT)
def test_bytes_that_are_no_text_are_refused_on_every_route(
    client: FlaskClient, document: dict[str, Any], route: Route, value: str
) -> None:
    for query in (f"user={value}", f"{value}=1", f"limit=1&{value}"):
        answer = send(client, route, query)
        code, field, message = problem(answer)
        assert (code, field) == ("invalid_encoding", None)
        assert message == "The query must be ASCII, and what it writes as %XX UTF-8."
        if route.query is not None or route.body is not None:
            check_answer(document, route.path, route.method, answer)


def test_bytes_that_are_not_ascii_are_refused(client: FlaskClient) -> None:
    environ = {"QUERY_STRING": "user=\xc3\xa4"}  # by PEP 3333, a character is a byte
    answer = client.get("/admin/log", environ_overrides=environ)
    assert problem(answer)[0] == "invalid_encoding"


@pytest.mark.parametrize("value", ["%C3%A4", "%f0%9f%91%8b", "%", "%zz", "+", ""])
def test_any_text_is_a_value(client: FlaskClient, value: str) -> None:
    assert client.get(f"/admin/log?user=x{value}").status_code == 200
