"""Four times the requests that the service takes at once: answers kept, refusals quick."""

import sys
from collections.abc import Coroutine
from typing import Any

import load
import processes
from connection import Outcome
from measured import Measured, drive, percentile
from place import Place
from processes import Server
from table import Row

PLACES = 50
PROVIDER_MS = 500
FACTOR = 4
"""How many times more than the service can answer is asked of it."""

PEAK_SECONDS = 10.0
SECONDS, LONG_SECONDS = 30.0, 300.0
RECOVERY_SECONDS = 2.0


def overload(place: Place) -> list[Row]:
    """Measure the answers and the refusals of a service that is asked for too much.

    By clients that keep their connections, and by others that connect for each request.
    """
    provider = place.provider(PROVIDER_MS)
    with processes.chatport(place.folder(), provider) as server:
        peak = drive(server, load.closed_loop(server.port, clients=PLACES, seconds=PEAK_SECONDS))
    settings = {"CHATPORT_MAX_IN_FLIGHT": str(PLACES)}
    with processes.chatport(place.folder(), provider, settings) as server:
        drive(server, _calm(server.port))
        seconds = LONG_SECONDS if place.long else SECONDS
        rows = _asked_too_much(server, peak, seconds, keep=True)
        return rows + _asked_too_much(server, peak, seconds, keep=False)


def _asked_too_much(server: Server, peak: Measured, seconds: float, *, keep: bool) -> list[Row]:
    rate = FACTOR * peak.rate
    asked = load.open_loop(server.port, rate=rate, requests=int(rate * seconds), keep=keep)
    over = drive(server, asked)
    after = drive(server, _calm(server.port))
    strange = {word: n for word, n in over.outcome.failures.items() if "503" not in word}
    if strange:
        sys.stderr.write(f"overload: {strange}\n")
    refused = over.outcome.refused
    clients = "kept connections" if keep else "a connection each"
    return [
        _goodput(f"answers/s at {FACTOR}x of {PLACES} at once, and at 1x; {clients}", over, peak),
        Row(figure="  p99 of refusals, ms", chatport=1000 * percentile(refused, 99), budget=50),
        Row(
            figure="  admitted, p99 over the provider's, ms",
            chatport=1000 * percentile(over.outcome.latencies, 99) - PROVIDER_MS,
        ),
        Row(figure="  admitted and failed", chatport=_failed(over.outcome), budget=0),
        Row(
            figure=f"  refused or failed in the {RECOVERY_SECONDS:g} s after it",
            chatport=after.outcome.failures.total(),
            budget=0,
        ),
    ]


def _calm(port: int) -> Coroutine[Any, Any, Outcome]:
    return load.closed_loop(port, clients=PLACES // 2, seconds=RECOVERY_SECONDS)


def _goodput(figure: str, over: Measured, peak: Measured) -> Row:
    return Row(
        figure=figure,
        chatport=over.rate,
        other=peak.rate,
        ratio=over.rate / peak.rate,
        budget=0.9,
        of_ratio=True,
        at_least=True,
    )


def _failed(outcome: Outcome) -> int:
    return outcome.failures.total() - len(outcome.refused)
