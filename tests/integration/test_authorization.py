"""Who may do what: every role on every route, and what one caller can learn of another's."""

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from chatport.adapters import LimitsCounter, ScriptedGateway
from chatport.domain import Limit, LogQuery, Role
from chatport.domain.limits import RateLimiter
from chatport.entrypoints.route import Access
from chatport.entrypoints.routes import ROUTES, access_of

from .callers import MODEL, Site, bearer

CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
BODIES: dict[tuple[str, str], Any] = {
    ("POST", "/openai-completion"): {"user_id": "ada", "prompt": "Hi"},
    ("POST", "/v1/chat/completions"): {**CHAT, "user": "ada"},
    ("POST", "/admin/keys"): {"name": "new"},
    ("PATCH", "/admin/keys/<name>"): {"models": ["m"]},
    ("POST", "/admin/keys/<name>/rotate"): {"overlap_seconds": 60},
}
VALUES = {"user_id": "ada", "name": "one", "model": "m", "path:model": "m"}
"""What stands in paths: what belongs to the caller `one`."""

ROLES = ("nobody", "wrong", "revoked", "expired", "caller", "admin")
ALLOWED = {
    Access.OPEN: set(ROLES),
    Access.CALLER: {"caller"},
    Access.ADMIN: {"admin"},
}


class Matrix:
    """A service with one caller of each condition, and something stored for the caller `one`."""

    def __init__(self) -> None:
        self.site = Site()
        self.keys = {
            "caller": self.site.key("one"),
            "other": self.site.key("other"),
            "admin": self.site.key("boss", Role.ADMIN),
            "revoked": self.site.key("gone"),
            "expired": self.site.key("late"),
            "wrong": "cp_0123456789abcdef_" + "A" * 43,
        }
        self.site.admin.keys.revoke("gone")
        late = self.site.admin.keys.rotate("late", timedelta(0))  # the first ends at once
        assert late != self.keys["expired"]
        self.client: FlaskClient = self.site.app.test_client()
        self.ask("caller", "POST", "/openai-completion")
        (self.stored,) = self.site.store.search(LogQuery(caller="one"))

    def ask(self, role: str, method: str, rule: str, **values: str) -> TestResponse:
        path = rule
        for name, value in {**VALUES, "exchange_id": self.stored_id(), **values}.items():
            path = path.replace(f"<{name}>", value)
        headers = bearer(self.keys[role]) if role in self.keys else {}
        body = BODIES.get((method, rule))
        return self.client.open(path, method=method, json=body, headers=headers)

    def stored_id(self) -> str:
        stored = getattr(self, "stored", None)
        return stored.id if stored else "none-yet"


def routes() -> Iterator[tuple[str, str]]:
    """Yield every method and path that the application has."""
    for rule in Site().app.url_map.iter_rules():
        for method in sorted(rule.methods or ()):
            yield method, rule.rule


ALL = list(routes())


def test_every_route_has_a_declared_policy() -> None:
    declared = {(route.method.upper(), route.path) for route in ROUTES}
    for method, rule in ALL:
        path = rule.replace("<path:", "{").replace("<", "{").replace(">", "}")
        assert ("GET" if method == "HEAD" else method, path) in declared


def test_a_route_that_nobody_has_thought_of_is_for_admins_only() -> None:
    site = Site()
    site.key("one")
    site.app.add_url_rule("/forgotten", view_func=lambda: "secret")
    assert access_of("GET", "/forgotten") is Access.ADMIN
    assert site.app.test_client().get("/forgotten").status_code == 401


@pytest.fixture(scope="module")
def matrix_of_all() -> Matrix:
    """Return what serves each test of an open route: such a route changes nothing."""
    return Matrix()


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(("method", "rule"), ALL)
def test_a_role_reaches_a_route_exactly_if_it_may(
    matrix_of_all: Matrix, method: str, rule: str, role: str
) -> None:
    is_open = access_of(method, rule) is Access.OPEN
    answer = (matrix_of_all if is_open else Matrix()).ask(role, method, rule)
    if role in ALLOWED[access_of(method, rule)]:
        assert answer.status_code == 200, answer.data
    elif role in {"caller", "admin"}:
        assert answer.status_code == 403
        assert code_of(answer, method) in {"not_permitted", ""}
    else:
        assert answer.status_code == 401
        assert code_of(answer, method) in {"invalid_api_key", ""}
        assert answer.headers["WWW-Authenticate"] == "Bearer"


def code_of(answer: TestResponse, method: str) -> str:
    if method == "HEAD":
        return ""
    said = json.loads(answer.data)
    return str(said["code"] if "code" in said else said["error"]["code"])


def test_whoever_is_refused_changes_nothing() -> None:
    matrix = Matrix()
    before = (list(matrix.site.store.search(LogQuery())), list(matrix.site.admin.keys.list()))
    for method, rule in ALL:
        for role in ROLES:
            if role not in ALLOWED[access_of(method, rule)]:
                matrix.ask(role, method, rule)
    after = (list(matrix.site.store.search(LogQuery())), list(matrix.site.admin.keys.list()))
    assert after == before
    assert len(matrix.site.gateway.calls) == 1


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_anothers_conversation_and_one_that_never_was_are_the_same_bytes(method: str) -> None:
    matrix = Matrix()
    rule = "/conversations/<user_id>"
    foreign = matrix.ask("other", method, rule, user_id="ada")
    unknown = matrix.ask("other", method, rule, user_id="eva")
    assert foreign.status_code == unknown.status_code == 200
    assert foreign.data.replace(b"ada", b"eva") == unknown.data
    assert differing(foreign, unknown) == {"X-Request-Id"}
    mine = matrix.ask("caller", "GET", rule).json
    assert mine is not None
    assert [exchange["id"] for exchange in mine["exchanges"]] == [matrix.stored.id]


def differing(one: TestResponse, other: TestResponse) -> set[str]:
    names = {*one.headers.keys(), *other.headers.keys()}
    return {name for name in names if one.headers.get(name) != other.headers.get(name)}


def test_users_of_two_callers_never_meet() -> None:
    matrix = Matrix()
    matrix.ask("other", "POST", "/openai-completion")
    _, theirs = matrix.site.gateway.calls
    assert [message.text for message in theirs.messages] == ["Hi"]  # no history of the other ada
    matrix.ask("other", "DELETE", "/conversations/<user_id>")
    assert [exchange.caller for exchange in matrix.site.store.search(LogQuery())] == ["one"]


def test_an_idempotency_key_of_another_caller_is_free() -> None:
    site = Site(gateway=ScriptedGateway("mine", "theirs", models=[MODEL]))
    said = []
    for name in ("one", "other", "one"):
        if name not in [caller.name for caller, _ in site.admin.keys.list()]:
            site.key(name)
        key = site.admin.keys.rotate(name, timedelta(0))
        headers = {**bearer(key), "Idempotency-Key": "k"}
        answer = site.app.test_client().post(
            "/openai-completion", json={"prompt": "Hi"}, headers=headers
        )
        said.append((answer.json or {})["completion"])
    assert said == ["mine", "theirs", "mine"]


def test_every_401_of_a_route_has_the_same_bytes_whatever_is_wrong_with_the_key() -> None:
    matrix = Matrix()
    good = matrix.keys["caller"]
    shown = [
        {},
        *(bearer(matrix.keys[role]) for role in ("wrong", "revoked", "expired")),
        bearer(good[:-1]), bearer(good + "A"), bearer(""), bearer("cp_"), bearer("sk-123"),
        {"Authorization": f"Basic {good}"}, {"Authorization": good}, {"Authorization": "Bearer"},
        {"X-Api-Key": good}, {"Api-Key": good}, {"Cookie": f"Authorization=Bearer {good}"},
        {"Authorization": f"Bearer {good}, Bearer {good}"},
    ]  # fmt: skip
    answers = [matrix.client.get("/v1/models", headers=headers) for headers in shown]
    answers.append(matrix.client.get(f"/v1/models?key={good}&api_key={good}&access_token={good}"))
    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.data for answer in answers}) == 1
    assert {frozenset(differing(answers[0], answer)) for answer in answers[1:]} == {
        frozenset({"X-Request-Id"})
    }
    assert all(good[20:].encode() not in answer.data for answer in answers)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_name_of_the_scheme_may_be_written_in_any_case(scheme: str) -> None:
    matrix = Matrix()
    headers = {"Authorization": f"{scheme} {matrix.keys['caller']}"}
    assert matrix.client.get("/v1/models", headers=headers).status_code == 200


def test_who_asks_is_found_out_before_the_body_is_looked_at() -> None:
    matrix = Matrix()
    answer = matrix.client.post("/openai-completion", data=b"{no json", content_type="text/plain")
    assert answer.status_code == 401


def test_a_caller_may_name_its_own_models_only() -> None:
    site = Site()
    headers = bearer(site.key("one", models=("m",)))
    client = site.app.test_client()
    answer = client.post("/v1/chat/completions", json={**CHAT, "model": "n"}, headers=headers)
    assert (answer.status_code, (answer.json or {})["error"]["code"]) == (400, "model_not_allowed")
    headers = bearer(site.key("other", models=("n",)))
    assert client.get("/v1/models", headers=headers).json == {"object": "list", "data": []}
    assert client.get("/v1/models/m", headers=headers).status_code == 404
    answer = client.post("/openai-completion", json={"prompt": "Hi"}, headers=headers)
    assert (answer.status_code, (answer.json or {})["code"]) == (400, "model_not_allowed")
    assert site.gateway.calls == []


def test_failed_logins_of_an_address_are_told_to_wait_and_good_keys_still_get_in() -> None:
    site = Site()
    key = site.key("one")
    client = site.app.test_client()
    statuses = [client.get("/v1/models").status_code for _ in range(25)]
    assert statuses == [401] * 20 + [429] * 5
    refused = client.get("/v1/models")
    assert int(refused.headers["Retry-After"]) in range(1, 62)
    assert client.get("/v1/models", headers=bearer(key)).status_code == 200
    other = {"REMOTE_ADDR": "192.0.2.1"}
    assert client.get("/v1/models", environ_base=other).status_code == 401
    assert {key[:2]: n for key, n in site.store.refusals.items()} == {("anonymous", "login"): 21}


@pytest.mark.parametrize(("hops", "status"), [(0, 429), (1, 401)])
def test_a_clients_address_is_believed_from_as_many_proxies_as_there_are(
    hops: int, status: int
) -> None:
    site = Site(proxy_hops=hops)
    site.key("one")
    client = site.app.test_client()
    for n in range(20):
        client.get("/v1/models", headers={"X-Forwarded-For": f"203.0.113.9, 198.51.100.{n}"})
    last = client.get("/v1/models", headers={"X-Forwarded-For": "203.0.113.9, 198.51.100.99"})
    assert last.status_code == status


def test_without_a_key_everybody_on_this_machine_chats_and_nobody_administers() -> None:
    client = Site().app.test_client()
    assert client.post("/openai-completion", json={"prompt": "Hi"}).status_code == 200
    assert client.get("/v1/models", headers=bearer("none yet")).status_code == 200
    assert client.get("/admin/keys").status_code == 401
    assert client.post("/admin/keys", json={"name": "x", "role": "admin"}).status_code == 401


def test_a_service_that_others_can_reach_is_never_open() -> None:
    client = Site(open_without_keys=False).app.test_client()
    assert client.post("/openai-completion", json={"prompt": "Hi"}).status_code == 401


def test_a_callers_own_limits_replace_those_of_the_service() -> None:
    once = (Limit(amount=1, window_seconds=60),)
    site = Site(limiter=RateLimiter(LimitsCounter(), user=once))
    client = site.app.test_client()
    held, free = bearer(site.key("held")), bearer(site.key("free", user_limits=()))
    ask = {"user_id": "ada", "prompt": "Hi"}
    statuses = [
        client.post("/openai-completion", json=ask, headers=headers).status_code
        for headers in (held, held, free, free)
    ]
    assert statuses == [200, 429, 200, 200]


def test_the_provider_is_told_another_name_for_users_of_the_same_name() -> None:
    site = Site(gateway=ScriptedGateway("Hi", "Hi", models=[MODEL]))
    client = site.app.test_client()
    for name in ("one", "other"):
        headers = bearer(site.key(name))
        client.post("/v1/chat/completions", json={**CHAT, "user": "ada"}, headers=headers)
    one, other = (json.loads(call.body)["user"] for call in site.gateway.calls)
    assert one != other
