"""Killed before each statement, call and word of each kind of work: what was told is kept."""

import os
import shutil
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import peewee
import pytest
from playhouse.migrations import Runner

from chatport.adapters import (
    PeeweeKeys,
    PeeweeStore,
    Script,
    ScriptedGateway,
    SqliteSession,
    SystemClock,
    random_key_id,
    random_secret,
)
from chatport.adapters.schema import MIGRATIONS
from chatport.domain import (
    Budget,
    Caller,
    ChatRequest,
    ChatService,
    LogQuery,
    RateLimiter,
    Relay,
    RequestText,
    State,
    Unit,
    Usage,
)
from chatport.domain.errors import UpstreamTimeout
from chatport.domain.keys import Keys, parse_key
from chatport.domain.relay import Once
from chatport.domain.retention import Retention
from chatport.domain.rules import Period
from torture import TORTURE

from .deadly import Diary, Witnessed, dies, entries

LONG = "more than a checkpoint " * 200
USAGE = Usage(prompt_tokens=10, completion_tokens=5)
ANSWER = Script(chunks=("An ", "answer."), usage=USAGE)
LIFE_STORY = Script(chunks=(LONG, LONG, "The end."), usage=USAGE)
FAILURE = Script(raises=UpstreamTimeout())
BUDGET = Budget(amount=10**9, unit=Unit.TOKENS, period=Period.MONTH)
CALLS_BEFORE = 3


def service_of(store: PeeweeStore, gateway: ScriptedGateway, prefix: str) -> ChatService:
    ids = count()
    return ChatService(
        store=store,
        gateway=gateway,
        clock=SystemClock(),
        new_id=lambda: f"{prefix}-{next(ids)}",
        limiter=RateLimiter(user=[BUDGET], total=[BUDGET]),
        model="model-1",
        max_output_tokens=500,
    )


def relayed(once: Once) -> ChatRequest:
    text = RequestText(messages=['"first"', '"asked under a key"'], parameters="{}")
    relay = Relay(model="model-1", body=b"asked under a key", text=text)
    return ChatRequest(prompt="asked under a key", relay=relay, once=once, user_id="ada")


ONCE = Once(key="key-1", request_hash="hash-1")


# The work, and what was there before


def two_turns(path: Path) -> None:
    """Leave behind two completed turns, of which one is bob's, and a request that failed."""
    with closing(PeeweeStore(path)) as store:
        service = service_of(store, ScriptedGateway(ANSWER, ANSWER, FAILURE), "before")
        service.reply(ChatRequest(prompt="Before", user_id="ada"))
        service.reply(ChatRequest(prompt="Before", user_id="bob"))
        with pytest.raises(UpstreamTimeout):
            service.reply(ChatRequest(prompt="Failed", user_id="bob"))


def a_killed_process(path: Path) -> None:
    """Leave behind what somebody leaves who is killed during two streams."""
    two_turns(path)

    def streams(_: Diary) -> None:
        service = service_of(PeeweeStore(path), ScriptedGateway(LIFE_STORY), "killed")
        for user_id in ("ada", "bob"):
            stream = service.stream(ChatRequest(prompt="Killed", user_id=user_id))
            next(stream)
            next(stream)
        os.kill(os.getpid(), signal.SIGKILL)

    assert dies(streams, path.with_name("diary"), None)
    path.with_name("diary").unlink()


def a_reply(store: PeeweeStore, diary: Diary) -> None:
    service = service_of(store, Witnessed(diary, ANSWER), "new")
    reply = service.reply(ChatRequest(prompt="Question", user_id="ada"))
    diary.tells("answered", reply.exchange_id, reply.text)


def a_stream(store: PeeweeStore, diary: Diary) -> None:
    service = service_of(store, Witnessed(diary, LIFE_STORY), "new")
    stream = service.stream(ChatRequest(prompt="Question", user_id="ada"))
    for text in stream:
        diary.tells("said", stream.exchange_id, text)
    diary.tells("answered", stream.exchange_id, LONG + LONG + "The end.")


def a_stream_that_the_client_leaves(store: PeeweeStore, diary: Diary) -> None:
    service = service_of(store, Witnessed(diary, LIFE_STORY), "new")
    stream = service.stream(ChatRequest(prompt="Question", user_id="ada"))
    diary.tells("said", stream.exchange_id, next(stream))
    stream.close()
    diary.tells("ended", stream.exchange_id, "cancelled")


def a_call_that_fails(store: PeeweeStore, diary: Diary) -> None:
    service = service_of(store, Witnessed(diary, FAILURE), "new")
    try:
        service.reply(ChatRequest(prompt="Question", user_id="ada"))
    except UpstreamTimeout:
        diary.tells("ended", "new-0", "failed")


def a_request_under_a_key(store: PeeweeStore, diary: Diary) -> None:
    service = service_of(store, Witnessed(diary, ANSWER), "new")
    for _ in range(2):
        reply = service.reply(relayed(ONCE))
        diary.tells("answered", reply.exchange_id, reply.text)


def three_at_once(store: PeeweeStore, diary: Diary) -> None:
    service = service_of(store, Witnessed(diary, ANSWER), "new")

    def talk(user_id: str) -> None:
        reply = service.reply(ChatRequest(prompt=f"Question of {user_id}", user_id=user_id))
        diary.tells("answered", reply.exchange_id, reply.text)

    threads = [threading.Thread(target=talk, args=(name,)) for name in ("ada", "bob", "eve")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def an_erasure(store: PeeweeStore, diary: Diary) -> None:
    store.erase("anonymous", "bob")
    diary.tells("erased", "bob")


def a_purge(store: PeeweeStore, diary: Diary) -> None:
    retention = Retention(store, SystemClock())
    for _ in retention.purge(retention.span()):
        pass
    diary.tells("purged")


def a_recovery(store: PeeweeStore, diary: Diary) -> None:
    store.recover(datetime.now(UTC))
    diary.tells("recovered")


def a_key(store: PeeweeStore, diary: Diary) -> None:
    keys = keys_of(store.session)
    diary.tells("keyed", keys.create(Caller(name="shop")))
    diary.tells("keyed", keys.rotate("shop", timedelta()))


WORKS: dict[str, tuple[Callable[[Path], None], Callable[[PeeweeStore, Diary], None]]] = {
    "a reply": (two_turns, a_reply),
    "a stream": (two_turns, a_stream),
    "a stream that the client leaves": (two_turns, a_stream_that_the_client_leaves),
    "a call that fails": (two_turns, a_call_that_fails),
    "a request under a key": (two_turns, a_request_under_a_key),
    "three at once": (two_turns, three_at_once),
    "an erasure": (two_turns, an_erasure),
    "a purge": (two_turns, a_purge),
    "a recovery": (a_killed_process, a_recovery),
    "a reply beside what a killed process left": (a_killed_process, a_reply),
    "a key": (two_turns, a_key),
}


# The look at what is left


def keys_of(session: SqliteSession) -> Keys:
    return Keys(
        PeeweeKeys(session), clock=SystemClock(), new_id=random_key_id, new_secret=random_secret
    )


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


def places_of(folder: Path, work: Callable[[Diary], None]) -> list[str]:
    """Return where a process passes that does the work to its end."""
    assert not dies(work, folder / "diary", None)
    return [entry[1] for entry in entries(folder / "diary") if entry[0] == "reached"]


def worth_a_death(places: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Yield the places; without torture not those before a read, which leave what others leave."""
    for number, place in enumerate(places):
        if TORTURE or not place.startswith(("SELECT", "PRAGMA", "WITH", "--")):
            yield number, place


def fresh(template: Path, folder: Path) -> Path:
    """Return a new copy of a folder."""
    shutil.rmtree(folder, ignore_errors=True)
    return Path(shutil.copytree(template, folder))


@pytest.mark.parametrize("name", WORKS)
def test_whoever_is_killed_has_kept_every_word(name: str, tmp_path: Path) -> None:
    prepare, work = WORKS[name]
    template = tmp_path / "template"
    template.mkdir()
    prepare(template / "log.db")
    folder = tmp_path / "place"

    def does(diary: Diary) -> None:
        work(PeeweeStore(folder / "log.db"), diary)

    fresh(template, folder)
    places = places_of(folder, does)
    assert len(places) >= 10
    for number, place in worth_a_death(places):
        fresh(template, folder)
        if not dies(does, folder / "diary", number):
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


VERSIONS = sorted(migration.stem for migration in MIGRATIONS.glob("[0-9]*.py"))


@pytest.mark.long
def test_a_schema_is_old_or_new_and_never_half(tmp_path: Path) -> None:
    whole: list[list[Any]] = [[]]
    for version in VERSIONS:
        upgraded(tmp_path / version, version)
        whole.append(schema_of(tmp_path / version))
    folder = tmp_path / "place"

    def opens(_: Diary) -> None:
        PeeweeStore(folder / "log.db").check()

    for before in ("", *VERSIONS[:-1]):
        template = tmp_path / f"from {before}"
        template.mkdir()
        if before:
            shutil.copy(tmp_path / before, template / "log.db")
        fresh(template, folder)
        places = places_of(folder, opens)
        final = schema_of(folder / "log.db")
        for number, place in worth_a_death(places):
            fresh(template, folder)
            assert dies(opens, folder / "diary", number)
            where = f"from {before or 'nothing'}, killed at {number}: {place}"
            assert schema_of(folder / "log.db") in whole, where
            with closing(PeeweeStore(folder / "log.db")) as store:
                store.check()
            assert schema_of(folder / "log.db") == final, where
