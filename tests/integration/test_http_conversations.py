"""`/conversations/{user_id}`: reading page by page, erasing, and ids that no user has."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient

from chatport.adapters import MemoryStore, Script, ScriptedGateway, SystemClock, random_id
from chatport.domain.callers import ANONYMOUS
from chatport.domain.chat import ChatService
from chatport.domain.errors import StorageReadOnly, UpstreamRejected
from chatport.entrypoints.flask_app import create_app


class ReadOnlyStore(MemoryStore):
    """A store that can neither be searched nor written."""

    def search(self, query: Any) -> Any:
        raise StorageReadOnly

    def erase(self, caller: str, user_id: str | None) -> int:
        raise StorageReadOnly


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def client_of(store: MemoryStore, *scripts: Script | str) -> FlaskClient:
    service = ChatService(
        store=store,
        gateway=ScriptedGateway(*scripts or ("Hi",)),
        clock=SystemClock(),
        new_id=random_id,
        model="m",
    )
    return create_app(service, dict).test_client()


def say(client: FlaskClient, user_id: str, *prompts: str) -> list[str]:
    """Send prompts, and return the ids of their exchanges."""
    answers = [
        client.post("/openai-completion", json={"user_id": user_id, "prompt": prompt})
        for prompt in prompts
    ]
    return [answer.headers["X-Request-Id"] for answer in answers]


def read(client: FlaskClient, query: str = "") -> tuple[list[str], int | None]:
    """Return the prompts of a page, and where the one before it is."""
    page = client.get(f"/conversations/ada{query}").json
    assert page is not None
    return [exchange["prompt"] for exchange in page["exchanges"]], page["before"]


def test_an_exchange_is_shown_with_all_its_facts(store: MemoryStore) -> None:
    client = client_of(store, "Grüße 👋")
    (exchange_id,) = say(client, "ada", "Hello")
    response = client.get("/conversations/ada")
    assert response.status_code == 200
    page = response.json
    assert page is not None
    (shown,) = page["exchanges"]
    started, finished = shown.pop("started_at"), shown.pop("finished_at")
    assert datetime.fromisoformat(started).utcoffset() == timedelta(0)
    assert datetime.fromisoformat(finished) >= datetime.fromisoformat(started)
    assert page == {
        "user_id": "ada",
        "exchanges": [
            {
                "id": exchange_id,
                "state": "completed",
                "prompt": "Hello",
                "completion": "Grüße 👋",
                "model": "m",
                "finish_reason": "stop",
                "prompt_tokens": 2,
                "completion_tokens": 3,
                "error_code": None,
            }
        ],
        "before": None,
    }


def test_what_failed_is_shown_too(store: MemoryStore) -> None:
    client = client_of(store, Script(raises=UpstreamRejected()))
    say(client, "ada", "Hello")
    page = client.get("/conversations/ada").json
    assert page is not None
    (shown,) = page["exchanges"]
    assert (shown["state"], shown["error_code"]) == ("failed", "upstream_rejected")
    assert (shown["completion"], shown["prompt_tokens"], shown["finish_reason"]) == ("", None, None)


def test_a_user_who_never_was_has_an_empty_conversation(store: MemoryStore) -> None:
    response = client_of(store).get("/conversations/nobody")
    assert response.status_code == 200
    assert response.json == {"user_id": "nobody", "exchanges": [], "before": None}


def test_the_newest_are_last_and_pages_lead_back_to_the_first(store: MemoryStore) -> None:
    client = client_of(store)
    for number in range(1, 8):
        say(client, "ada", f"p{number}")
        say(client, "bob", "other")
    assert read(client) == (["p1", "p2", "p3", "p4", "p5", "p6", "p7"], None)
    prompts, before = read(client, "?limit=3")
    assert prompts == ["p5", "p6", "p7"]
    prompts, before = read(client, f"?limit=3&before={before}")
    assert prompts == ["p2", "p3", "p4"]
    assert read(client, f"?limit=3&before={before}") == (["p1"], None)


def test_a_page_that_holds_all_leads_nowhere(store: MemoryStore) -> None:
    client = client_of(store)
    say(client, "ada", "p1", "p2")
    assert read(client, "?limit=2") == (["p1", "p2"], None)
    assert read(client, "?before=1") == ([], None)


def test_a_page_holds_50_and_200_at_most(store: MemoryStore) -> None:
    client = client_of(store)
    say(client, "ada", *(f"p{number}" for number in range(201)))
    assert len(read(client)[0]) == 50
    prompts, before = read(client, "?limit=200")
    assert (len(prompts), prompts[-1], before) == (200, "p200", 2)


@pytest.mark.parametrize("name", ["limit", "before"])
@pytest.mark.parametrize(
    "value",
    ["", "0", "-1", "+1", "1.0", "1e3", "x", "%20", "1%00", "%D9%A3", "%C2%B2", "1_0", "9" * 5000],
)
def test_a_query_value_that_is_no_number_is_refused(
    store: MemoryStore, name: str, value: str
) -> None:
    response = client_of(store).get(f"/conversations/ada?{name}={value}")
    assert response.status_code == 400
    assert response.json == {
        "error": {
            "message": f"{name} must be a whole number from 1.",
            "type": "invalid_request_error",
            "param": name,
            "code": "invalid_field",
        }
    }


def test_a_page_of_more_than_200_is_refused(store: MemoryStore) -> None:
    response = client_of(store).get("/conversations/ada?limit=201")
    assert response.status_code == 400
    assert response.json == {
        "error": {
            "message": "limit must be at most 200.",
            "type": "invalid_request_error",
            "param": "limit",
            "code": "invalid_field",
        }
    }


def test_erasing_forgets_one_user_for_good(store: MemoryStore) -> None:
    client = client_of(store)
    say(client, "ada", "p1", "p2")
    say(client, "ada2", "p3")
    response = client.delete("/conversations/ada")
    assert (response.status_code, response.json) == (200, {"user_id": "ada", "erased": 2})
    assert read(client) == ([], None)
    assert client.delete("/conversations/ada").json == {"user_id": "ada", "erased": 0}
    assert len(store.conversation(ANONYMOUS.name, "ada2", before=None, limit=10)) == 1


BAD_IDS = [
    *("%00", "a%00b", "a%0D%0AX-Evil:%20y", "%E2%80%AEada", "a" * 129, "a" * 5000, "%F0%9F%98%80"),
    *(
        "%27",
        "%22",
        "%20",
        "a%20b",
        "%FF",
        "%C3%A9",
        "%25",
        "%5C",
        "a;b",
        "a,b",
        "*",
        "%3Cscript%3E",
    ),
]


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize("user_id", BAD_IDS)
def test_an_id_that_no_user_can_have_is_refused(
    store: MemoryStore, method: str, user_id: str
) -> None:
    response = client_of(store).open(f"/conversations/{user_id}", method=method)
    assert response.status_code == 400
    assert response.json == {
        "error": {
            "message": "user_id must be 1 to 128 of the characters A-Z a-z 0-9 . _ @ : -.",
            "type": "invalid_request_error",
            "param": "user_id",
            "code": "invalid_user_id",
        }
    }
    assert "X-Evil" not in response.headers


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize(
    "path",
    ["", "/", "/../x", "/..%2Fx", "/..%2F..%2Fetc%2Fpasswd", "/ada/", "//ada", "/ada/x", "/%2F"],
)
def test_a_path_that_leads_elsewhere_leads_nowhere(
    store: MemoryStore, method: str, path: str
) -> None:
    response = client_of(store).open(f"/conversations{path}", method=method)
    assert response.status_code == 404
    assert response.json == {
        "error": {
            "message": "Not Found.",
            "type": "invalid_request_error",
            "param": None,
            "code": "not_found",
        }
    }


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_store_that_fails_means_503_and_openais_error(method: str) -> None:
    response = client_of(ReadOnlyStore()).open("/conversations/ada", method=method)
    assert response.status_code == 503
    assert response.json == {
        "error": {
            "message": StorageReadOnly.message,
            "type": "server_error",
            "param": None,
            "code": "storage_readonly",
        }
    }


def test_a_page_of_long_answers_ends_before_it_is_too_large(store: MemoryStore) -> None:
    client = client_of(store, "x" * 150_000)
    prompts = [f"prompt {n}" for n in range(45)]
    say(client, "ada", *prompts)
    seen: list[str] = []
    where: str = "?limit=200"
    sizes = []
    while where:
        page, before = read(client, where)
        seen[:0] = page
        sizes.append(len(page))
        where = f"?limit=200&before={before}" if before else ""
    assert seen == prompts
    assert sizes == [20, 20, 5]
