"""A service in memory, with a clock that a test moves."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest

from chatport.adapters import MemoryStore, ScriptedGateway
from chatport.domain import ChatService, Clock

MakeService = Callable[..., ChatService]


class FakeClock(Clock):
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.passed = 0.0

    def now(self) -> datetime:
        return datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC) + timedelta(seconds=self.passed)

    def monotonic(self) -> float:
        return self.passed

    def sleep(self, seconds: float) -> None:
        self.passed += seconds


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def make_service(clock: FakeClock, store: MemoryStore) -> MakeService:
    """Return a maker of services over the store and the clock of the test."""
    numbers = count(1)

    def make(gateway: ScriptedGateway, **options: Any) -> ChatService:
        defaults: dict[str, Any] = {
            "store": store,
            "clock": clock,
            "new_id": lambda: f"id-{next(numbers)}",
            "model": "model-1",
        }
        return ChatService(gateway=gateway, **{**defaults, **options})

    return make
