"""What is almost HTTP gets one answer, is closed, and hides no second request."""

import json
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from http.client import HTTPResponse
from io import BytesIO
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from .conftest import Provider, Service
from .http_corpus import ROUTE, Case, cases

PATIENCE_SECONDS = 8
"""Less than the server has for a request to arrive: it must close at once, not at a deadline."""

UNLIMITED = {"CHATPORT_USER_LIMIT": "", "CHATPORT_TOTAL_LIMIT": ""}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Return a service for all cases, and its provider."""
    with Provider() as provider:
        thread = Thread(target=provider.serve_forever, args=(0.05,))
        thread.start()
        upstream = {"OPENAI_API_KEY": "sk-canary-key", "OPENAI_BASE_URL": provider.url}
        folder = tmp_path_factory.mktemp("corpus")
        service = Service(folder, {**upstream, **UNLIMITED}, "--workers", "1")
        try:
            yield service, provider
        finally:
            service.kill()
            provider.shutdown()
            thread.join()


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in cases()])
def test_each_request_gets_the_answer_it_should_and_nothing_more(service: Any, case: Case) -> None:
    running, provider = service
    asked, stored = len(provider.prompts), rows(running.folder)
    said = exchange(running.port, case)
    assert answers(said, case.sent.startswith(b"HEAD")) == list(case.answers)
    assert len(provider.prompts) - asked == case.asked
    assert rows(running.folder) - stored == case.asked
    assert b"smuggled" not in said
    if case.sent.startswith(ROUTE) and len(case.answers) == 1:
        assert b'"error": {' not in said  # on this route it is a sentence


def exchange(port: int, case: Case) -> bytes:
    """Return all that the server sends before it closes."""
    said = b""
    with socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS) as connection:
        with suppress(ConnectionError):  # it refuses before it has seen all
            connection.sendall(case.sent)
        if case.leaves:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_WR)
        while piece := connection.recv(65_536):
            said += piece
    return said


class _Bytes(BytesIO):
    """What was received, as a socket for http.client."""

    def makefile(self, _mode: str) -> "_Bytes":
        return self

    def close(self) -> None:
        """Stay open: several answers are read from it."""


def answers(said: bytes, to_head: bool) -> list[tuple[int, str | None]]:
    """Return status and code of each of the answers."""
    raw = _Bytes(said)
    found: list[tuple[int, str | None]] = []
    while raw.tell() < len(said):
        line = said[raw.tell() :].split(b"\r\n", 1)[0]
        if line == b"HTTP/1.1 100 Continue":
            raw.seek(len(line) + 4, 1)
            found.append((100, None))
            continue
        response = HTTPResponse(raw, method="HEAD" if to_head else "GET")  # type: ignore[arg-type]  # all it does is makefile()
        response.begin()
        found.append((response.status, code_of(response.read())))
    return found


def code_of(body: bytes) -> str | None:
    """Return the code of an error, on either wire."""
    if not body.startswith(b"{"):
        return None
    value = json.loads(body)
    error = value.get("error")
    code: str | None = error["code"] if isinstance(error, dict) else value.get("code")
    return code


def rows(folder: Path) -> int:
    """Return how many exchanges there are in the log."""
    with closing(sqlite3.connect(folder / "chatport.db")) as database:
        count: int = database.execute("SELECT count(*) FROM exchange").fetchone()[0]
        return count
