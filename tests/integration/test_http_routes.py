"""All routes: which there are, which are limited, what they refuse, and whether they are ready."""

import re
from functools import partial
from typing import Any

import pytest
from flask.testing import FlaskClient

from chatport.adapters import (
    LimitsCounter,
    MemoryStore,
    ScriptedGateway,
    SystemClock,
    random_id,
)
from chatport.domain.chat import ChatService
from chatport.domain.errors import StorageFull
from chatport.domain.limits import RateLimiter
from chatport.domain.models import ModelCard
from chatport.domain.rules import Limit
from chatport.entrypoints.flask_app import create_app
from chatport.entrypoints.wiring import condition

from .callers import admin_of, by_path

ROUTES = {
    # path, methods: is it limited?
    ("/openai-completion", "POST"): True,
    ("/v1/chat/completions", "POST"): True,
    ("/v1/models", "GET HEAD"): False,
    ("/v1/models/<path:model>", "GET HEAD"): False,
    ("/conversations/<user_id>", "GET HEAD"): False,
    ("/conversations/<user_id>", "DELETE"): False,
    ("/healthz", "GET HEAD"): False,
    ("/readyz", "GET HEAD"): False,
    ("/openapi.json", "GET HEAD"): False,
    ("/docs", "GET HEAD"): False,
    ("/docs.css", "GET HEAD"): False,
}
"""Whoever adds a route decides here whether it is limited."""

FOR_ADMINS = {
    ("/admin/usage", "GET HEAD"),
    ("/admin/log", "GET HEAD"),
    ("/admin/log/<exchange_id>", "GET HEAD"),
    ("/admin/keys", "GET HEAD"),
    ("/admin/keys", "POST"),
    ("/admin/keys/<name>", "GET HEAD"),
    ("/admin/keys/<name>", "PATCH"),
    ("/admin/keys/<name>", "DELETE"),
    ("/admin/keys/<name>/rotate", "POST"),
}
"""Not limited; test_authorization.py asks them all."""

MODEL = ModelCard(
    id="m", facts={"id": "m", "object": "model", "created": 0, "owned_by": "chatport"}
)
PATHS = {
    "/conversations/<user_id>": "/conversations/ada",
    "/v1/models/<path:model>": "/v1/models/m",
}
BODIES: dict[str, dict[str, Any]] = {
    "/openai-completion": {"prompt": "x"},
    "/v1/chat/completions": {"model": "m", "messages": [{"role": "user", "content": "x"}]},
}


class Unavailable(MemoryStore):
    """A store that nobody may touch."""

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_"):
            raise StorageFull
        return super().__getattribute__(name)


def client_of(store: MemoryStore | None = None) -> FlaskClient:
    store = store or MemoryStore()
    service = ChatService(
        store=store,
        gateway=ScriptedGateway("Hi", models=[MODEL]),
        clock=SystemClock(),
        new_id=random_id,
        model="m",
        limiter=RateLimiter(LimitsCounter(), total=[Limit(amount=100, window_seconds=60)]),
    )
    app = create_app(
        service,
        partial(condition, store, lambda: "ok"),
        authenticate=by_path,
        admin=admin_of(store),
    )
    return app.test_client()


def test_there_is_no_route_but_those_on_the_list() -> None:
    rules = client_of().application.url_map.iter_rules()
    assert {(rule.rule, " ".join(sorted(rule.methods or ()))) for rule in rules} == {
        *ROUTES,
        *FOR_ADMINS,
    }


@pytest.mark.parametrize(("path", "methods"), list(ROUTES))
def test_a_route_is_limited_if_the_list_says_so(path: str, methods: str) -> None:
    client, body = client_of(), BODIES.get(path)
    for method in methods.split():
        response = client.open(PATHS.get(path, path), method=method, json=body)
        assert response.status_code == 200
        assert ("x-ratelimit-limit-requests" in response.headers) == ROUTES[path, methods]


ANY = [
    ("POST", "/openai-completion"),
    ("GET", "/openai-completion"),
    ("GET", "/conversations/ada"),
    ("DELETE", "/conversations/ada"),
    ("GET", "/conversations/%00"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/v1/models"),
    ("GET", "/openapi.json"),
    ("POST", "/docs"),
    ("HEAD", "/healthz"),
    ("GET", "/"),
    ("GET", "/favicon.ico"),
    ("TRACE", "/healthz"),
]


@pytest.mark.parametrize(("method", "path"), ANY)
def test_every_answer_has_a_request_id_and_is_kept_by_nobody(method: str, path: str) -> None:
    client = client_of()
    responses = [client.open(path, method=method) for _ in range(2)]
    ids = {response.headers["X-Request-Id"] for response in responses}
    assert len(ids) == 2
    for response in responses:
        assert re.fullmatch(r"[0-9a-f]{32}", response.headers["X-Request-Id"])
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Content-Security-Policy"].startswith("default-src 'none';")
        assert response.content_type == "application/json"


@pytest.mark.parametrize(
    "path", ["/", "/healthz/", "//healthz", "/v2", "/static/x", "/openai-completion/", "/%00"]
)
def test_what_is_not_there_is_404_with_openais_four_keys(path: str) -> None:
    response = client_of().get(path)
    assert response.status_code == 404
    assert response.json == {
        "error": {
            "message": "Not Found.",
            "type": "invalid_request_error",
            "param": None,
            "code": "not_found",
        }
    }


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/openai-completion", "POST"),
        ("/conversations/ada", "DELETE, GET, HEAD"),
        ("/healthz", "GET, HEAD"),
        ("/readyz", "GET, HEAD"),
        ("/openapi.json", "GET, HEAD"),
        ("/docs", "GET, HEAD"),
        ("/docs.css", "GET, HEAD"),
    ],
)
@pytest.mark.parametrize("method", ["OPTIONS", "TRACE", "PUT", "PATCH", "CONNECT", "BREW"])
def test_another_method_is_405_and_told_which_are_allowed(
    path: str, allowed: str, method: str
) -> None:
    response = client_of().open(path, method=method)
    assert response.status_code == 405
    assert response.headers["Allow"] == allowed
    assert response.json is not None
    error = response.json if path == "/openai-completion" else response.json["error"]
    assert error["code"] == "method_not_allowed"


def test_the_seed_route_refuses_another_method_in_its_own_words() -> None:
    response = client_of().get("/openai-completion")
    assert response.json == {
        "error": "Method Not Allowed.",
        "code": "method_not_allowed",
        "request_id": response.headers["X-Request-Id"],
    }


def test_a_request_id_cannot_be_injected() -> None:
    client = client_of()
    response = client.get("/healthz", headers={"X-Request-Id": "☃".encode().decode("latin-1")})
    assert response.status_code == 200
    assert re.fullmatch(r"[0-9a-f]{32}", response.headers["X-Request-Id"])


@pytest.mark.parametrize("store", [MemoryStore(), Unavailable()], ids=["well", "unavailable"])
def test_the_process_lives_whatever_the_store_does(store: MemoryStore) -> None:
    response = client_of(store).get("/healthz")
    assert (response.status_code, response.json) == (200, {"status": "alive"})


def test_the_service_is_ready_when_its_parts_are() -> None:
    response = client_of().get("/readyz")
    assert response.status_code == 200
    assert response.json == {
        "status": "ready",
        "checks": {"store": "ok", "limiter": "ok", "upstream": "ok"},
    }


def test_the_service_is_degraded_while_a_provider_is_left_alone() -> None:
    checks = {"store": "ok", "upstream": "degraded: x is left alone for now (upstream_timeout)"}
    service = ChatService(
        store=MemoryStore(),
        gateway=ScriptedGateway("Hi"),
        clock=SystemClock(),
        new_id=random_id,
        model="m",
    )
    response = create_app(service, lambda: checks).test_client().get("/readyz")
    assert response.status_code == 200
    assert response.json == {"status": "degraded", "checks": checks}


def test_the_service_is_not_ready_when_the_store_is_unavailable() -> None:
    response = client_of(Unavailable()).get("/readyz")
    assert response.status_code == 503
    assert response.json == {
        "status": "not ready",
        "reason": "The disk of the database is full; free some space and it works again.",
        "code": "storage_full",
    }


def test_a_readiness_check_that_breaks_means_500() -> None:
    def broken() -> dict[str, str]:
        raise RuntimeError("canary")

    service = ChatService(
        store=MemoryStore(),
        gateway=ScriptedGateway("Hi"),
        clock=SystemClock(),
        new_id=random_id,
        model="m",
    )
    response = create_app(service, broken).test_client().get("/readyz")
    assert response.status_code == 500
    assert response.json == {
        "error": {
            "message": "Something went wrong inside chatport; the operator finds it in the log.",
            "type": "server_error",
            "param": None,
            "code": "internal_error",
        }
    }
