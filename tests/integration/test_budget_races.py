"""Never an eleventh call: 64 threads, and two processes, against every rule that allows ten.

Calls are counted at the gateway, where they would cost money.
"""

import json
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Self

import pytest

from chatport.adapters import LimitsCounter, MemoryStore, PeeweeStore, Script, ScriptedGateway
from chatport.domain import (
    Budget,
    Charge,
    ChatRequest,
    ChatService,
    ConversationStore,
    InFlight,
    Limit,
    RateLimiter,
    Unit,
)
from chatport.domain.errors import Refused
from chatport.domain.rules import Rule, parse_budgets
from torture import times

from . import budget_rounds
from .budget_rounds import (
    ALL_OF_IT,
    LESS,
    PROMPT,
    THREADS,
    CountingGateway,
    Round,
    at_once,
    limited,
    make_service,
    relayed,
)

AGAIN = times(1, 25)
"""How often the 20 rounds of two processes are played, and the others with them."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Play each round again and again before a release."""
    if AGAIN > 1:
        metafunc.fixturenames.append("again")
        metafunc.parametrize("again", range(AGAIN))


# The tests of two processes


class Player:
    """A process that plays rounds."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", budget_rounds.__name__],
            cwd=Path(__file__).parent.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def hear(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the process has ended"
        return line.strip()

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


class Players:
    """Two processes; who was killed is replaced."""

    def __init__(self) -> None:
        self.one, self.other = Player(), Player()

    def ready(self, one: Round, other: Round) -> None:
        for player, game in (self.one, one), (self.other, other):
            player.tell(json.dumps(asdict(game)))
        for player in (self.one, self.other):
            assert player.hear() == "ready"

    def replace_other(self) -> None:
        self.other.kill()
        self.other = Player()


@pytest.fixture(scope="module")
def players() -> Iterator[Players]:
    both = Players()
    yield both
    both.one.kill()
    both.other.kill()


@contextmanager
def reading(game: Round) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(game.database, isolation_level=None)) as connection:
        yield connection


class Watch:
    """Looks at the budget again and again while others spend it."""

    def __init__(self, game: Round) -> None:
        self._game = game
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.looks = 0
        self.most = (0, 0)

    def _look(self) -> None:
        query = "SELECT tokens + reserved_tokens, nanodollars + reserved_nanodollars FROM spending"
        with reading(self._game) as connection:
            while not self._over.is_set():
                for held in connection.execute(query).fetchall():
                    self.most = (max(self.most[0], held[0]), max(self.most[1], held[1]))
                self.looks += 1
                self._over.wait(0.002)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def spending(game: Round) -> list[tuple[int, ...]]:
    query = "SELECT tokens, nanodollars, reserved_tokens, reserved_nanodollars FROM spending"
    with reading(game) as connection:
        return connection.execute(query).fetchall()


def cost_of_exchanges(game: Round) -> tuple[int, int, int]:
    query = """SELECT count(*), sum(prompt_tokens + completion_tokens), sum(nanodollars)
    FROM exchange WHERE state <> 'open'"""
    with reading(game) as connection:
        rows, tokens, nanodollars = connection.execute(query).fetchone()
        return rows, tokens, nanodollars


FOR_TEN = [
    "1000 tokens/day",
    "1099 tokens/month",
    "0.0000048 USD/day; 0.0000048 USD/month",
    "0.000005279 USD/month; 2000 tokens/month",
]


@pytest.mark.parametrize("scope", ["user", "caller", "total"])
@pytest.mark.parametrize("budgets", FOR_TEN)
def test_two_processes_get_exactly_ten_calls_out_of_a_budget_for_ten(
    players: Players, tmp_path: Path, scope: str, budgets: str
) -> None:
    game = Round(folder=str(tmp_path), scope=scope, budgets=budgets)
    players.ready(game, game)
    players.one.tell("go")
    players.other.tell("go")
    outcomes = Counter(json.loads(players.one.hear())) + Counter(json.loads(players.other.hear()))
    for player in (players.one, players.other):
        player.tell("done")
    assert game.calls() == outcomes.pop("admitted") == 10
    assert outcomes.total() == 2 * THREADS - 10
    assert {rule.split()[0] for rule in outcomes} == {scope}
    assert cost_of_exchanges(game) == (10, 1000, 4800)
    assert set(spending(game)) == {(1000, 4800, 0, 0)}


@pytest.mark.parametrize(
    ("scope", "budgets", "most"),
    [
        ("user", "1000 tokens/day", (1000, 2**62)),
        ("caller", "0.0000048 USD/month", (2**62, 4800)),
        ("total", "1000 tokens/day; 0.0000048 USD/month", (1000, 4800)),
        ("total", "0.0000048 USD/day; 900 tokens/day", (900, 4800)),
    ],
)
def test_calls_that_cost_less_than_they_might_leave_room_and_never_too_much(
    players: Players, tmp_path: Path, scope: str, budgets: str, most: tuple[int, int]
) -> None:
    game = Round(folder=str(tmp_path), scope=scope, budgets=budgets, completion_tokens=30)
    players.ready(game, game)
    with Watch(game) as watch:
        players.one.tell("go")
        players.other.tell("go")
        outcomes = Counter(json.loads(players.one.hear()))
        outcomes += Counter(json.loads(players.other.hear()))
    for player in (players.one, players.other):
        player.tell("done")
    calls = outcomes["admitted"]
    assert watch.looks > 0
    assert watch.most[0] <= most[0]
    assert watch.most[1] <= most[1]
    assert game.calls() == calls
    assert calls >= 9
    assert cost_of_exchanges(game) == (calls, 40 * calls, 180 * calls)
    assert set(spending(game)) == {(40 * calls, 180 * calls, 0, 0)}


@pytest.mark.parametrize("killed_at", [1, 4])
@pytest.mark.parametrize(
    ("scope", "budgets"), [("user", "1000 tokens/day"), ("total", "0.0000048 USD/month")]
)
def test_what_a_killed_process_had_reserved_is_spent_once_and_makes_no_room(
    players: Players, tmp_path: Path, scope: str, budgets: str, killed_at: int
) -> None:
    living = Round(folder=str(tmp_path), scope=scope, budgets=budgets)
    doomed = Round(folder=str(tmp_path), scope=scope, budgets=budgets, hangs=True)
    players.ready(living, doomed)
    players.other.tell("go")
    assert players.other.hear() == "called"
    players.one.tell("go")
    for _ in range(killed_at - 1):
        assert players.other.hear() == "called"
    players.replace_other()
    outcomes = json.loads(players.one.hear())
    players.one.tell("recover")
    interrupted, again = json.loads(players.one.hear())
    assert interrupted >= killed_at
    assert again == 0
    assert outcomes.get("admitted", 0) + interrupted == 10
    assert outcomes.get("admitted", 0) + killed_at <= living.calls() <= 10
    assert cost_of_exchanges(living) == (10, 1000, 4800)
    assert spending(living) == [(1000, 4800, 0, 0)]


# The tests of one process


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let threads take turns a thousand times more often."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(before)


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ConversationStore]:
    if request.param == "memory":
        yield MemoryStore()
        return
    with closing(PeeweeStore(tmp_path / "log.db")) as opened:
        yield opened


class Asked:
    """What came of the requests of all threads."""

    def __init__(self, service: ChatService, *, streamed: bool = False) -> None:
        self.admitted = 0
        self.refused: Counter[str] = Counter()
        self._ask = partial(self._stream, service) if streamed else partial(self._reply, service)
        self._lock = threading.Lock()

    def __call__(self, n: int) -> None:
        request = ChatRequest(prompt=PROMPT) if n % 2 else relayed("ada")
        try:
            self._ask(request)
        except Refused as error:
            with self._lock:
                self.refused[error.rule] += 1
        else:
            with self._lock:
                self.admitted += 1

    def _reply(self, service: ChatService, request: ChatRequest) -> None:
        service.reply(request)

    def _stream(self, service: ChatService, request: ChatRequest) -> None:
        with closing(service.stream(request)) as stream:
            for _ in stream:
                pass


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("scope", ["caller", "total"])
@pytest.mark.parametrize(
    ("limit", "remaining"),
    [
        (Limit(amount=10, window_seconds=60), 0),
        (Limit(amount=1099, window_seconds=3600, unit=Unit.TOKENS), 99),
    ],
    ids=str,
)
def test_64_threads_get_exactly_ten_calls_out_of_a_window_for_ten(
    hasty: None, limit: Limit, remaining: int, scope: str, streamed: bool
) -> None:
    for _ in range(5):
        gateway = ScriptedGateway(Script(chunks=("reply",), usage=ALL_OF_IT))
        counter = LimitsCounter()
        limiter = limited(scope, [limit], counter)
        asked = Asked(make_service(MemoryStore(), gateway, limiter=limiter), streamed=streamed)
        at_once(asked)
        assert (len(gateway.calls), asked.admitted) == (10, 10)
        assert asked.refused == {f"{scope} {limit}": 54}
        assert left_of(counter, scope, limit) == remaining


def left_of(counter: LimitsCounter, scope: str, limit: Limit) -> int:
    """Return what is left of a window, by taking one of it and giving it back."""
    key = "anonymous" if scope == "caller" else ""
    (allowance,) = counter.take([Charge(rule=scope, key=key, limit=limit)])
    if not allowance.admitted:
        return 0
    counter.correct([allowance], [0])
    return allowance.remaining + 1


def test_tokens_that_were_not_used_go_back_to_the_window_and_never_too_many(hasty: None) -> None:
    limit = Limit(amount=1000, window_seconds=3600, unit=Unit.TOKENS)
    for _ in range(5):
        gateway = ScriptedGateway(Script(chunks=("reply",), usage=LESS))
        counter = LimitsCounter()
        asked = Asked(
            make_service(MemoryStore(), gateway, limiter=RateLimiter(counter, total=[limit]))
        )
        at_once(asked)
        assert asked.admitted == len(gateway.calls)
        assert 10 <= asked.admitted <= 23
        left = left_of(counter, "total", limit)
        assert left == 1000 - 40 * asked.admitted


@pytest.mark.parametrize("rule", [InFlight(amount=10), *parse_budgets("1000 tokens/day")], ids=str)
@pytest.mark.parametrize("scope", ["caller", "total"])
def test_64_threads_have_exactly_ten_calls_open_and_refusals_take_nothing_from_windows(
    hasty: None, store: ConversationStore, rule: InFlight | Budget, scope: str
) -> None:
    decided = threading.Semaphore(0)
    answers = threading.Event()

    def called() -> None:
        decided.release()
        answers.wait()

    gateway = CountingGateway(called, ALL_OF_IT)
    counter = LimitsCounter()
    windows: list[Rule] = [
        Limit(amount=5000, window_seconds=60),
        Limit(amount=90_000, window_seconds=60, unit=Unit.TOKENS),
    ]
    limiter = limited(scope, [*windows, rule], counter)
    asked = Asked(make_service(store, gateway, limiter=limiter))

    def ask(n: int) -> None:
        try:
            asked(n)
        finally:
            if not answers.is_set():
                decided.release()

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(at_once, ask)
        for _ in range(THREADS):
            decided.acquire()
        answers.set()
        done.result()
    assert (len(gateway.calls), asked.admitted) == (10, 10)
    assert asked.refused == {f"{scope} {rule}": 54}
    left = [left_of(counter, scope, limit) for limit in windows if isinstance(limit, Limit)]
    assert left == [4990, 89_000]
    if isinstance(rule, InFlight):  # there is room again, for exactly ten
        assert_room_for(10, store, limiter)


def assert_room_for(calls: int, store: ConversationStore, limiter: RateLimiter) -> None:
    service = make_service(store, ScriptedGateway("reply"), limiter=limiter)
    streams = [service.stream(ChatRequest(prompt=PROMPT)) for _ in range(calls)]
    with pytest.raises(Refused):
        service.stream(ChatRequest(prompt=PROMPT))
    for stream in streams:
        stream.close()
