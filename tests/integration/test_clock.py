"""A wall clock that is set, by an hour or a day, at every step of a turn: nothing depends on it."""

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import peewee
import pytest
from pytest_mock import MockerFixture

from chatport.adapters import (
    LimitsCounter,
    MemoryStore,
    PeeweeStore,
    ScriptedGateway,
    WindowTable,
    life_sign,
    own_leases,
    random_id,
)
from chatport.domain import (
    Caller,
    ChatRequest,
    ChatService,
    CompletionRequest,
    ConversationStore,
    Delta,
    Limit,
    LogQuery,
    RateLimiter,
    State,
)
from chatport.domain.errors import (
    BudgetExceeded,
    ConversationBusy,
    RateLimited,
    StorageBusy,
    StorageUnavailable,
)
from chatport.domain.model import INSTANT, LONGEST_SETBACK
from chatport.domain.rules import parse_budgets
from torture import times

from .moved_clock import MovedClock

ROUNDS = times(20, 500)
TURNS = 6
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
JUMPS = (-DAY, -HOUR, timedelta(0), HOUR, DAY)
Step = Callable[[], None]


class Watched(ScriptedGateway):
    """Answers in three pieces, and lets the test do something before each of them."""

    def __init__(self, step: Step) -> None:
        super().__init__("unused")
        self.step = step

    @contextmanager
    def stream(self, request: CompletionRequest) -> Iterator[Iterator[Delta]]:
        self.calls.append(request)

        def deltas() -> Iterator[Delta]:
            for piece in ("one ", "two ", "three"):
                self.step()
                yield Delta(text=piece)
            self.step()
            yield Delta(finish_reason="stop")

        yield deltas()


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ConversationStore]:
    store = MemoryStore() if request.param == "memory" else PeeweeStore(tmp_path / "chat.db")
    with closing(store):
        yield store


@pytest.fixture
def clock() -> MovedClock:
    return MovedClock()


def service_of(
    store: ConversationStore, clock: MovedClock, step: Step, **more: object
) -> ChatService:
    return ChatService(
        store=store,
        gateway=Watched(step),
        clock=clock,
        new_id=random_id,
        model="m",
        **more,  # type: ignore[arg-type]  # as named by the tests
    )


def said(service: ChatService, prompt: str = "Hello", **more: object) -> str:
    with closing(service.stream(ChatRequest(user_id="ada", prompt=prompt, **more))) as stream:  # type: ignore[arg-type]  # as above
        return "".join(stream)


def times_of(store: ConversationStore) -> list[datetime]:
    """Return the times of a conversation, in the order of its exchanges."""
    log = store.conversation("anonymous", "ada", before=None, limit=1000)
    assert {exchange.state for exchange in log} == {State.COMPLETED}
    return [at for exchange in log for at in (exchange.started_at, exchange.finished_at) if at]


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_a_clock_that_is_set_at_any_step_ends_no_call_and_reverses_no_order(
    tmp_path: Path, seed: int
) -> None:
    chance, clock = random.Random(seed), MovedClock()

    def jump() -> None:
        clock.wall += chance.choice(JUMPS)

    def jump_and_knock() -> None:
        jump()
        with pytest.raises(ConversationBusy):
            said(service, "at the same time")
        others.recover(clock.now())
        with pytest.raises(ConversationBusy):
            said(other_process, "from elsewhere")

    with ExitStack() as stores:
        one, others = (
            stores.enter_context(closing(PeeweeStore(tmp_path / "chat.db"))) for _ in range(2)
        )
        service = service_of(one, clock, jump_and_knock)
        other_process = service_of(others, clock, pytest.fail)
        for turn in range(TURNS):
            jump()
            assert said(service, f"turn {turn}") == "one two three"
        log = one.search(LogQuery(oldest_first=True))
        assert [exchange.prompt for exchange in log] == [f"turn {n}" for n in range(TURNS)]
        seen = times_of(one)
    for earlier, later in pairwise(seen):
        assert earlier <= later or earlier - later > LONGEST_SETBACK


@pytest.mark.parametrize("setback", [timedelta(0), INSTANT, HOUR, DAY, LONGEST_SETBACK])
def test_times_never_decrease(
    store: ConversationStore, clock: MovedClock, setback: timedelta
) -> None:
    service = service_of(store, clock, lambda: None)
    said(service)
    clock.wall -= setback
    said(service)
    seen = times_of(store)
    assert seen == sorted(seen)
    assert len(set(seen[::2])) == 2


def test_a_log_that_is_dated_far_ahead_is_not_followed(
    store: ConversationStore, clock: MovedClock
) -> None:
    service = service_of(store, clock, lambda: None)
    said(service)
    clock.wall -= LONGEST_SETBACK + HOUR
    at = clock.wall
    said(service)
    assert times_of(store)[2] - at < HOUR


@pytest.mark.parametrize("jump", [-DAY, -HOUR, HOUR])
def test_a_clock_that_is_set_back_gives_no_fresh_budget(
    store: ConversationStore, clock: MovedClock, jump: timedelta
) -> None:
    caller = Caller(name="anonymous", budgets=parse_budgets("8800 tokens/day"))
    service = service_of(store, clock, lambda: None, max_output_tokens=8_000)
    said(service, "x" * 3_000, caller=caller)
    clock.wall += jump
    for _ in range(3):
        with pytest.raises(BudgetExceeded):
            said(service, caller=caller)


@pytest.mark.parametrize("jump", [-DAY, -HOUR, HOUR, DAY])
def test_nobody_is_held_back_longer_than_the_window(
    store: ConversationStore, clock: MovedClock, jump: timedelta
) -> None:
    counter = LimitsCounter(WindowTable(slots=64, monotonic=clock.monotonic))
    limiter = RateLimiter(counter, user=[Limit(amount=1, window_seconds=60)])
    service = service_of(store, clock, lambda: None, limiter=limiter)
    said(service)
    clock.wall += jump
    with pytest.raises(RateLimited) as refused:
        said(service)
    assert (refused.value.retry_after_seconds or 999) <= 61
    clock.passed += 120
    assert said(service)


@pytest.mark.parametrize("jump", [-DAY, timedelta(0), DAY])
def test_what_is_open_for_too_long_makes_room_whatever_the_clock_says(
    store: ConversationStore,
    clock: MovedClock,
    monkeypatch: pytest.MonkeyPatch,
    jump: timedelta,
) -> None:
    passed = [0.0]
    monkeypatch.setattr(own_leases, "monotonic", lambda: passed[0])
    service = service_of(store, clock, lambda: None, lease_seconds=100)
    forgotten = service.stream(ChatRequest(user_id="ada", prompt="nobody closes me"))
    clock.wall += jump
    with pytest.raises(ConversationBusy):
        said(service)
    passed[0] = 100.0
    assert said(service) == "one two three"
    forgotten.close()


def test_an_answer_that_could_not_be_kept_holds_nobody_up(
    tmp_path: Path, clock: MovedClock, mocker: MockerFixture
) -> None:
    with closing(PeeweeStore(tmp_path / "chat.db")) as store:
        service = service_of(store, clock, lambda: None)
        write = mocker.patch.object(store, "_write", wraps=store._write)
        stream = service.stream(ChatRequest(user_id="ada", prompt="lost"))
        write.side_effect = StorageBusy()
        with pytest.raises(StorageBusy):
            list(stream)
        mocker.stop(write)
        assert said(service, "next") == "one two three"
        states = [(each.prompt, each.state) for each in store.search(LogQuery(oldest_first=True))]
    assert states == [("lost", State.INTERRUPTED), ("next", State.COMPLETED)]


def test_what_was_lost_is_not_forgotten_when_the_next_write_fails_too(
    tmp_path: Path, clock: MovedClock, mocker: MockerFixture
) -> None:
    with closing(PeeweeStore(tmp_path / "chat.db")) as store:
        service = service_of(store, clock, lambda: None)
        stream = service.stream(ChatRequest(user_id="ada", prompt="lost"))
        database = store.session.opened().writer
        commit = mocker.patch.object(database, "commit", side_effect=peewee.OperationalError)
        for doomed in (lambda: list(stream), lambda: said(service, "also lost"), store.check):
            with pytest.raises(StorageUnavailable):
                doomed()
        mocker.stop(commit)
        assert said(service, "next") == "one two three"
        states = [(each.prompt, each.state) for each in store.search(LogQuery(oldest_first=True))]
    assert states == [("lost", State.INTERRUPTED), ("next", State.COMPLETED)]


@pytest.mark.parametrize("name", ["chat.db", "chat[1].db", "chat?*.db", "link.db"])
def test_the_dead_are_found_whatever_the_file_is_called(
    tmp_path: Path, clock: MovedClock, name: str
) -> None:
    path = tmp_path / name
    if name == "link.db":
        (tmp_path / "real.db").touch()
        path.symlink_to("real.db")
    killed = PeeweeStore(path)
    service_of(killed, clock, lambda: None).stream(ChatRequest(user_id="ada", prompt="killed"))
    killed.session.opened().life_sign._lock.release()  # as the system does for the dead
    with closing(PeeweeStore(path.resolve())) as store:
        assert store.recover(clock.now()) == 1
        assert [each.state for each in store.search(LogQuery())] == [State.INTERRUPTED]
    assert not list(tmp_path.glob("*-alive-*")), life_sign.__doc__
