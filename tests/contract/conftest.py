"""The stores under contract, and records for the tests."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from chatport.adapters import MemoryStore, PeeweeStore
from chatport.domain import ConversationStore, Exchange, State, Usage

NOON = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)

MakeExchange = Callable[..., Exchange]
OpenStore = Callable[[], ConversationStore]


@pytest.fixture(params=["memory", "sqlite"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenStore]:
    """Return what opens one more store on the same exchanges, as another process would."""
    memory = MemoryStore()
    with ExitStack() as stores:

        def open_one() -> ConversationStore:
            if request.param == "memory":
                return memory
            return stores.enter_context(closing(PeeweeStore(tmp_path / "log.db")))

        yield open_one


@pytest.fixture(autouse=True)
def _only_records_tell_the_time(leases_of_records: None) -> None:
    """Let leases end when the records say so."""


@pytest.fixture
def store(open_store: OpenStore) -> ConversationStore:
    return open_store()


@pytest.fixture
def stranger(store: ConversationStore, tmp_path: Path) -> Iterator[ConversationStore]:
    """Return a store of the same kind that has nothing to do with the other."""
    if isinstance(store, MemoryStore):
        yield MemoryStore()
        return
    with closing(PeeweeStore(tmp_path / "stranger.db")) as opened:
        yield opened


@pytest.fixture
def make_exchange() -> MakeExchange:
    """Return a maker of open exchanges; each starts a second after the one before."""
    numbers = count()

    def make(**fields: Any) -> Exchange:
        n = next(numbers)
        started_at = NOON + timedelta(seconds=n)
        defaults: dict[str, Any] = {
            "id": f"exchange-{n}",
            "caller": "anonymous",
            "user_id": "ada",
            "route": "test",
            "model": "model-1",
            "prompt": f"prompt {n}",
            "started_at": started_at,
            "lease_until": started_at + timedelta(seconds=100),
        }
        return Exchange(**{**defaults, **fields})

    return make


@pytest.fixture
def completed() -> MakeExchange:
    """Return what completes an exchange a second after its start."""

    def complete(exchange: Exchange, reply: str = "reply", **fields: Any) -> Exchange:
        outcome: dict[str, Any] = {
            "state": State.COMPLETED,
            "reply": reply,
            "finish_reason": "stop",
            "usage": Usage(prompt_tokens=10, completion_tokens=5),
            "turn_tokens": 8,
            "attempts": 1,
            "finished_at": exchange.started_at + timedelta(seconds=1),
        }
        return replace(exchange, **{**outcome, **fields})

    return complete
