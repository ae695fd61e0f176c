"""Keys and budgets over all processes of a running service."""

import http.client
import json
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from chatport.adapters import (
    PeeweeKeys,
    SqliteSession,
    SystemClock,
    random_key_id,
    random_secret,
)
from chatport.domain import Budget, Caller, Period, Unit
from chatport.domain.keys import Keys

from .conftest import Serve

ENOUGH = 30
"""Fresh connections: that all of them meet one of two workers is one in a thousand million."""


class Operator:
    """Makes keys in the file of a service, from another process's point of view."""

    def __init__(self, folder: Path) -> None:
        self.session = SqliteSession(folder / "chatport.db")
        self.keys = Keys(
            PeeweeKeys(self.session),
            clock=SystemClock(),
            new_id=random_key_id,
            new_secret=random_secret,
        )


def status(port: int, key: str, **body: Any) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    if body:
        connection.request("POST", "/openai-completion", json.dumps(body), headers)
    else:
        connection.request("GET", "/conversations/ada", headers=headers)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status


def test_a_revoked_key_opens_no_process_after_five_seconds(serve: Serve, tmp_path: Path) -> None:
    operator = Operator(tmp_path)
    key = operator.keys.create(Caller(name="shop"))
    service = serve("--workers", "2")
    assert [status(service.port, key) for _ in range(ENOUGH)] == [200] * ENOUGH
    operator.keys.revoke("shop")
    revoked_at = time.monotonic()
    while 200 in [status(service.port, key) for _ in range(ENOUGH)]:
        assert time.monotonic() < revoked_at + 5
    operator.session.close()


def test_what_a_killed_service_had_reserved_is_spent_once(
    serve: Serve, provider: Any, tmp_path: Path
) -> None:
    provider.gate.clear()
    operator = Operator(tmp_path)
    budget = Budget(amount=10_000, unit=Unit.TOKENS, period=Period.MONTH)
    key = operator.keys.create(Caller(name="shop", budgets=(budget,)))
    service = serve("--workers", "1", CHATPORT_MAX_OUTPUT_TOKENS="6000")
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    body = {"user_id": "ada", "prompt": "wait", "stream": True}
    connection.request("POST", "/openai-completion", json.dumps(body), headers)
    assert connection.getresponse().status == 200
    assert spending(tmp_path) == [(0, 6001)]
    assert status(service.port, key, prompt="Hello") == 429
    service.kill()
    connection.close()
    for _ in range(2):
        service = serve("--workers", "1", CHATPORT_MAX_OUTPUT_TOKENS="6000")
        assert status(service.port, key, prompt="Hello") == 429
        assert spending(tmp_path) == [(6001, 0)]
        service.stop()
    operator.session.close()


def spending(folder: Path) -> list[tuple[int, int]]:
    with closing(sqlite3.connect(folder / "chatport.db")) as database:
        return database.execute("SELECT tokens, reserved_tokens FROM spending").fetchall()
