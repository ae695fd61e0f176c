"""What is measured with many requests: chatport beside the bare application, on one provider.

The machine may be shared and noisy, so the two take turns, and ratios are made within a turn.
"""

import statistics
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import load
import processes
from connection import Outcome
from fake_provider import STREAM_CHUNKS
from measured import Measured, drive, percentile
from place import Place
from processes import Server
from table import Row

CLIENTS = 64
ROUNDS = 5
ROUND_SECONDS = 2.5
PACED_ROUNDS = 4
PACED_REQUESTS = 280
PACED_RATE = 70
PACED_MS = 50
SLOW_MS = 2_000
FLIGHT_WAVES = 3
"""How many calls follow each other in every place of those in flight."""

STREAMS = 500
STREAM_WAVES = 3
STREAMS_PER_SECOND = 550
"""So that all are open before the first, which lasts a second, comes to its end."""

GROWTH_WARM_UP = 4_000
GROWTH_REQUESTS = 20_000


Pairs = Sequence[tuple[Measured, Measured]]
"""chatport and the bare application, one after the other."""


def throughput(place: Place) -> list[Row]:
    """Measure requests per second and CPU per request with 64 clients that never pause."""
    return _throughput(place, load.SEED)


def v1throughput(place: Place) -> list[Row]:
    """Measure the same in OpenAI's protocol."""
    return _throughput(place, load.V1)


def _throughput(place: Place, path: str) -> list[Row]:
    def burst(server: Server, path: str, seconds: float = ROUND_SECONDS) -> Measured:
        requests = load.closed_loop(server.port, clients=CLIENTS, seconds=seconds, path=path)
        return drive(server, requests)

    with _both(place) as (ours, bare):
        burst(ours, path, 1)
        burst(bare, load.SEED, 1)
        pairs = [(burst(ours, path), burst(bare, load.SEED)) for _ in range(ROUNDS)]
    rates = [(ours.rate, bare.rate) for ours, bare in pairs]
    costs = [(ours.cpu_us, bare.cpu_us) for ours, bare in pairs]
    return [
        _ratio(f"requests/s of {path}, {CLIENTS} clients", rates, 1.2, at_least=True),
        _ratio("  CPU per request, us", costs, 0.8),
        _failures(pairs),
    ]


def latency(place: Place) -> list[Row]:
    """Measure the time added at a rate that leaves both servers mostly idle."""
    with _both(place, PACED_MS) as servers:
        _pair(servers, lambda port: load.open_loop(port, rate=PACED_RATE, requests=PACED_RATE))
        pairs = [
            _pair(
                servers,
                lambda port: load.open_loop(port, rate=PACED_RATE, requests=PACED_REQUESTS),
            )
            for _ in range(PACED_ROUNDS)
        ]
    name = f"{PACED_RATE} requests/s on {PACED_MS} ms"
    added = [
        _ratio(f"{name}: added p{share}, ms", [_added(pairs, share, PACED_MS)], 1.0)
        for share in (50, 99)
    ]
    return [*added, _failures(pairs)]


def flight1000(place: Place) -> list[Row]:
    """Measure 1,000 calls in flight on a slow provider."""
    return _in_flight(place, calls=1_000, rate=500, p99_ms=40)[:-1]


def flight2000(place: Place) -> list[Row]:
    """Measure 2,000 calls in flight on a slow provider, and the memory that they take."""
    return _in_flight(place, calls=2_000, rate=1_500, p99_ms=500)


def _in_flight(place: Place, *, calls: int, rate: int, p99_ms: float) -> list[Row]:
    def burst(server: Server) -> Measured:
        drive(server, load.closed_loop(server.port, clients=20, requests=20))
        requests = calls * FLIGHT_WAVES
        return drive(
            server, load.open_loop(server.port, rate=rate, requests=requests, at_most=calls)
        )

    with processes.chatport(place.folder(), place.provider(SLOW_MS)) as server:
        ours = burst(server)
    with processes.bare(place.folder(), place.provider(SLOW_MS), threads=calls) as server:
        bare = burst(server)
    pairs = [(ours, bare)]
    middle, tail = (_added(pairs, share, SLOW_MS) for share in (50, 99))
    name = f"{calls:,} in flight ({ours.outcome.at_once:,} seen)"
    return [
        _plain(f"{name}: added p50, ms", middle),
        _plain("  added p99, ms", tail, p99_ms),
        _failures(pairs),
        _plain("  PSS, MB", (ours.memory.pss, bare.memory.pss)),
        _plain("  RSS, MB", (ours.memory.rss, bare.memory.rss), 450),
    ]


def streams(place: Place) -> list[Row]:
    """Measure 500 streams that are open at once."""
    return _streams(place, load.SEED)


def v1streams(place: Place) -> list[Row]:
    """Measure 500 streams in OpenAI's protocol."""
    return _streams(place, load.V1)


def _streams(place: Place, path: str) -> list[Row]:
    def wave(server: Server, path: str = load.SEED) -> Measured:
        requests = load.open_loop(
            server.port, rate=STREAMS_PER_SECOND, requests=STREAMS, stream=True, path=path
        )
        return drive(server, requests)

    with _both(place, threads=STREAMS) as (ours, bare):
        for server in (ours, bare):
            drive(server, load.open_loop(server.port, rate=20, requests=20, stream=True))
        pairs = [(wave(ours, path), wave(bare)) for _ in range(STREAM_WAVES)]
    chunks = [(one.cpu_us / STREAM_CHUNKS, two.cpu_us / STREAM_CHUNKS) for one, two in pairs]
    seen = min(pair[0].outcome.at_once for pair in pairs)
    first = [
        1000 * percentile([x for pair in pairs for x in pair[side].outcome.first], 50)
        for side in (0, 1)
    ]
    name = f"{STREAMS} streams of {path} ({seen} seen)"
    return [
        _plain(f"{name}: CPU per chunk, us", _medians(chunks), 80),
        _plain("  first chunk added p50, ms", (first[0], first[1]), 10),
        _failures(pairs),
    ]


def growth(place: Place) -> list[Row]:
    """Measure what each new user leaves in the memory of the server."""
    with processes.chatport(place.folder(), place.provider()) as server:
        before = drive(
            server, load.closed_loop(server.port, clients=CLIENTS, requests=GROWTH_WARM_UP)
        )
        after = drive(
            server, load.closed_loop(server.port, clients=CLIENTS, requests=GROWTH_REQUESTS)
        )
    grown = [
        (getattr(after.memory, kind) - getattr(before.memory, kind)) * 1024 / GROWTH_REQUESTS
        for kind in ("pss", "rss")
    ]
    name = f"memory over {GROWTH_REQUESTS:,} requests"
    return [
        Row(figure=f"{name}: PSS growth, KB each", chatport=grown[0], budget=1),
        Row(figure="  RSS growth, KB each", chatport=grown[1], budget=1),
        Row(figure="  failures", chatport=after.outcome.failures.total(), budget=0),
    ]


@contextmanager
def _both(
    place: Place, milliseconds: int = 0, *, threads: int = CLIENTS
) -> Iterator[tuple[Server, Server]]:
    provider = place.provider(milliseconds)
    with (
        processes.chatport(place.folder(), provider) as ours,
        processes.bare(place.folder(), provider, threads=threads) as bare,
    ):
        yield ours, bare


def _pair(
    servers: tuple[Server, Server], requests: Callable[[int], Coroutine[Any, Any, Outcome]]
) -> tuple[Measured, Measured]:
    ours, bare = (drive(server, requests(server.port)) for server in servers)
    return ours, bare


def _added(pairs: Pairs, share: int, milliseconds: int) -> tuple[float, float]:
    """Return a percentile of the milliseconds that each of the two added."""
    sides = ([x for pair in pairs for x in pair[side].outcome.latencies] for side in (0, 1))
    ours, bare = (1000 * percentile(side, share) - milliseconds for side in sides)
    return ours, bare


def _medians(values: Sequence[tuple[float, float]]) -> tuple[float, float]:
    ours, bare = (statistics.median(side) for side in zip(*values, strict=True))
    return ours, bare


def _plain(figure: str, values: tuple[float, float], budget: float | None = None) -> Row:
    """Return a row whose budget, if any, is an absolute figure."""
    ours, bare = values
    return Row(figure=figure, chatport=ours, other=bare, ratio=ours / bare, budget=budget)


def _ratio(
    figure: str, values: Sequence[tuple[float, float]], budget: float, *, at_least: bool = False
) -> Row:
    """Return a row whose budget is the median of the ratios."""
    ours, bare = _medians(values)
    ratio = statistics.median(one / two for one, two in values)
    return Row(
        figure=figure,
        chatport=ours,
        other=bare,
        ratio=ratio,
        budget=budget,
        of_ratio=True,
        at_least=at_least,
    )


def _failures(pairs: Pairs) -> Row:
    ours, bare = (
        sum((pair[side].outcome.failures for pair in pairs), Counter()) for side in (0, 1)
    )
    names = ", ".join(ours)
    return Row(
        figure=f"  failures {names}".rstrip(),
        chatport=ours.total(),
        other=bare.total(),
        budget=0,
    )
