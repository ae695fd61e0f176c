"""`GET /v1/models` and `GET /v1/models/{id}`: what the provider offers, as far as it is allowed."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from werkzeug.test import TestResponse

from chatport.adapters import OfflineGateway, ScriptedGateway, SystemClock
from chatport.domain.models import ModelCard

from .faults import KEY, QUOTED, SOON, page, refusal
from .relaying import Wire, error_of, wire_to
from .upstream import Answer, Then, Upstream
from .wire import http, json_http

MODELS: list[dict[str, Any]] = [
    {"id": "gpt-5-mini", "object": "model", "created": 1_754_500_000, "owned_by": "system"},
    {"id": "vendor/large:free", "object": "model", "created": 2, "owned_by": "vendor", "é": [1.5]},
    {"id": "a/b/c", "object": "model", "created": 3, "owned_by": "x", "permission": None},
]
LIST = Answer(json_http("200 OK", {"object": "list", "data": MODELS, "more": 1}))


class Later(SystemClock):
    """The real time, but for what a test adds to it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.seconds


@pytest.fixture
def wire(upstream: Upstream) -> Iterator[Wire]:
    upstream.plays(LIST)
    with wire_to(upstream) as wire:
        yield wire


def models(wire: Wire, path: str = "/v1/models") -> TestResponse:
    return wire.client.get(path)


def test_the_list_is_the_providers(wire: Wire, upstream: Upstream) -> None:
    response = models(wire)
    assert (response.status_code, response.mimetype) == (200, "application/json")
    assert response.json == {"object": "list", "data": MODELS}
    assert response.headers["Cache-Control"] == "no-store"
    assert len(response.headers["X-Request-Id"]) == 32
    [received] = upstream.received
    assert received.line == "GET /v1/models HTTP/1.1"
    assert received.headers["Authorization"] == f"Bearer {KEY}"
    assert received.body == b""


def test_no_header_of_the_client_reaches_the_provider(wire: Wire, upstream: Upstream) -> None:
    headers = {"Authorization": "Bearer bird", "OpenAI-Organization": "bird", "Cookie": "bird"}
    wire.client.get("/v1/models?bird=1", headers=headers)
    assert "bird" not in str(upstream.received[0])


@pytest.mark.parametrize(
    ("path", "id_"),
    [
        ("gpt-5-mini", "gpt-5-mini"),
        ("vendor/large:free", "vendor/large:free"),
        ("vendor%2Flarge%3Afree", "vendor/large:free"),
        ("a/b/c", "a/b/c"),
        ("a%2fb/c", "a/b/c"),
    ],
)
def test_a_model_is_found_by_its_id(path: str, id_: str, wire: Wire) -> None:
    response = models(wire, f"/v1/models/{path}")
    assert response.status_code == 200
    assert response.json == next(model for model in MODELS if model["id"] == id_)


@pytest.mark.parametrize(
    "path",
    ["gpt-5", "gpt-5-mini/", "GPT-5-MINI", "vendor", "a/b", "a//b/c", "%00", "..", "é", "x" * 500],
)
def test_a_model_that_is_not_listed_is_404(path: str, wire: Wire) -> None:
    response = models(wire, f"/v1/models/{path}")
    assert response.status_code == 404
    error = error_of(response)
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert error["type"] == "invalid_request_error"


def test_two_requests_are_one_call_of_the_provider(wire: Wire, upstream: Upstream) -> None:
    models(wire)
    models(wire, "/v1/models/a/b/c")
    models(wire, "/v1/models/nope")
    assert len(upstream.received) == 1


def test_a_list_is_asked_for_again_after_a_minute(upstream: Upstream) -> None:
    clock = Later()
    upstream.plays(LIST, Answer(json_http("200 OK", {"data": MODELS[:1]})))
    with wire_to(upstream, clock=clock) as wire:
        models(wire)
        clock.seconds = 59.0
        assert models(wire).json == {"object": "list", "data": MODELS}
        clock.seconds = 61.0
        assert models(wire).json == {"object": "list", "data": MODELS[:1]}
    assert len(upstream.received) == 2


def test_only_the_models_that_are_allowed_are_there(upstream: Upstream) -> None:
    upstream.plays(LIST)
    allowed = ["vendor/large:free", "never/heard/of"]
    with wire_to(upstream, allowed_models=allowed) as wire:
        assert models(wire).json == {"object": "list", "data": MODELS[1:2]}
        assert models(wire, "/v1/models/gpt-5-mini").status_code == 404
        assert models(wire, "/v1/models/never/heard/of").status_code == 404
        assert models(wire, "/v1/models/vendor/large:free").status_code == 200


def test_16_requests_at_once_are_one_call_of_the_provider(wire: Wire, upstream: Upstream) -> None:
    with ThreadPoolExecutor(16) as pool:
        statuses = list(pool.map(lambda _: models(wire).status_code, range(16)))
    assert statuses == [200] * 16
    assert len(upstream.received) == 1


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/gpt-5-mini"])
@pytest.mark.parametrize(
    ("answer", "status", "code", "retry"),
    [
        (refusal("401 Unauthorized"), 502, "upstream_auth_failed", "false"),
        (refusal("404 Not Found"), 502, "upstream_model_unavailable", "false"),
        (refusal("400 Bad Request"), 502, "upstream_rejected", "false"),
        (refusal("429 Too Many Requests", "Retry-After: 7"), 503, "upstream_rate_limited", None),
        (page("500 Oops"), 502, "upstream_error", None),
        (page("503 Busy", "Retry-After: 7"), 503, "upstream_error", None),
        (page("200 OK"), 502, "upstream_invalid_response", "false"),
        (b"", 504, "upstream_timeout", "false"),
    ],
)
def test_a_failure_of_the_provider_is_told_in_our_words(
    *, answer: bytes, status: int, code: str, retry: str | None, path: str, upstream: Upstream
) -> None:
    upstream.plays(Answer(answer, then=Then.KEEP if answer else Then.HANG))
    with wire_to(upstream, 5.0 if answer else SOON) as wire:
        response = models(wire, path)
    assert response.status_code == status
    assert error_of(response)["code"] == code
    assert response.headers.get("x-should-retry") == retry
    assert response.headers.get("Retry-After") == ("7" if status == 503 else None)
    assert QUOTED not in response.text
    assert KEY not in response.text


def test_a_failure_is_not_remembered(wire: Wire, upstream: Upstream) -> None:
    upstream.plays(Answer(page("500 Oops")), LIST)
    assert models(wire).status_code == 502
    assert models(wire).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"{}",
        b'{"data": null}',
        b'{"data": {}}',
        b'{"data": [',
        b'{"data": "\xff"}',
        b"[" * 100_000,
        json.dumps({"data": MODELS}).encode("utf-16"),
    ],
    ids=lambda body: repr(body[:16]),
)
def test_what_is_no_list_of_models_is_502(body: bytes, wire: Wire, upstream: Upstream) -> None:
    upstream.plays(Answer(http("200 OK", body, "Content-Type: application/json")))
    response = models(wire)
    assert response.status_code == 502
    assert error_of(response)["code"] == "upstream_invalid_response"


def test_what_is_no_model_is_left_out(wire: Wire, upstream: Upstream) -> None:
    data: list[Any] = [None, 5, "x", [], {}, {"id": None}, {"id": 5}, MODELS[0]]
    upstream.plays(Answer(json_http("200 OK", {"data": data})))
    assert models(wire).json == {"object": "list", "data": MODELS[:1]}


@pytest.mark.parametrize(
    "odd",
    [b'"\\ud800"', b"NaN", b"-Infinity", b"1e999"],
    ids=["half a pair", "NaN", "-Inf", "1e999"],
)
def test_an_odd_model_does_not_hide_the_others_and_the_answer_is_json(
    odd: bytes, wire: Wire, upstream: Upstream
) -> None:
    data = b'{"data": [{"id": "odd", "x": %b}, {"id": "good"}]}' % odd
    upstream.plays(Answer(http("200 OK", data, "Content-Type: application/json")))
    response = models(wire)
    assert response.status_code == 200

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    listed = json.loads(response.data, parse_constant=refuse)
    assert "good" in [model["id"] for model in listed["data"]]


def test_a_service_without_a_provider_offers_its_one_model() -> None:
    wire = Wire(OfflineGateway())
    facts = {"id": "offline", "object": "model", "created": 0, "owned_by": "chatport"}
    assert models(wire).json == {"object": "list", "data": [facts]}
    assert models(wire, "/v1/models/offline").json == facts


def test_a_provider_without_models_has_an_empty_list() -> None:
    assert models(Wire(ScriptedGateway("Hi"))).json == {"object": "list", "data": []}


def test_the_order_and_every_field_of_the_provider_stay() -> None:
    facts: list[dict[str, Any]] = [{"z": 1, "id": "b", "a": {"y": [None]}}, {"id": "a"}]
    cards = [ModelCard(id=model["id"], facts=model) for model in facts]
    response = models(Wire(ScriptedGateway("Hi", models=cards)))
    assert response.data == (
        b'{"object":"list","data":[{"z":1,"id":"b","a":{"y":[null]}},{"id":"a"}]}\n'
    )


def test_the_list_is_not_stored_as_an_exchange(wire: Wire) -> None:
    models(wire)
    assert wire.nothing_stored()


def test_a_provider_that_hangs_is_asked_once_by_those_who_wait_together(
    upstream: Upstream,
) -> None:
    upstream.plays(Answer(then=Then.HANG))
    with wire_to(upstream, SOON) as wire, ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(lambda _: models(wire).status_code, range(8)))
    assert statuses == [504] * 8
    assert len(upstream.received) < 8
