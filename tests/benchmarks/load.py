"""A load generator that is cheap per request, since it shares its cores with what it measures.

Raw asyncio protocols over keep-alive connections: a closed loop of so many clients, an open loop
at a rate, and streams. Only what is needed of HTTP/1.1 is understood.
"""

import asyncio
import itertools
import json
import time
from collections.abc import Callable, Sequence

from connection import Connection, Outcome

SEED = "/openai-completion"
V1 = "/v1/chat/completions"
PROMPT = "What is a port?"
DRAIN_SECONDS = 30.0
"""How long to wait at the end for the answers that are still out; then they are failures."""

IDLE_SECONDS = 5.0
"""Later, a connection is not used again, as by httpx: servers close those that were idle for long,
and a request that meets the close is lost with it."""

POLL_SECONDS = 0.0005
BURST_SECONDS = 0.01
"""How late a request of an open loop may be, without moving the plan of all that follow."""

_user_numbers = itertools.count()


def new_user() -> str:
    """Return a user id that no other request had; limits are per user."""
    return f"u{time.time_ns():x}-{next(_user_numbers)}"


CALLER = "bench"
KEY_ID, SECRET = "0123456789abcdef", "A" * 43
AUTHORIZATION = f"Bearer cp_{KEY_ID}_{SECRET}"
"""Of the caller in whose name all requests are made; the bare application does not look at it."""


def request_bytes(
    user_id: str, *, path: str = SEED, stream: bool = False, keep: bool = True
) -> bytes:
    """Return a whole HTTP request for one prompt, over a connection to keep or to close."""
    asked: dict[str, object] = {"user_id": user_id, "prompt": PROMPT}
    if path == V1:
        message = {"role": "user", "content": PROMPT}
        asked = {"model": "fake", "messages": [message], "user": user_id}
    body = json.dumps({**asked, "stream": True} if stream else asked).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Connection: {'keep-alive' if keep else 'close'}\r\n"
        f"Authorization: {AUTHORIZATION}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class _Run:
    """The connections of one run, and when it is over.

    Args:
        port: Where the server listens.
        keep: Connections are used again.

    Attributes:
        in_flight: Answers that are still out.
        on_settled: Called after each answer or failure, when its connection is free again.
    """

    def __init__(self, port: int, *, keep: bool = True) -> None:
        self.outcome = Outcome()
        self.in_flight = 0
        self.on_settled: Callable[[], None] = _nothing
        self._port = port
        self._keep = keep
        self._idle: list[Connection] = []
        self._all: list[Connection] = []
        self._starting: set[asyncio.Task[None]] = set()
        self._last_at = self._began = time.perf_counter()

    def start(self, request: bytes) -> None:
        """Send a request, over an idle connection or a new one."""
        self.in_flight += 1
        self.outcome.at_once = max(self.outcome.at_once, self.in_flight)
        sent_at = time.perf_counter()
        while self._idle:
            connection = self._idle.pop()
            if connection.open and sent_at - connection.idle_since < IDLE_SECONDS:
                connection.ask(request, sent_at)
                return
        task = asyncio.create_task(self._connect(request, sent_at))
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)

    async def finish(self) -> Outcome:
        """Wait for what is out, for a while, and close everything."""
        give_up = time.perf_counter() + DRAIN_SECONDS
        while self.in_flight and time.perf_counter() < give_up:  # noqa: ASYNC110  # it has an end
            await asyncio.sleep(0.005)
        self.outcome.seconds = self._last_at - self._began
        for connection in self._all:
            connection.close()
        await asyncio.sleep(0)
        return self.outcome

    async def _connect(self, request: bytes, sent_at: float) -> None:
        loop = asyncio.get_running_loop()
        connection = Connection(self.outcome, self._settled)
        try:
            await loop.create_connection(lambda: connection, "127.0.0.1", self._port)
        except OSError as error:
            self.outcome.failures[type(error).__name__] += 1
            self._settled(connection)
            return
        self._all.append(connection)
        connection.ask(request, sent_at)

    def _settled(self, connection: Connection) -> None:
        self.in_flight -= 1
        self._last_at = time.perf_counter()
        if not self._keep:
            connection.close()
        elif connection.open:
            self._idle.append(connection)
        self.on_settled()


def _nothing() -> None:
    pass


async def closed_loop(
    port: int,
    *,
    clients: int,
    seconds: float = 600,
    requests: int = 1_000_000,
    path: str = SEED,
) -> Outcome:
    """Let each client ask again once it has its answer, for so long or for so many requests."""
    run = _Run(port)
    until = time.perf_counter() + seconds
    left = requests

    def ask() -> None:
        nonlocal left
        if left > 0 and time.perf_counter() < until:
            left -= 1
            run.start(request_bytes(new_user(), path=path))

    run.on_settled = ask
    for _ in range(clients):
        ask()
    return await run.finish()


async def one_by_one(port: int, users: Sequence[str]) -> Outcome:
    """Ask for each of the users in turn, over one connection."""
    run = _Run(port)
    waiting = iter(users)

    def ask() -> None:
        for user_id in itertools.islice(waiting, 1):
            run.start(request_bytes(user_id))

    run.on_settled = ask
    ask()
    return await run.finish()


async def open_loop(
    port: int,
    *,
    rate: float,
    requests: int,
    at_most: int = 100_000,
    stream: bool = False,
    path: str = SEED,
    keep: bool = True,
) -> Outcome:
    """Ask `rate` times a second, however slow the answers are.

    Only when `at_most` are in flight does the next one wait until another has its answer. What is
    not to `keep` its connection opens one for each request, as programs do that send only one.
    """
    run = _Run(port, keep=keep)
    due = time.perf_counter()
    for _ in range(requests):
        while (now := time.perf_counter()) < due or run.in_flight >= at_most:  # noqa: ASYNC110  # a clock
            await asyncio.sleep(max(POLL_SECONDS, due - now))
        run.start(request_bytes(new_user(), path=path, stream=stream, keep=keep))
        due = max(due, now - BURST_SECONDS) + 1 / rate
    return await run.finish()
