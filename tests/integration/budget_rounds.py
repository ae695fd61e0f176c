"""Rounds of 64 threads against every rule that allows ten calls, and a process that plays them.

The process stays from round to round, and reads one round a line. It imports little, since a new
one takes the place of each that is killed.
"""

import json
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from chatport.adapters import LimitsCounter, PeeweeStore, Script, ScriptedGateway, random_id
from chatport.domain import (
    ChatRequest,
    ChatService,
    Clock,
    Completion,
    CompletionRequest,
    ConversationStore,
    PriceList,
    RateLimiter,
    Relay,
    RequestText,
    Usage,
)
from chatport.domain.errors import Refused
from chatport.domain.rules import Rule, parse_budgets

THREADS = 64
PROMPT = "x" * 40
ALL_OF_IT = Usage(prompt_tokens=10, completion_tokens=90)
LESS = Usage(prompt_tokens=10, completion_tokens=30)
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


class StoppedClock(Clock):
    """It is noon, and stays noon."""

    def now(self) -> datetime:
        return NOW

    def monotonic(self) -> float:
        return 0.0

    def sleep(self, seconds: float) -> None:
        raise AssertionError


class TinyPrices(PriceList):
    """A token of a prompt costs 3 nanodollars, one of an answer 5: a call at most 480, or 180."""

    def cost(self, model: str, usage: Usage) -> int:
        return 3 * usage.prompt_tokens + 5 * usage.completion_tokens


class CountingGateway(ScriptedGateway):
    """Tells somebody of each call before it answers."""

    def __init__(self, called: Callable[[], None], usage: Usage) -> None:
        super().__init__(Script(chunks=("reply",), usage=usage))
        self._called = called

    def complete(self, request: CompletionRequest) -> Completion:
        self._called()
        return super().complete(request)


@dataclass(frozen=True, kw_only=True)
class Round:
    """One round of the two processes.

    Attributes:
        folder: Where the database is, and the file with a byte for each call.
        budgets: Of the scope.
        hangs: Calls are never answered: their process is about to be killed.
    """

    folder: str
    scope: str
    budgets: str
    completion_tokens: int = 90
    hangs: bool = False

    @property
    def database(self) -> Path:
        return Path(self.folder) / "log.db"

    def calls(self) -> int:
        path = Path(self.folder) / "calls"
        return path.stat().st_size if path.exists() else 0


def make_service(store: ConversationStore, gateway: ScriptedGateway, **options: Any) -> ChatService:
    return ChatService(
        store=store,
        gateway=gateway,
        clock=StoppedClock(),
        new_id=random_id,
        model="model-1",
        prices=TinyPrices(),
        max_output_tokens=90,
        **options,
    )


def limited(scope: str, rules: Sequence[Rule], counter: LimitsCounter | None = None) -> RateLimiter:
    by_scope: dict[str, Any] = {scope: rules}
    return RateLimiter(counter, **by_scope)


def relayed(user_id: str) -> ChatRequest:
    """Return one of many requests that a user may have open at once."""
    body = json.dumps({"messages": [{"role": "user", "content": PROMPT}]}).encode()
    text = RequestText(messages=['{"role":"user"}'], parameters="{}")
    relay = Relay(model="model-1", body=body, text=text, size=len(PROMPT), max_tokens=90)
    return ChatRequest(prompt=PROMPT, user_id=user_id, relay=relay)


def at_once(work: Callable[[int], None]) -> None:
    """Run the work in all threads, from the same moment on; raise what one of them has raised."""
    gate = threading.Barrier(THREADS)

    def start(n: int) -> None:
        gate.wait()
        work(n)

    with ThreadPoolExecutor(THREADS) as pool:
        for done in [pool.submit(start, n) for n in range(THREADS)]:
            done.result()


def process() -> None:
    """Play rounds until the input ends: say when ready, then wait for the word, then report."""
    for line in sys.stdin:
        game = Round(**json.loads(line))
        with closing(PeeweeStore(game.database)) as store:
            store.check()
            say("ready")
            sys.stdin.readline()
            say(json.dumps(play(game, store)))
            if sys.stdin.readline() == "recover\n":
                say(json.dumps([store.recover(NOW), store.recover(NOW)]))


def play(game: Round, store: PeeweeStore) -> dict[str, int]:
    """Send a request from each thread; return how many were admitted, and refused by which rule."""
    outcomes: list[str] = []  # a Counter loses what threads count at the same moment
    calls = os.open(Path(game.folder) / "calls", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def called() -> None:
        os.write(calls, b".")
        if game.hangs:
            say("called")
            threading.Event().wait()

    usage = Usage(prompt_tokens=10, completion_tokens=game.completion_tokens)
    limiter = limited(game.scope, parse_budgets(game.budgets))
    service = make_service(store, CountingGateway(called, usage), limiter=limiter)

    def ask(n: int) -> None:
        if game.scope == "user":
            request = relayed("ada")
        else:
            request = ChatRequest(prompt=PROMPT, user_id=f"user-{os.getpid()}-{n}")
        try:
            service.reply(request)
            outcomes.append("admitted")
        except Refused as error:
            outcomes.append(error.rule)

    at_once(ask)
    os.close(calls)
    return Counter(outcomes)


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


if __name__ == "__main__":
    process()
