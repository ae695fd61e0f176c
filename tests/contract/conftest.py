"""Records for the contract tests."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest

from chatport.domain import Exchange, State, Usage

NOON = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)

MakeExchange = Callable[..., Exchange]


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
