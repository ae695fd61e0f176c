"""Killed before each statement, call and word of each kind of work: what was told is kept."""

import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import peewee
import pytest
from playhouse.migrations import Runner

from chatport.adapters import PeeweeKeys, PeeweeStore, ScriptedGateway
from chatport.adapters.schema import MIGRATIONS
from chatport.domain import ChatRequest, LogQuery, State
from chatport.domain.errors import UpstreamTimeout
from chatport.domain.keys import parse_key
from torture import TORTURE

from .deadly import entries
from .victims import Victims
from .works import ANSWER, FAILURE, LONG, service_of

CALLS_BEFORE = 3
READS = {"SELECT", "PRAGMA", "WITH", "--"}


@pytest.fixture(scope="module")
def victims() -> Iterator[Victims]:
    """Return what starts those who are killed."""
    with closing(Victims()) as victims:
        yield victims


# The work, and what was there before


def two_turns(path: Path, _: Victims) -> None:
    """Leave behind two completed turns, of which one is bob's, and a request that failed."""
    with closing(PeeweeStore(path)) as store:
        service = service_of(store, ScriptedGateway(ANSWER, ANSWER, FAILURE), "before")
        service.reply(ChatRequest(prompt="Before", user_id="ada"))
        service.reply(ChatRequest(prompt="Before", user_id="bob"))
        with pytest.raises(UpstreamTimeout):
            service.reply(ChatRequest(prompt="Failed", user_id="bob"))


def a_killed_process(path: Path, victims: Victims) -> None:
    """Leave behind what somebody leaves who is killed during two streams."""
    two_turns(path, victims)
    assert victims.dies("two streams that are killed", path.parent)
    path.with_name("diary").unlink()


WORKS: dict[str, tuple[Callable[[Path, Victims], None], str]] = {
    "a reply beside what a killed process left": (a_killed_process, "a reply"),
    "a recovery": (a_killed_process, "a recovery"),
    **{
        work: (two_turns, work)
        for work in (
            *("a reply", "a stream", "a stream that the client leaves", "a call that fails"),
            *("a request under a key", "three at once", "an erasure", "a purge", "a key"),
        )
    },
}


# The look at what is left


class Promises:
    """What a dead process has told others, each compared with what is stored."""

    def __init__(self, store: PeeweeStore) -> None:
        self._store = store
        self._stored = {each.id: each for each in store.search(LogQuery(limit=1_000))}
        self._said: dict[str, str] = {}

    def check(self, told: Sequence[Sequence[Any]]) -> None:
        for what, *facts in told:
            getattr(self, what)(*facts)
        for name, text in self._said.items():
            kept = self._stored[name].reply
            assert text.startswith(kept) or kept.startswith(text)
            assert len(text) - len(kept) <= len(LONG), "more is lost than one checkpoint"

    def called(self, prompt: str) -> None:
        assert prompt in {each.prompt for each in self._stored.values()}, "called unlogged"

    def said(self, name: str, text: str) -> None:
        self._said[name] = self._said.get(name, "") + text

    def answered(self, name: str, text: str) -> None:
        self.ended(name, "completed")
        assert self._stored[name].reply == text

    def ended(self, name: str, state: str) -> None:
        assert self._stored[name].state == state

    def erased(self, user_id: str) -> None:
        assert user_id not in {each.user_id for each in self._stored.values()}

    def purged(self) -> None:
        assert not self._stored

    def recovered(self) -> None:
        assert self._stored["killed-0"].state is State.INTERRUPTED
        assert self._stored["killed-0"].reply.startswith(LONG)

    def keyed(self, key: str) -> None:
        presented = parse_key(key)
        assert presented is not None
        assert PeeweeKeys(self._store.session).key(presented.id) is not None


def check_sums(path: Path, calls_before: int) -> None:
    """Look that nothing is open or reserved, and that each exchange was counted once."""
    with closing(sqlite3.connect(path)) as database:

        def value(query: str) -> Any:
            return database.execute(f"SELECT {query}").fetchone()[0]

        assert database.execute("PRAGMA quick_check").fetchall() == [("ok",)]
        assert value("count(*) FROM exchange WHERE state = 'open'") == 0
        assert value("total(reserved_tokens + reserved_calls) FROM spending") == 0
        new = value("count(*) FROM exchange WHERE public_id NOT LIKE 'before%'")
        assert value("total(calls) FROM usage") == calls_before + new
        spent = value("total(tokens) FROM spending WHERE caller = '' AND period LIKE '____-__'")
        assert spent == value("total(prompt_tokens + completion_tokens) FROM usage")


def check_next_turn(store: PeeweeStore) -> None:
    """Ask once more: all turns that were completed go along, and no others."""
    gateway = ScriptedGateway(ANSWER)
    log = store.search(LogQuery(limit=1_000))
    passed_on = {
        each.id for each in map(store.find, [row.id for row in log]) if each and each.request
    }
    for user_id in ("ada", "bob"):
        past = [
            text
            for each in store.conversation("anonymous", user_id, before=None, limit=100)
            if each.state is State.COMPLETED and each.id not in passed_on
            for text in (each.prompt, each.reply)
        ]
        service_of(store, gateway, f"next-{user_id}").reply(
            ChatRequest(prompt="Next", user_id=user_id)
        )
        assert [text for _, text in gateway.calls[-1].messages] == [*past, "Next"]


def places_of(folder: Path, work: str, victims: Victims) -> list[str]:
    """Return where a process passes that does the work to its end."""
    assert not victims.dies(work, folder)
    return [entry[1] for entry in entries(folder / "diary") if entry[0] == "reached"]


def worth_a_death(places: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Yield the places; without torture none within a transaction, and none before a read.

    Whoever dies there leaves what is left by who dies at the commit, or at the next word.
    """
    within = False
    for number, place in enumerate(places):
        word = place.split()[0]
        if TORTURE or word.islower() or word == "COMMIT" or not (within or word in READS):
            yield number, place
        within = word == "BEGIN" or (within and word != "COMMIT")


def fresh(template: Path, folder: Path) -> Path:
    """Return a new copy of a folder."""
    shutil.rmtree(folder, ignore_errors=True)
    return Path(shutil.copytree(template, folder))


@pytest.mark.parametrize("name", WORKS)
def test_whoever_is_killed_has_kept_every_word(name: str, victims: Victims, tmp_path: Path) -> None:
    prepare, work = WORKS[name]
    template = tmp_path / "template"
    template.mkdir()
    prepare(template / "log.db", victims)
    folder = fresh(template, tmp_path / "place")
    places = places_of(folder, work, victims)
    assert len(places) >= 10
    for number, place in worth_a_death(places):
        fresh(template, folder)
        if not victims.dies(work, folder, number):
            assert name == "three at once"  # whose commits come in another order each time
        check_after(folder, f"{name}, killed at {number}: {place}")


def check_after(folder: Path, where: str) -> None:
    path = folder / "log.db"
    told = [entry for entry in entries(folder / "diary") if entry[0] != "reached"]
    try:
        with closing(PeeweeStore(path)) as store:
            store.recover(datetime.now(UTC))
            Promises(store).check(told)
            check_sums(path, CALLS_BEFORE)
            check_next_turn(store)
    except Exception as error:
        error.add_note(where)
        raise


# Migrations


def upgraded(path: Path, to: str | None) -> None:
    """Bring a file to an older version, with an exchange in it."""
    with peewee.SqliteDatabase(str(path)) as database:
        Runner(database, str(MIGRATIONS)).up(to)


def schema_of(path: Path) -> list[Any]:
    """Return all but the list of what was done, which is made before anything is done."""
    query = "SELECT name, sql FROM sqlite_master WHERE tbl_name != 'schema_migration'"
    with closing(sqlite3.connect(path)) as database:
        return sorted(database.execute(query), key=str)


def up_to_what_was_passed(places: list[str], passed: set[tuple[str, ...]]) -> list[str]:
    """Return the places up to the first commit after which all is as in an earlier run.

    There, the same migrations have the same statements before them, on the same schema.
    """
    commits = [number for number, place in enumerate(places) if place == "COMMIT"]
    tails = {number: tuple(places[number:]) for number in commits}
    known = next((number for number in commits if tails[number] in passed), len(places))
    passed.update(tails.values())
    return places if TORTURE else places[: known + 2]


VERSIONS = sorted(migration.stem for migration in MIGRATIONS.glob("[0-9]*.py"))


@pytest.mark.long
def test_a_schema_is_old_or_new_and_never_half(victims: Victims, tmp_path: Path) -> None:
    whole: list[list[Any]] = [[]]
    for version in VERSIONS:
        upgraded(tmp_path / version, version)
        whole.append(schema_of(tmp_path / version))
    folder, passed = tmp_path / "place", set[tuple[str, ...]]()
    for before in ("", *VERSIONS[:-1]):
        template = tmp_path / f"from {before}"
        template.mkdir()
        if before:
            shutil.copy(tmp_path / before, template / "log.db")
        fresh(template, folder)
        places = places_of(folder, "an opening", victims)
        final = schema_of(folder / "log.db")
        for number, place in worth_a_death(up_to_what_was_passed(places, passed)):
            fresh(template, folder)
            assert victims.dies("an opening", folder, number)
            where = f"from {before or 'nothing'}, killed at {number}: {place}"
            assert schema_of(folder / "log.db") in whole, where
            with closing(PeeweeStore(folder / "log.db")) as store:
                store.check()
            assert schema_of(folder / "log.db") == final, where
