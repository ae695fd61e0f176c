"""How SQLite forgets: nothing is left in the files, and nobody waits for it."""

import random
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from chatport.adapters import PeeweeStore, SystemClock, sqlite_purge, sqlite_retention
from chatport.adapters.exchange_table import packed
from chatport.adapters.request_texts import RequestTexts
from chatport.adapters.sqlite_database import SqliteFile
from chatport.adapters.sqlite_purge import BYTES, LINKS, LOOK, WORDS
from chatport.domain import Exchange, HistoryBounds, LogQuery, State
from chatport.domain.errors import StorageBusy, StorageUnavailable
from chatport.domain.relay import RequestText
from chatport.domain.retention import Purged, PurgeSpan, Retention

BOUNDS = HistoryBounds()
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
ALL = 1_000_000
CHECK = "INSERT INTO exchange_text (exchange_text, rank) VALUES ('integrity-check', 1)"
EVERYTHING = PurgeSpan(until=ALL)
SPANS = [PurgeSpan(until=ALL), PurgeSpan(until=ALL, content_only=True)]


def exchange(n: int, messages: list[str] | None = None, **fields: Any) -> Exchange:
    at = NOW + timedelta(seconds=n)
    values: dict[str, Any] = {
        "id": f"exchange-{n}",
        "caller": "anonymous",
        "user_id": "ada",
        "route": "test",
        "model": "model-1",
        "prompt": "Hello",
        "started_at": at,
        "lease_until": at + timedelta(hours=1),
        "request": RequestText(messages=messages, parameters="{}") if messages else None,
    }
    return Exchange(**{**values, **fields})


def keep(store: PeeweeStore, begun: Exchange, reply: str = "Hi", **fields: Any) -> Exchange:
    store.begin(begun, BOUNDS)
    finished_at = begun.started_at + timedelta(seconds=1)
    ended = replace(
        begun, state=State.COMPLETED, finished_at=finished_at, reply=reply, attempts=1, **fields
    )
    store.finish(ended)
    return ended


def value(store: PeeweeStore, query: str) -> Any:
    return store.session.opened().reader.execute_sql(query).fetchone()[0]


def counts(store: PeeweeStore) -> tuple[int, int]:
    """Return how many texts and how many links of lists there are."""
    return (
        value(store, "SELECT count(*) FROM message_text"),
        value(store, "SELECT count(*) FROM message_chain"),
    )


def check_index(path: Path) -> None:
    """Raise if the word index holds other words than the exchanges."""
    with closing(sqlite3.connect(path)) as other:
        other.execute(CHECK)


def everything(path: Path) -> bytes:
    return b"".join(file.read_bytes() for file in path.parent.glob("log.db*") if file.is_file())


def purge(store: PeeweeStore, span: PurgeSpan) -> list[Purged]:
    return list(Retention(store, SystemClock()).purge(span))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


@pytest.fixture
def store(path: Path) -> Iterator[PeeweeStore]:
    with closing(PeeweeStore(path)) as opened:
        yield opened


@pytest.fixture
def unsynced(store: PeeweeStore) -> PeeweeStore:
    """Return a store that does not wait for the disk, for tests that write much."""
    store.session.opened().writer.execute_sql("PRAGMA synchronous = OFF")
    return store


@pytest.fixture
def transactions(store: PeeweeStore) -> list[int]:
    """Return a list that gets, for each transaction of the writer, how many rows it changed."""
    changed: list[int] = []
    connection = store.session.opened().writer.connection()
    before = 0

    def trace(statement: str) -> None:
        nonlocal before
        if statement.startswith("BEGIN"):
            before = connection.total_changes
        elif statement.startswith("COMMIT"):
            changed.append(connection.total_changes - before)

    connection.set_trace_callback(trace)
    return changed


# Nothing is left


SECRETS = ("message", "parameters", "prompt", "reply", "tool-call", "key", "hash")


def secretive(n: int) -> Exchange:
    """Return an exchange whose every text says what shall become of it."""
    mark = f"{'kept' if n >= 20 else 'secret'}-{{}} {n:03}".format
    messages = [mark("message") + "x" * 300 * n, mark("tool-call"), "shared by both"]
    return exchange(
        n,
        prompt=mark("prompt"),
        request=RequestText(messages=messages, parameters=mark("parameters")) if n % 3 else None,
        idempotency_key=mark("key"),
        request_hash=mark("hash"),
    )


@pytest.mark.parametrize("span", SPANS)
def test_of_what_is_purged_no_byte_is_left_in_the_files(
    store: PeeweeStore, path: Path, span: PurgeSpan
) -> None:
    kept = []
    for n in range(25):
        begun = secretive(n)
        store.begin(begun, BOUNDS)
        answer = [f"{begun.prompt} answer {'kept' if n >= 20 else 'secret'}".encode(), b"rest"]
        store.checkpoint(replace(begun, reply=begun.prompt, answer=[*answer, b"so far"]))
        reply = begun.prompt.replace("prompt", "reply")
        fields: dict[str, Any] = {"state": State.COMPLETED, "reply": reply, "answer": answer}
        ended = replace(begun, finished_at=begun.started_at, **fields)
        store.finish(ended)
        kept.append(ended)
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA wal_checkpoint")
    before = everything(path)
    assert all(f"secret-{name} 002".encode() in before for name in SECRETS)
    answers = [packed(ended.answer) or b"" for ended in kept[:20]]
    assert all(answer in before for answer in answers)

    assert sum(step.count for step in purge(store, replace(span, until=20))) == 20
    after = everything(path)
    assert b"secret-" not in after
    assert not any(answer in after for answer in answers)
    for text in ("kept-message 022", "kept-reply 024", "kept-key 021", "shared by both"):
        assert text.encode() in after
    for ended in kept[20:]:
        found = store.find(ended.id)
        assert found is not None
        assert (found.request, found.reply) == (ended.request, ended.reply)
    check_index(path)
    store.close()
    with closing(sqlite3.connect(path)) as other:
        other.execute("VACUUM")
    assert b"secret-" not in everything(path)


def test_of_an_erased_caller_no_byte_is_left_but_the_name(store: PeeweeStore, path: Path) -> None:
    for n in range(10):
        begun = replace(secretive(n), caller="app", user_id=f"secret-user-{n}")
        if n % 2:
            keep(store, begun, f"secret-reply {n}", answer=[b"secret-answer"])
        else:
            store.begin(begun, BOUNDS)
            store.checkpoint(replace(begun, reply=f"secret-reply {n}"))
    keep(store, exchange(11, caller="other"), "kept-reply")
    assert b"secret-user-3" in everything(path)
    steps = Retention(store, SystemClock()).erase_caller("app")
    assert sum(step.count for step in steps) == 10
    after = everything(path)
    assert b"secret-" not in after
    assert b"kept-reply" in after
    check_index(path)


def test_tidying_empties_the_write_ahead_log(store: PeeweeStore, path: Path) -> None:
    keep(store, exchange(0))
    store.purge(EVERYTHING, limit=1)
    wal = path.with_name("log.db-wal")
    assert wal.stat().st_size > 0
    store.tidy()
    assert wal.stat().st_size == 0


def test_where_nothing_was_deleted_nothing_is_gone_through(
    store: PeeweeStore, transactions: list[int]
) -> None:
    keep(store, exchange(0))
    assert store.erase("anonymous", "nobody") == 0
    transactions.clear()
    store.tidy()
    assert transactions == []
    store.purge(EVERYTHING, limit=1)
    store.tidy()
    transactions.clear()
    store.tidy()
    assert transactions == []


def test_what_is_deleted_while_another_tidies_is_tidied_by_the_next(
    store: PeeweeStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(2):
        keep(store, exchange(n, prompt=f"secret-{n}"))
    store.purge(EVERYTHING, limit=1)
    count_pages = sqlite_retention._pages

    with closing(PeeweeStore(path)) as other:

        def meanwhile(file: SqliteFile) -> int:
            other.purge(EVERYTHING, limit=1)
            return count_pages(file)

        monkeypatch.setattr(sqlite_retention, "_pages", meanwhile)
        store.tidy()
    monkeypatch.undo()
    untidy = "SELECT count(*) FROM secret WHERE name = 'untidy'"
    assert value(store, untidy) == 1
    store.tidy()
    assert value(store, untidy) == 0
    assert b"secret-" not in everything(path)


def test_tidying_says_so_if_somebody_reads_for_too_long(
    store: PeeweeStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_retention, "BUSY_SECONDS", 0)
    keep(store, exchange(0))
    with closing(sqlite3.connect(path)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM exchange").fetchone()
        store.purge(EVERYTHING, limit=1)
        with pytest.raises(StorageBusy):
            store.tidy()
        keep(store, exchange(2))  # nobody is kept from writing
    store.tidy()


def test_emptying_the_log_never_waits_with_the_lock_in_its_hand(store: PeeweeStore) -> None:
    """A TRUNCATE that waits for readers keeps writers out as long."""
    keep(store, exchange(0))
    store.purge(EVERYTHING, limit=1)
    file = store.session.opened()
    said: list[str] = []
    file.reader.connection().set_trace_callback(said.append)
    store.tidy()
    file.reader.connection().set_trace_callback(None)
    assert [line for line in said if line.startswith("PRAGMA")] == [
        "PRAGMA wal_checkpoint(PASSIVE)",
        "PRAGMA busy_timeout = 0",
        "PRAGMA wal_checkpoint(TRUNCATE)",
        "PRAGMA busy_timeout = 5000",
    ] * 2


# What is large goes in several transactions

LONG = " ".join(f"word{n}" for n in range(30_000))


def drain(store: PeeweeStore, span: PurgeSpan) -> list[Purged]:
    """Return the steps that a span takes."""
    steps = []
    while span.after < span.until:
        done = store.purge(span, limit=100)
        steps.append(done)
        span = replace(span, after=done.until)
    return steps


@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize("where", ["prompt", "reply"])
def test_a_long_text_leaves_the_word_index_in_pieces(
    unsynced: PeeweeStore, path: Path, where: str, span: PurgeSpan
) -> None:
    keep(unsynced, exchange(0, prompt="first"), "fine")
    texts = {"prompt": "short", "reply": "brief", where: LONG}
    keep(unsynced, exchange(1, prompt=texts["prompt"]), texts["reply"])
    keep(unsynced, exchange(2, prompt="last"), "word7")
    steps = drain(unsynced, replace(span, until=2))
    assert [step.count for step in steps] == [1, 0, 0, 0, 0, 1]
    assert [step.until for step in steps] == [1, 1, 1, 1, 1, 2]
    assert len(LONG) // WORDS == 4
    check_index(path)
    assert [found.number for found in unsynced.search(LogQuery(text="word7"))] == [3]
    unsynced.tidy()
    assert b"word12345" not in everything(path)


def test_a_purge_that_stops_within_a_long_text_leaves_a_log_that_can_be_read_and_purged(
    unsynced: PeeweeStore, path: Path
) -> None:
    keep(unsynced, exchange(0), LONG)
    assert unsynced.purge(PurgeSpan(until=1), limit=9) == Purged(count=0, until=0)
    found = unsynced.find("exchange-0")
    assert found is not None
    assert found.reply.startswith("word0 word1 ")
    assert "word29999" not in found.reply
    assert unsynced.search(LogQuery(text="word29999")) == []
    assert [hit.number for hit in unsynced.search(LogQuery(text="word1"))] == [1]
    assert unsynced.erase("anonymous", "ada") == 1
    check_index(path)
    assert b"word1234" not in everything(path)


@pytest.mark.parametrize(
    "text",
    [
        "汉字" * WORDS,
        "x" * (2 * WORDS),
        "é́ünï-codé " * (WORDS // 4),
        "emoji 👩‍👩‍👧, " * (WORDS // 4),
        "word" * WORDS + " ",
        "a\u0301 " + "b" * (3 * WORDS) + " tail",
    ],
    ids=range(6),
)
def test_no_cut_goes_through_a_word(unsynced: PeeweeStore, path: Path, text: str) -> None:
    keep(unsynced, exchange(0, prompt=text), text[::-1])
    assert drain(unsynced, PurgeSpan(until=1))[-1] == Purged(count=1, until=1)
    check_index(path)
    unsynced.tidy()
    assert value(unsynced, "SELECT count(*) FROM exchange_text_data WHERE id > 10") == 0


def test_a_long_list_of_messages_goes_in_pieces(unsynced: PeeweeStore) -> None:
    messages = [f"message {n}" for n in range(5 * LINKS)]
    keep(unsynced, exchange(0, messages[: 3 * LINKS]))
    keep(unsynced, exchange(1, messages))
    assert drain(unsynced, PurgeSpan(until=1)) == [Purged(count=1, until=1)]  # most is shared
    steps = drain(unsynced, PurgeSpan(after=1, until=2))
    assert [step.count for step in steps] == [0, 0, 0, 0, 1]
    assert counts(unsynced) == (0, 0)


def test_what_is_left_of_a_list_in_between_can_be_read(unsynced: PeeweeStore) -> None:
    messages = [f"message {n}" for n in range(2 * LINKS)]
    keep(unsynced, exchange(0, messages))
    assert unsynced.purge(PurgeSpan(until=1), limit=9) == Purged(count=0, until=0)
    found = unsynced.find("exchange-0")
    assert found is not None
    assert found.request is not None
    assert len(found.request.messages) == LINKS
    assert unsynced.erase("anonymous", "ada") == 1
    assert counts(unsynced) == (0, 0)


def test_large_answers_go_one_in_a_transaction_and_small_ones_together(
    unsynced: PeeweeStore,
) -> None:
    noise = random.Random(1)
    for n in range(3):
        keep(unsynced, exchange(n), answer=[noise.randbytes(BYTES)])
    for n in range(3, 9):
        keep(unsynced, exchange(n), answer=[noise.randbytes(BYTES // 4)])
    steps = drain(unsynced, PurgeSpan(until=9))
    assert [step.count for step in steps] == [1, 1, 1, 3, 3]


def test_large_messages_count_where_nothing_else_needs_them(unsynced: PeeweeStore) -> None:
    own = [["x" * (BYTES * 3 // 4) + str(n)] for n in range(3)]
    for n in range(3):
        keep(unsynced, exchange(n, own[n]))
    for n in range(3, 6):
        keep(unsynced, exchange(n, own[2]))
    steps = drain(unsynced, PurgeSpan(until=6))
    assert [step.count for step in steps] == [1, 4, 1]
    assert counts(unsynced) == (0, 0)


# Nobody waits


def statements(store: PeeweeStore, work: Callable[[], Any]) -> list[str]:
    """Return what the writer runs; SQLite names a statement again for each of its triggers."""
    said: list[str] = []
    connection = store.session.opened().writer.connection()
    connection.set_trace_callback(said.append)
    work()
    connection.set_trace_callback(None)
    said = [line for line in said if not line.startswith("--")]
    return [line for line, _ in groupby(said)]


@pytest.mark.parametrize(("limit", "numbers"), [(3, "1, 2, 3"), (5, "1, 2, 3, 4, 5")])
def test_a_transaction_deletes_only_as_many_as_the_limit_says(
    unsynced: PeeweeStore, limit: int, numbers: str
) -> None:
    for n in range(9):
        keep(unsynced, exchange(n))
    said = statements(unsynced, lambda: unsynced.purge(PurgeSpan(until=9), limit=limit))
    deletions = [line for line in said if line.startswith("DELETE")]
    assert deletions == [f"DELETE FROM exchange WHERE id IN ({numbers})"]


def merging(store: PeeweeStore) -> dict[str, int]:
    """Return what the word index says of when it is merged unasked."""
    run = store.session.opened().reader.execute_sql
    return {name: n for name, n in run("SELECT k, v FROM exchange_text_config") if "merge" in name}


def test_a_purge_merges_words_only_in_a_transaction_of_its_own(unsynced: PeeweeStore) -> None:
    for n in range(40):
        keep(unsynced, exchange(n, prompt=f"word{n} and others"))
    said = statements(unsynced, lambda: unsynced.purge(PurgeSpan(until=40), limit=10))
    words = [line for line in said if line.startswith(("INSERT INTO exchange_text", "DEL", "COM"))]
    marks = [line.split("VALUES ")[-1].strip() for line in words]
    assert marks[:2] == ["('automerge', 0)", "('crisismerge', 1999)"]
    assert marks[2].startswith("DELETE FROM exchange")
    assert marks[3:6] == ["('automerge', 4)", "('crisismerge', 16)", "COMMIT"]
    assert set(marks[6::2]) == {"('merge', 16)"}
    assert set(marks[7::2]) == {"COMMIT"}
    assert len(marks) <= 6 + 2 * 3
    assert merging(unsynced) == {"automerge": 4, "crisismerge": 16}


def test_a_purge_that_fails_leaves_the_word_index_merging(
    unsynced: PeeweeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(unsynced, exchange(0, ["a"]))
    connection = unsynced.session.opened().writer.connection()
    connection.execute(
        "CREATE TRIGGER no BEFORE DELETE ON exchange BEGIN SELECT raise(FAIL, ''); END"
    )
    with pytest.raises(StorageUnavailable):
        unsynced.purge(PurgeSpan(until=1), limit=10)
    assert merging(unsynced) == {}
    connection.execute("DROP TRIGGER no")
    assert counts(unsynced) == (2, 1)
    assert unsynced.purge(PurgeSpan(until=1), limit=10).count == 1


def test_no_lock_is_taken_where_nothing_is_to_be_purged(
    unsynced: PeeweeStore, transactions: list[int]
) -> None:
    for n in range(10):
        keep(unsynced, exchange(n))
    transactions.clear()
    assert unsynced.purge(PurgeSpan(until=10, caller="nobody"), limit=9).until == 10
    assert transactions == []


FILL = """
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
INSERT INTO exchange (public_id, caller, user_id, state, route, model, prompt, reply, sanitized,
    tokens_estimated, turn_tokens, attempts, started_at, finished_at, lease_until, owner)
SELECT hex(randomblob(16)), ?, 'u' || i, 'open', 'r', 'm', 'p', 'r', 0, 0, 1, 1, ?, ?, ?, ''
FROM n
"""


def fill(store: PeeweeStore, count: int, caller: str, at: str) -> None:
    run = store.session.opened().writer.execute_sql
    run(FILL, [count, caller, at, at, at])
    run("UPDATE exchange SET state = 'completed' WHERE state = 'open'")


def test_one_read_looks_at_a_thousand_rows_at_most(unsynced: PeeweeStore) -> None:
    fill(unsynced, 2 * LOOK + 500, "app", "2026-01-01")
    fill(unsynced, 1, "other", "2026-01-01")
    steps = drain(unsynced, PurgeSpan(until=ALL, caller="other"))
    assert steps == [
        Purged(count=0, until=LOOK),
        Purged(count=0, until=2 * LOOK),
        Purged(count=1, until=ALL),
    ]


def test_the_last_number_is_found_however_many_are_younger(unsynced: PeeweeStore) -> None:
    fill(unsynced, 3, "app", "2026-01-01")
    fill(unsynced, 2 * LOOK, "app", "2026-06-01")
    assert unsynced.last_before(datetime(2026, 3, 1, tzinfo=UTC)) == 3
    assert unsynced.last_before(datetime(2025, 3, 1, tzinfo=UTC)) == 0


def plans(connection: sqlite3.Connection, work: Callable[[], Any]) -> list[str]:
    """Return how SQLite finds its rows in each statement that the work runs."""
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    work()
    connection.set_trace_callback(None)
    details: list[str] = []
    for statement in statements:
        if statement.lstrip().startswith(("SELECT", "UPDATE", "DELETE", "INSERT", "WITH")):
            details += [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}")]
    return details


@pytest.mark.parametrize("span", SPANS)
def test_a_transaction_never_scans(unsynced: PeeweeStore, span: PurgeSpan) -> None:
    for n in range(4):
        keep(unsynced, exchange(n, ["a", "b", f"c{n}"] if n % 2 else None))
    span = replace(span, caller="anonymous", before=NOW + timedelta(days=1))
    connection = unsynced.session.opened().writer.connection()
    found = plans(connection, lambda: unsynced.purge(span, limit=9))
    assert any("INTEGER PRIMARY KEY (rowid=?)" in plan for plan in found)
    scans = [plan for plan in found if plan.startswith("SCAN") and "own" not in plan]
    assert [plan for plan in scans if "CONSTANT ROW" not in plan] == []


def test_between_transactions_that_tidy_others_have_as_long_as_each_took(
    unsynced: PeeweeStore, monkeypatch: pytest.MonkeyPatch, transactions: list[int]
) -> None:
    naps: list[float] = []
    monkeypatch.setattr("chatport.adapters.sqlite_retention.time.sleep", naps.append)
    for n in range(20):
        keep(unsynced, exchange(n, prompt=f"some words {n}"))
    unsynced.purge(EVERYTHING, limit=1)
    transactions.clear()
    naps.clear()
    unsynced.tidy()
    assert len(transactions) >= 1
    assert len(naps) == len(transactions)
    assert all(nap > 0 for nap in naps)


def test_between_the_transactions_of_one_step_others_get_the_lock(
    unsynced: PeeweeStore, monkeypatch: pytest.MonkeyPatch, transactions: list[int]
) -> None:
    naps: list[float] = []
    monkeypatch.setattr("chatport.adapters.sqlite_retention.time.sleep", naps.append)
    for n in range(20):
        keep(unsynced, exchange(n, prompt=f"some words {n}"))
    transactions.clear()
    unsynced.purge(PurgeSpan(until=20), limit=9)
    assert len(transactions) >= 2
    assert naps == [0.002] * (len(transactions) - 1)  # twice what a waiting process lets pass


def test_the_word_index_is_merged_in_bounded_steps_even_if_others_never_stop(
    unsynced: PeeweeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def merge(_file: SqliteFile, pages: int) -> bool:
        calls.append(pages)
        return True

    keep(unsynced, exchange(0))
    unsynced.purge(EVERYTHING, limit=1)
    monkeypatch.setattr(SqliteFile, "merge_words", merge)
    unsynced.tidy()
    assert calls[:2] == [-16, 16]
    assert len(calls) < 10


def test_statistics_go_in_transactions_of_some_hundred_rows(
    unsynced: PeeweeStore, transactions: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_retention, "ROWS", 4)
    for n in range(10):
        unsynced.count_refusal("app", "rule", NOW - timedelta(minutes=n))
    transactions.clear()
    assert unsynced.purge_statistics(NOW) == 9
    assert transactions == [4, 4, 1]
    assert value(unsynced, "SELECT count(*) FROM refusal") == 1


def test_names_leave_the_usage_in_transactions_of_some_hundred_rows(
    unsynced: PeeweeStore, transactions: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(10):
        keep(unsynced, exchange(n, user_id=f"user-{n}"))
    drain(unsynced, PurgeSpan(until=10))
    monkeypatch.setattr(sqlite_retention, "ROWS", 4)
    transactions.clear()
    assert unsynced.erase("anonymous", None) == 0
    assert transactions[:3] == [8, 8, 4]
    assert value(unsynced, "SELECT sum(calls) FROM usage WHERE user_id = ''") == 10


def test_a_writer_gets_its_turn_between_any_two_steps(store: PeeweeStore, path: Path) -> None:
    for n in range(40):
        keep(store, exchange(n))
    begun: list[str] = []

    def chat(other: PeeweeStore) -> None:
        thread = threading.Thread(
            target=lambda: other.begin(exchange(100 + len(begun), user_id=f"u{len(begun)}"), BOUNDS)
        )
        thread.start()
        thread.join(timeout=5)
        assert not thread.is_alive()
        begun.append("turn")

    with closing(PeeweeStore(path)) as other:
        for _ in Retention(store, SystemClock()).purge(PurgeSpan(until=40)):
            chat(other)
        assert len(begun) >= 2
        assert len(other.search(LogQuery(state=State.OPEN))) == len(begun)


# What goes wrong in between


def test_what_is_stopped_in_a_step_is_as_before_it(
    store: PeeweeStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(3):
        keep(store, exchange(n, [f"message {n}"]))

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(RequestTexts, "drop", interrupt)
    with pytest.raises(KeyboardInterrupt):
        store.purge(PurgeSpan(until=3), limit=9)
    monkeypatch.undo()
    assert [found.number for found in store.search(LogQuery())] == [3, 2, 1]
    check_index(path)
    assert sum(step.count for step in purge(store, PurgeSpan(until=3))) == 3
    assert counts(store) == (0, 0)


def test_a_number_that_was_given_again_meanwhile_is_not_purged(
    store: PeeweeStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(store, exchange(0))
    find = sqlite_purge.SqlitePurge.find

    def find_and_lose(self: Any, *arguments: Any) -> Any:
        found = find(self, *arguments)
        with closing(PeeweeStore(path)) as other:
            other.erase("anonymous", "ada")
            other.begin(exchange(9, user_id="bob", started_at=NOW + timedelta(days=9)), BOUNDS)
            other.close()
        return found

    monkeypatch.setattr(sqlite_purge.SqlitePurge, "find", find_and_lose)
    span = PurgeSpan(until=1, before=NOW + timedelta(days=1))
    assert store.purge(span, limit=9) == Purged(count=0, until=1)
    assert [found.id for found in store.search(LogQuery())] == ["exchange-9"]


def test_a_store_that_was_closed_purges_after_it_is_opened_again(store: PeeweeStore) -> None:
    keep(store, exchange(0))
    keep(store, exchange(1))
    assert store.purge(PurgeSpan(until=1), limit=9).count == 1
    store.close()
    assert store.purge(PurgeSpan(until=2), limit=9).count == 1


def test_a_long_write_ahead_log_is_emptied_between_steps(
    unsynced: PeeweeStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a request whose commit makes it a thousand pages would have to wait for that."""
    wal = path.with_name("log.db-wal")
    for n in range(9):
        keep(unsynced, exchange(n))
    before = wal.stat().st_size
    monkeypatch.setattr(sqlite_retention, "WAL_BYTES", 10 * before)
    unsynced.purge(PurgeSpan(until=3), limit=9)
    assert wal.stat().st_size > before
    monkeypatch.setattr(sqlite_retention, "WAL_BYTES", before)
    unsynced.purge(PurgeSpan(until=6), limit=9)
    assert wal.stat().st_size == 0
