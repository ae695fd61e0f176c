"""Power cuts at any moment of a day's work: nothing that was acknowledged is lost, ever."""

import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from itertools import count
from operator import attrgetter
from pathlib import Path
from random import Random
from typing import Any

import pytest

from chatport.adapters import PeeweeStore, Script, ScriptedGateway, SystemClock, sqlite_connection
from chatport.domain import (
    ChatRequest,
    ChatService,
    Exchange,
    HistoryBounds,
    LogQuery,
    Relay,
    State,
)
from chatport.domain.relay import Once, RequestText
from chatport.domain.spending import NO_CLAIM, Claim
from torture import times

from .crash_vfs import Ack, Delete, Disk, Log, Sync, Truncate, Write, recording

PARTS = 4
CUTS = times(1_000, 20_000) // PARTS
CONTROL_CUTS = 60
LONG = "long enough for a checkpoint " * 200
LATER = datetime.now(UTC) + timedelta(days=1)


class Acknowledging(PeeweeStore):
    """Writes into the log of the disk what it has told its caller to be kept."""

    def __init__(self, path: Path, log: Log) -> None:
        super().__init__(path)
        self._log = log

    def begin(self, exchange: Exchange, bounds: HistoryBounds, claim: Claim = NO_CLAIM) -> Any:
        history = super().begin(exchange, bounds, claim)
        self._log.append(Ack(exchange))
        return history

    def checkpoint(self, exchange: Exchange) -> None:
        super().checkpoint(exchange)
        self._log.append(Ack(exchange))

    def finish(self, exchange: Exchange) -> None:
        super().finish(exchange)
        self._log.append(Ack(exchange))

    def erase(self, caller: str, user_id: str | None) -> int:
        self._log.append(Ack(("erasing", user_id)))
        erased = super().erase(caller, user_id)
        self._log.append(Ack(("erased", user_id)))
        return erased


# The work


def work(path: Path) -> Log:
    """Return what the disk saw of some 60 exchanges of every kind."""
    with recording() as log, closing(Acknowledging(path, log)) as store:
        ids = count()
        service = ChatService(
            store=store,
            gateway=ScriptedGateway(Script(chunks=("An ", "answer", "."))),
            clock=SystemClock(),
            new_id=lambda: f"exchange-{next(ids)}",
            model="model-1",
        )
        for n in range(12):
            service.reply(ChatRequest(prompt=f"Question {n}", user_id=f"user-{n % 4}"))
        for n in range(8):
            service.reply(relayed(n))
        interleave_streams(store, service)
        talk_at_once(service)
        store.erase("anonymous", "user-0")  # empties the write-ahead log, too
        for n in range(12):
            service.reply(ChatRequest(prompt=f"Later question {n}", user_id=f"user-{1 + n % 3}"))
        abandoned = service.stream(ChatRequest(prompt="And then?", user_id="impatient"))
        next(abandoned)
    return log


def relayed(n: int) -> ChatRequest:
    text = RequestText(messages=[f'"message {m}"' for m in range(n + 1)], parameters="{}")
    relay = Relay(model="model-1", body=b"{}", text=text)
    once = Once(key=f"key-{n}", request_hash=f"hash-{n}")
    return ChatRequest(prompt=f"message {n}", relay=relay, once=once)


def interleave_streams(store: PeeweeStore, short: ChatService) -> None:
    long = ChatService(
        store=store,
        gateway=ScriptedGateway(Script(chunks=(LONG, LONG, "The end."))),
        clock=SystemClock(),
        new_id=(f"long-{n}" for n in count()).__next__,
        model="model-1",
    )
    for _ in range(3):
        requests = [ChatRequest(prompt="Tell me more", user_id=f"reader-{n}") for n in range(2)]
        streams = [service.stream(request) for request in requests for service in (long,)]
        streams.append(short.stream(ChatRequest(prompt="Briefly", user_id="reader-2")))
        while [stream for stream in streams if stream.next_delta() is not None]:
            pass
    left = long.stream(ChatRequest(prompt="Never mind", user_id="reader-3"))
    next(left)
    left.close()


def talk_at_once(service: ChatService) -> None:
    """Talk from several threads, whose commits are made together."""

    def talk(n: int) -> None:
        for turn in range(4):
            service.reply(ChatRequest(prompt=f"Turn {turn}", user_id=f"thread-{n}"))

    threads = [threading.Thread(target=talk, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# The look at what is left


class Promises:
    """What was acknowledged up to a point, and what may be there besides."""

    def __init__(self, log: Log) -> None:
        told = [event.what for event in log if isinstance(event, Ack)]
        self._final = {last.id: last for last in told if isinstance(last, Exchange)}
        self._kept: dict[str, Exchange] = {}
        self._going: set[str] = set()
        self._gone: set[str] = set()

    def make(self, what: Any) -> None:
        if isinstance(what, Exchange):
            self._kept[what.id] = what
        elif what[0] == "erasing":
            self._going.add(what[1])
        else:
            self._gone.add(what[1])

    def broken_by(self, store: PeeweeStore, rows: Sequence[str]) -> Iterator[str]:
        """Yield what is lost, wrong, doubled or made up in a recovered store."""
        if len(set(rows)) != len(rows):
            yield "doubled"
        stored = {found.id: found for found in self._found_in(store)}
        for name in set(rows) ^ stored.keys():
            yield f"{name} is only in the table or only in the log"
        for name in stored.keys() - self._final.keys():
            yield f"{name} came from nowhere"
        for promised in self._kept.values():
            found = stored.get(promised.id)
            if found is not None and found.user_id in self._gone:
                yield f"{promised.id} was erased"
            elif found is None and promised.user_id not in self._going:
                yield f"{promised.id} is lost"
            elif found is not None and not self._is_kept(promised, found):
                yield f"{promised.id} is {found.state}, not {promised.state}"

    def _found_in(self, store: PeeweeStore) -> Iterator[Exchange]:
        """Yield what is stored, whole."""
        for page in store.search(LogQuery(limit=1_000)):
            told = self._final.get(page.id)
            whole = told is not None and told.request is not None
            yield store.find(page.id) or page if whole else page

    def _is_kept(self, promised: Exchange, found: Exchange) -> bool:
        final = self._final[promised.id]
        if promised.state is not State.OPEN or found.state is not State.INTERRUPTED:
            return _TOLD(found) == _TOLD(final) and tuple(found.answer) == tuple(final.answer)
        same = (found.prompt, found.request) == (promised.prompt, promised.request)
        return same and found.reply.startswith(promised.reply)


_FILLED_IN_BY_THE_STORE = {"number", "context_from"}

_TOLD = attrgetter(
    *({each.name for each in fields(Exchange)} - _FILLED_IN_BY_THE_STORE - {"answer"})
)
"""What the store was told of an exchange, but for its answer, which is some sequence."""


def faults(folder: Path, files: Mapping[str, bytes], promises: Promises) -> list[str]:
    """Open what a power cut has left; return everything that is wrong with it."""
    for old in folder.iterdir():
        old.unlink()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    path = folder / "log.db"
    try:
        with closing(PeeweeStore(path)) as store:
            store.recover(LATER)
            with closing(sqlite3.connect(path)) as database:
                [(check,)] = database.execute("PRAGMA quick_check(1)")
                rows = database.execute("SELECT public_id, state FROM exchange").fetchall()
                [(calls,)] = database.execute("SELECT total(calls) FROM usage")
            found = list(promises.broken_by(store, [name for name, _ in rows]))
    except Exception as error:  # noqa: BLE001  # whatever it is, the file cannot be used
        return [f"unusable: {error!r}"]
    if check != "ok":
        found.append(f"unusable: {check}")
    if any(state == State.OPEN for _, state in rows):
        found.append("open after recovery")
    if calls < len(rows):
        found.append("not all usage is counted")
    return found


def cut(log: Log, cuts: int, folder: Path, seed: int = 0) -> Iterator[str]:
    """Cut the power at random moments; yield the faults, each with its moment."""
    random = Random(seed)
    moments = sorted(random.randrange(len(log) + 1) for _ in range(cuts))
    disk, promises, at = Disk(), Promises(log), 0
    folder.mkdir()
    for number, moment in enumerate(moments):
        for event in log[at:moment]:
            disk.apply(event)
            if isinstance(event, Ack):
                promises.make(event.what)
        at = moment
        files = disk.after_power_cut(Random(f"{seed} {number}"))
        for fault in faults(folder, files, promises):
            yield f"cut {number} at {moment}: {fault}"


@pytest.fixture
def quick_look(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Return what changes the pragmas; a small log, so that the main file is written often."""
    monkeypatch.setitem(sqlite_connection.PRAGMAS, "wal_autocheckpoint", 40)
    return monkeypatch


def with_synchronous(
    level: str, monkeypatch: pytest.MonkeyPatch, folder: Path, cuts: int, seed: int = 0
) -> tuple[Log, Iterator[str]]:
    monkeypatch.setitem(sqlite_connection.PRAGMAS, "synchronous", level)
    log = work(folder / "log.db")
    monkeypatch.setitem(sqlite_connection.PRAGMAS, "synchronous", "off")  # of the copies
    return log, cut(log, cuts, folder / "after", seed)


@pytest.mark.parametrize("part", range(PARTS))
def test_no_power_cut_loses_what_was_acknowledged(
    quick_look: pytest.MonkeyPatch, tmp_path: Path, part: int
) -> None:
    log, found = with_synchronous("full", quick_look, tmp_path, CUTS, seed=part)
    assert list(found) == []
    told = [event.what for event in log if isinstance(event, Ack)]
    ended = [what for what in told if isinstance(what, Exchange) and what.state is not State.OPEN]
    assert len(ended) >= 55
    changed = {(type(event), event.file[3:]) for event in log if not isinstance(event, Ack)}
    assert changed >= {(Write, ".db"), (Sync, ".db"), (Write, ".db-wal"), (Sync, ".db-wal")}
    assert changed >= {(Truncate, ".db-wal"), (Delete, ".db-wal"), (Delete, ".db-journal")}


def test_without_a_sync_for_each_commit_power_cuts_lose_what_was_acknowledged(
    quick_look: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _, faults_found = with_synchronous("normal", quick_look, tmp_path, CONTROL_CUTS)
    found = list(faults_found)
    assert any("is lost" in fault for fault in found)
    assert any("is interrupted, not completed" in fault for fault in found)
    assert not any("unusable" in fault for fault in found)


def test_without_any_sync_power_cuts_destroy_the_file(
    quick_look: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _, found = with_synchronous("off", quick_look, tmp_path, CONTROL_CUTS)
    assert any("unusable" in fault for fault in found)  # one is enough: the rest are not tried
