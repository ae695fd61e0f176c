"""What PeeweeStore promises beyond the port: durability, cost, faults, and real processes."""

import errno
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import peewee
import pytest
from filelock import FileLock
from playhouse.migrations import Runner
from playhouse.schema_diff import diff_models
from pytest_mock import MockerFixture

from chatport.adapters import (
    PeeweeStore,
    group_commit,
    open_files,
    schema,
    sqlite_faults,
    sqlite_retention,
)
from chatport.adapters.exchange_table import ExchangeRow, RefusalRow, timestamp
from chatport.adapters.group_commit import GroupCommit
from chatport.adapters.request_texts import MessageChainRow, MessageTextRow
from chatport.adapters.schema import MIGRATIONS, uri
from chatport.adapters.sqlite_ledger import RESERVE
from chatport.domain import Exchange, HistoryBounds, LogQuery, State, Usage
from chatport.domain.errors import (
    ConversationBusy,
    IdempotencyInProgress,
    StorageBusy,
    StorageCorrupt,
    StorageFull,
    StorageReadOnly,
    StorageTooNew,
    StorageUnavailable,
)
from chatport.domain.relay import Once, RequestText

BOUNDS = HistoryBounds()
PATIENCE_SECONDS = 10
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
REQUEST = RequestText(messages=['{"role":"user"}'], parameters="{}")


def exchange(n: int = 0, user_id: str = "ada", **fields: Any) -> Exchange:
    started_at = NOW + timedelta(seconds=n)
    values: dict[str, Any] = {
        "id": f"{user_id}-{n}",
        "caller": "anonymous",
        "user_id": user_id,
        "route": "test",
        "model": "model-1",
        "prompt": f"prompt {n}",
        "started_at": started_at,
        "lease_until": started_at + timedelta(hours=1),
    }
    return Exchange(**{**values, **fields})


def ended(open_exchange: Exchange, reply: str = "reply") -> Exchange:
    return replace(
        open_exchange,
        state=State.COMPLETED,
        reply=reply,
        finish_reason="stop",
        turn_tokens=1,
        finished_at=open_exchange.started_at + timedelta(seconds=1),
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


@pytest.fixture
def store(path: Path) -> Iterator[PeeweeStore]:
    with closing(PeeweeStore(path)) as opened:
        yield opened


# Durability


def test_every_commit_is_synced_to_the_disk(store: PeeweeStore) -> None:
    writer = store.session.opened().writer
    assert writer.execute_sql("PRAGMA synchronous").fetchone() == (2,)  # FULL
    assert writer.execute_sql("PRAGMA journal_mode").fetchone() == ("wal",)


def test_what_is_begun_and_finished_is_in_the_file_when_the_call_returns(
    store: PeeweeStore, path: Path
) -> None:
    def stored() -> Any:
        with closing(sqlite3.connect(path)) as other:
            return other.execute("SELECT state, reply FROM exchange").fetchall()

    store.begin(exchange(), BOUNDS)
    assert stored() == [("open", "")]
    store.checkpoint(replace(exchange(), reply="rep"))
    assert stored() == [("open", "rep")]
    store.finish(ended(exchange()))
    assert stored() == [("completed", "reply")]


def test_waiting_callers_share_a_commit_and_each_waits_for_its_own(
    store: PeeweeStore, path: Path, mocker: MockerFixture
) -> None:
    file = store.session.opened()
    commits = mocker.spy(file.writer, "commit")
    missing: list[int] = []
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")

    def begin(n: int) -> None:
        store.begin(exchange(n, user_id=f"user-{n}"), BOUNDS)
        with closing(sqlite3.connect(path)) as other:
            if not other.execute(
                "SELECT 1 FROM exchange WHERE user_id = ?", [f"user-{n}"]
            ).fetchone():
                missing.append(n)

    threads = [threading.Thread(target=begin, args=(n,)) for n in range(20)]
    for thread in threads:
        thread.start()
    while (
        len(store.session._commits._waiting) < 19
    ):  # all but the leader, who waits for the blocker
        pass
    blocker.execute("COMMIT")
    blocker.close()
    for thread in threads:
        thread.join()
    assert missing == []
    assert commits.call_count == 2


def run_and_kill(path: Path, script: str) -> None:
    """Run a script that prints `ready` and then waits, and kill -9 it there."""
    program = f"""
import sys, time
from datetime import UTC, datetime, timedelta
from chatport.adapters import PeeweeStore
from chatport.domain import Exchange, HistoryBounds
now = datetime(2026, 11, 23, 12, tzinfo=UTC)
store = PeeweeStore({str(path)!r})
def exchange(user_id):
    return Exchange(id=user_id, caller="anonymous", user_id=user_id, route="r", model="m",
        prompt="p", started_at=now, lease_until=now + timedelta(hours=1))
{script}
print("ready", flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGKILL)
        process.wait()


def test_what_a_killed_process_left_open_is_interrupted_at_the_next_start(
    store: PeeweeStore, path: Path
) -> None:
    store.begin(exchange(user_id="alive"), BOUNDS)
    run_and_kill(path, "store.begin(exchange('dead'), HistoryBounds())")
    with closing(PeeweeStore(path)) as restarted:
        assert restarted.recover(NOW) == 1
    states = {found.user_id: found.state for found in store.search(LogQuery())}
    assert states == {"alive": State.OPEN, "dead": State.INTERRUPTED}
    assert len(list(path.parent.glob("*-alive-*"))) == 1


def test_what_a_killed_process_left_open_makes_room_for_the_next_turn_at_once(
    store: PeeweeStore, path: Path
) -> None:
    run_and_kill(path, "store.begin(exchange('ada'), HistoryBounds())")
    assert store.begin(exchange(1), BOUNDS).turns == []
    found = store.find("ada")
    assert found is not None
    assert found.state is State.INTERRUPTED


def test_a_turn_of_a_living_process_is_not_taken_for_dead(path: Path, store: PeeweeStore) -> None:
    store.begin(exchange(0), BOUNDS)
    with closing(PeeweeStore(path)) as other:
        assert other.recover(NOW) == 0
        with pytest.raises(ConversationBusy):
            other.begin(exchange(1), BOUNDS)


@pytest.fixture
def locked_sign(store: PeeweeStore, path: Path) -> Iterator[None]:
    """Let the process have something open, and a life sign that nobody can lock."""
    store.begin(exchange(0), BOUNDS)
    [sign] = path.parent.glob("*-alive-*")
    sign.unlink()
    sign.mkdir()  # which not even root can open
    yield
    sign.rmdir()


@pytest.mark.usefixtures("locked_sign")
def test_of_a_life_sign_that_only_another_user_may_lock_nothing_is_known(path: Path) -> None:
    with closing(PeeweeStore(path)) as other:
        with pytest.raises(ConversationBusy):
            other.begin(exchange(1), BOUNDS)
        assert other.recover(NOW) == 0
        assert other.recover(NOW + timedelta(hours=2)) == 1


def test_without_its_life_sign_an_exchange_counts_as_alive_until_its_lease_ends(
    store: PeeweeStore, path: Path
) -> None:
    store.begin(exchange(0), BOUNDS)
    for sign in path.parent.glob("*-alive-*"):
        sign.unlink()
    with closing(PeeweeStore(path)) as other:
        with pytest.raises(ConversationBusy):
            other.begin(exchange(1), BOUNDS)
        assert other.recover(NOW) == 0
        assert other.recover(NOW + timedelta(hours=2)) == 1


# Requests that are passed on, and requests that come again


def test_an_attempt_of_a_killed_process_makes_room_for_the_next_at_once(
    store: PeeweeStore, path: Path
) -> None:
    run_and_kill(
        path,
        "from dataclasses import replace\n"
        "first = replace(exchange('ada'), idempotency_key='key-1', request_hash='hash-1')\n"
        "store.begin(first, HistoryBounds())",
    )
    for once in (Once(request_hash="hash-1", key="key-1"), Once(request_hash="hash-1", retry=True)):
        found = store.earlier("anonymous", once, now=NOW, since=NOW)
        assert found is not None
        assert (found.id, found.state, found.final) == ("ada", State.INTERRUPTED, False)
    again = exchange(1, id="ada", idempotency_key="key-1", request_hash="hash-1")
    store.begin(again, BOUNDS)
    store.finish(ended(again))
    assert [found.reply for found in store.search(LogQuery())] == ["reply"]


def test_a_process_killed_in_the_middle_of_a_begin_leaves_no_texts(
    store: PeeweeStore, path: Path
) -> None:
    store.check()
    run_and_kill(
        path,
        "from dataclasses import replace\n"
        "from chatport.adapters.request_texts import RequestTexts\n"
        "from chatport.domain import RequestText\n"
        "keep = RequestTexts.keep\n"
        "def keep_and_hang(*arguments):\n"
        "    keep(*arguments)\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
        "RequestTexts.keep = keep_and_hang\n"
        "request = RequestText(messages=['message'], parameters='{}')\n"
        "store.begin(replace(exchange('ada'), request=request), HistoryBounds())",
    )
    with closing(sqlite3.connect(path)) as other:
        for table in ("exchange", "message_text", "message_chain"):
            assert other.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
    store.begin(exchange(request=REQUEST), BOUNDS)


def test_what_was_answered_is_the_same_after_a_restart(store: PeeweeStore, path: Path) -> None:
    relayed = exchange(request=REQUEST, idempotency_key="key-1", request_hash="hash-1")
    pieces = (b'{"a": "\\u0000"}', b"", b"\xff\x00\xfe", "é".encode())
    key = store.pseudonym_key()
    store.begin(relayed, BOUNDS)
    store.finish(replace(ended(relayed), answer=pieces, final=True))
    store.close()
    with closing(PeeweeStore(path)) as restarted:
        once = Once(request_hash="hash-1", key="key-1")
        found = restarted.earlier("anonymous", once, now=NOW, since=NOW)
        assert found is not None
        assert (found.answer, found.final, found.request) == (pieces, True, REQUEST)
        assert restarted.pseudonym_key() == key
        with pytest.raises(IdempotencyInProgress):
            restarted.begin(relayed, BOUNDS)


def test_closing_a_store_interrupts_the_relays_that_it_leaves_open(path: Path) -> None:
    with closing(PeeweeStore(path)) as store:
        for n in range(3):
            store.begin(exchange(n, request=REQUEST), BOUNDS)
        store.checkpoint(exchange(1, request=REQUEST, reply="half", answer=[b"half"]))
    with closing(PeeweeStore(path)) as restarted:
        assert {found.state for found in restarted.search(LogQuery())} == {State.INTERRUPTED}
        found = restarted.find("ada-1")
        assert found is not None
        assert (found.answer, found.request) == ((b"half",), REQUEST)


def test_an_answer_is_kept_compressed(store: PeeweeStore) -> None:
    relayed = exchange(request=REQUEST)
    store.begin(relayed, BOUNDS)
    store.finish(replace(ended(relayed), answer=[b'{"choices":[{"delta":{}}]}'] * 1000))
    [size] = (
        store.session.opened().writer.execute_sql("SELECT length(answer) FROM exchange").fetchone()
    )
    assert size < 1000


# Cost


def opcodes(store: PeeweeStore) -> int:
    """Return how many instructions SQLite executes for a history, a measure without a clock."""
    file = store.session.opened()
    count = 0

    def tick() -> int:
        nonlocal count
        count += 1
        return 0

    file.writer.connection().set_progress_handler(tick, 1)
    rows = file._run(
        file._queries.history, {"caller": "c", "user_id": "u-1", "turns": 20}
    ).fetchall()
    file.writer.connection().set_progress_handler(None, 0)
    assert len(rows) == 20
    return count


FILL = """
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :rows)
INSERT INTO exchange (public_id, caller, user_id, state, route, model, prompt, reply, sanitized,
    tokens_estimated, turn_tokens, attempts, started_at, finished_at, lease_until, owner)
SELECT hex(randomblob(16)), 'c', 'u-' || (i % :users), CASE WHEN i % 3 THEN 'completed' ELSE
    'failed' END, 'r', 'm', 'p', 'r', 0, 0, 1, 1, '2026', '2026', '2026', '' FROM n
"""


def test_a_search_of_an_operator_holds_up_nobody_else(
    store: PeeweeStore, mocker: MockerFixture
) -> None:
    store.begin(exchange(1), BOUNDS)
    store.finish(ended(exchange(1)))
    begun, others_are_done = threading.Event(), threading.Event()

    def slow(_query: LogQuery) -> list[Any]:
        begun.set()
        assert others_are_done.wait(PATIENCE_SECONDS)
        return []

    mocker.patch.object(store.session.opened().archive, "search", slow)
    with ThreadPoolExecutor(1) as pool:
        searching = pool.submit(store.search, LogQuery())
        assert begun.wait(PATIENCE_SECONDS)
        user = exchange(1).user_id
        assert store.find(exchange(1).id)
        assert store.conversation(exchange(1).caller, user, before=None, limit=1)
        others_are_done.set()
        assert searching.result() == []


ENDLESS = "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT sum(x) FROM n"


def test_a_store_that_is_closed_ends_a_search_and_does_not_crash(store: PeeweeStore) -> None:
    begun = threading.Event()

    def endless(file: Any) -> None:
        begun.set()
        file.searcher.execute_sql(ENDLESS).fetchall()

    store.check()
    with ThreadPoolExecutor(1) as pool:
        searching = pool.submit(store.session.search, endless)
        assert begun.wait(PATIENCE_SECONDS)
        store.close()
        with pytest.raises(StorageUnavailable):
            searching.result(PATIENCE_SECONDS)


class Turns:
    """A lock that says when somebody waits for it."""

    def __init__(self) -> None:
        self.awaited = threading.Event()
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        if self._lock.locked():
            self.awaited.set()
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def test_what_is_erased_is_wiped_as_soon_as_a_search_has_ended(
    store: PeeweeStore, mocker: MockerFixture
) -> None:
    store.begin(exchange(1), BOUNDS)
    store.finish(ended(exchange(1)))
    turns = mocker.patch.object(store.session, "_searching", Turns())
    begun = threading.Event()

    def slow(file: Any) -> None:
        with file.searcher.atomic():
            file.searcher.execute_sql("SELECT * FROM exchange").fetchall()
            begun.set()
            assert turns.awaited.wait(PATIENCE_SECONDS)

    mocker.patch.object(sqlite_retention, "BUSY_SECONDS", 0)
    with ThreadPoolExecutor(1) as pool:
        searching = pool.submit(store.session.search, slow)
        assert begun.wait(PATIENCE_SECONDS)
        assert store.erase(exchange(1).caller, exchange(1).user_id) == 1
        searching.result()


def test_a_history_costs_the_same_in_a_large_log_and_in_a_long_conversation(tmp_path: Path) -> None:
    costs = []
    for rows, users in [(60, 2), (60_000, 2_000), (60_000, 2)]:
        with closing(PeeweeStore(tmp_path / f"{rows}-{users}.db")) as store:
            writer = store.session.opened().writer
            writer.connection().execute(FILL, {"rows": rows, "users": users})
            costs.append(opcodes(store))
    assert costs[0] == costs[1] == costs[2]


def test_a_history_is_read_by_its_index_without_sorting(store: PeeweeStore) -> None:
    file = store.session.opened()
    query = file._queries.history
    values = query.values({"caller": "c", "user_id": "u", "turns": 20})
    plan = file.writer.execute_sql(f"EXPLAIN QUERY PLAN {query.sql}", values).fetchall()
    assert [row[3] for row in plan] == [
        "SEARCH t1 USING INDEX exchange_history (caller=? AND user_id=?)"
    ]


# Schema


def test_models_and_migrations_describe_the_same_tables(store: PeeweeStore) -> None:
    writer = store.session.opened().writer
    rows = (ExchangeRow, RefusalRow, MessageTextRow, MessageChainRow)
    *tables_and_columns, indexes = diff_models(writer, rows)
    assert [list(changes) for changes in tables_and_columns] == [[], [], [], []]
    assert {index.name for index in indexes} == {
        *("exchange_conversation", "exchange_history", "exchange_open"),
        *("exchange_key", "exchange_request", "exchange_parameters", "exchange_messages"),
        *("message_text_digest", "exchange_in_flight"),
    }


def test_the_schema_itself_keeps_what_is_one_of_a_kind(store: PeeweeStore) -> None:
    writer = store.session.opened().writer
    unique = {
        index.name: index.columns
        for table in ("exchange", "message_text", "message_chain")
        for index in writer.get_indexes(table)
        if index.unique
    }
    assert unique == {
        "exchange_public_id": ["public_id"],
        "exchange_open": ["caller", "user_id"],
        "exchange_key": ["caller", "idempotency_key"],
        "message_text_digest": ["caller", "digest"],
        "messagechain_digest": ["digest"],
    }


FIRST_ROWS = """
INSERT INTO exchange (public_id, caller, user_id, state, route, model, prompt, reply, sanitized,
    finish_reason, prompt_tokens, completion_tokens, tokens_estimated, turn_tokens, attempts,
    started_at, finished_at, lease_until, owner)
VALUES ('done', 'anonymous', 'ada', 'open', 'r', 'm', 'red fox', 'in the den', 0, 'stop', 10, 5, 0,
        8, 1, :at, NULL, :at, ''),
    ('failed', 'anonymous', 'ada', 'open', 'r', 'm', 'p', '', 0, NULL, NULL, NULL, 0, 0, 2,
        :at, NULL, :at, ''),
    ('open', 'anonymous', 'bob', 'open', 'r', 'm', 'p', 'half', 0, NULL, NULL, NULL, 0, 0, 0,
        :at, NULL, :lease, '');
"""
FIRST_OUTCOMES = "UPDATE exchange SET state = ?, finished_at = ? WHERE public_id = ?"


def make_first_version(path: Path) -> None:
    """Make the file that version 0.1.0 would have left."""
    at, lease = timestamp(NOW), timestamp(NOW + timedelta(hours=1))
    database = peewee.SqliteDatabase(str(path), pragmas={"journal_mode": "wal"})
    with database:
        assert Runner(database, str(MIGRATIONS)).up("0001_exchange") == ["0001_exchange"]
        database.execute_sql("DROP INDEX exchange_open")  # two rows of ada's, made at once
        database.connection().execute(FIRST_ROWS, {"at": at, "lease": lease})
        for state, name in [("completed", "done"), ("failed", "failed")]:
            database.execute_sql(FIRST_OUTCOMES, [state, at, name])
        database.execute_sql(
            "CREATE UNIQUE INDEX exchange_open ON exchange (caller, user_id) WHERE state = 'open'"
        )
        database.execute_sql("INSERT INTO refusal VALUES ('anonymous', 'user', '2026', 7)")


def test_a_file_of_the_first_version_is_brought_up_with_all_its_rows(
    store: PeeweeStore, path: Path
) -> None:
    make_first_version(path)
    done, failed, still_open = store.search(LogQuery(oldest_first=True))
    assert (done.id, done.number, done.prompt, done.reply) == ("done", 1, "red fox", "in the den")
    assert (done.state, done.usage) == (
        State.COMPLETED,
        Usage(prompt_tokens=10, completion_tokens=5),
    )
    assert (failed.id, failed.state, failed.attempts) == ("failed", State.FAILED, 2)
    assert (still_open.id, still_open.state, still_open.reply) == ("open", State.OPEN, "half")
    for exchange_row in (done, failed, still_open):
        found = store.find(exchange_row.id)
        assert found == exchange_row
        assert found is not None
        assert (found.request, found.answer, found.final) == (None, (), False)
        assert (found.idempotency_key, found.request_hash) == (None, None)
    assert [found.id for found in store.search(LogQuery(text="fox den"))] == ["done"]
    history = store.begin(exchange(1), BOUNDS)
    assert [turn.prompt for turn in history.turns] == ["red fox"]
    with pytest.raises(ConversationBusy):
        store.begin(exchange(1, user_id="bob"), BOUNDS)
    store.begin(exchange(2, user_id="bob", request=REQUEST), BOUNDS)
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("SELECT count FROM refusal").fetchall() == [(7,)]
        assert other.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert len(store.pseudonym_key()) == 32
    assert store.erase("anonymous", "ada") == 3


def test_many_processes_may_bring_up_a_file_of_the_first_version_at_once(path: Path) -> None:
    make_first_version(path)
    program = (
        "from chatport.adapters import PeeweeStore\n"
        "from chatport.domain import LogQuery\n"
        f"store = PeeweeStore({str(path)!r})\n"
        "assert len(store.search(LogQuery())) == 3\n"
        "print(store.pseudonym_key().hex())\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) for _ in range(4)
    ]
    said = {process.communicate()[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0, 0, 0]
    assert len(said) == 1


def test_a_step_up_that_fails_leaves_the_first_version_as_it_was(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    make_first_version(path)
    steps = tmp_path / "steps"
    steps.mkdir()
    for step in MIGRATIONS.glob("0*.py"):
        text = step.read_text()
        if step.name.startswith("0002"):
            text = text.replace('"DROP INDEX exchange_open",', '"DROP INDEX exchange_open", "no",')
            assert '"no",' in text
        (steps / step.name).write_text(text)
    with monkeypatch.context() as patch:
        patch.setattr("chatport.adapters.schema.MIGRATIONS", steps)
        with closing(PeeweeStore(path)) as broken, pytest.raises(StorageUnavailable):
            broken.check()
    with closing(sqlite3.connect(path)) as other:
        tables = {row[0] for row in other.execute("SELECT name FROM sqlite_master")}
        assert not tables & {"message_text", "message_chain", "secret", "exchange_key"}
        assert {"exchange_open", "exchange_history"} <= tables
    with closing(PeeweeStore(path)) as store:
        assert len(store.search(LogQuery())) == 3


def test_many_processes_may_open_a_new_file_at_once(path: Path) -> None:
    program = f"from chatport.adapters import PeeweeStore; PeeweeStore({str(path)!r}).check()"
    processes = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(4)]
    assert [process.wait() for process in processes] == [0, 0, 0, 0]


def test_a_file_of_a_newer_version_is_refused_and_left_as_it_is(path: Path) -> None:
    with closing(PeeweeStore(path)) as store:
        store.check()
    with closing(sqlite3.connect(path)) as newer:
        newer.execute("INSERT INTO schema_migration VALUES (99, '0099_later', '2027-01-01')")
        newer.commit()
    before = path.read_bytes()
    with closing(PeeweeStore(path)) as store, pytest.raises(StorageTooNew):
        store.check()
    assert path.read_bytes() == before


def test_a_log_that_goes_while_it_is_looked_at_keeps_nobody_out(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = PeeweeStore(path)
    last.begin(exchange(1), BOUNDS)
    last.finish(replace(exchange(1), state=State.COMPLETED, finished_at=NOW))
    modes: list[str] = []

    def closing_it(place: Path, mode: str) -> str:
        modes.append(mode)
        last.close()
        return uri(place, mode)

    with monkeypatch.context() as patch, closing(PeeweeStore(path)) as store:
        patch.setattr("chatport.adapters.schema.uri", closing_it)
        assert [found.id for found in store.search(LogQuery())] == ["ada-1"]
    assert modes == ["mode=ro&readonly_shm=1"]


def test_two_stores_with_two_files_live_in_one_process(tmp_path: Path) -> None:
    with (
        closing(PeeweeStore(tmp_path / "1.db")) as one,
        closing(PeeweeStore(tmp_path / "2.db")) as two,
    ):
        one.begin(exchange(1), BOUNDS)
        two.begin(exchange(2), BOUNDS)
        assert [found.id for found in one.search(LogQuery())] == ["ada-1"]
        assert [found.id for found in two.search(LogQuery())] == ["ada-2"]


@pytest.mark.parametrize("full", [0, 1, 2])
def test_the_update_of_a_budget_itself_looks_for_room(full: int, store: PeeweeStore) -> None:
    room = [10, 10, 2]
    used = [most if place == full else 0 for place, most in enumerate(room)]
    run = store.session.opened().writer.execute_sql
    run("INSERT INTO spending VALUES ('shop', 'ada', 'open', 0, 0, ?, ?, ?)", used)
    asked = [1, 1, "shop", "ada", "open"]
    assert run(RESERVE, [*asked, *room]).rowcount == 0
    assert run(RESERVE, [*asked, *(most + 1 for most in room)]).rowcount == 1


def test_only_the_owner_may_read_the_file(store: PeeweeStore, path: Path) -> None:
    store.check()
    assert path.stat().st_mode & 0o777 == 0o600


# Erasure


def test_erased_text_is_nowhere_in_the_files(store: PeeweeStore, path: Path) -> None:
    secret = "xylophone-4711"
    for n in range(50):
        user = "ada" if n % 2 else "bob"
        spoken = exchange(n, user_id=user, prompt=f"{secret} {n}" if user == "ada" else "kept")
        store.begin(spoken, BOUNDS)
        store.finish(ended(spoken, secret if user == "ada" else "kept"))
    assert len(store.search(LogQuery(text="xylophone"))) == 25
    assert store.erase("anonymous", "ada") == 25
    assert store.search(LogQuery(text="xylophone")) == []
    assert len(store.search(LogQuery(text="kept"))) == 25
    for file in path.parent.iterdir():
        assert b"xylophone" not in file.read_bytes(), file.name


# Faults


def test_a_full_database_says_so_keeps_reading_and_recovers(store: PeeweeStore) -> None:
    store.begin(exchange(0), BOUNDS)
    writer = store.session.opened().writer
    [pages] = writer.execute_sql("PRAGMA page_count").fetchone()
    writer.execute_sql(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StorageFull):
        store.begin(exchange(1, user_id="bob", prompt="x" * 90_000), BOUNDS)
    assert [found.id for found in store.search(LogQuery())] == ["ada-0"]
    writer.execute_sql("PRAGMA max_page_count = 100000")
    store.begin(exchange(1, user_id="bob", prompt="x" * 90_000), BOUNDS)


def test_a_locked_database_is_waited_for_and_then_busy(
    store: PeeweeStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatport.adapters.group_commit.BUSY_SECONDS", 0.05)
    store.check()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageBusy):
            store.check()
        with pytest.raises(StorageBusy) as busy:
            store.begin(exchange(), BOUNDS)
        assert busy.value.retry_after_seconds == 1.0
        other.execute("ROLLBACK")
    store.begin(exchange(), BOUNDS)


def test_nobody_waits_for_a_lock_twice_as_long_as_somebody(
    store: PeeweeStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatport.adapters.group_commit.BUSY_SECONDS", 1.0)
    store.check()
    with (
        closing(sqlite3.connect(path, isolation_level=None)) as other,
        ThreadPoolExecutor(max_workers=1) as elsewhere,
    ):
        other.execute("BEGIN IMMEDIATE")
        first = elsewhere.submit(store.check)
        while not store.session._commits._led:
            pass
        began = time.monotonic()
        with pytest.raises(StorageBusy):
            store.begin(exchange(), BOUNDS)
        assert time.monotonic() - began < 1.7
        assert isinstance(first.exception(), StorageBusy)


def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(path: Path) -> None:
    path.write_bytes(b"not a database, but somebody's only copy of something " * 100)
    before = path.read_bytes()
    with closing(PeeweeStore(path)) as store, pytest.raises(StorageCorrupt):
        store.check()
    assert path.read_bytes() == before


def test_a_folder_that_does_not_exist_is_named_as_the_problem(tmp_path: Path) -> None:
    with (
        closing(PeeweeStore(tmp_path / "missing" / "log.db")) as store,
        pytest.raises(StorageReadOnly),
    ):
        store.check()


def test_a_read_only_database_says_so(store: PeeweeStore) -> None:
    store.check()
    store.session.opened().writer.execute_sql("PRAGMA query_only = ON")
    with pytest.raises(StorageReadOnly):
        store.begin(exchange(), BOUNDS)


# Group commit


@pytest.fixture
def database(tmp_path: Path) -> Iterator[peewee.SqliteDatabase]:
    database = peewee.SqliteDatabase(
        str(tmp_path / "any.db"), timeout=0, thread_safe=False, check_same_thread=False
    )
    database.execute_sql("CREATE TABLE t (x UNIQUE)")
    yield database
    database.close()


def test_one_callers_fault_is_not_the_others(database: peewee.SqliteDatabase) -> None:
    first_is_in, go = threading.Event(), threading.Event()

    def hold(commit: Any) -> None:
        first_is_in.set()
        go.wait()
        commit()

    commits = GroupCommit(database, hold)
    commits._last_commit_seconds = 1.0  # a slow disk, so that even a lone commit is handed over
    outcomes: dict[int, object] = {}

    def insert(n: int, value: str) -> None:
        try:
            commits.run(lambda: database.execute_sql(f"INSERT INTO t VALUES ({value})"))
            outcomes[n] = "kept"
        except Exception as error:  # noqa: BLE001  # recorded
            outcomes[n] = type(error)

    values = ["1", "2", "nonsense(", "3", "4"]
    threads = [threading.Thread(target=insert, args=pair) for pair in enumerate(values)]
    threads[0].start()
    first_is_in.wait()
    for thread in threads[1:]:
        thread.start()
    while len(commits._waiting) < 4:
        pass
    go.set()
    for thread in threads:
        thread.join()
    kept = dict.fromkeys((0, 1, 3, 4), "kept")
    assert outcomes == {**kept, 2: peewee.OperationalError}
    assert database.execute_sql("SELECT count(*) FROM t").fetchone() == (4,)


def test_a_work_that_refuses_takes_nobody_with_it(database: peewee.SqliteDatabase) -> None:
    commits = GroupCommit(database)

    def refuse() -> None:
        raise ConversationBusy

    with pytest.raises(ConversationBusy):
        commits.run(refuse)
    assert commits.run(lambda: 7) == 7


def test_an_interrupted_commit_frees_the_lock_for_the_next(
    database: peewee.SqliteDatabase,
) -> None:
    interrupts = [KeyboardInterrupt()]

    def offload(commit: Any) -> None:
        if interrupts:
            raise interrupts.pop()
        commit()

    commits = GroupCommit(database, offload)
    commits._last_commit_seconds = 1.0
    with pytest.raises(KeyboardInterrupt):
        commits.run(lambda: database.execute_sql("INSERT INTO t VALUES (1)"))
    commits.run(lambda: database.execute_sql("INSERT INTO t VALUES (2)"))
    assert database.execute_sql("SELECT x FROM t").fetchall() == [(2,)]


def test_closing_a_store_interrupts_what_it_leaves_open(path: Path) -> None:
    with closing(PeeweeStore(path)) as store:
        store.begin(exchange(), BOUNDS)
    with closing(PeeweeStore(path)) as restarted:
        [found] = restarted.search(LogQuery())
        assert found.state is State.INTERRUPTED
        restarted.begin(exchange(1), BOUNDS)
    assert list(path.parent.glob("*-alive-*")) == []


def test_erasing_says_when_the_text_is_still_in_the_log_of_writes(
    store: PeeweeStore, path: Path
) -> None:
    store.begin(exchange(), BOUNDS)
    store.session.opened().reader.timeout = 0
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM exchange").fetchone()
        with pytest.raises(StorageBusy):
            store.erase("anonymous", "ada")
    assert store.erase("anonymous", "ada") == 0
    assert b"prompt 0" not in path.with_name("log.db-wal").read_bytes()


def outcome_of_inserting(n: int, commits: GroupCommit, database: peewee.SqliteDatabase) -> str:
    """Return `kept`, or the name of what was raised."""
    try:
        commits.run(lambda: database.execute_sql(f"INSERT INTO t VALUES ({n})"))
    except BaseException as error:  # noqa: BLE001  # recorded
        return type(error).__name__
    return "kept"


@pytest.mark.parametrize(
    ("before", "outcome", "rows"),
    [(True, "InterfaceError", 1), (False, "kept", 3)],
    ids=["before the commit", "after the commit"],
)
def test_callers_are_told_what_became_of_their_work_when_their_leader_is_killed(
    database: peewee.SqliteDatabase, outcome: str, rows: int, *, before: bool
) -> None:
    held, go = threading.Event(), threading.Event()
    handed_over: list[Any] = []

    def offload(commit: Any) -> None:
        handed_over.append(commit)
        if len(handed_over) == 1:
            held.set()
            go.wait()
            commit()
            return
        if not before:
            commit()
        raise KeyboardInterrupt  # in the thread of the second leader

    commits = GroupCommit(database, offload)
    commits._last_commit_seconds = 1.0
    outcomes: list[str] = []

    def insert(n: int) -> None:
        outcomes.append(outcome_of_inserting(n, commits, database))

    threads = [threading.Thread(target=insert, args=(n,)) for n in range(3)]
    threads[0].start()
    held.wait()
    for thread in threads[1:]:
        thread.start()
    while len(commits._waiting) < 2:
        pass
    go.set()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == sorted(["KeyboardInterrupt", outcome, "kept"])
    assert database.execute_sql("SELECT count(*) FROM t").fetchone() == (rows,)


def test_who_is_named_leader_before_it_waits_leads_and_lets_nobody_wait_for_ever(
    database: peewee.SqliteDatabase,
) -> None:
    held, go = threading.Event(), threading.Event()

    def hold(commit: Any) -> None:
        held.set()
        go.wait()
        commit()

    commits = GroupCommit(database, hold)
    commits._last_commit_seconds = 1.0
    outcomes: list[str] = []

    def insert(n: int) -> None:
        outcomes.append(outcome_of_inserting(n, commits, database))

    first, last = (threading.Thread(target=insert, args=(n,), daemon=True) for n in (1, 3))
    named = threading.current_thread()

    class Late:
        """The lock; who is to be named is held up as it leaves it, until it is."""

        mutex = commits._mutex

        def __enter__(self) -> None:
            self.mutex.acquire()

        def __exit__(self, *_: object) -> None:
            self.mutex.release()
            if threading.current_thread() is named and not go.is_set():
                last.start()
                while len(commits._waiting) < 2:
                    pass
                go.set()
                first.join()

    first.start()
    held.wait()
    commits._mutex = Late()  # type: ignore[assignment]  # what is used of a lock
    insert(2)
    last.join(5)
    assert outcomes == ["kept"] * 3


@pytest.mark.parametrize("named_leader", [False, True])
def test_a_caller_that_is_killed_while_it_waits_leaves_the_queue(
    database: peewee.SqliteDatabase, monkeypatch: pytest.MonkeyPatch, *, named_leader: bool
) -> None:
    held, go = threading.Event(), threading.Event()

    def hold(commit: Any) -> None:
        held.set()
        go.wait()
        commit()

    commits = GroupCommit(database, hold)
    commits._last_commit_seconds = 1.0

    def insert(n: int) -> None:
        commits.run(lambda: database.execute_sql(f"INSERT INTO t VALUES ({n})"))

    leader = threading.Thread(target=insert, args=(1,))
    leader.start()
    held.wait()

    class Killed(group_commit._Unit[Any]):
        def __init__(self, work: Any) -> None:
            super().__init__(work)
            self.woken = SimpleNamespace(acquire=self.die, release=lambda: None)  # type: ignore[assignment]

        def die(self) -> None:
            if named_leader:
                go.set()
                leader.join()
                assert self.leads
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(group_commit, "_Unit", Killed)
        with pytest.raises(KeyboardInterrupt):
            insert(2)
    go.set()
    leader.join()
    last = threading.Thread(target=insert, args=(3,), daemon=True)
    last.start()
    last.join(5)
    assert not last.is_alive()
    assert database.execute_sql("SELECT x FROM t").fetchall() == [(1,), (3,)]


def test_a_database_error_tells_neither_values_nor_sql(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(StorageUnavailable) as fault, sqlite_faults.translated():
        raise peewee.OperationalError('near "canary": syntax error')
    assert "canary" not in "".join(traceback.format_exception(fault.value)) + caplog.text


def test_all_who_mean_the_same_file_lock_beside_it_whatever_they_call_it(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link.db").symlink_to(tmp_path / "real" / "log.db")
    with closing(PeeweeStore(tmp_path / "link.db")) as store:
        store.check()
    assert (tmp_path / "real" / "log.db.lock").exists()
    assert not (tmp_path / "link.db.lock").exists()


@pytest.fixture
def given(mocker: MockerFixture) -> Any:
    """Return what was given away while root, or somebody who acts like root, opens files."""
    mocker.patch("os.geteuid", return_value=0)
    mocker.patch("os.chown", side_effect=AssertionError("another file may stand under a name"))
    return mocker.patch("os.fchown")


@pytest.mark.parametrize("fault", [None, errno.EPERM, errno.EINVAL])
def test_the_lock_that_root_makes_is_given_to_the_owner_of_the_file_if_root_may(
    path: Path, given: Any, fault: int | None
) -> None:
    given.side_effect = fault and OSError(fault, os.strerror(fault))
    with closing(PeeweeStore(path)) as store:
        store.check()
    owner = path.stat()
    [call] = given.call_args_list
    assert call.args[1:] == (owner.st_uid, owner.st_gid)
    assert path.with_name("log.db.lock").stat().st_mode & 0o777 == 0o600


def test_nobody_else_can_read_what_stands_beside_the_file_and_hold_a_lock_on_it(
    path: Path,
) -> None:
    with closing(PeeweeStore(path)) as store:
        store.begin(exchange(), BOUNDS)
        modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
    assert len(modes) == 5  # the file, -wal, -shm, the lock and the sign of life
    assert set(modes.values()) == {0o600}


def test_the_migrations_of_another_process_are_not_waited_for_for_ever(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "BUSY_SECONDS", 0.1)
    store = PeeweeStore(path)
    with FileLock(path.with_name("log.db.lock")), pytest.raises(StorageBusy):
        store.check()
    store.check()
    store.close()


def test_what_stands_in_the_place_of_the_lock_is_not_given_away(path: Path, given: Any) -> None:
    (path.parent / "of root").touch()
    path.with_name("log.db.lock").hardlink_to(path.parent / "of root")
    with closing(PeeweeStore(path)) as store:
        store.check()
    given.assert_not_called()


@pytest.mark.parametrize("looks", [1, 2, 3])
def test_a_file_that_another_process_makes_meanwhile_is_not_lost(
    path: Path, monkeypatch: pytest.MonkeyPatch, looks: int
) -> None:
    others: list[PeeweeStore] = []
    seen: list[str] = []

    def look(name: str) -> Any:
        found = stat_or_none(name)
        seen.append(name)
        if len(seen) == looks:
            monkeypatch.setattr(open_files, "_stat_or_none", stat_or_none)
            others.append(PeeweeStore(path))
            others[0].check()
        return found

    stat_or_none = open_files._stat_or_none
    path.touch()  # as far as the other process has come
    monkeypatch.setattr(open_files, "_stat_or_none", look)
    open_files.refuse_left_behind(path)
    [other] = others
    assert path.with_name(f"{path.name}-shm").exists()
    other.close()
