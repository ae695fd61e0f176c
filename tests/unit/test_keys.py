"""API keys: what they look like, and what an operator does with them."""

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from itertools import count

import pytest

from chatport.adapters import MemoryKeys, random_key_id, random_secret
from chatport.domain.callers import Caller, Role
from chatport.domain.errors import CallerExists, CallerNotFound, InvalidField
from chatport.domain.keys import ApiKey, Condition, Keys, PresentedKey, parse_key
from chatport.domain.ports import Clock

NOON = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
SECRET = "A-b_" * 10 + "xyz"
SHOP = Caller(name="shop")


@pytest.fixture
def store() -> MemoryKeys:
    return MemoryKeys()


@pytest.fixture
def keys(store: MemoryKeys, clock: Clock) -> Keys:
    numbers = count(1)
    new_secret: Callable[[], str] = lambda: SECRET  # noqa: E731
    return Keys(store, clock=clock, new_id=lambda: f"{next(numbers):016x}", new_secret=new_secret)


def key(**fields: datetime | None) -> ApiKey:
    return ApiKey(id="0" * 16, caller="shop", secret_hash=b"h" * 32, created_at=NOON, **fields)


# What a key looks like.


def test_a_key_says_which_it_is_and_proves_it_by_the_hash_of_its_secret() -> None:
    assert parse_key(f"cp_0123456789abcdef_{SECRET}") == PresentedKey(
        "0123456789abcdef", hashlib.sha256(SECRET.encode()).digest()
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "cp_",
        SECRET,
        f"0123456789abcdef_{SECRET}",
        f"sk_0123456789abcdef_{SECRET}",
        f"CP_0123456789abcdef_{SECRET}",
        f"cp_0123456789ABCDEF_{SECRET}",
        f"cp_0123456789abcde_{SECRET}",
        f"cp_0123456789abcdef0_{SECRET}",
        f"cp_0123456789abcdeg_{SECRET}",
        f"cp_0123456789abcdef-{SECRET}",
        f"cp_0123456789abcdef_{SECRET[:-1]}",
        f"cp_0123456789abcdef_{SECRET}x",
        f"cp_0123456789abcdef_{SECRET[:-1]}=",
        f"cp_0123456789abcdef_{SECRET[:-1]}é",
        f" cp_0123456789abcdef_{SECRET}",
        f"cp_0123456789abcdef_{SECRET}\n",
        "cp_" + "\u0661" * 10 + f"abcdef_{SECRET}",
    ],
)
def test_what_looks_otherwise_is_no_key(text: str) -> None:
    assert parse_key(text) is None


def test_the_randomness_that_is_shipped_makes_keys() -> None:
    for _ in range(200):
        assert parse_key(f"cp_{random_key_id()}_{random_secret()}") is not None
    assert len({random_secret() for _ in range(200)}) == 200


def test_a_key_is_good_until_it_expires_or_is_revoked() -> None:
    before, at = NOON + HOUR - timedelta(microseconds=1), NOON + HOUR
    assert key().is_good(at)
    assert key(expires_at=at).is_good(before)
    assert not key(expires_at=at).is_good(at)
    assert not key(revoked_at=at).is_good(before)
    assert key(expires_at=at).condition(before) is Condition.GOOD
    assert key(expires_at=at).condition(at) is Condition.EXPIRED
    assert key(expires_at=NOON, revoked_at=NOON).condition(at) is Condition.REVOKED


def test_the_hash_of_a_key_is_not_printed_with_it() -> None:
    assert "hash" not in repr(key())


# What an operator does.


def test_a_new_caller_gets_a_key_of_which_only_the_hash_is_kept(
    keys: Keys, store: MemoryKeys
) -> None:
    assert keys.create(SHOP) == f"cp_0000000000000001_{SECRET}"
    assert store.caller("shop") == SHOP
    assert store.keys_of("shop") == [
        ApiKey(
            id="0000000000000001",
            caller="shop",
            secret_hash=hashlib.sha256(SECRET.encode()).digest(),
            created_at=NOON,
        )
    ]
    assert SECRET not in repr(vars(store))


def test_a_key_may_have_an_end(keys: Keys, store: MemoryKeys) -> None:
    keys.create(SHOP, NOON + HOUR)
    keys.rotate("shop", HOUR, NOON + 2 * HOUR)
    assert [each.expires_at for each in store.keys_of("shop")] == [NOON + HOUR, NOON + 2 * HOUR]


def test_a_key_that_would_have_expired_already_is_not_made(keys: Keys, store: MemoryKeys) -> None:
    cairo = timezone(2 * HOUR)
    keys.create(SHOP)
    for end in (NOON, NOON - HOUR, datetime(2026, 11, 23, 14, 0, tzinfo=cairo)):
        with pytest.raises(InvalidField, match=r"^expires_at must be in the future\.$"):
            keys.create(Caller(name="other"), end)
        with pytest.raises(InvalidField):
            keys.rotate("shop", HOUR, end)
    assert store.callers() == [SHOP]
    assert len(store.keys_of("shop")) == 1


def test_a_name_is_given_once(keys: Keys) -> None:
    keys.create(SHOP)
    with pytest.raises(CallerExists):
        keys.create(Caller(name="shop", role=Role.ADMIN))


def test_anonymous_is_no_name_for_a_caller(keys: Keys, store: MemoryKeys) -> None:
    with pytest.raises(InvalidField, match=r"^name is reserved for requests without a key\.$"):
        keys.create(Caller(name="anonymous"))
    with pytest.raises(InvalidField):
        keys.change(Caller(name="anonymous"))
    assert store.is_empty()


def test_a_key_is_no_name_for_a_caller_since_names_are_shown(keys: Keys, store: MemoryKeys) -> None:
    with pytest.raises(InvalidField, match=r"^name must not be an API key, since names are no"):
        keys.create(Caller(name=f"cp_0123456789abcdef_{SECRET}"))
    assert store.is_empty()
    keys.create(Caller(name="cp_shop"))


@pytest.mark.parametrize("model", ["", " ", "a,b", "a\nb", "\x1b[2J", "a\0b", "\udcff", "\u202e"])
def test_a_model_has_a_name_that_can_stand_in_a_list(keys: Keys, model: str) -> None:
    keys.create(SHOP)
    with pytest.raises(InvalidField, match=r"^models must be names, without commas in them\.$"):
        keys.create(Caller(name="other", models=("good", model)))
    with pytest.raises(InvalidField):
        keys.change(Caller(name="shop", models=(model,)))
    keys.change(Caller(name="shop", models=("vendor/größer:1",)))


def test_rotating_gives_a_new_key_beside_the_old_for_a_while(keys: Keys, store: MemoryKeys) -> None:
    keys.create(SHOP)
    assert keys.rotate("shop", 24 * HOUR) == f"cp_0000000000000002_{SECRET}"
    assert [(each.id[-1], each.expires_at) for each in store.keys_of("shop")] == [
        ("1", NOON + 24 * HOUR),
        ("2", None),
    ]


def test_rotating_without_overlap_ends_the_old_keys_at_once(keys: Keys, store: MemoryKeys) -> None:
    keys.create(SHOP)
    keys.rotate("shop", timedelta(0))
    assert [each.is_good(NOON) for each in store.keys_of("shop")] == [False, True]


def test_a_caller_without_good_keys_gets_one_by_rotation(keys: Keys, store: MemoryKeys) -> None:
    keys.create(SHOP)
    keys.revoke("shop")
    keys.rotate("shop", HOUR)
    assert [each.condition(NOON) for each in store.keys_of("shop")] == ["revoked", "good"]


def test_an_overlap_is_not_negative(keys: Keys) -> None:
    keys.create(SHOP)
    with pytest.raises(InvalidField, match=r"^overlap must not be negative\.$"):
        keys.rotate("shop", timedelta(seconds=-1))


def test_revoking_a_caller_takes_all_its_keys(keys: Keys, store: MemoryKeys) -> None:
    keys.create(SHOP)
    keys.rotate("shop", HOUR)
    assert keys.revoke("shop") == 2
    assert keys.revoke("shop") == 0
    assert [each.revoked_at for each in store.keys_of("shop")] == [NOON, NOON]


def test_revoking_one_key_leaves_the_others(keys: Keys, store: MemoryKeys) -> None:
    keys.create(SHOP)
    keys.rotate("shop", HOUR)
    keys.revoke_key("0000000000000001")
    assert [each.condition(NOON) for each in store.keys_of("shop")] == ["revoked", "good"]


def test_a_change_leaves_the_keys(keys: Keys, store: MemoryKeys) -> None:
    keys.create(SHOP)
    keys.change(Caller(name="shop", limits=()))
    caller, (kept,) = keys.show("shop")
    assert caller == Caller(name="shop", limits=())
    assert kept.is_good(NOON)


def test_nobody_is_changed_rotated_revoked_or_shown_who_is_not_there(keys: Keys) -> None:
    for ask in (
        lambda: keys.change(SHOP),
        lambda: keys.rotate("shop", HOUR),
        lambda: keys.revoke("shop"),
        lambda: keys.revoke_key("0000000000000001"),
        lambda: keys.show("shop"),
    ):
        with pytest.raises(CallerNotFound):
            ask()


def test_all_callers_are_listed_in_the_order_of_their_names(
    keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(keys.list()) == []
    monkeypatch.setattr("chatport.domain.keys.PAGE", 2)
    for name in ("c", "a", "e", "b", "d"):
        keys.create(Caller(name=name))
    keys.rotate("b", HOUR)
    found = [(caller.name, len(kept)) for caller, kept in keys.list()]
    assert found == [("a", 1), ("b", 2), ("c", 1), ("d", 1), ("e", 1)]
