"""Clients that send slowly, or never close, and how long everybody else waits meanwhile."""

import socket
import threading
import time
from contextlib import ExitStack

import processes
from measured import percentile
from place import Place
from table import Row

HALF_OPEN = 300
"""Connections that have begun a request, and send one more byte of it in each round."""

LINGERING = 100
"""Clients that ask for the end of their connection, and do not close their side."""

ROUND_SECONDS = 0.5
SECONDS, LONG_SECONDS = 15.0, 60.0
APART_SECONDS = 0.02
"""How long a client waits from one answer to the next request."""

HEAD = b"POST /openai-completion HTTP/1.1\r\nHost: a\r\nX-Slow: "
LAST = b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


def slow(place: Place) -> list[Row]:
    """Measure `/healthz`, each time on a new connection."""
    with processes.chatport(place.folder(), place.provider()) as server, ExitStack() as stack:
        seconds = LONG_SECONDS if place.long else SECONDS
        free = _asked(stack, server.port, seconds / 3)
        over = threading.Event()
        dripping = threading.Thread(target=_drip, args=(server.port, over))
        dripping.start()
        try:
            beside = _asked(stack, server.port, seconds)
        finally:
            over.set()
            dripping.join()
        lingering = [_seconds(stack, server.port, stays=True) for _ in range(LINGERING)]
        after = _seconds(stack, server.port)
    return [
        _row(f"p99 of /healthz, ms, beside {HALF_OPEN} half-open connections", beside, free),
        _row(f"  of {LINGERING} clients that do not close", lingering, free),
        _row("  the next one after them", [after], free),
    ]


def _asked(stack: ExitStack, port: int, seconds: float) -> list[float]:
    """Return how long one client after the other waits, for so many seconds."""
    over = time.monotonic() + seconds
    found = []
    while time.monotonic() < over:
        found.append(_seconds(stack, port))
        time.sleep(APART_SECONDS)
    return found


def _seconds(stack: ExitStack, port: int, *, stays: bool = False) -> float:
    """Return how long a client waits from its connecting to the end of its answer."""
    began = time.perf_counter()
    client = socket.create_connection(("127.0.0.1", port), 10)
    client.sendall(LAST)
    while client.recv(65_536):
        pass
    seconds = time.perf_counter() - began
    stack.callback(client.close)
    if not stays:
        client.close()
    return seconds


def _drip(port: int, over: threading.Event) -> None:
    """Keep so many requests from becoming whole; whoever is closed begins anew."""
    clients: list[socket.socket] = []
    while not over.is_set():
        while len(clients) < HALF_OPEN:
            clients.append(socket.create_connection(("127.0.0.1", port), 10))
            clients[-1].sendall(HEAD)
        clients = [client for client in clients if _sends(client)]
        over.wait(ROUND_SECONDS)
    for client in clients:
        client.close()


def _sends(client: socket.socket) -> bool:
    try:
        client.sendall(b"x")
    except OSError:
        client.close()
        return False
    return True


def _row(figure: str, seconds: list[float], free: list[float]) -> Row:
    found, alone = (1000 * percentile(each, 99) for each in (seconds, free))
    return Row(figure=figure, chatport=found, other=alone, ratio=found / alone, budget=100)
