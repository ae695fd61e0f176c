"""`POST /openai-completion` when all goes well, and streams to whichever end they come."""

import json
import re
from collections.abc import Iterator

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from chatport.adapters import MemoryStore, Script, ScriptedGateway, SystemClock, random_id
from chatport.domain.callers import ANONYMOUS
from chatport.domain.chat import ChatService
from chatport.domain.errors import UpstreamDisconnected
from chatport.domain.model import Exchange, Message, State, Usage
from chatport.entrypoints.flask_app import create_app

PATH = "/openai-completion"
HEX_ID = re.compile(r"[0-9a-f]{32}")


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def client_of(store: MemoryStore, gateway: ScriptedGateway) -> FlaskClient:
    service = ChatService(
        store=store, gateway=gateway, clock=SystemClock(), new_id=random_id, model="m"
    )
    return create_app(service, dict).test_client()


def exchange_of(store: MemoryStore, response: TestResponse) -> Exchange:
    exchange = store.find(response.headers["X-Request-Id"])
    assert exchange is not None
    return exchange


def pieces(response: TestResponse) -> Iterator[bytes]:
    """Return the body piece by piece, as a server sends it."""
    return iter(response.iter_encoded())


def test_an_answer_has_exactly_the_two_keys(store: MemoryStore) -> None:
    client = client_of(store, ScriptedGateway("Hi there."))
    response = client.post(PATH, json={"user_id": "ada", "prompt": "Hello"})
    assert response.status_code == 200
    assert response.content_type == "application/json"
    assert response.data == b'{"user_id": "ada", "completion": "Hi there."}\n'


def test_text_of_any_script_comes_back_as_it_is(store: MemoryStore) -> None:
    text = 'Grüße 👋 こんにちは "quoted" \\ \n\t\x1b[31m \u202e'
    client = client_of(store, ScriptedGateway(text))
    response = client.post(PATH, json={"user_id": "ada", "prompt": text})
    assert response.json == {"user_id": "ada", "completion": text}
    assert (exchange_of(store, response).prompt, exchange_of(store, response).reply) == (text, text)


def test_an_empty_answer_is_an_answer(store: MemoryStore) -> None:
    response = client_of(store, ScriptedGateway("")).post(PATH, json={"prompt": "Say nothing"})
    assert response.json is not None
    assert response.json["completion"] == ""


@pytest.mark.parametrize("stream", [False, True])
def test_the_request_id_is_the_exchange_id(store: MemoryStore, *, stream: bool) -> None:
    client = client_of(store, ScriptedGateway("Hi"))
    response = client.post(PATH, json={"user_id": "ada", "prompt": "Hello", "stream": stream})
    assert response.data
    exchange = exchange_of(store, response)
    assert HEX_ID.fullmatch(exchange.id)
    assert (exchange.state, exchange.user_id, exchange.route, exchange.prompt, exchange.reply) == (
        State.COMPLETED,
        "ada",
        "/openai-completion",
        "Hello",
        "Hi",
    )


def test_a_request_id_of_the_client_is_not_taken(store: MemoryStore) -> None:
    client = client_of(store, ScriptedGateway("Hi"))
    response = client.post(PATH, json={"prompt": "x"}, headers={"X-Request-Id": "mine"})
    assert HEX_ID.fullmatch(response.headers["X-Request-Id"])


@pytest.mark.parametrize("stream", [False, True])
def test_nothing_may_keep_an_answer(store: MemoryStore, *, stream: bool) -> None:
    client = client_of(store, ScriptedGateway("Hi"))
    response = client.post(PATH, json={"prompt": "x", "stream": stream})
    assert response.data
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert "Set-Cookie" not in response.headers


def test_a_user_id_that_is_left_out_is_made_and_continues_the_chat(store: MemoryStore) -> None:
    gateway = ScriptedGateway("Hi Ada.", "You are Ada.")
    client = client_of(store, gateway)
    first = client.post(PATH, json={"prompt": "I am Ada."}).json
    assert first is not None
    assert HEX_ID.fullmatch(first["user_id"])
    again = {"user_id": first["user_id"], "prompt": "Who am I?"}
    assert client.post(PATH, json=again).json == {
        "user_id": first["user_id"],
        "completion": "You are Ada.",
    }
    assert gateway.calls[1].messages == [
        Message("user", "I am Ada."),
        Message("assistant", "Hi Ada."),
        Message("user", "Who am I?"),
    ]


def test_no_two_user_ids_are_the_same_and_none_is_the_request_id(store: MemoryStore) -> None:
    client = client_of(store, ScriptedGateway("Hi"))
    answers = [client.post(PATH, json={"prompt": "x"}) for _ in range(50)]
    ids = {answer.json["user_id"] for answer in answers if answer.json}
    assert len(ids | {answer.headers["X-Request-Id"] for answer in answers}) == 100


def test_users_do_not_share_a_conversation(store: MemoryStore) -> None:
    gateway = ScriptedGateway("Hi")
    client = client_of(store, gateway)
    client.post(PATH, json={"user_id": "ada", "prompt": "mine"})
    client.post(PATH, json={"user_id": "Ada", "prompt": "other"})
    assert gateway.calls[1].messages == [Message("user", "other")]


def test_stream_false_is_the_same_as_no_stream(store: MemoryStore) -> None:
    client = client_of(store, ScriptedGateway("Hi"))
    response = client.post(PATH, json={"user_id": "ada", "prompt": "x", "stream": False})
    assert response.data == b'{"user_id": "ada", "completion": "Hi"}\n'


def test_a_stream_is_these_bytes(store: MemoryStore) -> None:
    client = client_of(store, ScriptedGateway(Script(chunks=("Grü", "ße\n\n", "data: x"))))
    response = client.post(PATH, json={"user_id": "ada", "prompt": "x", "stream": True})
    assert response.status_code == 200
    assert response.content_type == "text/event-stream"
    assert response.headers["X-Accel-Buffering"] == "no"
    assert response.data == (
        b'event: delta\ndata: {"text": "Gr\\u00fc"}\n\n'
        b'event: delta\ndata: {"text": "\\u00dfe\\n\\n"}\n\n'
        b'event: delta\ndata: {"text": "data: x"}\n\n'
        b'event: done\ndata: {"user_id": "ada", '
        b'"completion": "Gr\\u00fc\\u00dfe\\n\\ndata: x"}\n\n'
    )


def test_a_silent_provider_is_passed_on_as_a_comment(store: MemoryStore) -> None:
    client = client_of(store, ScriptedGateway(Script(chunks=("", "Hi"))))
    response = client.post(PATH, json={"user_id": "ada", "prompt": "x", "stream": True})
    assert response.data == (
        b": ping\n\n"
        b'event: delta\ndata: {"text": "Hi"}\n\n'
        b'event: done\ndata: {"user_id": "ada", "completion": "Hi"}\n\n'
    )


def test_half_a_surrogate_pair_is_joined_with_its_other_half(store: MemoryStore) -> None:
    script = Script(chunks=(chr(0xD83D), chr(0xDC4B)))
    client = client_of(store, ScriptedGateway(script))
    response = client.post(PATH, json={"user_id": "ada", "prompt": "x", "stream": True})
    assert response.data == (
        b'event: delta\ndata: {"text": "\\ud83d"}\n\n'
        b'event: delta\ndata: {"text": "\\udc4b"}\n\n'
        b'event: done\ndata: {"user_id": "ada", "completion": "\\ud83d\\udc4b"}\n\n'
    )
    assert exchange_of(store, response).reply == "👋"


def test_the_exchange_is_complete_before_the_last_event_goes_out(store: MemoryStore) -> None:
    client = client_of(store, ScriptedGateway("Hi"))
    response = client.post(PATH, json={"prompt": "x", "stream": True})
    events = pieces(response)
    next(events)
    assert exchange_of(store, response).state is State.OPEN
    assert next(events).startswith(b"event: done\n")
    assert exchange_of(store, response).state is State.COMPLETED
    response.close()
    assert exchange_of(store, response).state is State.COMPLETED


def test_an_error_in_mid_stream_is_the_last_event(store: MemoryStore) -> None:
    script = Script(chunks=("One, ", "two"), raises=UpstreamDisconnected())
    gateway = ScriptedGateway(script)
    response = client_of(store, gateway).post(
        PATH, json={"user_id": "ada", "prompt": "Count", "stream": True}
    )
    request_id = response.headers["X-Request-Id"]
    assert response.status_code == 200
    error = {
        "error": "The connection to the provider broke before the answer was complete.",
        "code": "upstream_disconnected",
        "request_id": request_id,
    }
    assert response.text == (
        'event: delta\ndata: {"text": "One, "}\n\n'
        'event: delta\ndata: {"text": "two"}\n\n'
        f"event: error\ndata: {json.dumps(error)}\n\n"
    )
    exchange = exchange_of(store, response)
    assert (exchange.state, exchange.reply) == (State.FAILED, "One, two")
    assert exchange.error_code == "upstream_disconnected"
    assert gateway.open_streams == 0


def test_a_stream_without_a_finish_reason_is_truncated(store: MemoryStore) -> None:
    script = Script(chunks=("Half an ans",), finish_reason=None)
    client = client_of(store, ScriptedGateway(script))
    response = client.post(PATH, json={"prompt": "x", "stream": True})
    last = response.text.split("\n\n")[-2]
    assert last.startswith("event: error\n")
    assert '"code": "upstream_truncated"' in last
    assert "event: done" not in response.text


def test_a_client_that_leaves_in_mid_stream_cancels_the_exchange(store: MemoryStore) -> None:
    gateway = ScriptedGateway(Script(chunks=("One, ", "two, ", "three")))
    client = client_of(store, gateway)
    response = client.post(PATH, json={"user_id": "ada", "prompt": "Count", "stream": True})
    events = pieces(response)
    assert next(events) == b'event: delta\ndata: {"text": "One, "}\n\n'
    assert next(events) == b'event: delta\ndata: {"text": "two, "}\n\n'
    response.close()
    exchange = exchange_of(store, response)
    assert (exchange.state, exchange.reply) == (State.CANCELLED, "One, two, ")
    assert exchange.usage == Usage(prompt_tokens=2, completion_tokens=3, estimated=True)
    assert exchange.error_code is None
    assert gateway.open_streams == 0
    assert client.post(PATH, json={"user_id": "ada", "prompt": "Again"}).status_code == 200


def test_a_client_that_leaves_before_the_first_event_cancels_it_too(store: MemoryStore) -> None:
    gateway = ScriptedGateway("Hi")
    app = client_of(store, gateway).application
    with app.test_request_context(
        PATH, method="POST", json={"user_id": "ada", "prompt": "x", "stream": True}
    ):
        response = app.full_dispatch_request()
        response.close()
    (exchange,) = store.conversation(ANONYMOUS.name, "ada", before=None, limit=10)
    assert (exchange.state, exchange.reply) == (State.CANCELLED, "")
    assert gateway.open_streams == 0


def test_a_second_prompt_is_refused_while_the_first_is_answered(store: MemoryStore) -> None:
    gateway = ScriptedGateway("Hi")
    client = client_of(store, gateway)
    first = client.post(PATH, json={"user_id": "ada", "prompt": "one", "stream": True})
    second = client.post(PATH, json={"user_id": "ada", "prompt": "two"})
    assert second.status_code == 409
    assert second.json == {
        "error": "This user's previous message is still being answered; try again shortly.",
        "code": "conversation_busy",
        "request_id": second.headers["X-Request-Id"],
    }
    assert second.headers["retry-after-ms"] == "1000"
    assert second.headers["Retry-After"] == "1"
    assert store.find(second.headers["X-Request-Id"]) is None
    assert client.post(PATH, json={"user_id": "bob", "prompt": "three"}).status_code == 200
    assert b"event: done" in first.data
    assert client.post(PATH, json={"user_id": "ada", "prompt": "two"}).status_code == 200
    assert len(gateway.calls) == 3


def test_a_conversation_that_is_erased_in_mid_stream_is_lost(store: MemoryStore) -> None:
    client = client_of(store, ScriptedGateway("Hi"))
    response = client.post(PATH, json={"user_id": "ada", "prompt": "x", "stream": True})
    assert client.delete("/conversations/ada").json == {"user_id": "ada", "erased": 1}
    assert '"code": "exchange_lost"' in response.text.split("\n\n")[-2]
    assert store.conversation(ANONYMOUS.name, "ada", before=None, limit=10) == []


def test_a_client_that_leaves_an_erased_conversation_is_no_error(store: MemoryStore) -> None:
    gateway = ScriptedGateway(Script(chunks=("One, ", "two")))
    client = client_of(store, gateway)
    response = client.post(PATH, json={"user_id": "ada", "prompt": "x", "stream": True})
    next(pieces(response))
    client.delete("/conversations/ada")
    response.close()
    assert gateway.open_streams == 0
