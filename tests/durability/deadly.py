"""Places to die at: before a statement, a call, or a word said.

What a process does, and what it has told others, it writes into a file; whatever is written there
has happened before its death.
"""

import json
import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chatport.adapters import Script, ScriptedGateway
from chatport.domain import Completion, CompletionRequest, Delta


class Diary:
    """What a process did: the places that it passed, and what it told others.

    Args:
        path: The file that outlives the process.
        dies_at: The number of the place at which it dies; None to live on.
    """

    def __init__(self, path: Path, dies_at: int | None = None) -> None:
        self._out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._dies_at = dies_at
        self._passed = 0

    def passes(self, place: str) -> None:
        """Note that a place was reached, or die there."""
        self._write("reached", place)
        if self._passed == self._dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        self._passed += 1

    def tells(self, what: str, *facts: Any) -> None:
        """Note what others know from now on; it is a place to die before and after."""
        self.passes(f"before it tells: {what}")
        self._write(what, *facts)
        self.passes(f"after it told: {what}")

    def _write(self, *line: Any) -> None:
        os.write(self._out, json.dumps(line).encode() + b"\n")


def entries(path: Path) -> list[list[Any]]:
    """Return what a diary holds."""
    return [json.loads(line) for line in path.read_text().splitlines()]


class Witnessed(ScriptedGateway):
    """A provider that notes each call and each piece of an answer."""

    def __init__(self, diary: Diary, *scripts: Script | str) -> None:
        super().__init__(*scripts)
        self._diary = diary

    def complete(self, request: CompletionRequest) -> Completion:
        """Note the call and its end."""
        self._diary.tells("called", _prompt_of(request))
        answer = super().complete(request)
        self._diary.passes("the provider has answered")
        return answer

    @contextmanager
    def stream(self, request: CompletionRequest) -> Iterator[Iterator[Delta]]:
        """Note the call and each piece."""
        self._diary.tells("called", _prompt_of(request))
        with super().stream(request) as deltas:
            yield self._noted(deltas)

    def _noted(self, deltas: Iterator[Delta]) -> Iterator[Delta]:
        for number, delta in enumerate(deltas):
            self._diary.passes(f"piece {number} has come")
            yield delta


def _prompt_of(request: CompletionRequest) -> str:
    return request.body.decode() if request.body is not None else request.messages[-1].text


def watch_statements(diary: Diary) -> None:
    """Make each statement on each connection from now on a place."""
    connect = sqlite3.connect

    def watched(*arguments: Any, **options: Any) -> Any:
        connection = connect(*arguments, **options)
        connection.set_trace_callback(lambda sql: diary.passes(" ".join(sql.split()[:3])))
        return connection

    sqlite3.connect = watched
