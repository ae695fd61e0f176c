"""One burst of requests: what came back, and what the server used for it."""

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from connection import Outcome
from processes import Memory, Server


@dataclass(frozen=True, slots=True)
class Measured:
    """What came back, and what the server used for it."""

    outcome: Outcome
    cpu_seconds: float
    memory: Memory

    @property
    def rate(self) -> float:
        """Return answers per second."""
        return len(self.outcome.latencies) / self.outcome.seconds

    @property
    def cpu_us(self) -> float:
        """Return microseconds of CPU per answer."""
        return self.cpu_seconds / max(1, len(self.outcome.latencies)) * 1e6


def drive(server: Server, requests: Coroutine[Any, Any, Outcome]) -> Measured:
    """Send the requests, and measure what the server uses meanwhile."""
    before = server.cpu_seconds()
    outcome = asyncio.run(requests)
    return Measured(outcome, server.cpu_seconds() - before, server.memory())


def percentile(values: Sequence[float], share: int) -> float:
    """Return the value that `share` percent do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * share // 100)] if ordered else float("nan")
