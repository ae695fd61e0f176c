"""The one law of limits, against a plain model of it: whatever happens, in whatever order.

Hypothesis asks, answers, fails, cancels, crashes, erases and turns the clock, over a store in
memory and one in SQLite. After each step the store and the windows hold what the model says.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import astuple, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from itertools import count
from math import floor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as some
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine

from chatport.adapters import (
    LimitsCounter,
    MemoryKeys,
    MemoryStore,
    PeeweeKeys,
    PeeweeStore,
    ScriptedGateway,
    WindowTable,
)
from chatport.domain import (
    Budget,
    Caller,
    Charge,
    ChatportError,
    ChatRequest,
    ChatService,
    ChatStream,
    Clock,
    CompletionRequest,
    Delta,
    Exchange,
    HistoryBounds,
    InFlight,
    Limit,
    Once,
    Period,
    PriceList,
    RateLimiter,
    Relay,
    RequestText,
    State,
    Unit,
    Usage,
)
from chatport.domain.doorkeeper import Doorkeeper
from chatport.domain.errors import (
    BudgetExceeded,
    ConversationBusy,
    ExceedsLimit,
    ExchangeLost,
    IdempotencyInProgress,
    InvalidApiKey,
    ModelNotPriced,
    RateLimited,
    TooManyInFlight,
    UpstreamError,
    UpstreamRejected,
    UpstreamTimeout,
)
from chatport.domain.keys import Keys
from chatport.domain.rules import Rule, Scope, parse_budgets, parse_limits
from torture import times

pytestmark = pytest.mark.usefixtures("leases_of_records", "clock_as_it_is")

RUNS = settings(
    max_examples=times(30, 5_000),
    stateful_step_count=times(30, 50),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
LEASE = timedelta(seconds=150)
OUTPUT = 90
TURNS = 3

RULES: dict[Scope, list[Rule]] = {
    Scope.USER: [
        *parse_limits("3/minute; 500 tokens/hour; 2 in flight"),
        *parse_budgets("600 tokens/day; 900 tokens/day"),
    ],
    Scope.CALLER: [
        *parse_limits("5/minute; 3 in flight"),
        *parse_budgets("0.000003 USD/day; 0.000004 USD/month; 1200 tokens/month"),
    ],
    Scope.TOTAL: [
        *parse_limits("7/minute; 900 tokens/10 minutes; 5 in flight"),
        *parse_budgets("1300 tokens/day; 2600 tokens/month"),
    ],
}
ALPHA = Caller(name="alpha")
BETA = Caller(
    name="beta",
    limits=parse_limits("6/minute; 400 tokens/minute"),
    budgets=parse_budgets("700 tokens/day; 1000 tokens/month"),
    user_limits=parse_limits("3 in flight"),
    user_budgets=(),
)
CALLERS = {caller.name: caller for caller in (ALPHA, BETA)}
PRICED, UNPRICED = "model-1", "model-2"


class Prices(PriceList):
    """One model has a price: 3 nanodollars a token of the prompt, and 5 of the answer."""

    def cost(self, model: str, usage: Usage) -> int | None:
        return cost_of(model, usage)


def cost_of(model: str, usage: Usage | None) -> int | None:
    if usage is None or model != PRICED:
        return None
    return 3 * usage.prompt_tokens + 5 * usage.completion_tokens


class TurnedClock(Clock):
    """Both clocks go when the test says so; no two looks at the wall clock see the same time."""

    def __init__(self) -> None:
        self.passed = 1000.0
        self.wall = NOON

    def now(self) -> datetime:
        self.wall += timedelta(microseconds=1)
        return self.wall

    def monotonic(self) -> float:
        return self.passed

    def sleep(self, seconds: float) -> None:
        raise AssertionError


class DictatedGateway(ScriptedGateway):
    """Says in each step what the machine wants: some pieces, or an error."""

    def __init__(self) -> None:
        super().__init__("never said")
        self.says: list[Delta | BaseException] = []
        self.entered = 0

    @contextmanager
    def stream(self, request: CompletionRequest) -> Iterator[Iterator[Delta]]:
        self.entered += 1
        yield self._dictated()

    def _dictated(self) -> Iterator[Delta]:
        while self.says:
            said = self.says.pop(0)
            if isinstance(said, BaseException):
                raise said
            yield said


# The model


Amounts = tuple[int, int]
Name = tuple[str, str, str]


@dataclass
class Call:
    """An exchange, as the model sees it."""

    id: str
    caller: str
    user: str
    model: str
    started_at: datetime
    estimate: Usage
    relay: bool
    prompt_bytes: int
    key: str | None = None
    stream: ChatStream | None = None
    state: State = State.OPEN
    reply_bytes: int = 0
    final: bool = False
    dead: bool = False
    receipts: list["Receipt"] = field(default_factory=list)
    reserved_in: list[Name] = field(default_factory=list)

    @property
    def asked(self) -> Amounts:
        return amounts(self.model, self.estimate)

    def is_abandoned(self, at: datetime) -> bool:
        return self.dead or self.started_at + LEASE <= at


@dataclass
class Window:
    """A sliding window: what was counted in the last one, and in this one since its start."""

    span: int
    start: Fraction
    previous: int = 0
    current: int = 0

    def at(self, now: Fraction) -> "Window":
        """Return the window as it is now; one in which nothing counts begins now."""
        age = now - self.start
        moved = Window(self.span, now)
        if age < self.span:
            moved = self
        elif age < 2 * self.span:
            moved = Window(self.span, self.start + self.span, self.current)
        return moved if moved.previous or moved.current else Window(self.span, now)

    def used(self, now: Fraction) -> int:
        left = self.span - (now - self.start)
        return floor(self.previous * left / self.span + self.current)


@dataclass
class Receipt:
    """What was taken from one window."""

    place: tuple[Scope, str, Limit]
    start: Fraction
    amount: int


def amounts(model: str, usage: Usage | None) -> Amounts:
    if usage is None:
        return 0, 0
    return usage.prompt_tokens + usage.completion_tokens, cost_of(model, usage) or 0


def tokens_of(size: int) -> int:
    return -(-size // 4)


def rules_of(caller: Caller) -> list[tuple[Scope, Rule]]:
    own: dict[Scope, Any] = {
        Scope.USER: (caller.user_limits, caller.user_budgets),
        Scope.CALLER: (caller.limits, caller.budgets),
        Scope.TOTAL: (None, None),
    }
    found: list[tuple[Scope, Rule]] = []
    for scope, (limits, budgets) in own.items():
        for each in RULES[scope]:
            if (budgets if isinstance(each, Budget) else limits) is None:
                found.append((scope, each))
        found += [(scope, each) for each in [*(limits or ()), *(budgets or ())]]
    return found


def owner_of(scope: Scope, caller: str, user: str) -> tuple[str, str]:
    return {Scope.USER: (caller, user), Scope.CALLER: (caller, ""), Scope.TOTAL: ("", "")}[scope]


class Model:
    """What is spent, reserved, used, and taken from windows."""

    def __init__(self) -> None:
        self.spent: dict[Name, list[int]] = {}
        self.reserved: dict[Name, list[int]] = {}  # tokens, nanodollars, calls
        self.usage: dict[tuple[str, str, str, str], list[int]] = {}
        self.windows: dict[tuple[Scope, str, Limit], Window] = {}
        self.calls: dict[str, Call] = {}

    def open_calls(self) -> list[Call]:
        return [call for call in self.calls.values() if call.state is State.OPEN]

    def history_bytes(self, call: Call) -> int:
        if call.relay:
            return 0
        past = [
            each
            for each in self.calls.values()
            if (each.caller, each.user, each.relay) == (call.caller, call.user, False)
            and each.state is State.COMPLETED
        ]
        return sum(each.prompt_bytes + each.reply_bytes for each in past[-TURNS:])

    # What is in the way of a call

    def obstacles(self, call: Call, now: datetime, seconds: float) -> set[tuple[type, str]]:
        found = self._in_use(call, now)
        rules = rules_of(CALLERS[call.caller])
        in_dollars = any(isinstance(each, Budget) and each.unit is Unit.USD for _, each in rules)
        if in_dollars and cost_of(call.model, call.estimate) is None:
            found.add((ModelNotPriced, ""))
        for scope, each in rules:
            problem = self._obstacle(call, scope, each, now, seconds)
            if problem is not None:
                found.add((problem, f"{scope} {each}"))
        return found

    def _in_use(self, call: Call, now: datetime) -> set[tuple[type, str]]:
        alive = [each for each in self.open_calls() if not each.is_abandoned(now)]
        mine = [each for each in alive if (each.caller, each.user) == (call.caller, call.user)]
        found: set[tuple[type, str]] = set()
        if not call.relay and any(not each.relay for each in mine):
            found.add((ConversationBusy, ""))
        if call.key is not None and any(each.key == call.key for each in mine):
            found.add((IdempotencyInProgress, ""))
        return found

    def _obstacle(
        self, call: Call, scope: Scope, each: Rule, now: datetime, seconds: float
    ) -> type | None:
        owner = owner_of(scope, call.caller, call.user)
        if isinstance(each, InFlight):
            others = [
                other
                for other in self.open_calls()
                if not other.is_abandoned(now)
                and owner_of(scope, other.caller, other.user) == owner
            ]
            return TooManyInFlight if len(others) >= each.amount else None
        if isinstance(each, Limit):
            amount, used = amount_of(call, each), self._used(call, scope, each, seconds)
            if used + amount <= each.amount:
                return None
            return ExceedsLimit if amount > each.amount else RateLimited
        place = 0 if each.unit is Unit.TOKENS else 1
        name = (*owner, each.period.of(call.started_at))
        held = self.spent.get(name, [0, 0])[place] + self.reserved.get(name, [0, 0])[place]
        if held + call.asked[place] <= each.amount:
            return None
        return ExceedsLimit if call.asked[place] > each.amount else BudgetExceeded

    def _used(self, call: Call, scope: Scope, limit: Limit, seconds: float) -> int:
        window = self.windows.get((scope, key_of(scope, call), limit))
        now = Fraction(seconds)
        return window.at(now).used(now) if window else 0

    # What a call does

    def admit(self, call: Call, seconds: float) -> None:
        now = Fraction(seconds)
        for scope, each in rules_of(CALLERS[call.caller]):
            if isinstance(each, Limit):
                place = (scope, key_of(scope, call), each)
                window = self.windows.get(place, Window(each.window_seconds, now)).at(now)
                amount = amount_of(call, each)
                self.windows[place] = Window(
                    window.span, window.start, window.previous, window.current + amount
                )
                call.receipts.append(Receipt(place, window.start, amount))
            else:
                now_or_period = (
                    each.period.of(call.started_at) if isinstance(each, Budget) else "open"
                )
                name = (*owner_of(scope, call.caller, call.user), now_or_period)
                if name not in call.reserved_in:
                    call.reserved_in.append(name)
        for name in call.reserved_in:
            add(self.reserved, name, [*call.asked, 1])
        self.calls[call.id] = call

    def end(self, call: Call, state: State, usage: Usage | None) -> None:
        """Spend what a call has cost, give back what it had reserved, and count it."""
        call.state = state
        cost = amounts(call.model, usage)
        for name in call.reserved_in:
            add(self.reserved, name, [-call.asked[0], -call.asked[1], -1])
        for scope in Scope:
            for period in Period:
                owner = owner_of(scope, call.caller, call.user)
                add(self.spent, (*owner, period.of(call.started_at)), cost)
        self._use(call, usage)

    def _use(self, call: Call, usage: Usage | None) -> None:
        day = call.started_at.astimezone(UTC).strftime("%Y-%m-%d")
        used = self.usage.setdefault((call.caller, call.user, day, call.model), [0] * 8)
        more = [1, call.state is State.COMPLETED, 0, 0, 0, 0, 0, cost_of(call.model, usage) or 0]
        if usage is not None:
            more[2:5] = [usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens]
            more[5:7] = [usage.estimated, call.model != PRICED]
        used[:] = [one + another for one, another in zip(used, more, strict=True)]

    def settle(self, call: Call, usage: Usage | None, seconds: float) -> None:
        """Make the tokens that were taken from windows those that were used."""
        for receipt in call.receipts:
            if receipt.place[2].unit is Unit.TOKENS:
                self._correct(receipt, amounts(call.model, usage)[0], seconds)

    def release(self, call: Call, seconds: float) -> None:
        for receipt in call.receipts:
            self._correct(receipt, 0, seconds)

    def _correct(self, receipt: Receipt, amount: int, seconds: float) -> None:
        window = self.windows[receipt.place].at(Fraction(seconds))
        difference = amount - receipt.amount
        if window.start == receipt.start:
            window.current = max(0, window.current + difference)
        elif window.start == receipt.start + window.span:
            window.previous = max(0, window.previous + difference)
        else:
            return
        self.windows[receipt.place] = window

    def erase(self, caller: str, user: str | None) -> int:
        theirs = [
            call
            for call in self.calls.values()
            if call.caller == caller and user in {None, call.user}
        ]
        for call in theirs:
            if call.state is State.OPEN:
                self.end(call, State.OPEN, call.estimate)
                call.state = State.INTERRUPTED
            del self.calls[call.id]
        for place in [*self.usage]:
            if place[0] == caller and place[1] and user in {None, place[1]}:
                nobody = self.usage.setdefault((caller, "", *place[2:]), [0] * 8)
                nobody[:] = [a + b for a, b in zip(nobody, self.usage.pop(place), strict=True)]
        if user is None:
            for name in [name for name in self.spent if name[0] == caller and name[1]]:
                self.spent[name] = [0, 0]
        return len(theirs)


def amount_of(call: Call, limit: Limit) -> int:
    return call.asked[0] if limit.unit is Unit.TOKENS else 1


def key_of(scope: Scope, call: Call) -> str:
    return "/".join(name for name in owner_of(scope, call.caller, call.user) if name)


def add(totals: dict[Name, list[int]], name: Name, more: Sequence[int]) -> None:
    total = totals.setdefault(name, [0] * len(more))
    total[:] = [one + another for one, another in zip(total, more, strict=True)]


class Door:
    """Which keys are good: each as it is kept, and as it was before it was changed."""

    def __init__(self) -> None:
        self.texts: list[tuple[str, str]] = []
        self.versions: dict[str, list[tuple[bool, datetime | None, float]]] = {}

    def add(self, caller: str, text: str, until: datetime | None = None) -> None:
        self.texts.append((caller, text))
        self.versions[text] = [(True, until, 0.0)]

    def change(self, text: str, seconds: float, *, until: datetime | None, revoke: bool) -> None:
        live, before, _ = self.versions[text][-1]
        sooner = min(each for each in (before, until, datetime.max.replace(tzinfo=UTC)) if each)
        kept = (live and not revoke, sooner, seconds)
        self.versions[text].append(kept)

    def answers(self, text: str, at: datetime, seconds: float) -> set[bool]:
        """Return whether the key is good, as it is or as it was in the last 2 seconds."""
        versions = self.versions[text]
        until = [*(since for _, _, since in versions[1:]), float("inf")]
        return {
            live and (expires is None or at < expires)
            for (live, expires, _), replaced in zip(versions, until, strict=True)
            if replaced + 2.0 > seconds
        }


# The machine

HOLDER = some.sampled_from([*CALLERS])


def often(usual: Any, *others: Any) -> some.SearchStrategy[Any]:
    """Return mostly the usual."""
    return some.sampled_from([usual] * (2 * len(others)) + [*others])


ASK = some.fixed_dictionaries(
    {
        "caller": some.sampled_from([*CALLERS]),
        "user": some.sampled_from(["ada", "bob"]),
        "model": some.sampled_from([*[PRICED] * 11, UNPRICED]),
        "size": often(40, 1, 41, 160, 2900),
        "longest": often(None, 1, 20, OUTPUT),
        "key": often(None, "key"),
        "interrupted": some.integers(0, 15).map(lambda n: n == 7),
        "pause": some.sampled_from([0.0, 8.0, 20.5]),
        "answered": some.booleans(),
    }
)
END = some.fixed_dictionaries(
    {
        "which": some.integers(0, 9),
        "length": often(30, 0, 1, 400),
        "used": some.tuples(often(12, 1, 200), often(8, 0, 70, 200)),
        "counted": some.booleans(),
        "head": often(False, True),
        "how": often("completed", "rejected", "timeout", "exit", "left"),
    }
)


class LimiterMachine(RuleBasedStateMachine):
    """Everything that may happen to the limits of one service."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = TurnedClock()
        self.gateway = DictatedGateway()
        self.table = WindowTable(slots=512, monotonic=self.clock.monotonic)
        self.counter = LimitsCounter(self.table)
        by_scope: dict[str, Any] = {scope.value: rules for scope, rules in RULES.items()}
        self.limiter = RateLimiter(self.counter, **by_scope)
        self.model = Model()
        self.door = Door()
        self.numbers = count(1)
        self.last_id = ""
        self.streams: list[Call] = []
        self.start()
        for caller in CALLERS.values():
            self.door.add(caller.name, self.keys().create(caller))

    store: MemoryStore | PeeweeStore
    key_store: MemoryKeys | PeeweeKeys

    def open_store(self) -> None:
        raise NotImplementedError

    def start(self) -> None:
        """Begin as a new process does."""
        self.open_store()
        self.services = {
            model: ChatService(
                store=self.store,
                gateway=self.gateway,
                clock=self.clock,
                new_id=self.new_id,
                model=model,
                limiter=self.limiter,
                prices=Prices(),
                history=HistoryBounds(turns=TURNS),
                max_output_tokens=OUTPUT,
                lease_seconds=LEASE.total_seconds(),
            )
            for model in (PRICED, UNPRICED)
        }
        self.doorkeeper = Doorkeeper(
            self.key_store,
            counter=LimitsCounter(WindowTable(slots=512, monotonic=self.clock.monotonic)),
            clock=self.clock,
            open_without_keys=False,
            refused=lambda caller, rule, at: None,
        )

    def new_id(self) -> str:
        self.last_id = f"id-{next(self.numbers)}"
        return self.last_id

    def keys(self) -> Keys:
        numbers = self.numbers
        return Keys(
            self.key_store,
            clock=self.clock,
            new_id=lambda: f"{next(numbers):016x}",
            new_secret=lambda: f"{next(numbers):043}",
        )

    # Asking

    @rule(asks=some.lists(ASK, min_size=1, max_size=4))
    def ask(self, asks: list[dict[str, Any]]) -> None:
        for each in asks:
            pause, answered = each["pause"], each["answered"]
            self.pass_time(pause)
            opened = len(self.streams)
            self.ask_once(
                **{name: each[name] for name in each if name not in {"pause", "answered"}}
            )
            if answered and len(self.streams) > opened:
                self.end_once(which=opened)
            self.check()

    def ask_once(
        self,
        *,
        caller: str,
        user: str,
        model: str,
        size: int,
        longest: int | None,
        key: str | None,
        interrupted: bool,
    ) -> None:
        """Ask: in a conversation, or with a relay whose answer may have so many tokens."""
        relay = longest is not None
        key = f"{user}-{key}-{relay}-{model}" if key else None
        earlier = next(
            (c for c in self.model.calls.values() if key and (c.caller, c.key) == (caller, key)),
            None,
        )
        call = Call(
            id=earlier.id if earlier else "",
            caller=caller,
            user=user,
            model=model,
            started_at=self.clock.wall + timedelta(microseconds=2),
            estimate=Usage(prompt_tokens=0, completion_tokens=0),
            relay=relay,
            prompt_bytes=size,
            key=key,
        )
        request = self.request(call, "x" * size, longest)
        if earlier and earlier.final:
            self.repeat(request, model)
            return
        prompt = tokens_of(size + self.model.history_bytes(call))
        call.estimate = Usage(
            prompt_tokens=prompt, completion_tokens=longest or OUTPUT, estimated=True
        )
        self.observe()
        obstacles = self.model.obstacles(call, self.clock.wall, self.clock.passed)
        called = self.gateway.entered
        with self.interrupting(interrupted):
            try:
                call.stream = self.services[model].stream(request)
            except ChatportError as error:
                assert self.gateway.entered == called
                self.refused(error, obstacles, call)
                return
            except KeyboardInterrupt:
                assert not obstacles
                self.opened(call, earlier)
                self.model.end(call, State.INTERRUPTED, None)
                self.model.release(call, self.clock.passed)
                return
        assert not obstacles, "it was to be refused"
        assert self.gateway.entered == called + 1
        self.opened(call, earlier)

    def request(self, call: Call, prompt: str, longest: int | None) -> ChatRequest:
        relay = None
        if longest is not None:
            text = RequestText(messages=['{"role":"user"}'], parameters="{}")
            relay = Relay(
                model=call.model, body=b"{}", text=text, size=len(prompt), max_tokens=longest
            )
        return ChatRequest(
            prompt=prompt,
            user_id=call.user,
            caller=CALLERS[call.caller],
            relay=relay,
            once=Once(request_hash=call.key, key=call.key) if call.key else None,
        )

    def repeat(self, request: ChatRequest, model: str) -> None:
        """Ask for an outcome that is final: it is told again, and nothing else happens."""
        called = self.gateway.entered
        with suppress(UpstreamError), closing(self.services[model].stream(request)) as stream:
            assert stream.replayed
        assert self.gateway.entered == called

    @contextmanager
    def interrupting(self, interrupted: bool) -> Iterator[None]:
        """Let the process be told to end just when an open exchange has been written."""
        begin = self.store.begin

        def begin_and_end(*arguments: Any) -> Any:
            begin(*arguments)
            raise KeyboardInterrupt

        if interrupted:
            self.store.begin = begin_and_end  # type: ignore[assignment,method-assign]  # a fault that no store can make
        try:
            yield
        finally:
            self.store.begin = begin  # type: ignore[method-assign]  # as above

    def opened(self, call: Call, earlier: Call | None) -> None:
        """Put an exchange that was written into the model."""
        if earlier is not None:
            if earlier.state is State.OPEN:
                self.model.end(earlier, State.INTERRUPTED, earlier.estimate)
            del self.model.calls[earlier.id]
        call.id = call.id or self.last_id
        stored = self.stored(call)
        call.started_at = stored.started_at
        if call.stream is not None:
            assert stored.usage == call.estimate
            assert stored.nanodollars == cost_of(call.model, call.estimate)
            self.streams.append(call)
        self.model.admit(call, self.clock.passed)
        for other in self.model.open_calls():
            same = (other.caller, other.user, other.relay) == (call.caller, call.user, False)
            if same and not call.relay and other is not call:
                assert self.stored(other).state is State.INTERRUPTED

    def refused(self, error: ChatportError, obstacles: set[tuple[type, str]], call: Call) -> None:
        """See that a refusal names what was in the way, and how long."""
        assert (type(error), getattr(error, "rule", "")) in obstacles
        if isinstance(error, BudgetExceeded):
            ends = {"day": Period.DAY, "month": Period.MONTH}
            periods = [ends[name.split()[-1]] for kind, name in obstacles if kind is BudgetExceeded]
            assert error.resets_at == max(period.end(call.started_at) for period in periods)
            hopeless = [name for kind, name in obstacles if kind is ExceedsLimit]
            assert not any(name.endswith(("per day", "per month")) for name in hopeless)
        if isinstance(error, RateLimited):
            assert error.retry_after_seconds is not None
            assert self.admits_in(error.retry_after_seconds, call)
            assert not self.admits_in(error.retry_after_seconds - 0.01, call)

    def admits_in(self, seconds: float, call: Call) -> bool:
        """Return whether the windows would admit the call then; leave them as they are."""
        now, before = self.clock.passed, self.table._memory[:]
        self.clock.passed += seconds
        try:
            self.limiter.admit(CALLERS[call.caller], call.user, call.asked[0])
        except RateLimited:
            return False
        finally:
            self.clock.passed = now
            self.table._memory[:] = before
        return True

    # Ends

    @precondition(lambda self: self.streams)
    @rule(ends=some.lists(END, min_size=1, max_size=4))
    def end(self, ends: list[dict[str, Any]]) -> None:
        for each in ends[: len(self.streams)]:
            self.end_once(**each)
            self.check()

    def end_once(
        self,
        *,
        which: int,
        length: int = 30,
        used: tuple[int, int] = (30, 60),
        counted: bool = True,
        head: bool = False,
        how: str = "completed",
    ) -> None:
        """End a call: `length` characters came, and the provider's own counts, or none.

        The counts may be a head's, that came before the characters.
        """
        call = self.streams.pop(which % len(self.streams))
        counts = Usage(prompt_tokens=used[0], cached_tokens=used[0] // 2, completion_tokens=used[1])
        usage = counts if counted else None
        finish_reason = "stop" if how == "completed" else None
        piece = Delta(text="y" * length, finish_reason=finish_reason, usage=usage, is_head=head)
        self.gateway.says = [piece]
        if how == "left":
            self.leave(call, length)
        else:
            self.play(call, how)
        self.gateway.says = []
        self.ended(call, how, length, usage, head=head)

    def leave(self, call: Call, length: int) -> None:
        assert call.stream is not None
        call.stream.next_delta()
        for _ in range(2):
            call.stream.close()

    def play(self, call: Call, how: str) -> None:
        """Let a stream come to its end; a second look at it changes nothing."""
        assert call.stream is not None
        errors: dict[str, BaseException] = {
            "rejected": UpstreamRejected(),
            "timeout": UpstreamTimeout(),
            "exit": KeyboardInterrupt(),
        }
        if how in errors:
            self.gateway.says.append(errors[how])
        raised: BaseException | None = None
        try:
            while call.stream.next_delta() is not None:
                pass
        except (ChatportError, KeyboardInterrupt) as error:
            raised = error
        call.stream.close()
        if how == "completed" and self.is_lost(call):
            assert isinstance(raised, ExchangeLost)
        else:
            assert raised is errors.get(how)

    def is_lost(self, call: Call) -> bool:
        """Return whether a call was erased, interrupted, or replaced by its next attempt."""
        return self.model.calls.get(call.id) is not call or call.state is not State.OPEN

    def ended(self, call: Call, how: str, length: int, usage: Usage | None, *, head: bool) -> None:
        """Put an outcome into the model; one that came too late is only settled."""
        prompt = call.estimate.prompt_tokens
        said = Usage(prompt_tokens=prompt, completion_tokens=tokens_of(length), estimated=True)
        if usage is None:
            usage = said
            if not length and how in {"rejected", "timeout", "exit"}:
                usage = None if how == "rejected" else call.estimate
        elif not length and (head or not usage.completion_tokens) and how in {"timeout", "exit"}:
            most = max(usage.completion_tokens, call.estimate.completion_tokens)
            usage = replace(usage, completion_tokens=most, estimated=True)
        self.model.settle(call, usage, self.clock.passed)
        if self.is_lost(call):
            return
        states = {"completed": State.COMPLETED, "exit": State.INTERRUPTED, "left": State.CANCELLED}
        self.model.end(call, states.get(how, State.FAILED), usage)
        call.reply_bytes = length
        call.final = how in {"completed", "timeout"}

    # What goes wrong

    @rule(what=some.sampled_from(["recover", "crash", "one", "all"]), caller=HOLDER)
    def go_wrong(self, what: str, caller: str) -> None:
        if what == "recover":
            self.recover()
        elif what == "crash":
            if isinstance(self.store, PeeweeStore):
                self.crash()
        else:
            self.erase(caller, "ada" if what == "one" else None)

    def recover(self) -> None:
        self.observe()
        at = self.clock.wall
        abandoned = [call for call in self.model.open_calls() if call.is_abandoned(at)]
        assert self.store.recover(self.clock.now()) == len(abandoned)
        for call in abandoned:
            self.model.end(call, State.INTERRUPTED, call.estimate)

    def crash(self) -> None:
        """Die as a process does that is killed, and start again; the windows' memory stays."""
        self.kill()
        for call in self.model.open_calls():
            call.dead = True
        self.streams.clear()
        self.start()

    def kill(self) -> None:
        assert isinstance(self.store, PeeweeStore)
        file = self.store.session.opened()
        file.life_sign._lock.release()
        file.reader.close()
        file.writer.close()

    def erase(self, caller: str, user: str | None) -> None:
        self.observe()
        assert self.store.erase(caller, user) == self.model.erase(caller, user)

    # Time

    @rule(
        seconds=some.sampled_from([0.125, 7.5, 31.25, 61.5, 130.125, 601.0, 3601.0, 3601.0]),
        hours=often(0, -5, -1, 1, 11),
        days=often(0, -1, 1, -30, 31),
    )
    def wait(self, seconds: float, hours: int, days: int) -> None:
        """Let time pass, and turn the wall clock; what is measured in seconds does not notice."""
        self.pass_time(seconds)
        self.clock.wall += timedelta(hours=hours, days=days)

    def pass_time(self, seconds: float) -> None:
        self.clock.passed += seconds
        self.clock.wall += timedelta(seconds=seconds)

    # The door

    @rule(
        what=some.sampled_from(["rotate", "expire", "revoke", "revoke_one"]),
        caller=HOLDER,
        seconds=some.sampled_from([0, 1, 60, 90_000]),
        passing=some.sampled_from([0.0, 1.0, 1.999, 2.0]),
    )
    def change_keys(self, what: str, caller: str, seconds: int, passing: float) -> None:
        """Look at the newest keys, change some, and look again at once and a little later."""
        self.knock()
        if what == "rotate":
            self.rotate(caller, seconds)
        elif what == "expire":
            self.add_a_key_that_expires(caller, seconds + 1)
        elif what == "revoke":
            self.revoke(caller)
        else:
            self.revoke_one(seconds)
        self.knock()
        self.pass_time(passing)
        self.knock()

    def knock(self) -> None:
        for which in range(min(5, len(self.door.texts))):
            self.knock_with(which)

    def knock_with(self, which: int) -> None:
        caller, text = self.door.texts[-1 - which % len(self.door.texts)]
        address = f"10.0.{next(self.numbers) % 256}.{next(self.numbers) % 256}"
        expected = self.door.answers(text, self.clock.wall, self.clock.passed)
        try:
            found = self.doorkeeper.authenticate(f"Bearer {text}", address)
        except InvalidApiKey:
            assert False in expected
        else:
            assert found == CALLERS[caller]
            assert True in expected

    def rotate(self, caller: str, overlap: int) -> None:
        until = self.clock.wall + timedelta(microseconds=1, seconds=overlap)
        text = self.keys().rotate(caller, timedelta(seconds=overlap))
        for old in self.texts_of(caller):
            self.door.change(old, self.clock.passed, until=until, revoke=False)
        self.door.add(caller, text)

    def add_a_key_that_expires(self, caller: str, expires: int) -> None:
        until = self.clock.wall + timedelta(seconds=expires)
        old_until = self.clock.wall + timedelta(microseconds=1, days=99)
        text = self.keys().rotate(caller, timedelta(days=99), until)
        for old in self.texts_of(caller):
            self.door.change(old, self.clock.passed, until=old_until, revoke=False)
        self.door.add(caller, text, until)

    def revoke(self, caller: str) -> None:
        live = [text for text in self.texts_of(caller) if self.door.versions[text][-1][0]]
        assert self.keys().revoke(caller) == len(live)
        for text in live:
            self.door.change(text, self.clock.passed, until=None, revoke=True)

    def revoke_one(self, which: int) -> None:
        _, text = self.door.texts[-1 - which % len(self.door.texts)]
        self.keys().revoke_key(text.split("_")[1])
        self.door.change(text, self.clock.passed, until=None, revoke=True)

    def texts_of(self, caller: str) -> list[str]:
        return [text for holder, text in self.door.texts if holder == caller]

    # What always holds

    @invariant()
    def check(self) -> None:
        self.observe()
        self.accounts_hold_what_was_spent_and_what_is_reserved()
        self.usage_is_the_sum_of_what_has_ended()
        self.windows_hold_what_was_taken()
        self.exchanges_are_those_that_were_admitted()

    def stored(self, call: Call) -> Exchange:
        found = self.store.find(call.id)
        assert found is not None
        return found

    def observe(self) -> None:
        """Take over what the store has interrupted by itself: only what nobody would finish."""
        states = self.states()
        for call in self.model.open_calls():
            state = states[call.id]
            if state is not State.OPEN:
                assert state is State.INTERRUPTED
                assert call.is_abandoned(self.clock.wall)
                self.model.end(call, State.INTERRUPTED, call.estimate)

    def accounts_hold_what_was_spent_and_what_is_reserved(self) -> None:
        held = self.accounts()
        for name, (tokens, nanodollars, *reserved) in held.items():
            if name[2] != "open":
                assert [tokens, nanodollars] == self.model.spent.get(name, [0, 0]), name
            assert reserved == self.model.reserved.get(name, [0, 0, 0]), name
        for name, reserved in self.model.reserved.items():
            assert name in held or reserved == [0, 0, 0], name

    def usage_is_the_sum_of_what_has_ended(self) -> None:
        found = {name: [*amounts] for name, amounts in self.used().items()}
        assert found == self.model.usage

    def windows_hold_what_was_taken(self) -> None:
        now = Fraction(self.clock.passed)
        for (scope, key, limit), window in self.model.windows.items():
            moved = window.at(now)
            charge = Charge(rule=scope, key=key, limit=limit)
            found = self.counter._look(charge)
            assert (found.previous, found.current) == (moved.previous, moved.current), charge

    def exchanges_are_those_that_were_admitted(self) -> None:
        states = {call.id: call.state for call in self.model.calls.values()}
        assert self.states() == states

    def accounts(self) -> dict[Name, tuple[int, ...]]:
        raise NotImplementedError

    def used(self) -> dict[tuple[str, str, str, str], tuple[int, ...]]:
        raise NotImplementedError

    def states(self) -> dict[str, State]:
        raise NotImplementedError


class MemoryMachine(LimiterMachine):
    """The machine in memory."""

    store: MemoryStore

    def open_store(self) -> None:
        self.store, self.key_store = MemoryStore(), MemoryKeys()

    def accounts(self) -> dict[Name, tuple[int, ...]]:
        balances = self.store.ledger.balances
        return {name: (*each.spent[:2], *each.reserved) for name, each in balances.items()}

    def used(self) -> dict[tuple[str, str, str, str], tuple[int, ...]]:
        return {name: astuple(used) for name, used in self.store.ledger.usage.items()}

    def states(self) -> dict[str, State]:
        return {each.id: each.state for each in self.store._exchanges.values()}


class SqliteMachine(LimiterMachine):
    """The machine on a file, which is not synced to the disk: nobody cuts the power here."""

    store: PeeweeStore

    def __init__(self, path: Path) -> None:
        self._path = path
        super().__init__()

    def open_store(self) -> None:
        self.store = PeeweeStore(self._path)
        file = self.store.session.opened()
        for connection in (file.writer, file.reader):
            connection.execute_sql("PRAGMA synchronous = OFF")
        self.key_store = PeeweeKeys(self.store.session)

    def teardown(self) -> None:
        self.kill()

    def accounts(self) -> dict[Name, tuple[int, ...]]:
        return {(row[0], row[1], row[2]): row[3:] for row in self.rows("SELECT * FROM spending")}

    def used(self) -> dict[tuple[str, str, str, str], tuple[int, ...]]:
        query = """SELECT caller, user_id, day, model, calls, completed, prompt_tokens,
        cached_tokens, completion_tokens, estimated, unpriced, nanodollars FROM usage"""
        return {(row[0], row[1], row[2], row[3]): row[4:] for row in self.rows(query)}

    def states(self) -> dict[str, State]:
        rows = self.rows("SELECT public_id, state FROM exchange")
        return {public_id: State(state) for public_id, state in rows}

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        return self.store.session.read(lambda file: file.reader.execute_sql(query).fetchall())


@pytest.mark.long
def test_in_memory_the_law_holds_whatever_happens() -> None:
    run_machine(MemoryMachine, settings=RUNS)


@pytest.mark.long
def test_in_sqlite_the_law_holds_whatever_happens(tmp_path: Path) -> None:
    empty = tmp_path / "empty.db"
    with closing(PeeweeStore(empty)) as store:
        store.check()
    numbers = count()

    def machine() -> SqliteMachine:
        folder = tmp_path / f"{next(numbers)}"
        folder.mkdir()
        return SqliteMachine(Path(shutil.copy(empty, folder / "log.db")))

    run_machine(machine, settings=settings(RUNS, max_examples=times(15, 5_000)))  # type: ignore[arg-type]  # what makes one will do
