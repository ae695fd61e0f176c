"""`/admin/...`: what was used and refused, the log, callers and keys; and what no answer says."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient
from hypothesis import given, settings
from hypothesis import strategies as st
from werkzeug.test import TestResponse

from chatport.adapters import MemoryStore, Script, ScriptedGateway
from chatport.domain import Exchange, HistoryBounds, Role, State, Usage
from chatport.domain.errors import CallerExists, CallerNotFound, ExchangeNotFound, StorageReadOnly
from chatport.domain.keys import hash_secret, parse_key
from chatport.domain.rules import notation, parse_budgets, parse_limits
from chatport.entrypoints.admin_wire import BUDGETS_PATTERN, LIMITS_PATTERN
from torture import times

from .callers import Site, bearer

NOON = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
DAY = timedelta(days=1)
KEY = re.compile(r"cp_[0-9a-f]{16}_[A-Za-z0-9_-]{43}")
NAMES = "must be 1 to 64 of the characters A-Z a-z 0-9 . _ -, and begin with a letter or digit"
LIMITS = "must be limits such as 20/minute; 50000 tokens/hour; 8 in flight, in lower case"
BUDGETS = "must be budgets such as 5 USD/day; 1000000 tokens/month"
WHOLE = "must be a whole number"
Ask = Callable[..., str]


class Console:
    """What an admin's program does: asks, and gets JSON."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.headers = bearer(site.key("operator", Role.ADMIN))
        self.client: FlaskClient = site.app.test_client()

    def open(self, method: str, path: str, body: Any = None, **more: Any) -> TestResponse:
        sent = {"json": body} if body is not None else {}
        return self.client.open(path, method=method, headers=self.headers, **sent, **more)

    def ask(self, method: str, path: str, body: Any = None, status: int = 200) -> dict[str, Any]:
        answer = self.open(method, path, body)
        assert answer.status_code == status, answer.text
        assert isinstance(answer.json, dict)
        return answer.json

    def get(self, path: str) -> dict[str, Any]:
        return self.ask("GET", path)

    def pages(self, path: str, cursor: str, item: str) -> Iterator[list[Any]]:
        """Yield the lists of all pages."""
        where = path
        while True:
            page = self.get(where)
            yield page[item]
            if page[cursor] is None:
                return
            where = f"{path}{'&' if '?' in path else '?'}{cursor}={page[cursor]}"


@pytest.fixture
def console() -> Console:
    return Console(Site())


@pytest.fixture
def ask(console: Console) -> Ask:
    """Return what puts an ended exchange into the store, and returns its id."""
    numbers = iter(range(1_000_000))

    def ask(
        caller: str = "shop",
        user: str = "ada",
        *,
        model: str = "m",
        at: datetime = NOON,
        prompt: str = "Hello",
        cost: int | None = 10_000_000,
        state: State = State.COMPLETED,
    ) -> str:
        exchange = Exchange(
            id=f"{next(numbers):032x}",
            caller=caller,
            user_id=user,
            route="test",
            model=model,
            prompt=prompt,
            started_at=at,
            lease_until=at + DAY,
        )
        console.site.store.begin(exchange, HistoryBounds())
        usage = Usage(prompt_tokens=10, completion_tokens=5, cached_tokens=4)
        console.site.store.finish(
            replace(exchange, state=state, finished_at=at, usage=usage, nanodollars=cost)
        )
        return exchange.id

    return ask


def error(field: str, problem: str, code: str = "invalid_field") -> dict[str, Any]:
    return {
        "error": {
            "message": f"{field} {problem}.",
            "type": "invalid_request_error",
            "param": field,
            "code": code,
        }
    }


def not_found(message: str, code: str) -> dict[str, Any]:
    return {
        "error": {
            "message": message,
            "type": "invalid_request_error",
            "param": None,
            "code": code,
        }
    }


# Usage and refusals


def test_usage_is_shown_with_all_its_numbers(console: Console, ask: Ask) -> None:
    ask(cost=1_250_000_000)
    ask(cost=None, state=State.FAILED)
    console.site.store.count_refusal("shop", "login", NOON + timedelta(seconds=7))
    assert console.get("/admin/usage") == {
        "rows": [
            {
                "name": "shop",
                "calls": 2,
                "failed": 1,
                "prompt_tokens": 20,
                "cached_tokens": 8,
                "completion_tokens": 10,
                "estimated_calls": 0,
                "unpriced_calls": 1,
                "cost_usd": "1.25",
            }
        ],
        "refusals": [
            {
                "caller": "shop",
                "rule": "login",
                "minute": "2026-11-23T12:00:00+00:00",
                "count": 1,
            }
        ],
        "next_offset": None,
    }


def names(console: Console, query: str) -> list[str]:
    return [row["name"] for row in console.get(f"/admin/usage{query}")["rows"]]


def test_usage_is_added_up_and_chosen_by_the_query(console: Console, ask: Ask) -> None:
    ask("shop", "ada", model="m-1", at=NOON)
    ask("shop", "bob", model="m-2", at=NOON + DAY, cost=50_000_000)
    ask("blog", "ada", model="m-2", at=NOON, cost=30_000_000)
    assert names(console, "") == ["shop", "blog"]
    assert names(console, "?by=user") == ["shop/bob", "blog/ada", "shop/ada"]
    assert names(console, "?by=model") == ["m-2", "m-1"]
    assert names(console, "?by=day") == ["2026-11-24", "2026-11-23"]
    assert names(console, "?by=day&since=2026-11-24") == ["2026-11-24"]
    assert names(console, "?by=day&until=2026-11-23") == ["2026-11-23"]
    assert names(console, "?by=user&caller=blog") == ["blog/ada"]
    assert names(console, "?caller=nobody") == []


def test_refusals_are_those_of_the_span_and_the_caller(console: Console) -> None:
    for days in range(3):
        console.site.store.count_refusal("shop", f"rule {days}", NOON + days * DAY)
    console.site.store.count_refusal("blog", "another", NOON + DAY)

    def rules(query: str) -> list[str]:
        return [each["rule"] for each in console.get(f"/admin/usage{query}")["refusals"]]

    assert rules("") == ["rule 2", "another", "rule 1", "rule 0"]
    assert rules("?caller=shop") == ["rule 2", "rule 1", "rule 0"]
    assert rules("?since=2026-11-24") == ["rule 2", "another", "rule 1"]
    assert rules("?until=2026-11-24") == ["another", "rule 1", "rule 0"]
    assert rules("?until=2026-11-24&limit=1") == ["another"]
    assert rules("?until=2026-11-24&limit=1&offset=2") == ["rule 0"]


@pytest.mark.parametrize(("used", "refused"), [(7, 0), (0, 7), (7, 5), (2, 9), (6, 3), (3, 3)])
@pytest.mark.parametrize("until", ["", "&until=2026-11-23"])
def test_pages_of_usage_and_refusals_lose_and_repeat_nothing(
    console: Console, ask: Ask, used: int, refused: int, until: str
) -> None:
    for n in range(used):
        ask(f"c{n}")
    for n in range(refused):
        console.site.store.count_refusal("shop", f"rule {n}", NOON)
    console.site.store.count_refusal("shop", "later", NOON + DAY)
    path = f"/admin/usage?limit=3{until}"
    later = [] if until else ["later"]
    page: dict[str, Any] = {"next_offset": 0}
    rows: list[str] = []
    rules: list[str] = []
    pages = 0
    while page["next_offset"] is not None:
        page = console.get(f"{path}&offset={page['next_offset']}")
        rows += [row["name"] for row in page["rows"]]
        rules += [each["rule"] for each in page["refusals"]]
        pages += 1
    assert rows == [f"c{n}" for n in range(used)]
    assert rules == [*later, *(f"rule {n}" for n in range(refused))]
    assert pages == max(1, -(-used // 3), -(-len(rules) // 3))


def test_refusals_are_found_however_many_there_are(console: Console) -> None:
    for n in range(450):
        console.site.store.count_refusal("shop", f"rule {n:03}", NOON + timedelta(minutes=n // 2))
    for query in ("", "&until=2026-11-23"):
        path, found = f"/admin/usage?limit=200{query}", []
        for offset in (0, 200, 400):
            page = console.get(f"{path}&offset={offset}")
            found += [each["rule"] for each in page["refusals"]]
        assert sorted(found) == [f"rule {n:03}" for n in range(450)]
        assert page["next_offset"] is None


# The log


def test_the_log_is_newest_first_and_without_what_may_be_large(console: Console, ask: Ask) -> None:
    first, second = ask(prompt="p1"), ask(prompt="p2", cost=None)
    page = console.get("/admin/log")
    assert page["before"] is None
    assert [exchange["id"] for exchange in page["exchanges"]] == [second, first]
    assert page["exchanges"][1] == {
        "id": first,
        "number": 1,
        "caller": "shop",
        "user_id": "ada",
        "state": "completed",
        "route": "test",
        "model": "m",
        "prompt": "p1",
        "reply": "",
        "sanitized": False,
        "context_from": None,
        "finish_reason": None,
        "prompt_tokens": 10,
        "cached_tokens": 4,
        "completion_tokens": 5,
        "tokens_estimated": False,
        "cost_usd": "0.01",
        "error_code": None,
        "upstream_status": None,
        "upstream_request_id": None,
        "upstream_said": None,
        "attempts": 0,
        "idempotency_key": None,
        "started_at": "2026-11-23T12:00:00+00:00",
        "finished_at": "2026-11-23T12:00:00+00:00",
    }


def prompts(console: Console, query: str) -> list[str]:
    return [each["prompt"] for each in console.get(f"/admin/log{query}")["exchanges"]]


def test_the_log_is_searched_and_filtered(console: Console, ask: Ask) -> None:
    ask("shop", "ada", prompt="the red fox", at=NOON - DAY)
    ask("shop", "bob", prompt="the blue fox", at=NOON, state=State.FAILED)
    ask("blog", "ada", prompt="the red hen", at=NOON + DAY)
    assert prompts(console, "?text=fox") == ["the blue fox", "the red fox"]
    assert prompts(console, "?text=red+fox") == ["the red fox"]
    assert prompts(console, "?caller=shop") == ["the blue fox", "the red fox"]
    assert prompts(console, "?user=ada") == ["the red hen", "the red fox"]
    assert prompts(console, "?user=ada&caller=blog") == ["the red hen"]
    assert prompts(console, "?state=failed") == ["the blue fox"]
    assert prompts(console, "?since=2026-11-23") == ["the red hen", "the blue fox"]
    assert prompts(console, "?text=wolf") == []


@pytest.mark.parametrize("query", ["", "?text=fox", "?caller=shop", "?state=completed&user=ada"])
def test_pages_of_the_log_lose_and_repeat_nothing(console: Console, ask: Ask, query: str) -> None:
    for n in range(7):
        ask(prompt=f"fox {n}")
    path = f"/admin/log{query}{'&' if query else '?'}limit=3"
    pages = [
        [each["prompt"] for each in page] for page in console.pages(path, "before", "exchanges")
    ]
    assert pages == [["fox 6", "fox 5", "fox 4"], ["fox 3", "fox 2", "fox 1"], ["fox 0"]]


def test_a_page_that_holds_all_leads_nowhere(console: Console, ask: Ask) -> None:
    for _ in range(3):
        ask()
    assert console.get("/admin/log?limit=3")["before"] is None
    assert console.get("/admin/log?before=1") == {"exchanges": [], "before": None}
    assert len(console.get("/admin/log?limit=200")["exchanges"]) == 3


def test_an_exchange_is_shown_whole_with_request_and_response(console: Console) -> None:
    request = {"model": "m", "messages": [{"role": "user", "content": "Grüße 👋"}], "user": "ada"}
    key = bearer(console.site.key("shop"))
    chat = console.client.post("/v1/chat/completions", json=request, headers=key)
    assert chat.status_code == 200
    shown = console.get(f"/admin/log/{chat.headers['X-Request-Id']}")
    assert (shown["caller"], shown["user_id"]) == ("shop", "ada")
    assert shown["request"] == request
    assert shown["response"] == chat.json
    (listed,) = console.get("/admin/log")["exchanges"]
    assert listed == {name: shown[name] for name in shown.keys() - {"request", "response"}}


@pytest.mark.parametrize(
    ("events", "said"),
    [
        ((b'"\\ud83d"', b'"\\ude00"'), "\U0001f600"),
        ((b'"a\\ud83d"',), "a\ud83d"),
        ((b'"a","score":NaN',), "a"),
    ],
    ids=["a pair in two pieces", "half a pair", "NaN"],
)
def test_an_answer_that_is_no_good_unicode_or_json_is_shown_all_the_same(
    events: tuple[bytes, ...], said: str
) -> None:
    pieces = [b'{"choices":[{"index":0,"delta":{"content":%b}}]}' % event for event in events]
    end = b'{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}'
    console = Console(Site(gateway=ScriptedGateway(Script(events=(*pieces, end)))))
    request = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
    key = bearer(console.site.key("shop"))
    chat = console.client.post("/v1/chat/completions", json=request, headers=key)
    assert b"[DONE]" in chat.data
    shown = console.open("GET", f"/admin/log/{chat.headers['X-Request-Id']}")
    message = json.loads(shown.data, parse_constant=pytest.fail)["response"]["choices"][0][
        "message"
    ]
    assert message["content"] == said


@pytest.mark.parametrize("id_", ["f" * 32, "x", "..", "%00", "%FF", "' OR 1=1 --", "a" * 5000])
def test_an_exchange_that_never_was_is_not_found(console: Console, ask: Ask, id_: str) -> None:
    ask()
    assert console.ask("GET", f"/admin/log/{id_}", status=404) == not_found(
        ExchangeNotFound.message, "exchange_not_found"
    )


# Callers and keys


def test_a_caller_is_made_with_its_first_key_which_works(console: Console) -> None:
    made = console.ask("POST", "/admin/keys", {"name": "shop"})
    key, caller = made.pop("key"), made.pop("caller")
    assert made == {}
    (kept,) = caller.pop("keys")
    assert key.startswith(f"cp_{kept['id']}_")
    assert KEY.fullmatch(key)
    assert datetime.now(UTC) - datetime.fromisoformat(kept.pop("created_at")) < timedelta(hours=1)
    assert kept == {
        "id": key[3:19],
        "expires_at": None,
        "revoked_at": None,
        "condition": "good",
    }
    assert caller == {
        "name": "shop",
        "role": "caller",
        "limits": None,
        "budgets": None,
        "user_limits": None,
        "user_budgets": None,
        "models": [],
    }
    assert console.client.get("/v1/models", headers=bearer(key)).status_code == 200


FACTS: dict[str, Any] = {
    "role": "admin",
    "limits": "20 requests per minute; 50000 tokens per hour; 8 in flight",
    "budgets": "5 USD per day; 1000000 tokens per month",
    "user_limits": "",
    "user_budgets": "0.25 USD per month",
    "models": ["gpt-5-mini", "vendor/model:free"],
}


def test_all_that_is_said_of_a_caller_is_kept(console: Console) -> None:
    made = console.ask("POST", "/admin/keys", {"name": "shop", **FACTS})["caller"]
    shown = console.get("/admin/keys/shop")
    assert made == shown
    assert {name: shown[name] for name in FACTS} == FACTS


def test_what_is_said_in_short_is_shown_in_full(console: Console) -> None:
    body = {"name": "shop", "limits": "20/minute;100 tokens/2 hours", "budgets": "0.50 USD/day"}
    made = console.ask("POST", "/admin/keys", body)["caller"]
    assert made["limits"] == "20 requests per minute; 100 tokens per 7200 seconds"
    assert made["budgets"] == "0.50 USD per day"


def test_a_key_expires_after_its_seconds(console: Console) -> None:
    body = {"name": "shop", "expires_in_seconds": 3600}
    (kept,) = console.ask("POST", "/admin/keys", body)["caller"]["keys"]
    created, expires = (datetime.fromisoformat(kept[at]) for at in ("created_at", "expires_at"))
    assert abs(expires - created - timedelta(hours=1)) < timedelta(seconds=5)


def test_a_name_that_is_taken_is_409_and_changes_nothing(console: Console) -> None:
    console.ask("POST", "/admin/keys", {"name": "shop"})
    before = console.get("/admin/keys/shop")
    answer = console.open("POST", "/admin/keys", {"name": "shop", "role": "admin"})
    assert answer.status_code == 409
    assert answer.headers["x-should-retry"] == "false"
    assert answer.json == not_found(CallerExists.message, "caller_exists")
    assert console.get("/admin/keys/shop") == before


def test_a_change_leaves_alone_what_it_does_not_name(console: Console) -> None:
    console.ask("POST", "/admin/keys", {"name": "shop", **FACTS})
    before = console.get("/admin/keys/shop")
    changes: list[dict[str, Any]] = [
        {"limits": "1 request per second"},
        {"budgets": None},
        {"user_limits": None, "user_budgets": ""},
        {"models": []},
        {"role": "caller"},
        {},
    ]
    for change in changes:
        after = console.ask("PATCH", "/admin/keys/shop", change)
        assert after == {**before, **change}
        assert console.get("/admin/keys/shop") == after
        before = after


def test_rotation_gives_a_new_key_and_lets_the_old_one_expire(console: Console) -> None:
    old = console.ask("POST", "/admin/keys", {"name": "shop"})["key"]
    body = {"overlap_seconds": 600, "expires_in_seconds": 7200}
    made = console.ask("POST", "/admin/keys/shop/rotate", body)
    assert made["key"] != old
    first, second = made["caller"]["keys"]
    assert made["key"].startswith(f"cp_{second['id']}_")
    lifetimes = [
        datetime.fromisoformat(kept["expires_at"]) - datetime.fromisoformat(second["created_at"])
        for kept in (first, second)
    ]
    assert lifetimes[0] == timedelta(minutes=10)
    assert abs(lifetimes[1] - timedelta(hours=2)) < timedelta(seconds=5)
    for key in (old, made["key"]):
        assert console.client.get("/v1/models", headers=bearer(key)).status_code == 200


def test_rotation_without_overlap_locks_the_old_key_out(console: Console) -> None:
    old = console.ask("POST", "/admin/keys", {"name": "shop"})["key"]
    made = console.ask("POST", "/admin/keys/shop/rotate", {"overlap_seconds": 0})
    assert [kept["condition"] for kept in made["caller"]["keys"]] == ["expired", "good"]
    assert console.client.get("/v1/models", headers=bearer(old)).status_code == 401


def test_revoking_says_how_many_keys_and_does_no_harm_twice(console: Console) -> None:
    key = console.ask("POST", "/admin/keys", {"name": "shop"})["key"]
    console.ask("POST", "/admin/keys/shop/rotate", {"overlap_seconds": 600})
    assert console.ask("DELETE", "/admin/keys/shop") == {"name": "shop", "revoked": 2}
    assert console.ask("DELETE", "/admin/keys/shop") == {"name": "shop", "revoked": 0}
    kept = console.get("/admin/keys/shop")["keys"]
    assert [each["condition"] for each in kept] == ["revoked", "revoked"]
    assert console.client.get("/v1/models", headers=bearer(key)).status_code == 401
    assert console.open("GET", "/admin/keys").status_code == 200


def test_pages_of_callers_lose_and_repeat_nothing(console: Console) -> None:
    for name in ["b", "a", "Z", "a.1", "a-1", "0"]:
        console.ask("POST", "/admin/keys", {"name": name})
    pages = [
        [caller["name"] for caller in page]
        for page in console.pages("/admin/keys?limit=3", "after", "callers")
    ]
    assert pages == [["0", "Z", "a"], ["a-1", "a.1", "b"], ["operator"]]
    assert len(console.get("/admin/keys?limit=7")["callers"]) == 7
    assert console.get("/admin/keys?limit=7")["after"] is None
    assert [caller["name"] for caller in console.get("/admin/keys?after=aa")["callers"]] == [
        "b",
        "operator",
    ]
    assert console.get("/admin/keys?after=z") == {"callers": [], "after": None}


ON_ONE_CALLER = [
    ("GET", "/admin/keys/{}", None),
    ("PATCH", "/admin/keys/{}", {"role": "caller"}),
    ("DELETE", "/admin/keys/{}", None),
    ("POST", "/admin/keys/{}/rotate", {"overlap_seconds": 0}),
]


@pytest.mark.parametrize(
    "name", ["nobody", "OPERATOR", "anonymous", "%00", "%FF", "a%20b", "-", "x" * 999]
)
@pytest.mark.parametrize(("method", "path", "body"), ON_ONE_CALLER)
def test_a_caller_that_never_was_is_not_found(
    console: Console, method: str, path: str, body: Any, name: str
) -> None:
    assert console.ask(method, path.format(name), body, status=404) == not_found(
        CallerNotFound.message, "caller_not_found"
    )
    assert [caller["name"] for caller in console.get("/admin/keys")["callers"]] == ["operator"]


# What goes wrong


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("name", None, "must be a string"),
        ("name", "", NAMES),
        ("name", "-x", NAMES),
        ("name", "a b", NAMES),
        ("name", "a/b", NAMES),
        ("name", "a\n", NAMES),
        ("name", "é", NAMES),
        ("name", "a" * 65, NAMES),
        ("name", 7, "must be a string"),
        ("name", "anonymous", "is reserved for requests without a key"),
        ("role", "root", "must be 'caller' or 'admin'"),
        ("role", None, "must be 'caller' or 'admin'"),
        ("limits", "20", LIMITS),
        ("limits", "20/fortnight", LIMITS),
        ("limits", "0/minute", LIMITS),
        ("limits", "20/0 minutes", LIMITS),
        ("limits", "20/minute; 5 USD/day", LIMITS),
        ("limits", "20/minute\n", LIMITS),
        ("limits", ["20/minute"], "must be a string"),
        ("limits", "; ".join(["20/minute"] * 60), "must have at most 500 characters"),
        ("budgets", "5/day", BUDGETS),
        ("budgets", "5 EUR/day", BUDGETS),
        ("budgets", "0.00 USD/day", BUDGETS),
        ("budgets", "5 USD/hour", BUDGETS),
        ("budgets", 5, "must be a string"),
        ("user_limits", "many", LIMITS),
        ("user_budgets", "much", BUDGETS),
        ("models", "m", "must be an array"),
        ("models", None, "must be an array"),
        ("models", ["m"] * 101, "must have at most 100 items"),
        ("expires_in_seconds", 0, f"{WHOLE} from 1"),
        ("expires_in_seconds", "60", WHOLE),
        ("expires_in_seconds", 1.5, WHOLE),
        ("expires_in_seconds", True, WHOLE),
        ("expires_in_seconds", 10**12, "must be at most 316224000"),
    ],
)
def test_what_is_wrong_with_a_new_caller_is_said(
    console: Console, field: str, value: Any, problem: str
) -> None:
    body = {"name": "shop", field: value}
    assert console.ask("POST", "/admin/keys", body, status=400) == error(field, problem)
    assert [caller["name"] for caller in console.get("/admin/keys")["callers"]] == ["operator"]


@pytest.mark.parametrize("model", ["", " m", "m ", "a,b", "é", "a\tb", "x\0", "m" * 201])
def test_a_model_that_has_no_possible_name_is_refused(console: Console, model: str) -> None:
    body = {"name": "shop", "models": ["good", model]}
    answer = console.ask("POST", "/admin/keys", body, status=400)
    assert answer["error"]["param"] == "models[1]"


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("overlap_seconds", -1, f"{WHOLE} from 0"),
        ("overlap_seconds", None, WHOLE),
        ("overlap_seconds", "1h", WHOLE),
        ("overlap_seconds", 31_622_401, "must be at most 31622400"),
        ("expires_in_seconds", 0, f"{WHOLE} from 1"),
    ],
)
def test_what_is_wrong_with_a_rotation_is_said(
    console: Console, field: str, value: Any, problem: str
) -> None:
    console.ask("POST", "/admin/keys", {"name": "shop"})
    body = {"overlap_seconds": 0, field: value}
    answer = console.ask("POST", "/admin/keys/shop/rotate", body, status=400)
    assert answer == error(field, problem)
    assert len(console.get("/admin/keys/shop")["keys"]) == 1


def test_a_rotation_must_say_how_long_the_old_keys_work(console: Console) -> None:
    answer = console.ask("POST", "/admin/keys/operator/rotate", {}, status=400)
    assert answer == error("overlap_seconds", "is missing")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/admin/keys"),
        ("PATCH", "/admin/keys/operator"),
        ("POST", "/admin/keys/operator/rotate"),
    ],
)
def test_a_field_that_no_route_knows_is_refused(console: Console, method: str, path: str) -> None:
    body = {"name": "shop", "overlap_seconds": 0, "limit": "20/minute"}
    answer = console.ask(method, path, body, status=400)
    assert answer["error"]["code"] == "unknown_field"
    assert console.get("/admin/keys/operator")["limits"] is None


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"name": "a", "name": "b"}'])
def test_a_body_that_is_no_object_is_refused(console: Console, body: bytes) -> None:
    answer = console.open("POST", "/admin/keys", data=body, content_type="application/json")
    assert answer.status_code == 400
    assert answer.json is not None
    assert answer.json["error"]["code"] == "invalid_json"


def test_a_body_that_is_no_json_is_415(console: Console) -> None:
    assert console.open("POST", "/admin/keys", data="name=shop").status_code == 415


@pytest.mark.parametrize(
    ("path", "field", "problem"),
    [
        ("/admin/usage?by=week", "by", "must be 'caller', 'user', 'model' or 'day'"),
        ("/admin/usage?since=yesterday", "since", "must be a day such as 2026-11-23"),
        ("/admin/usage?since=2026-02-30", "since", "must be a day such as 2026-11-23"),
        ("/admin/usage?until=20261123", "until", "must be a day such as 2026-11-23"),
        ("/admin/usage?until=", "until", "must be a day such as 2026-11-23"),
        ("/admin/usage?limit=0", "limit", f"{WHOLE} from 1"),
        ("/admin/usage?limit=201", "limit", "must be at most 200"),
        ("/admin/usage?offset=-1", "offset", f"{WHOLE} from 0"),
        ("/admin/usage?caller=", "caller", "must not be empty"),
        (
            "/admin/log?state=done",
            "state",
            "must be 'open', 'completed', 'failed', 'cancelled' or 'interrupted'",
        ),
        ("/admin/log?text=", "text", "must not be empty"),
        ("/admin/log?before=0", "before", f"{WHOLE} from 1"),
        ("/admin/log?before=x", "before", f"{WHOLE} from 1"),
        ("/admin/log?since=now", "since", "must be a day such as 2026-11-23"),
        ("/admin/keys?after=", "after", NAMES),
        ("/admin/keys?limit=many", "limit", f"{WHOLE} from 1"),
    ],
)
def test_what_is_wrong_with_a_query_is_said(
    console: Console, path: str, field: str, problem: str
) -> None:
    assert console.ask("GET", path, status=400) == error(field, problem)


@pytest.mark.parametrize("path", ["/admin/usage", "/admin/log", "/admin/keys"])
def test_a_filter_with_a_wrong_name_does_not_show_all(console: Console, path: str) -> None:
    answer = console.ask("GET", f"{path}?callr=shop", status=400)["error"]
    assert answer["code"] == "unknown_field"
    assert answer["message"].startswith("The query has a field that this route does not know;")


def test_a_nul_in_a_query_is_refused(console: Console) -> None:
    answer = console.ask("GET", "/admin/log?text=a%00b", status=400)
    assert answer == error("text", "holds a NUL or half a surrogate pair", "invalid_unicode")


@pytest.mark.parametrize(
    "words", ['"', "-", "OR", "*", ":", "prompt:x", '"a', "NEAR(", "(", "^", "'"]
)
def test_no_words_break_the_search(console: Console, ask: Ask, words: str) -> None:
    ask()
    answer = console.open("GET", "/admin/log", query_string={"text": words})
    assert answer.status_code == 200


# What no answer says


def test_only_the_answer_that_makes_a_key_holds_it_and_none_a_hash(console: Console) -> None:
    made = [console.open("POST", "/admin/keys", {"name": name}) for name in ("one", "two")]
    made.append(console.open("POST", "/admin/keys/one/rotate", {"overlap_seconds": 60}))
    keys = [answer.json["key"] for answer in made if answer.json]
    for answer, key in zip(made, keys, strict=True):
        assert [other for other in keys if other in answer.text] == [key]
        assert answer.text.count(key) == 1
        assert answer.headers["Cache-Control"] == "no-store"
    for key in keys:
        console.client.post("/openai-completion", json={"prompt": "Hi"}, headers=bearer(key))
    others = [
        console.open(method, path.format("one"), body)
        for method, path, body in [
            ("GET", "/admin/keys", None),
            ("GET", "/admin/keys/{}", None),
            ("PATCH", "/admin/keys/{}", {"models": ["m"]}),
            ("GET", "/admin/usage?by=user", None),
            ("GET", "/admin/log", None),
            ("POST", "/admin/keys", {"name": "one"}),
            ("POST", "/admin/keys", {"name": keys[0]}),
            ("GET", f"/admin/keys/{keys[0]}", None),
            ("GET", f"/admin/log/{keys[0]}", None),
            ("DELETE", "/admin/keys/{}", None),
            ("GET", "/admin/keys/{}", None),
        ]
    ]
    for answer in others:
        assert not KEY.search(answer.text)
    for key in keys:
        presented = parse_key(key)
        assert presented is not None
        secret = key[20:]
        for text in (answer.text for answer in (*others, *made)):
            assert presented.secret_hash.hex() not in text
            assert "hash" not in text
        assert not [answer for answer in others if secret in answer.text]
        assert hash_secret(secret) == presented.secret_hash


class FailingStore(MemoryStore):
    """A store whose log cannot be read."""

    def search(self, _query: Any) -> Any:
        """Fail."""
        raise StorageReadOnly

    def find(self, exchange_id: str, caller: str | None = None) -> Any:
        """Fail."""
        raise StorageReadOnly


@pytest.mark.parametrize("path", ["/admin/log", "/admin/log/x"])
def test_a_store_that_fails_means_503(path: str) -> None:
    answer = Console(Site(store=FailingStore())).ask("GET", path, status=503)
    assert answer["error"]["code"] == "storage_readonly"


# What the patterns say


@settings(max_examples=times(30, 3_000), deadline=None)
@given(st.from_regex(LIMITS_PATTERN.replace("$", r"\Z")))
def test_every_text_of_the_pattern_is_limits_that_can_be_sent_again(text: str) -> None:
    rules = parse_limits(text)
    assert len(rules) == (text.count(";") + 1 if text else 0)
    assert parse_limits(notation(rules)) == rules
    assert re.fullmatch(LIMITS_PATTERN, notation(rules))


@settings(max_examples=times(30, 3_000), deadline=None)
@given(st.from_regex(BUDGETS_PATTERN.replace("$", r"\Z")))
def test_every_text_of_the_pattern_is_budgets_that_can_be_sent_again(text: str) -> None:
    rules = parse_budgets(text)
    assert len(rules) == (text.count(";") + 1 if text else 0)
    assert parse_budgets(notation(rules)) == rules
    assert re.fullmatch(BUDGETS_PATTERN, notation(rules))


def test_the_routes_are_json_in_utf_8_as_it_is(console: Console, ask: Ask) -> None:
    ask(prompt="Grüße 👋")
    answer = console.open("GET", "/admin/log")
    assert "Grüße 👋" in answer.text
    assert json.loads(answer.data)["exchanges"][0]["prompt"] == "Grüße 👋"
