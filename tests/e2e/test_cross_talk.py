"""Many clients at once, of whom some leave in the middle: each hears its own answer only."""

import http.client
import json
import random
import re
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from torture import times

from .conftest import COUNTING, Service
from .test_live_service import SEED, in_parallel

V1 = "/v1/chat/completions"
CLIENTS = 16
REQUESTS = times(500, 20_000)
LEAVES = 0.25
"""How many clients leave: before they have sent all, before an answer, or within it."""

NONCE = re.compile(r"nonce-\d{2}-\d{5}")
HEADERS = {"Content-Type": "application/json"}
Serve = Callable[..., Any]


class Talk:
    """What one client says and hears, on one connection until it leaves."""

    def __init__(self, service: Service, number: int) -> None:
        self._service, self._number = service, number
        self._random = random.Random(number)
        self._user = 0
        self._connection = service.connect()
        self.outcomes: Counter[str] = Counter()

    def close(self) -> None:
        self._connection.close()

    def ask(self, turn: int) -> None:
        """Ask with a nonce of its own, and look whose nonce comes back."""
        nonce = f"nonce-{self._number:02}-{turn:05}"
        path = V1 if self._random.random() < 0.4 else SEED
        stream = self._random.random() < 0.5
        body = {"user_id": f"user-{self._number}-{self._user}", "prompt": nonce, "stream": stream}
        if path is V1:
            messages = [{"role": "user", "content": nonce}]
            body = {"model": "m", "messages": messages, "stream": stream}
        if self._random.random() < LEAVES:
            self._leave(path, json.dumps(body), nonce)
            return
        self._connection.request("POST", path, json.dumps(body), HEADERS)
        response = self._connection.getresponse()
        text = response.read().decode()
        assert response.status == 200, text
        assert _said(path, text, stream=stream) == f"echo: {nonce}"
        assert set(NONCE.findall(text)) <= {nonce}
        self.outcomes["answered"] += 1

    def _leave(self, path: str, body: str, nonce: str) -> None:
        """Send all of a request or a part of it, and read nothing or a part of the answer."""
        way = self._random.choice(("sending", "waiting", "reading"))
        self._connection.putrequest("POST", path)
        self._connection.putheader("Content-Type", "application/json")
        self._connection.putheader("Content-Length", str(len(body)))
        sent = self._random.randrange(len(body)) if way == "sending" else len(body)
        self._connection.endheaders(body[:sent].encode())
        if way == "reading":
            response = self._connection.getresponse()
            part = response.read(self._random.randrange(1, 300)).decode()
            assert response.status == 200, part
            assert set(NONCE.findall(part)) <= {nonce}
        self._connection.close()
        self._connection = self._service.connect()
        self._user += 1  # the conversation may have an open turn for a while
        self.outcomes[f"left {way}"] += 1


def _said(path: str, text: str, *, stream: bool) -> str:
    """Return what the model has said, of an answer of either route."""
    if not stream:
        answer = json.loads(text)
        said = answer["completion"] if path is SEED else answer["choices"][0]["message"]["content"]
        return str(said)
    events = [json.loads(line[6:]) for line in text.split("\n") if line.startswith("data: {")]
    if path is SEED:
        return str(events[-1]["completion"])
    return "".join(choice["delta"].get("content", "") for e in events for choice in e["choices"])


@pytest.mark.long
def test_nobody_hears_what_was_said_to_somebody_else(serve: Serve, provider: Any) -> None:
    service = serve("--workers", "2", CHATPORT_USER_LIMIT="", CHATPORT_TOTAL_LIMIT="")
    outcomes: Counter[str] = Counter()
    failures: list[BaseException] = []

    def talk(number: int) -> None:
        try:
            with closing(Talk(service, number)) as client:
                for turn in range(REQUESTS // CLIENTS):
                    client.ask(turn)
        except (AssertionError, OSError, http.client.HTTPException) as error:
            failures.append(error)
        with COUNTING:
            outcomes.update(client.outcomes)

    in_parallel(CLIENTS, talk)
    assert failures == []
    assert outcomes.total() == REQUESTS // CLIENTS * CLIENTS
    assert min(outcomes[f"left {way}"] for way in ("sending", "waiting", "reading")) > 0

    assert service.stop() == 0  # with the outcome of whoever has left, too
    with closing(sqlite3.connect(service.folder / "chatport.db")) as database:
        rows = database.execute("SELECT prompt, reply, state FROM exchange").fetchall()
    assert [row for row in rows if not f"echo: {row[0]}".startswith(row[1])] == []
    assert {state for _, _, state in rows} == {"completed", "cancelled"}
    assert max(Counter(prompt for prompt, _, _ in rows).values()) == 1
    for request in provider.requests:  # a conversation is one user's
        talks = {each.rsplit("-", 1)[0] for each in NONCE.findall(json.dumps(request))}
        assert len(talks) == 1
