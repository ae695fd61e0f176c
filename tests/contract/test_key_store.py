"""The contract of KeyStore: every line of its docstrings, against both adapters."""

import hashlib
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from chatport.adapters import MemoryKeys, PeeweeKeys, PeeweeStore
from chatport.adapters.sqlite_session import SqliteSession
from chatport.domain.admin_ports import KeyStore
from chatport.domain.callers import Caller, Role
from chatport.domain.errors import CallerExists, CallerNotFound, StorageUnavailable
from chatport.domain.keys import ApiKey
from chatport.domain.rules import Budget, InFlight, Limit, Period, Unit, parse_limits

NOON = datetime(2026, 11, 23, 12, 0, 0, 123_456, tzinfo=UTC)
HOUR = timedelta(hours=1)
SHOP = Caller(name="shop")

MakeKey = Callable[..., ApiKey]
OpenKeys = Callable[[], KeyStore]


@pytest.fixture(params=["memory", "sqlite"])
def open_keys(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenKeys]:
    """Return what opens one more store on the same keys, as another process would."""
    memory = MemoryKeys()
    with ExitStack() as opened:

        def open_one() -> KeyStore:
            if request.param == "memory":
                return memory
            session = opened.enter_context(closing(SqliteSession(tmp_path / "keys.db")))
            return PeeweeKeys(session)

        yield open_one


@pytest.fixture
def keys(open_keys: OpenKeys) -> KeyStore:
    return open_keys()


@pytest.fixture
def make_key() -> MakeKey:
    """Return a maker of keys; each is made a second after the one before."""
    numbers = count()

    def make(**fields: Any) -> ApiKey:
        n = next(numbers)
        defaults: dict[str, Any] = {
            "id": f"{n:016x}",
            "caller": "shop",
            "secret_hash": hashlib.sha256(str(n).encode()).digest(),
            "created_at": NOON + timedelta(seconds=n),
        }
        return ApiKey(**{**defaults, **fields})

    return make


def ids(found: Any) -> list[str]:
    return [key.id for key in found]


def test_there_never_was_a_caller_until_one_is_added(keys: KeyStore, make_key: MakeKey) -> None:
    assert keys.is_empty()
    keys.add(SHOP, make_key())
    assert not keys.is_empty()
    keys.revoke("shop", NOON)
    assert not keys.is_empty()


def test_a_key_comes_back_as_it_was(keys: KeyStore, make_key: MakeKey) -> None:
    key = make_key(secret_hash=bytes(range(32)), expires_at=NOON + HOUR)
    keys.add(SHOP, key)
    assert keys.key(key.id) == key
    assert keys.keys_of("shop") == [key]
    found = keys.key(key.id)
    assert found is not None
    assert found.expires_at == datetime(2026, 11, 23, 13, 0, 0, 123_456, tzinfo=UTC)
    assert found.created_at.utcoffset() == timedelta(0)


def test_times_of_another_zone_come_back_as_the_same_moments(
    keys: KeyStore, make_key: MakeKey
) -> None:
    cairo = timezone(timedelta(hours=2))
    keys.add(SHOP, make_key(expires_at=datetime(2026, 11, 23, 15, 0, tzinfo=cairo)))
    (key,) = keys.keys_of("shop")
    assert key.expires_at == datetime(2026, 11, 23, 13, 0, tzinfo=UTC)


FULL = Caller(
    name="Back-Office.2_x",
    role=Role.ADMIN,
    limits=(
        Limit(amount=20, window_seconds=60),
        Limit(amount=50_000, window_seconds=3_600, unit=Unit.TOKENS),
        Limit(amount=7, window_seconds=90),
        InFlight(amount=8),
    ),
    budgets=(
        Budget(amount=5_000_000_050, unit=Unit.USD, period=Period.DAY),
        Budget(amount=1_000_000, unit=Unit.TOKENS, period=Period.MONTH),
    ),
    user_limits=(InFlight(amount=1),),
    user_budgets=(Budget(amount=250_000_000, unit=Unit.USD, period=Period.MONTH),),
    models=("gpt-5-mini", "größer/modell:1 b"),
)


@pytest.mark.parametrize(
    "caller",
    [
        SHOP,
        FULL,
        Caller(name="none", limits=(), budgets=(), user_limits=(), user_budgets=()),
        Caller(name="one", models=("gpt-5",)),
    ],
    ids=lambda caller: caller.name,
)
def test_a_caller_comes_back_as_it_was(keys: KeyStore, make_key: MakeKey, caller: Caller) -> None:
    keys.add(caller, make_key(caller=caller.name))
    assert keys.caller(caller.name) == caller
    assert keys.callers() == [caller]


def test_a_limit_of_a_long_window_is_read_again(tmp_path: Path, make_key: MakeKey) -> None:
    caller = Caller(name="shop", limits=parse_limits("100/12 days; 5/999999 seconds"))
    with closing(SqliteSession(tmp_path / "keys.db")) as session:
        PeeweeKeys(session).add(caller, make_key())
        assert PeeweeKeys(session).caller("shop") == caller


def test_what_is_not_there_is_none(keys: KeyStore, make_key: MakeKey) -> None:
    for _ in range(2):  # in an empty store, and beside others
        assert keys.key("00000000000000ff") is None
        assert keys.caller("nobody") is None
        assert keys.keys_of("nobody") == []
        if keys.is_empty():
            assert keys.callers() == []
            keys.add(SHOP, make_key())


def test_a_key_is_found_by_its_whole_id_only(keys: KeyStore, make_key: MakeKey) -> None:
    keys.add(SHOP, make_key(id="5000000000000000"))
    keys.rotate(make_key(id="a000000000000000"), old_until=NOON + HOUR)
    near = ["", "0", "4fffffffffffffff", "5", "5000000000000001", "9fffffffffffffff"]
    near += ["500000000000000", "50000000000000000", "A000000000000000", "ffffffffffffffff", "é"]
    assert [keys.key(key_id) for key_id in near] == [None] * 11
    assert keys.key("5000000000000000") is not None
    assert keys.key("a000000000000000") is not None


def test_names_differ_by_case(keys: KeyStore, make_key: MakeKey) -> None:
    keys.add(SHOP, make_key())
    keys.add(Caller(name="Shop"), make_key(caller="Shop"))
    assert [caller.name for caller in keys.callers()] == ["Shop", "shop"]
    assert keys.revoke("Shop", NOON) == 1
    assert [key.revoked_at for key in keys.keys_of("shop")] == [None]


def test_a_name_is_added_once(keys: KeyStore, make_key: MakeKey) -> None:
    first, second = make_key(), make_key()
    keys.add(SHOP, first)
    with pytest.raises(CallerExists):
        keys.add(replace(SHOP, role=Role.ADMIN), second)
    assert keys.caller("shop") == SHOP
    assert keys.keys_of("shop") == [first]
    assert keys.key(second.id) is None


def test_a_change_replaces_all_but_name_and_keys(keys: KeyStore, make_key: MakeKey) -> None:
    key = make_key()
    keys.add(SHOP, key)
    keys.add(Caller(name="other"), make_key(caller="other"))
    changed = replace(FULL, name="shop")
    keys.change(changed)
    assert keys.caller("shop") == changed
    assert keys.keys_of("shop") == [key]
    assert keys.caller("other") == Caller(name="other")
    keys.change(SHOP)
    assert keys.caller("shop") == SHOP


def test_whoever_is_not_there_cannot_be_changed_rotated_or_revoked(
    keys: KeyStore, make_key: MakeKey
) -> None:
    keys.add(SHOP, make_key())
    stray = make_key(caller="nobody")
    with pytest.raises(CallerNotFound):
        keys.change(Caller(name="nobody"))
    with pytest.raises(CallerNotFound):
        keys.rotate(stray, old_until=NOON)
    with pytest.raises(CallerNotFound):
        keys.revoke("nobody", NOON)
    with pytest.raises(CallerNotFound):
        keys.revoke_key(stray.id, NOON)
    assert keys.key(stray.id) is None
    assert keys.callers() == [SHOP]


def test_rotating_lets_the_other_keys_expire_if_not_sooner(
    keys: KeyStore, make_key: MakeKey
) -> None:
    until = NOON + HOUR
    endless = make_key()
    sooner = make_key(expires_at=NOON + HOUR / 2)
    later = make_key(expires_at=NOON + 2 * HOUR)
    newest = make_key(expires_at=NOON + 9 * HOUR)
    foreign = make_key(caller="other")
    keys.add(Caller(name="other"), foreign)
    keys.add(SHOP, endless)
    keys.rotate(sooner, old_until=NOON + 9 * HOUR)
    keys.rotate(later, old_until=NOON + 8 * HOUR)
    keys.rotate(newest, old_until=until)
    assert [key.expires_at for key in keys.keys_of("shop")] == [
        until,
        NOON + HOUR / 2,
        until,
        NOON + 9 * HOUR,
    ]
    assert keys.key(foreign.id) == foreign


def test_a_caller_whose_keys_are_all_revoked_gets_a_new_one(
    keys: KeyStore, make_key: MakeKey
) -> None:
    keys.add(SHOP, make_key())
    keys.revoke("shop", NOON)
    new = make_key()
    keys.rotate(new, old_until=NOON)
    assert keys.key(new.id) == new
    old, _ = keys.keys_of("shop")
    assert old.revoked_at == NOON


def test_revoking_a_caller_takes_every_key_that_was_not_revoked(
    keys: KeyStore, make_key: MakeKey
) -> None:
    first, second, third = make_key(), make_key(), make_key()
    keys.add(SHOP, first)
    keys.rotate(second, old_until=NOON + HOUR)
    keys.rotate(third, old_until=NOON + HOUR)
    keys.add(Caller(name="other"), make_key(caller="other"))
    keys.revoke_key(first.id, NOON)
    assert keys.revoke("shop", NOON + HOUR) == 2
    assert keys.revoke("shop", NOON + 2 * HOUR) == 0
    assert [key.revoked_at for key in keys.keys_of("shop")] == [NOON, NOON + HOUR, NOON + HOUR]
    assert [key.revoked_at for key in keys.keys_of("other")] == [None]


def test_a_revoked_key_stays_revoked_since_the_first_time(
    keys: KeyStore, make_key: MakeKey
) -> None:
    key, other = make_key(), make_key()
    keys.add(SHOP, key)
    keys.rotate(other, old_until=NOON + HOUR)
    keys.revoke_key(key.id, NOON)
    keys.revoke_key(key.id, NOON + HOUR)
    assert [each.revoked_at for each in keys.keys_of("shop")] == [NOON, None]


def test_callers_come_in_pages_in_the_order_of_their_names(
    keys: KeyStore, make_key: MakeKey
) -> None:
    names = ["b", "a.1", "a", "Z", "9", "a-1", "a_1", "b0"]
    for name in names:
        keys.add(Caller(name=name), make_key(caller=name))

    def page(after: str, limit: int) -> list[str]:
        return [caller.name for caller in keys.callers(after=after, limit=limit)]

    assert page("", 100) == ["9", "Z", "a", "a-1", "a.1", "a_1", "b", "b0"]
    assert page("", 3) == ["9", "Z", "a"]
    assert page("a", 3) == ["a-1", "a.1", "a_1"]
    assert page("a_1", 3) == ["b", "b0"]
    assert page("aa", 1) == ["b"]  # that there is nobody of this name is no matter
    assert page("b0", 3) == []


def test_a_page_has_a_hundred_callers_unless_told_otherwise(
    keys: KeyStore, make_key: MakeKey
) -> None:
    for n in range(101):
        keys.add(Caller(name=f"c{n:03}"), make_key(caller=f"c{n:03}"))
    assert [caller.name for caller in keys.callers()][-1] == "c099"


def test_keys_come_oldest_first_whatever_their_ids(keys: KeyStore, make_key: MakeKey) -> None:
    keys.add(SHOP, make_key(id="f" * 16, created_at=NOON))
    keys.rotate(make_key(id="0" * 16, created_at=NOON + HOUR), old_until=NOON)
    keys.rotate(make_key(id="a" * 16, created_at=NOON - HOUR), old_until=NOON)
    keys.rotate(make_key(id="9" * 16, created_at=NOON), old_until=NOON)
    assert ids(keys.keys_of("shop")) == ["a" * 16, "f" * 16, "9" * 16, "0" * 16]


def test_what_one_store_writes_the_other_reads_at_once(
    open_keys: OpenKeys, make_key: MakeKey
) -> None:
    one, other = open_keys(), open_keys()
    assert other.is_empty()
    key, new = make_key(), make_key()
    one.add(SHOP, key)
    assert not other.is_empty()
    assert other.key(key.id) == key
    other.change(replace(SHOP, models=("m",)))
    assert one.caller("shop") == Caller(name="shop", models=("m",))
    one.rotate(new, old_until=NOON + HOUR)
    assert ids(other.keys_of("shop")) == [key.id, new.id]
    other.revoke_key(new.id, NOON)
    assert [each.revoked_at for each in one.keys_of("shop")] == [None, NOON]
    with pytest.raises(CallerExists):
        other.add(SHOP, make_key())


def in_threads(work: Callable[[int], None], threads: int = 16) -> None:
    started = [threading.Thread(target=work, args=(n,)) for n in range(threads)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()


def test_of_many_threads_that_add_one_name_one_succeeds(
    open_keys: OpenKeys, make_key: MakeKey
) -> None:
    stores = [open_keys(), open_keys()]
    made = [make_key() for _ in range(16)]
    added: list[str] = []

    def add(n: int) -> None:
        try:
            stores[n % 2].add(SHOP, made[n])
        except CallerExists:
            return
        added.append(made[n].id)

    in_threads(add)
    assert len(added) == 1
    assert ids(stores[0].keys_of("shop")) == added


def test_threads_that_rotate_and_revoke_lose_nothing(
    open_keys: OpenKeys, make_key: MakeKey
) -> None:
    stores = [open_keys(), open_keys()]
    stores[0].add(SHOP, make_key())
    made = [make_key() for _ in range(16)]
    revoked: list[int] = []

    def work(n: int) -> None:
        stores[n % 2].rotate(made[n], old_until=NOON + HOUR)
        assert stores[n % 2].key(made[n].id) is not None
        revoked.append(stores[n % 2].revoke("shop", NOON))

    in_threads(work)
    assert sum(revoked) == 17
    assert {key.revoked_at for key in stores[1].keys_of("shop")} == {NOON}
    assert len(stores[1].keys_of("shop")) == 17


# What only a file promises.


def test_keys_outlive_the_process(tmp_path: Path, make_key: MakeKey) -> None:
    key, new = make_key(), make_key()
    with closing(SqliteSession(tmp_path / "keys.db")) as session:
        PeeweeKeys(session).add(FULL, replace(key, caller=FULL.name))
        PeeweeKeys(session).rotate(replace(new, caller=FULL.name), old_until=NOON + HOUR)
        PeeweeKeys(session).revoke_key(key.id, NOON)
    with closing(SqliteSession(tmp_path / "keys.db")) as session:
        assert PeeweeKeys(session).caller(FULL.name) == FULL
        assert PeeweeKeys(session).keys_of(FULL.name) == [
            replace(key, caller=FULL.name, expires_at=NOON + HOUR, revoked_at=NOON),
            replace(new, caller=FULL.name),
        ]


def test_keys_share_the_file_and_the_commits_of_a_store(tmp_path: Path, make_key: MakeKey) -> None:
    with closing(PeeweeStore(tmp_path / "log.db")) as store:
        keys = PeeweeKeys(store.session)
        keys.add(SHOP, make_key())
        store.close()
        assert keys.caller("shop") == SHOP  # the next use opens the file again


def test_a_key_is_found_by_a_search_of_an_index(tmp_path: Path) -> None:
    with closing(SqliteSession(tmp_path / "keys.db")) as session:
        statements: list[str] = []
        reader = session.opened().reader.connection()
        reader.set_trace_callback(statements.append)
        assert PeeweeKeys(session).key("0123456789abcdef") is None
        reader.set_trace_callback(None)
        (statement,) = statements
        plan = [row[3] for row in reader.execute(f"EXPLAIN QUERY PLAN {statement}")]
    looks = [step for step in plan if step != "SCALAR SUBQUERY 1"]
    assert len(looks) == 2
    for look in looks:
        assert re.match(r"SEARCH t\d USING (COVERING )?INDEX sqlite_autoindex_api_key_1", look)


def test_an_error_of_the_database_holds_no_hash(tmp_path: Path, make_key: MakeKey) -> None:
    key = make_key(secret_hash=b"these-32-bytes-are-kept-secretly")
    with closing(SqliteSession(tmp_path / "keys.db")) as session:
        keys = PeeweeKeys(session)
        keys.add(SHOP, key)
        with pytest.raises(StorageUnavailable) as caught:  # nothing is half written, either
            keys.add(Caller(name="other"), replace(key, caller="other"))
        assert keys.callers() == [SHOP]
    assert "these-32" not in repr(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
