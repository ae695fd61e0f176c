"""The door: who gets in, who does not, and what is remembered of it."""

import hmac
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime, timedelta
from itertools import count
from typing import Any

import pytest
from pytest_mock import MockerFixture

from chatport.adapters import LimitsCounter, MemoryKeys, WindowTable
from chatport.domain import doorkeeper
from chatport.domain.callers import ANONYMOUS, Caller
from chatport.domain.doorkeeper import Doorkeeper
from chatport.domain.errors import (
    ChatportError,
    InvalidApiKey,
    RateLimited,
    StorageBusy,
    StorageUnavailable,
)
from chatport.domain.keys import ApiKey, Keys
from chatport.domain.ports import Clock

from .conftest import FakeClock

SECRET = "A-b_" * 10 + "xyz"
WRONG = "A-b_" * 10 + "xyZ"
SHOP = Caller(name="shop")
HERE = "203.0.113.7"


PATIENCE_SECONDS = 5.0


class WatchedKeys(MemoryKeys):
    """Keys in memory, and what they were asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.fault: ChatportError | None = None
        self.while_asked: Callable[[], object] = lambda: None
        self.afterwards: Callable[[], object] = lambda: None

    def key(self, key_id: str) -> ApiKey | None:
        self._note("key")
        return super().key(key_id)

    def caller(self, name: str) -> Caller | None:
        self._note("caller")
        return super().caller(name)

    def is_empty(self) -> bool:
        self._note("is_empty")
        return super().is_empty()

    def _note(self, question: str) -> None:
        self.asked.append(question)
        self.while_asked()
        self.afterwards()
        if self.fault is not None:
            raise self.fault


class Refusals:
    """What was told to the operator."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, datetime]] = []
        self.fault: Exception | None = None

    def __call__(self, caller: str, rule: str, at: datetime) -> None:
        self.told.append((caller, rule, at))
        if self.fault is not None:
            raise self.fault


@pytest.fixture
def store() -> WatchedKeys:
    return WatchedKeys()


@pytest.fixture
def keys(store: WatchedKeys, clock: Clock) -> Keys:
    numbers = count(1)
    return Keys(
        store, clock=clock, new_id=lambda: f"{next(numbers):016x}", new_secret=lambda: SECRET
    )


@pytest.fixture
def refusals() -> Refusals:
    return Refusals()


MakeDoor = Callable[..., Doorkeeper]


@pytest.fixture
def make_door(store: WatchedKeys, clock: FakeClock, refusals: Refusals) -> MakeDoor:
    def make(*, open_without_keys: bool = True) -> Doorkeeper:
        counter = LimitsCounter(WindowTable(slots=1024, monotonic=clock.monotonic))
        return Doorkeeper(
            store,
            counter=counter,
            clock=clock,
            open_without_keys=open_without_keys,
            refused=refusals,
        )

    return make


@pytest.fixture
def door(make_door: MakeDoor) -> Doorkeeper:
    return make_door()


def bearer(key: str) -> str:
    return f"Bearer {key}"


def fails(door: Doorkeeper, authorization: str | None = None, address: str = HERE) -> ChatportError:
    with pytest.raises(ChatportError) as caught:
        door.authenticate(authorization, address)
    return caught.value


def refused_outright(door: Doorkeeper, address: str) -> bool:
    return isinstance(fails(door, address=address), RateLimited)


# Who gets in.


def test_a_good_key_says_who_is_asking(door: Doorkeeper, keys: Keys) -> None:
    shop = Caller(name="shop", models=("m",))
    first, second = keys.create(shop), keys.create(Caller(name="other"))
    third = keys.rotate("shop", timedelta(hours=1))
    assert door.authenticate(bearer(first), HERE) == shop
    assert door.authenticate(bearer(second), HERE) == Caller(name="other")
    assert door.authenticate(bearer(third), HERE) == shop


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR"])
def test_the_scheme_is_written_in_any_case(door: Doorkeeper, keys: Keys, scheme: str) -> None:
    assert door.authenticate(f"{scheme} {keys.create(SHOP)}", HERE) == SHOP


GOOD = f"cp_0000000000000001_{SECRET}"
BAD = {
    "nothing": None,
    "an empty header": "",
    "no scheme": GOOD,
    "another scheme": f"Basic {GOOD}",
    "no space": f"Bearer{GOOD}",
    "two spaces": f"Bearer  {GOOD}",
    "a tab": f"Bearer\t{GOOD}",
    "a space before": f" Bearer {GOOD}",
    "a space after": f"Bearer {GOOD} ",
    "a line after": f"Bearer {GOOD}\n",
    "two keys": f"Bearer {GOOD}, Bearer {GOOD}",
    "only the scheme": "Bearer ",
    "another prefix": f"Bearer {GOOD.replace('cp_', 'sk-')}",
    "another case": f"Bearer {GOOD.upper()}",
    "no secret": "Bearer cp_0000000000000001_",
    "half a secret": f"Bearer {GOOD[:-1]}",
    "a wrong secret": f"Bearer cp_0000000000000001_{WRONG}",
    "an unknown id": f"Bearer cp_00000000000000ff_{SECRET}",
    "another's id": f"Bearer cp_0000000000000002_{WRONG}",
    "a revoked key": f"Bearer cp_0000000000000003_{SECRET}",
    "an expired key": f"Bearer cp_0000000000000004_{SECRET}",
    "no ASCII": f"Bearer {GOOD[:-1]}é",
    "half a surrogate": f"Bearer {GOOD[:-1]}\udcff",
    "a megabyte": "Bearer " + "cp_" * 333_333,
}


@pytest.mark.parametrize("authorization", BAD.values(), ids=BAD.keys())
def test_whatever_is_wrong_the_answer_is_the_same(
    door: Doorkeeper, keys: Keys, clock: FakeClock, authorization: str | None
) -> None:
    good = keys.create(SHOP)
    assert good == GOOD
    for name in ("other", "revoked"):
        keys.create(Caller(name=name))
    keys.create(Caller(name="expired"), clock.now() + timedelta(seconds=1))
    keys.revoke("revoked")
    clock.passed += 1
    error = fails(door, authorization)
    assert type(error) is InvalidApiKey
    assert str(error) == (
        "There is no valid API key; send the header Authorization: Bearer cp_... of chatport."
    )
    assert error.__cause__ is None
    assert error.__context__ is None
    assert error.retry_after_seconds is None


def test_a_key_whose_caller_is_gone_opens_nothing(
    door: Doorkeeper, keys: Keys, store: WatchedKeys
) -> None:
    key = keys.create(SHOP)
    assert door.authenticate(bearer(key), HERE) == SHOP  # so that the door is closed
    other = keys.rotate("shop", timedelta(hours=1))
    del store._callers["shop"]  # by hand, in the file: no operation does so
    assert type(fails(door, bearer(other))) is InvalidApiKey


def test_nobody_gets_in_while_the_keys_cannot_be_read(
    door: Doorkeeper, keys: Keys, store: WatchedKeys, clock: FakeClock
) -> None:
    key = keys.create(SHOP)
    assert door.authenticate(bearer(key), HERE) == SHOP
    store.fault = StorageUnavailable()
    clock.passed += 2
    assert isinstance(fails(door, bearer(key)), StorageUnavailable)
    store.fault = None
    assert door.authenticate(bearer(key), HERE) == SHOP


def test_it_is_not_open_while_it_cannot_be_told_whether_there_are_callers(
    door: Doorkeeper, store: WatchedKeys
) -> None:
    store.fault = StorageUnavailable()
    assert isinstance(fails(door), StorageUnavailable)


# A service without keys.


def test_without_any_caller_everybody_is_anonymous(door: Doorkeeper) -> None:
    for authorization in BAD.values():
        assert door.authenticate(authorization, HERE) is ANONYMOUS


def test_unless_it_is_not_to_be_open(make_door: MakeDoor, store: WatchedKeys, keys: Keys) -> None:
    door = make_door(open_without_keys=False)
    assert type(fails(door)) is InvalidApiKey
    assert store.asked == []
    assert door.authenticate(bearer(keys.create(SHOP)), HERE) == SHOP


def test_that_there_is_no_caller_is_believed_for_two_seconds(
    door: Doorkeeper, keys: Keys, store: WatchedKeys, clock: FakeClock
) -> None:
    assert door.authenticate(None, HERE) is ANONYMOUS
    keys.create(SHOP)
    clock.passed = 1.99
    assert door.authenticate(None, HERE) is ANONYMOUS
    assert store.asked == ["is_empty"]
    clock.passed = 2.0
    assert type(fails(door)) is InvalidApiKey


def test_that_there_is_a_caller_is_believed_for_ever(
    door: Doorkeeper, keys: Keys, store: WatchedKeys, clock: FakeClock
) -> None:
    keys.create(SHOP)
    keys.revoke("shop")
    for _ in range(5):
        fails(door)
        clock.passed += 100
    assert store.asked == ["is_empty"]


def test_it_is_asked_again_while_there_is_no_caller(
    door: Doorkeeper, store: WatchedKeys, clock: FakeClock
) -> None:
    for _ in range(6):
        door.authenticate(None, HERE)
        clock.passed += 1
    assert store.asked == ["is_empty"] * 3


# What is remembered.


def test_a_success_is_remembered_for_two_seconds(
    door: Doorkeeper, keys: Keys, store: WatchedKeys, clock: FakeClock
) -> None:
    key = bearer(keys.create(SHOP))
    for _ in range(4):
        assert door.authenticate(key, HERE) == SHOP
        clock.passed += 0.66
    assert store.asked == ["is_empty", "key", "caller"]
    clock.passed = 2.0
    assert door.authenticate(key, HERE) == SHOP
    assert store.asked == ["is_empty", "key", "caller", "key", "caller"]


def test_a_revoked_key_works_for_two_seconds_at_most(
    door: Doorkeeper, keys: Keys, clock: FakeClock
) -> None:
    key = bearer(keys.create(SHOP))
    door.authenticate(key, HERE)
    keys.revoke("shop")
    clock.passed = 1.99
    assert door.authenticate(key, HERE) == SHOP
    clock.passed = 2.0
    assert type(fails(door, key)) is InvalidApiKey


def test_the_two_seconds_begin_before_the_key_is_read(
    door: Doorkeeper, keys: Keys, store: WatchedKeys, clock: FakeClock
) -> None:
    key = bearer(keys.create(SHOP))

    def slowly() -> None:
        clock.passed += 0.75

    store.while_asked = slowly  # is_empty, key, caller
    door.authenticate(key, HERE)
    store.while_asked = lambda: None
    keys.revoke("shop")
    assert clock.passed == 2.25
    clock.passed = 2.74
    assert door.authenticate(key, HERE) == SHOP
    clock.passed = 2.75
    assert type(fails(door, key)) is InvalidApiKey


def test_a_change_of_terms_is_noticed_after_two_seconds(
    door: Doorkeeper, keys: Keys, clock: FakeClock
) -> None:
    key = bearer(keys.create(SHOP))
    door.authenticate(key, HERE)
    keys.change(Caller(name="shop", models=("m",)))
    clock.passed = 2.0
    assert door.authenticate(key, HERE) == Caller(name="shop", models=("m",))


def test_what_is_remembered_does_not_outlive_the_key(
    door: Doorkeeper, keys: Keys, clock: FakeClock
) -> None:
    key = bearer(keys.create(SHOP, clock.now() + timedelta(seconds=1)))
    clock.passed = 0.99
    assert door.authenticate(key, HERE) == SHOP
    clock.passed = 1.0
    assert type(fails(door, key)) is InvalidApiKey


def test_a_wrong_secret_gains_nothing_by_the_memory_of_the_right_one(
    door: Doorkeeper, keys: Keys
) -> None:
    door.authenticate(bearer(keys.create(SHOP)), HERE)
    assert type(fails(door, f"Bearer cp_0000000000000001_{WRONG}")) is InvalidApiKey


def test_a_failure_is_not_remembered(door: Doorkeeper, keys: Keys, clock: FakeClock) -> None:
    keys.create(Caller(name="first"))
    assert type(fails(door, f"Bearer cp_0000000000000002_{SECRET}")) is InvalidApiKey
    assert door.authenticate(bearer(keys.create(SHOP)), HERE) == SHOP


def test_no_more_than_so_many_keys_are_remembered(
    door: Doorkeeper, keys: Keys, store: WatchedKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doorkeeper, "REMEMBERED_KEYS", 3)
    made = [bearer(keys.create(Caller(name=f"caller-{n}"))) for n in range(4)]
    for key in made:
        door.authenticate(key, HERE)
    assert len(door._admissions._by_key) == 3
    store.asked.clear()
    for key in made[1:]:
        door.authenticate(key, HERE)
    assert store.asked == []
    door.authenticate(made[0], HERE)
    assert store.asked == ["key", "caller"]


def test_a_key_that_was_read_again_counts_as_new(
    door: Doorkeeper,
    keys: Keys,
    store: WatchedKeys,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doorkeeper, "REMEMBERED_KEYS", 2)
    first, second, third = (bearer(keys.create(Caller(name=name))) for name in "abc")
    for key in (first, second):
        door.authenticate(key, HERE)
    clock.passed += 2
    for key in (first, third):
        door.authenticate(key, HERE)
    store.asked.clear()
    door.authenticate(first, HERE)
    assert store.asked == []


def test_no_key_is_held_in_memory(door: Doorkeeper, keys: Keys) -> None:
    key = keys.create(SHOP)
    door.authenticate(bearer(key), HERE)
    assert SECRET not in repr(door._admissions._by_key)
    assert len(door._admissions._by_key) == 1


def test_many_threads_share_the_memory(
    door: Doorkeeper, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doorkeeper, "REMEMBERED_KEYS", 4)
    callers = [Caller(name=f"caller-{n}") for n in range(8)]
    made = [bearer(keys.create(caller)) for caller in callers]
    wrong: list[Any] = []

    def work(n: int) -> None:
        try:
            for turn in range(200):
                which = (n + turn) % 8
                if door.authenticate(made[which], HERE) != callers[which]:
                    wrong.append(which)
        except Exception as error:  # noqa: BLE001  # told to the test's own thread
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(door._admissions._by_key) == 4


def told(door: Doorkeeper, key: str) -> Caller | str:
    """Return who comes with a key, or the code of what is said instead."""
    try:
        return door.authenticate(bearer(key), HERE)
    except (ChatportError, Killed) as error:
        return error.code


AllAtOnce = Callable[[str], list[Caller | str]]


class Killed(BaseException):
    """Ends a look, as gevent does where the server stops."""

    code = "killed"


@pytest.fixture
def all_at_once(door: Doorkeeper, store: WatchedKeys, monkeypatch: pytest.MonkeyPatch) -> AllAtOnce:
    """Return what lets ten come with a key, nine of them while the first is looking it up."""
    is_here = threading.Semaphore(0)

    class Awaited(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            is_here.release()
            return super().wait(timeout)

    monkeypatch.setattr(threading, "Event", Awaited)

    def come(key: str) -> list[Caller | str]:
        others: list[Future[Caller | str]] = []

        def let_others_come() -> None:
            store.while_asked = lambda: None
            others.extend(pool.submit(told, door, key) for _ in range(9))
            all(is_here.acquire(timeout=PATIENCE_SECONDS) for _ in others)

        with ThreadPoolExecutor(9) as pool:
            store.while_asked = let_others_come
            return [told(door, key), *(other.result() for other in others)]

    return come


@pytest.fixture
def forgotten(door: Doorkeeper, store: WatchedKeys, keys: Keys, clock: FakeClock) -> str:
    """Return a key that was let in, and is not remembered any more."""
    key = keys.create(SHOP)
    door.authenticate(bearer(key), HERE)
    clock.sleep(doorkeeper.REMEMBERED_SECONDS)
    store.asked.clear()
    return key


def test_one_looks_a_key_up_for_all_who_use_it(
    store: WatchedKeys, forgotten: str, all_at_once: AllAtOnce
) -> None:
    assert all_at_once(forgotten) == [SHOP] * 10
    assert store.asked == ["key", "caller"]


def test_one_looks_whether_there_is_a_caller_for_all(
    store: WatchedKeys, keys: Keys, all_at_once: AllAtOnce
) -> None:
    key = keys.create(SHOP)
    assert all_at_once(key) == [SHOP] * 10
    assert store.asked.count("is_empty") == 1


def test_where_the_first_cannot_look_the_others_do_not_wait_for_the_same_once_more(
    door: Doorkeeper, store: WatchedKeys, forgotten: str, all_at_once: AllAtOnce
) -> None:
    store.fault = StorageBusy()
    assert all_at_once(forgotten) == ["storage_busy"] * 10
    assert store.asked == ["key"]
    store.fault = None
    assert door.authenticate(bearer(forgotten), HERE) == SHOP


@pytest.mark.usefixtures("forgotten")
def test_what_the_first_does_not_find_the_others_do_not_look_for(
    store: WatchedKeys, all_at_once: AllAtOnce
) -> None:
    assert all_at_once(f"cp_00000000000000ff_{SECRET}") == ["invalid_api_key"] * 10
    assert store.asked == ["key"]


def test_a_look_that_takes_longer_than_its_answer_is_remembered_serves_all_who_wait(
    store: WatchedKeys, clock: FakeClock, forgotten: str, all_at_once: AllAtOnce
) -> None:
    store.afterwards = lambda: clock.sleep(doorkeeper.REMEMBERED_SECONDS)
    assert all_at_once(forgotten) == [SHOP] * 10
    assert store.asked == ["key", "caller"]


def test_where_the_first_is_killed_the_next_one_looks(
    store: WatchedKeys, forgotten: str, all_at_once: AllAtOnce
) -> None:
    def kill() -> None:
        store.afterwards = lambda: None
        raise Killed

    store.afterwards = kill
    assert all_at_once(forgotten) == ["killed", *[SHOP] * 9]


def test_the_memory_is_touched_under_its_lock_only(door: Doorkeeper, keys: Keys) -> None:
    admissions = door._admissions

    class Guarded(type(admissions._by_key)):  # type: ignore[misc]
        def get(self, *arguments: Any) -> Any:
            assert admissions._lock.locked()
            return super().get(*arguments)

        def __setitem__(self, *arguments: Any) -> None:
            assert admissions._lock.locked()
            super().__setitem__(*arguments)

    admissions._by_key = Guarded()
    key = bearer(keys.create(SHOP))
    assert door.authenticate(key, HERE) == SHOP
    assert door.authenticate(key, HERE) == SHOP


# Failures.


@pytest.mark.parametrize("key_id", ["0000000000000001", "00000000000000ff"])
def test_a_known_id_and_an_unknown_one_are_compared_alike(
    door: Doorkeeper, keys: Keys, mocker: MockerFixture, key_id: str
) -> None:
    keys.create(SHOP)
    compare = mocker.spy(hmac, "compare_digest")
    fails(door, f"Bearer cp_{key_id}_{WRONG}")
    assert [[len(side) for side in call.args] for call in compare.call_args_list] == [[32, 32]]


def test_terms_are_read_after_a_proof_only(
    door: Doorkeeper, keys: Keys, store: WatchedKeys
) -> None:
    keys.create(SHOP)
    for authorization in BAD.values():
        fails(door, authorization)
    assert "caller" not in store.asked


@pytest.fixture
def closed(door: Doorkeeper, keys: Keys) -> Doorkeeper:
    """Return a door that asks for keys."""
    keys.create(SHOP)
    return door


def test_the_21st_failure_of_a_minute_is_told_to_wait(closed: Doorkeeper, clock: FakeClock) -> None:
    assert [type(fails(closed)) for _ in range(20)] == [InvalidApiKey] * 20
    clock.passed += 20
    error = fails(closed, f"Bearer cp_0000000000000001_{WRONG}")
    assert isinstance(error, RateLimited)
    assert error.rule == "login 20 requests per minute"
    assert error.retry_after_seconds is not None
    assert 40 < error.retry_after_seconds < 45
    clock.passed += error.retry_after_seconds
    assert type(fails(closed)) is InvalidApiKey


def test_a_good_key_gets_in_from_an_address_that_may_fail_no_more(
    closed: Doorkeeper, keys: Keys
) -> None:
    while not refused_outright(closed, HERE):
        pass
    assert closed.authenticate(bearer(GOOD), HERE) == SHOP
    assert closed.authenticate(bearer(keys.rotate("shop", timedelta(0))), HERE) == SHOP


def test_a_good_key_takes_nothing_from_the_limit(closed: Doorkeeper, clock: FakeClock) -> None:
    for _ in range(50):
        closed.authenticate(bearer(GOOD), HERE)
        clock.passed += 0.5
    assert [type(fails(closed)) for _ in range(20)] == [InvalidApiKey] * 20


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff"),
        ("2001:db8:1:2::1", "2001:0DB8:0001:0002:0:0:0:7"),
        ("fe80::1%eth0", "fe80::2%eth1"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("x" * 64, "x" * 64 + "y"),
        ("unix:", "unix:"),
        ("", ""),
    ],
)
def test_addresses_of_one_place_are_counted_together(
    closed: Doorkeeper, one: str, other: str
) -> None:
    for _ in range(20):
        assert not refused_outright(closed, one)
    assert refused_outright(closed, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("203.0.113.7", "203.0.113.8"),
        ("2001:db8:1:2::1", "2001:db8:1:3::1"),
        ("::ffff:203.0.113.7", "::ffff:203.0.113.8"),
        ("::1", "127.0.0.1"),
        ("x" * 63, "x" * 64),
        ("203.0.113.07", "203.0.113.7"),
    ],
)
def test_addresses_of_two_places_are_counted_separately(
    closed: Doorkeeper, one: str, other: str
) -> None:
    for _ in range(20):
        assert not refused_outright(closed, one)
    assert not refused_outright(closed, other)


def test_the_operator_is_told_of_failures_that_the_limit_admits(
    closed: Doorkeeper, refusals: Refusals, clock: FakeClock
) -> None:
    for _ in range(30):
        fails(closed)
    assert refusals.told == [("anonymous", "login", clock.now())] * 20
    closed.authenticate(bearer(GOOD), HERE)
    assert len(refusals.told) == 20


def test_that_the_operator_cannot_be_told_is_no_concern_of_a_stranger(
    closed: Doorkeeper, refusals: Refusals
) -> None:
    refusals.fault = StorageBusy()
    assert type(fails(closed)) is InvalidApiKey


def test_a_defect_in_telling_the_operator_is_not_hidden(
    closed: Doorkeeper, refusals: Refusals
) -> None:
    refusals.fault = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        closed.authenticate(None, HERE)
