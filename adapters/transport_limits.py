"""The bounds of a call to a provider."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportLimits:
    """Bounds of one call; durations in seconds.

    Attributes:
        total: From the call to the last byte of the answer.
        silence: The longest wait for the next byte, also for the first.
        heartbeat: After this much silence in a body, an empty piece is delivered.
        idle: How long an unused connection is kept. Servers commonly close theirs after 60 s.
        body_bytes: The largest answer.
    """

    total: float = 120.0
    silence: float = 30.0
    connect: float = 5.0
    heartbeat: float = 5.0
    idle: float = 30.0
    body_bytes: int = 8_000_000
