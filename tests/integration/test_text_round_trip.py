"""Any text of Unicode: what is accepted comes back as it was, and all else is refused with 400.

Hypothesis makes texts of all code points, also of those that are none: halves of surrogate pairs,
NUL, noncharacters. One request carries many of them, where the wire allows it.
"""

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from werkzeug.test import TestResponse

from chatport.adapters import PeeweeStore, ScriptedGateway, sqlite_connection
from chatport.adapters.scripted_gateway import Script
from chatport.domain.text import UNSTORABLE
from torture import times

from .relaying import SEED, Wire

EACH = 20
"""Texts in one example."""

KINDS = 4
"""Tests that share the number of texts."""

RUNS = settings(
    max_examples=times(2_000, 50_000) // EACH // KINDS,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
HARD = [
    *("\0", "\ud800", "\udfff", "\ud83d\ude00", "\ude00\ud83d", "\ufffe", "\uffff", "\U0010ffff"),
    *("\ufeff", "e\u0301", "\u00e9", "\u200d", "\u2028", "\r\n", "\r", "\n\n", "\x1b[31m", "\x7f"),
    *("\\u0000", '"', "'", "\\", "\u202e", "\x85", "\xa0", "\ufffd", "\u0130", "data: [DONE]"),
]
TEXT = some.one_of(
    some.text(some.characters(categories=None), max_size=12),
    some.lists(some.one_of(some.sampled_from(HARD), some.text(max_size=3)), max_size=5).map(
        "".join
    ),
)
TEXTS = some.lists(TEXT, min_size=EACH, max_size=EACH)


class SpeakingGateway(ScriptedGateway):
    """Says what the test wants next."""

    def say(self, *pieces: str) -> None:
        self._scripts = [Script(chunks=pieces)]


@contextmanager
def service_on(path: Path) -> Iterator[tuple[Wire, SpeakingGateway]]:
    with closing(PeeweeStore(path)) as store:
        gateway = SpeakingGateway("Yes")
        yield Wire(gateway, store), gateway


@pytest.fixture
def wire_and_gateway(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Wire, SpeakingGateway]]:
    """Return a service on a file that is not synced to the disk: nobody cuts the power here."""
    monkeypatch.setitem(sqlite_connection.PRAGMAS, "synchronous", "off")
    with service_on(tmp_path / "log.db") as both:
        yield both


USERS = count()


def turn_of(wire: Wire, response: TestResponse, user: str) -> tuple[str, str]:
    """Return prompt and reply of the exchange: the same from the API and from the file."""
    exchange = wire.store.find(response.headers["X-Request-Id"])
    assert exchange is not None
    page = wire.client.get(f"/conversations/{user}?limit=1").json
    assert page is not None
    [shown] = page["exchanges"]
    assert shown["id"] == exchange.id
    assert (shown["prompt"], shown["completion"]) == (exchange.prompt, exchange.reply)
    return exchange.prompt, exchange.reply


def is_refused(response: TestResponse) -> bool:
    """Return whether a request was refused as it should be."""
    assert response.status_code in {200, 400}
    return response.status_code == 400


def storable(text: str) -> str:
    """Return what is kept of a model's text: pairs in two pieces are joined, the rest is U+FFFD."""
    joined = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return joined.replace("\0", "\ufffd")


def is_taken(text: str) -> bool:
    """Return whether a text can be kept; JSON joins the two halves of a surrogate pair."""
    return not UNSTORABLE.search(json.loads(json.dumps(text)))


@RUNS
@given(texts=TEXTS)
def test_a_prompt_comes_back_as_it_was_or_is_refused(
    wire_and_gateway: tuple[Wire, SpeakingGateway], texts: list[str]
) -> None:
    wire, gateway = wire_and_gateway
    for text in texts:
        user = f"user-{next(USERS)}"
        calls = len(gateway.calls)
        response = wire.ask({"user_id": user, "prompt": text}, SEED)
        blank = not text or text.isspace()
        assert is_refused(response) == (blank or not is_taken(text)), repr(text)
        if response.status_code == 200:
            meant = json.loads(json.dumps(text))
            assert turn_of(wire, response, user)[0] == meant
            assert gateway.calls[-1].messages[-1].text == meant
        else:
            assert len(gateway.calls) == calls


@RUNS
@given(texts=TEXTS)
def test_messages_are_passed_on_and_come_back_as_they_were_or_are_refused(
    wire_and_gateway: tuple[Wire, SpeakingGateway], texts: list[str]
) -> None:
    wire, gateway = wire_and_gateway
    good = [text for text in texts if is_taken(text)]
    for bad in [text for text in texts if not is_taken(text)]:
        calls = len(gateway.calls)
        assert is_refused(wire.ask(asked([bad]))), repr(bad)
        assert len(gateway.calls) == calls
    if not good:
        return
    for ascii_only in (True, False):
        body = json.dumps(asked(good), ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
        if b"\xed\xa0" in body or b"\xed\xb0" in body:
            body = json.dumps(asked(good)).encode()
        response = wire.ask(body)
        assert response.status_code == 200, response.data
        sent = gateway.calls[-1].body
        assert sent is not None
        assert json.loads(sent)["messages"] == json.loads(body)["messages"]
        exchange = wire.store.find(response.headers["X-Request-Id"])
        assert exchange is not None
        assert exchange.request is not None
        kept = [json.loads(each) for each in exchange.request.messages]
        assert kept == json.loads(body)["messages"]
        assert exchange.prompt == json.loads(json.dumps(good[-1]))


def asked(texts: list[str]) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text} for text in texts]}


@RUNS
@given(pieces=TEXTS)
def test_what_a_model_says_is_told_and_kept_the_same(
    wire_and_gateway: tuple[Wire, SpeakingGateway], pieces: list[str]
) -> None:
    wire, gateway = wire_and_gateway
    gateway.say(*pieces)
    user = f"user-{next(USERS)}"
    response = wire.ask({"user_id": user, "prompt": "Hi"}, SEED)
    assert response.status_code == 200
    assert response.json is not None
    said = response.json["completion"]
    assert said == turn_of(wire, response, user)[1] == storable("".join(pieces))
    streamed = wire.ask({"user_id": user, "prompt": "Hi", "stream": True}, SEED)
    *deltas, done, rest = streamed.data.split(b"\n\n")
    assert rest == b""
    assert data_of(done)["completion"] == said == turn_of(wire, streamed, user)[1]
    told = [data_of(event)["text"] for event in deltas if not event.startswith(b":")]
    assert told == [json.loads(json.dumps(piece)) for piece in pieces if piece]


@RUNS
@given(pieces=TEXTS)
def test_what_a_model_says_on_openais_wire_is_passed_on_and_kept_the_same(
    wire_and_gateway: tuple[Wire, SpeakingGateway], pieces: list[str]
) -> None:
    wire, gateway = wire_and_gateway
    gateway.say(*pieces)
    response = wire.ask()
    assert response.json is not None
    said = "".join(pieces)
    meant = json.loads(json.dumps(said))
    assert response.json["choices"][0]["message"]["content"] == meant
    assert reply_of(wire, response) == storable(said)
    streamed = wire.ask({**asked(["Hi"]), "stream": True})
    *events, done, rest = streamed.data.split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b"")
    deltas = [data_of(event)["choices"][0]["delta"] for event in events]
    assert [delta["content"] for delta in deltas if "content" in delta] == [
        json.loads(json.dumps(piece)) for piece in pieces
    ]
    assert reply_of(wire, streamed) == storable(said)


def reply_of(wire: Wire, response: TestResponse) -> str:
    exchange = wire.store.find(response.headers["X-Request-Id"])
    assert exchange is not None
    return exchange.reply


def data_of(event: bytes) -> dict[str, Any]:
    lines = event.split(b"\n")
    found: dict[str, Any] = json.loads(lines[-1].removeprefix(b"data: "))
    return found
