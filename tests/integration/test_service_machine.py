"""The whole service, as its clients see it, against a plain model of it.

Hypothesis asks on both wires, reads streams or leaves them, sends requests again, restarts the
service or kills it, turns the clock, spends budgets and erases users. After each step the file
holds what the model says, and each client has got what it should.
"""

import json
import re
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as some
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine
from werkzeug.test import TestResponse

from chatport.adapters import PeeweeStore, ScriptedGateway, random_id, sqlite_connection
from chatport.adapters.scripted_gateway import Script
from chatport.domain import Caller, ChatService, HistoryBounds, State, Usage
from chatport.domain.errors import (
    BudgetExceeded,
    ChatportError,
    ConversationBusy,
    ExchangeLost,
    IdempotencyInProgress,
    IdempotencyKeyReused,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamTruncated,
    UpstreamUnavailable,
)
from chatport.domain.model import INTERRUPTED
from chatport.domain.rules import parse_budgets
from chatport.entrypoints.faults import STATUS
from chatport.entrypoints.flask_app import create_app
from torture import times

from .moved_clock import MovedClock
from .relaying import PATH as V1
from .relaying import SEED

pytestmark = pytest.mark.usefixtures("leases_of_records", "clock_as_it_is")

RUNS = settings(
    max_examples=times(200, 5000),
    stateful_step_count=times(30, 50),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
BUDGET = 200
OUTPUT = 20
TURNS = 3
LEASE = timedelta(seconds=150)
CALLERS = {
    "alpha": Caller(name="alpha", budgets=parse_budgets(f"{BUDGET} tokens/day")),
    "beta": Caller(name="beta"),
}
CODE = re.compile(rb'"code": ?"([a-z_]+)"')
ROWS = """SELECT public_id, caller, user_id, route, prompt, state, error_code, reply,
coalesce(prompt_tokens + completion_tokens, 0) FROM exchange ORDER BY id"""
SPENT = """SELECT period, tokens, reserved_tokens FROM spending
WHERE caller = 'alpha' AND user_id = '' AND length(period) = 10"""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request, as a client sends it."""

    caller: str
    user: str
    route: str
    prompt: str
    stream: bool
    key: str | None = None

    def body(self) -> bytes:
        if self.route == SEED:
            said: dict[str, Any] = {"user_id": self.user, "prompt": self.prompt}
        else:
            messages = [{"role": "user", "content": self.prompt}]
            said = {"model": "model-1", "user": self.user, "messages": messages}
        return json.dumps({**said, "stream": self.stream}).encode()


@dataclass(eq=False)
class Turn:
    """What became of a request that was admitted, as the model sees it."""

    id: str
    asked: Asked
    started_at: datetime
    script: Script
    estimate: int
    state: State = State.OPEN
    code: str | None = None
    reply: str = ""
    tokens: int = 0
    final: bool = False
    dead: bool = False
    answer: tuple[int, bytes] | None = None

    def is_abandoned(self, at: datetime) -> bool:
        return self.dead or self.started_at + LEASE <= at

    def is_the_conversation_of(self, asked: Asked) -> bool:
        mine = self.asked
        return mine.route == SEED and (mine.caller, mine.user) == (asked.caller, asked.user)

    def row(self) -> tuple[Any, ...]:
        asked = self.asked
        outcome = (self.state, self.code, self.reply, self.tokens)
        return self.id, asked.caller, asked.user, asked.route, asked.prompt, *outcome


def tokens_of(size: int) -> int:
    return -(-size // 4)


class DictatedGateway(ScriptedGateway):
    """Plays what the machine wants next."""

    def dictate(self, script: Script) -> None:
        self._scripts = [script]


USED = Usage(prompt_tokens=4, completion_tokens=9)
SAYS = [("Hel", "lo"), ("Yes",), ("No", " \u00e9\U0001f600", "!")]
GOOD = some.builds(Script, chunks=some.sampled_from(SAYS), usage=some.just(USED))
BAD = some.one_of(
    some.builds(
        Script,
        chunks=some.sampled_from([(), *SAYS]),
        raises=some.sampled_from([UpstreamRejected, UpstreamUnavailable, UpstreamTimeout]).map(
            lambda kind: kind()
        ),
    ),
    some.builds(Script, chunks=some.sampled_from(SAYS), finish_reason=some.none()),
)
SCRIPT = some.one_of(GOOD, GOOD, BAD)
REQUEST = some.builds(
    Asked,
    caller=some.sampled_from([*CALLERS]),
    user=some.sampled_from(["ada", "bob"]),
    route=some.sampled_from([SEED, SEED, V1]),
    prompt=some.sampled_from(["Hi", "Why?", "Gr\u00fc\u00dfe \U0001f600"]),
    stream=some.booleans(),
    key=some.sampled_from([None, None, "k1", "k2"]),
)


class Running:
    """The service of the process that runs; an application costs 10 ms, and remembers nothing."""

    service: ChatService

    def __getattr__(self, name: str) -> Any:
        return getattr(self.service, name)


RUNNING = Running()
CLIENT = create_app(
    cast("ChatService", RUNNING), dict, authenticate=lambda name, _: CALLERS[name or ""]
).test_client()


class ServiceMachine(RuleBasedStateMachine):
    """A service on a file, its clients, and what they must see."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.looking = sqlite3.connect(path, isolation_level=None)
        self.clock = MovedClock()
        self.turns: list[Turn] = []
        self.streams: list[tuple[Turn, TestResponse, Iterator[bytes]]] = []
        self.spent: dict[str, int] = {}
        self.start()

    def start(self) -> None:
        """Start as a process does, with nothing but the file."""
        self.store = PeeweeStore(self.path)
        self.gateway = DictatedGateway("never said")
        self.calls = 0
        RUNNING.service = ChatService(
            store=self.store,
            gateway=self.gateway,
            clock=self.clock,
            new_id=random_id,
            model="model-1",
            max_output_tokens=OUTPUT,
            history=HistoryBounds(turns=TURNS),
            lease_seconds=LEASE.total_seconds(),
        )

    # Asking

    @rule(asked=REQUEST, script=SCRIPT, read=some.booleans())
    def ask(self, asked: Asked, script: Script, read: bool) -> None:
        """Send a request; what is streamed is read to its end now or later, or never."""
        self.observe()
        earlier = self.with_key(asked)
        at = self.clock.wall + timedelta(microseconds=9)
        if earlier is not None and self.is_settled_by(earlier, asked, at):
            return
        estimate = self.estimate(asked)
        obstacles = self.obstacles(asked, earlier, estimate, at)
        self.gateway.dictate(script)
        response = self.send(asked)
        if len(self.gateway.calls) == self.calls:
            data = response.get_data()
            assert obstacles, data
            kind = next(kind for kind in obstacles if kind.code.encode() in data)
            self.is_refused(response, kind)
            return
        assert not obstacles
        self.calls += 1
        turn = self.admitted(response, asked, script, estimate, earlier)
        self.provider_was_told(turn)
        self.go_on(turn, response, read)

    def send(self, asked: Asked) -> TestResponse:
        headers = {"Authorization": asked.caller}
        if asked.key is not None:
            headers["Idempotency-Key"] = asked.key
        return CLIENT.post(
            asked.route, data=asked.body(), content_type="application/json", headers=headers
        )

    def with_key(self, asked: Asked) -> Turn | None:
        """Return what had this key before."""
        name = (asked.caller, asked.key)
        same = [each for each in self.turns if (each.asked.caller, each.asked.key) == name]
        return same[0] if asked.key is not None and same else None

    def is_settled_by(self, earlier: Turn, asked: Asked, at: datetime) -> bool:
        """Send a request whose key says already what comes back; return False if none does."""
        alive = earlier.state is State.OPEN and not earlier.is_abandoned(at)
        if earlier.asked == asked and not alive and not earlier.final:
            return False
        response = self.send(asked)
        if earlier.asked != asked:
            self.is_refused(response, IdempotencyKeyReused)
        elif alive:
            self.is_refused(response, IdempotencyInProgress)
        else:
            data = response.get_data()
            assert response.headers["X-Request-Id"] == earlier.id
            assert response.headers["Idempotency-Replayed"] == "true"
            assert earlier.answer is None or earlier.answer == (response.status_code, data)
        assert len(self.gateway.calls) == self.calls
        return True

    def is_refused(self, response: TestResponse, kind: type[ChatportError]) -> None:
        assert response.status_code == STATUS[kind], response.get_data()
        assert CODE.findall(response.get_data()) == [kind.code.encode()]
        assert "Idempotency-Replayed" not in response.headers

    def estimate(self, asked: Asked) -> int:
        """Return the tokens that a call may use at most."""
        if asked.route == V1:
            return tokens_of(len(asked.body())) + OUTPUT
        history = sum(len(f"{a}{b}".encode()) for a, b in self.history(asked))
        return tokens_of(len(asked.prompt.encode()) + history) + OUTPUT

    def history(self, asked: Asked) -> Sequence[tuple[str, str]]:
        past = [
            (each.asked.prompt, each.reply)
            for each in self.turns
            if each.state is State.COMPLETED and each.is_the_conversation_of(asked)
        ]
        return past[-TURNS:]

    def obstacles(
        self, asked: Asked, earlier: Turn | None, estimate: int, at: datetime
    ) -> set[type[ChatportError]]:
        found: set[type[ChatportError]] = set()
        alive = [each for each in self.open_turns() if not each.is_abandoned(at)]
        if asked.route == SEED and any(each.is_the_conversation_of(asked) for each in alive):
            found.add(ConversationBusy)
        if asked.caller == "alpha" and self.held(day(at)) + estimate > BUDGET:
            found.add(BudgetExceeded)
        return found

    def held(self, today: str) -> int:
        """Return what the budget of a day holds: spent, and reserved for what is open."""
        return self.spent.get(today, 0) + self.reserved(today)

    def reserved(self, today: str) -> int:
        mine = [each for each in self.open_turns() if each.asked.caller == "alpha"]
        return sum(each.estimate for each in mine if day(each.started_at) == today)

    def open_turns(self) -> list[Turn]:
        return [each for each in self.turns if each.state is State.OPEN]

    def admitted(
        self,
        response: TestResponse,
        asked: Asked,
        script: Script,
        estimate: int,
        earlier: Turn | None,
    ) -> Turn:
        """Take a new request into the model, in the place of the attempt before it."""
        turn_id = response.headers["X-Request-Id"]
        if earlier is not None:
            assert turn_id == earlier.id
            if earlier.state is State.OPEN:
                self.end(earlier, State.INTERRUPTED, earlier.estimate, INTERRUPTED)
            self.turns.remove(earlier)
        assert turn_id not in {each.id for each in self.turns}
        found = self.store.find(turn_id)
        assert found is not None
        assert found.started_at <= self.clock.wall
        turn = Turn(turn_id, asked, found.started_at, script, estimate, tokens=estimate)
        self.turns.append(turn)
        return turn

    def provider_was_told(self, turn: Turn) -> None:
        """Look at what was sent to the provider: what the user has said, and nobody else."""
        call, asked = self.gateway.calls[-1], turn.asked
        if asked.route == V1:
            assert call.body is not None
            told = json.loads(call.body)["messages"]
            assert told == [{"role": "user", "content": asked.prompt}]
            return
        expected: list[tuple[str, str]] = []
        for prompt, reply in self.history(asked):
            expected += [("user", prompt), ("assistant", reply)]
        assert [(each.role, each.text) for each in call.messages] == [
            *expected,
            ("user", asked.prompt),
        ]

    # Ends

    def go_on(self, turn: Turn, response: TestResponse, read: bool) -> None:
        """Take the answer, or leave its stream open."""
        if not turn.asked.stream or response.status_code != 200:
            assert response.status_code == self.ended(turn, streamed=False)
            self.got(turn, response.status_code, response.get_data())
            return
        pieces = response.iter_encoded()
        self.streams.append((turn, response, pieces))
        if read:
            self.read_on(-1)

    def got(self, turn: Turn, status: int, data: bytes) -> None:
        turn.answer = (status, data)
        codes = CODE.findall(data)
        assert codes == ([] if turn.code is None else [turn.code.encode()]), data

    def ended(self, turn: Turn, *, streamed: bool) -> int:
        """Give the turn the outcome that its script has, and return the status."""
        said = "".join(turn.script.chunks)
        error = turn.script.raises
        if error is None and turn.script.finish_reason is None:
            error = UpstreamTruncated()
        if error is None:
            self.end(turn, State.COMPLETED, sum((4, 9)), reply=said)
            turn.final = True
            return 200
        assert isinstance(error, ChatportError)
        reply = said if streamed else ""
        nothing = turn.estimate if error.may_be_billed else 0
        tokens = self.tokens_until(turn, reply) if reply else nothing
        self.end(turn, State.FAILED, tokens, error.code, reply)
        turn.final = error.may_be_billed
        return STATUS[type(error)]

    def tokens_until(self, turn: Turn, reply: str) -> int:
        return turn.estimate - OUTPUT + tokens_of(len(reply.encode()))

    def end(
        self, turn: Turn, state: State, tokens: int, code: str | None = None, reply: str = ""
    ) -> None:
        turn.state, turn.code, turn.reply, turn.tokens = state, code, reply, tokens
        if turn.asked.caller == "alpha":
            today = day(turn.started_at)
            self.spent[today] = self.spent.get(today, 0) + tokens

    @precondition(lambda self: self.streams)
    @rule(which=some.integers(0, 9))
    def read_on(self, which: int) -> None:
        """Read a stream to its end."""
        turn, response, pieces = self.streams.pop(which % len(self.streams))
        self.observe()
        was_lost = self.is_lost(turn)
        data = b"".join(pieces)
        response.close()
        if not was_lost:
            self.ended(turn, streamed=True)
            self.got(turn, 200, data)
        elif turn.script.raises is None and turn.script.finish_reason is not None:
            assert CODE.findall(data) == [ExchangeLost.code.encode()]
        else:
            assert len(CODE.findall(data)) == 1

    @precondition(lambda self: self.streams)
    @rule(which=some.integers(0, 9), pieces_read=some.integers(0, 2))
    def leave(self, which: int, pieces_read: int) -> None:
        """Leave a stream before its end."""
        turn, response, pieces = self.streams.pop(which % len(self.streams))
        self.observe()
        was_lost = self.is_lost(turn)
        chunks = turn.script.chunks
        taken = min(1 + pieces_read, len(chunks))  # the first is there with the headers
        for _ in range(taken):
            assert b'"code"' not in next(pieces)
        response.close()
        if not was_lost:
            reply = "".join(chunks[:taken])
            self.end(turn, State.CANCELLED, self.tokens_until(turn, reply), reply=reply)

    def is_lost(self, turn: Turn) -> bool:
        """Return whether it was erased, interrupted, or replaced by its next attempt."""
        return turn not in self.turns or turn.state is not State.OPEN

    # What else happens

    @precondition(lambda self: any(each.asked.key for each in self.turns))
    @rule(which=some.integers(0, 99), script=SCRIPT, other=some.booleans())
    def send_again(self, which: int, script: Script, other: bool) -> None:
        """Send what had a key once more, or something else with that key."""
        asked = [each.asked for each in self.turns if each.asked.key]
        chosen = asked[which % len(asked)]
        if other:
            changed = {**chosen.__dict__, "prompt": f"{chosen.prompt}!"}
            chosen = Asked(**changed)
        self.ask(chosen, script, read=True)

    @precondition(lambda self: self.turns)
    @rule(
        what=some.sampled_from(
            ["read", "kill", "read", "close", "read", "erase", "recover", "erase"]
        ),
        caller=some.sampled_from([*CALLERS]),
        user=some.sampled_from(["ada", "bob"]),
    )
    def do(self, what: str, caller: str, user: str) -> None:
        """Do what operators and users do beside asking."""
        self.observe()
        if what == "recover":
            self.recover()
        elif what == "erase":
            self.erase(caller, user)
        elif what == "read":
            self.leaf_through(caller, user)
        else:
            self.restart(kill=what == "kill")

    def restart(self, *, kill: bool) -> None:
        """End the process, by force or in order, and start it again; its streams end with it."""
        self.streams.clear()
        if kill:
            self.kill()
            for turn in self.open_turns():
                turn.dead = True
        else:
            self.store.close()
            for turn in self.open_turns():
                if not turn.dead:
                    self.end(turn, State.INTERRUPTED, turn.estimate, INTERRUPTED)
        self.start()

    def kill(self) -> None:
        file = self.store.session.opened()
        file.life_sign._lock.release()
        file.reader.close()
        file.writer.close()

    @precondition(lambda self: self.turns)
    @rule(
        hours=some.sampled_from([0, -24, -1, 1, 24]),
        seconds=some.sampled_from([0.5, 2.5, 149.0, 151.0]),
    )
    def wait(self, hours: int, seconds: float) -> None:
        """Let time pass, and turn the wall clock; what is measured in seconds does not notice."""
        self.clock.wall += timedelta(hours=hours, seconds=seconds)
        self.clock.passed += seconds

    def recover(self) -> None:
        """Do what the server does now and then."""
        at = self.clock.wall + timedelta(microseconds=1)
        abandoned = [each for each in self.open_turns() if each.is_abandoned(at)]
        assert self.store.recover(self.clock.now()) == len(abandoned)

    def erase(self, caller: str, user: str) -> None:
        path, headers = f"/conversations/{user}", {"Authorization": caller}
        theirs = [
            each for each in self.turns if (each.asked.caller, each.asked.user) == (caller, user)
        ]
        erased = CLIENT.delete(path, headers=headers)
        assert erased.json == {"user_id": user, "erased": len(theirs)}
        for turn in theirs:
            if turn.state is State.OPEN:
                self.end(turn, State.OPEN, turn.estimate)
            self.turns.remove(turn)

    def leaf_through(self, caller: str, user: str) -> None:
        """Read a conversation page by page: in order, without a gap."""
        found: list[str] = []
        before: int | None = 1_000_000
        while before is not None:
            path = f"/conversations/{user}?limit=2&before={before}"
            page = CLIENT.get(path, headers={"Authorization": caller}).json
            assert page is not None
            found[:0] = [each["id"] for each in page["exchanges"]]
            before = page["before"]
        assert found == [
            each.id for each in self.turns if (each.asked.caller, each.asked.user) == (caller, user)
        ]

    # What always holds

    @invariant()
    def the_file_holds_what_the_model_says(self) -> None:
        rows = self.observe()
        known = [turn.row() for turn in self.turns]
        assert rows == known, f"{rows} != {known}"
        held = {period: amounts for period, *amounts in self.read(SPENT)}
        days = {*held, *self.spent, *(day(each.started_at) for each in self.open_turns())}
        for today in days:
            expected = [self.spent.get(today, 0), self.reserved(today)]
            assert held.get(today, [0, 0]) == expected, today

    @invariant()
    def the_provider_is_asked_for_nothing_else(self) -> None:
        assert len(self.gateway.calls) == self.calls
        assert self.gateway.open_streams == len(self.streams)

    def observe(self) -> list[tuple[Any, ...]]:
        """Return the rows; take over what the store has interrupted: what nobody would finish."""
        rows = self.read(ROWS)
        states = {row[0]: row[5] for row in rows}
        for turn in self.open_turns():
            if states.get(turn.id) == State.INTERRUPTED:
                assert turn.is_abandoned(self.clock.wall)
                self.end(turn, State.INTERRUPTED, turn.estimate, INTERRUPTED)
        return rows

    def read(self, query: str) -> list[tuple[Any, ...]]:
        return self.looking.execute(query).fetchall()

    def teardown(self) -> None:
        self.streams.clear()
        self.kill()
        self.looking.close()


def day(at: datetime) -> str:
    return at.strftime("%Y-%m-%d")


@pytest.mark.long
def test_the_service_does_what_its_model_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sqlite_connection.PRAGMAS, "synchronous", "off")  # nobody cuts the power
    empty = tmp_path / "empty.db"
    with closing(PeeweeStore(empty)) as store:
        store.check()
    numbers = count()

    def machine() -> ServiceMachine:
        folder = tmp_path / f"{next(numbers)}"
        folder.mkdir()
        return ServiceMachine(Path(shutil.copy(empty, folder / "log.db")))

    run_machine(machine, settings=RUNS)  # type: ignore[arg-type]  # what makes one will do
