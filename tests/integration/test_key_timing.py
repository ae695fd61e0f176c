"""How long a refusal takes says nothing of whether there is a key of that id."""

import gc
import math
import random
import secrets
import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from pytest_mock import MockerFixture

from chatport.adapters import PeeweeKeys, SystemClock, peewee_keys, random_key_id, random_secret
from chatport.adapters.peewee_keys import _key
from chatport.adapters.sqlite_session import SqliteSession
from chatport.domain.allowance import Allowance, Charge
from chatport.domain.callers import Caller
from chatport.domain.doorkeeper import Doorkeeper
from chatport.domain.errors import RateLimited
from chatport.domain.keys import ApiKey, Keys
from chatport.domain.ports import LimitCounter
from torture import times

CALLS = times(2_000, 10_000)
"""Of each kind in a round: with 10,000, a difference of 0.1 us in 25 is told from noise; 2,000
bring `PlainLookup` to a t of 13 to 22, and what does not leak to 2 at most."""

LEAK = 4.5
"""Of Welch's t: as in the tests of constant time of dudect, eprint.iacr.org/2016/1123."""

TRIMMED = 0.9
"""The slowest tenth waited for something else: another process, an interrupt."""

ROUNDS = 5
"""Of which the median counts: a busy machine once in a while brings one over LEAK, but what is
left out for an unknown id (the hash, a row, the look at the expiry) brings all of them."""

PLAIN = """
SELECT id, caller, secret_hash, created_at, expires_at, revoked_at FROM api_key WHERE id = ?
"""


KEYS = 200
"""With few of them it is seen where in the index the known ones happen to stand."""


class AlwaysReached(LimitCounter):
    """The limit of failures is reached, so that only the look at the key takes time."""

    def take(self, charges: Sequence[Charge]) -> Sequence[Allowance]:
        return [Allowance(charge=c, remaining=0, reset_seconds=9, admitted=False) for c in charges]

    def correct(self, taken: Sequence[Allowance], amounts: Sequence[int]) -> None:
        raise NotImplementedError


class PlainLookup(PeeweeKeys):
    """What one would write first: where there is no such key, no row is read and made a record."""

    def key(self, key_id: str) -> ApiKey | None:
        rows = self._session.read(lambda file: list(file.reader.execute_sql(PLAIN, [key_id])))
        return _key(rows[0]) if rows else None


@pytest.fixture
def session(tmp_path: Path) -> Iterator[SqliteSession]:
    with closing(SqliteSession(tmp_path / "keys.db")) as opened:
        yield opened


def known_ids(store: PeeweeKeys) -> list[str]:
    """Fill the store with keys, and return their ids."""
    keys = Keys(store, clock=SystemClock(), new_id=random_key_id, new_secret=random_secret)
    callers = [Caller(name=f"caller-{n}") for n in range(KEYS)]
    with ThreadPoolExecutor(max_workers=50) as together:  # who share their commits
        return [key.split("_")[1] for key in together.map(keys.create, callers)]


def welch_t(door: Doorkeeper, known: Sequence[str]) -> float:
    """Return how much longer unknown ids take than wrong secrets, in standard errors."""
    calls = [
        (kind, f"Bearer cp_{key_id}_{random_secret()}")
        for _ in range(CALLS)
        for kind, key_id in enumerate((random_key_id(), secrets.choice(known)))
    ]
    random.shuffle(calls)
    took: tuple[list[int], list[int]] = ([], [])
    for kind, authorization in calls:
        began = time.perf_counter_ns()
        try:
            door.authenticate(authorization, "127.0.0.1")
        except RateLimited:
            took[kind].append(time.perf_counter_ns() - began)
    return _t(*_trimmed(*took))


def _trimmed(*samples: list[int]) -> list[list[int]]:
    together = sorted(value for sample in samples for value in sample)
    slowest = together[int(TRIMMED * len(together))]
    return [[value for value in sample if value < slowest] for sample in samples]


def _t(one: Sequence[int], other: Sequence[int]) -> float:
    spread = math.sqrt(sum(statistics.variance(each) / len(each) for each in (one, other)))
    return (statistics.fmean(one) - statistics.fmean(other)) / spread


def usual_t(store: PeeweeKeys) -> float:
    """Return the median over some rounds of what `welch_t` says, without its sign."""
    door = Doorkeeper(
        store,
        counter=AlwaysReached(),
        clock=SystemClock(),
        open_without_keys=False,
        refused=lambda _caller, _rule, _at: None,
    )
    known = known_ids(store)
    gc.disable()
    try:
        return statistics.median(abs(welch_t(door, known)) for _ in range(ROUNDS))
    finally:
        gc.enable()


def test_an_unknown_id_takes_as_long_as_a_wrong_secret(session: SqliteSession) -> None:
    assert usual_t(PeeweeKeys(session)) < LEAK


def test_one_row_is_read_whatever_the_id(session: SqliteSession, mocker: MockerFixture) -> None:
    store = PeeweeKeys(session)
    (known, *_) = known_ids(store)
    read = mocker.spy(peewee_keys, "_key")
    for key_id in (known, "0" * 16, "f" * 16, "", random_key_id()):
        read.reset_mock()
        found = store.key(key_id)
        assert (found is not None) == (key_id == known)
        assert read.call_count == 1


def test_a_leak_would_be_seen(session: SqliteSession) -> None:
    assert usual_t(PlainLookup(session)) > LEAK
