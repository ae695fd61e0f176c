"""Many who want the same at once: one key for 32 requests, one conversation for 32 writers."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from werkzeug.test import TestResponse

from chatport.adapters import PeeweeStore, ScriptedGateway
from chatport.domain import LogQuery
from chatport.domain.model import State
from integration.relaying import ASKED, SEED, STREAMED, Wire
from integration.relaying import PATH as V1
from torture import times

from . import conversation_writers
from .conversation_writers import WRITERS

AT_ONCE = 32
KEYS = times(20, 500)
CONVERSATIONS = times(20, 300)
PROMPT: dict[str, Any] = {"user_id": "ada", "prompt": "Hi"}
KINDS = [(V1, ASKED), (V1, STREAMED), (SEED, PROMPT), (SEED, {**PROMPT, "stream": True})]


@pytest.mark.parametrize(("path", "body"), KINDS, ids=["v1", "v1-stream", "seed", "seed-stream"])
def test_of_32_with_one_key_one_is_answered_and_its_answer_outlives_a_restart(
    path: str, body: Any, tmp_path: Path
) -> None:
    gateway = ScriptedGateway("Hello.")
    answers: list[TestResponse] = []
    with (
        closing(PeeweeStore(tmp_path / "log.db")) as store,
        ThreadPoolExecutor(AT_ONCE) as pool,
    ):
        wire = Wire(gateway, store)
        for n in range(KEYS // len(KINDS)):
            gate = threading.Barrier(AT_ONCE)
            found = list(pool.map(asking(wire, gate, path, body, f"k{n}"), range(AT_ONCE)))
            assert {each.status_code for each in found} <= {200, 409}
            good = [each for each in found if each.status_code == 200]
            assert len({each.data for each in good}) == 1
            assert len({each.headers["X-Request-Id"] for each in good}) == 1
            assert len(gateway.calls) == n + 1
            answers.append(good[0])
    with closing(PeeweeStore(tmp_path / "log.db")) as store:
        wire = Wire(gateway, store)
        for n, first in enumerate(answers):
            again = wire.ask(body, path, Idempotency_Key=f"k{n}")
            assert (again.status_code, again.data) == (200, first.data)
            assert again.headers["Idempotency-Replayed"] == "true"
        assert len(gateway.calls) == len(answers) == len(store.search(LogQuery(limit=1000)))


def asking(
    wire: Wire, gate: threading.Barrier, path: str, body: Any, key: str
) -> Callable[[int], TestResponse]:
    def ask(_: int) -> TestResponse:
        gate.wait()
        return wire.ask(body, path, Idempotency_Key=key)

    return ask


# One conversation, two processes


def test_32_writers_in_two_processes_make_one_conversation_without_gap_or_loss(
    tmp_path: Path,
) -> None:
    path = tmp_path / "log.db"
    with closing(PeeweeStore(path)) as store:
        store.check()
        both = [
            subprocess.Popen(
                [sys.executable, conversation_writers.__file__, name, path, str(CONVERSATIONS)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for name in ("a", "b")
        ]
        for one in both:
            assert one.stdout is not None
            assert one.stdout.readline() == "ready\n"
        for one in both:
            assert one.stdin is not None
            one.stdin.write("go\n")
            one.stdin.flush()
        for one in both:
            told, _ = one.communicate(timeout=60 + 2 * CONVERSATIONS)
            assert json.loads(told) == []
        for user in range(CONVERSATIONS):
            turns = store.conversation("anonymous", f"user-{user}", before=None, limit=1000)
            assert {turn.state for turn in turns} == {State.COMPLETED}
            assert sorted(turn.prompt for turn in turns) == sorted(
                f"{name}-{writer}" for name in "ab" for writer in range(WRITERS)
            )
            assert all(turn.reply == f"re: {turn.prompt}" for turn in turns)
            first = turns[0].number
            assert [turn.context_from for turn in turns] == [None, *[first] * (len(turns) - 1)]
