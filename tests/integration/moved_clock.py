"""A clock that only a test moves, also backwards."""

from datetime import UTC, datetime, timedelta

from chatport.domain import Clock

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


class MovedClock(Clock):
    """No two looks at the wall clock see the same time; nobody may wait for time to pass."""

    def __init__(self) -> None:
        self.wall = NOON
        self.passed = 1000.0

    def now(self) -> datetime:
        self.wall += timedelta(microseconds=1)
        return self.wall

    def monotonic(self) -> float:
        return self.passed

    def sleep(self, seconds: float) -> None:
        assert seconds == 0, f"somebody waits for {seconds} s"
