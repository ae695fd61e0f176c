"""How SQLite keeps requests: each text once, found by an index, and gone when nobody needs it."""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatport.adapters import PeeweeStore
from chatport.adapters.exchange_table import packed
from chatport.domain import Exchange, HistoryBounds, LogQuery, State
from chatport.domain.errors import ConversationBusy, IdempotencyInProgress, StorageFull
from chatport.domain.relay import Once, RequestText

BOUNDS = HistoryBounds()
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
PARAMETERS = '{"model":"model-1","messages":[]}'


def relayed(n: int = 0, messages: Sequence[str] = ("Hello",), **fields: Any) -> Exchange:
    started_at = NOW + timedelta(seconds=n)
    values: dict[str, Any] = {
        "id": f"exchange-{n}",
        "caller": "anonymous",
        "user_id": "ada",
        "route": "test",
        "model": "model-1",
        "prompt": "",
        "started_at": started_at,
        "lease_until": started_at + timedelta(hours=1),
        "request": RequestText(messages=list(messages), parameters=PARAMETERS),
    }
    return Exchange(**{**values, **fields})


def ended(exchange: Exchange, state: State = State.COMPLETED, **fields: Any) -> Exchange:
    finished_at = exchange.started_at + timedelta(seconds=1)
    return replace(exchange, state=state, finished_at=finished_at, attempts=1, **fields)


def keep(store: PeeweeStore, exchange: Exchange, **fields: Any) -> None:
    store.begin(exchange, BOUNDS)
    store.finish(ended(exchange, **fields))


def value(store: PeeweeStore, query: str) -> Any:
    return store.session.opened().writer.execute_sql(query).fetchone()[0]


def counts(store: PeeweeStore) -> tuple[int, int]:
    """Return how many texts and how many links of lists there are."""
    return (
        value(store, "SELECT count(*) FROM message_text"),
        value(store, "SELECT count(*) FROM message_chain"),
    )


def text_size(store: PeeweeStore) -> int:
    return int(value(store, "SELECT coalesce(sum(length(text)), 0) FROM message_text"))


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


# Growth


def message(n: int) -> str:
    """Return the text of a message: 200 bytes, and like no other."""
    return f'{{"role":"user","content":"{n:0172}"}}'


def grow(
    store: PeeweeStore, turns: int, shown: Callable[[list[str], int], list[str]]
) -> list[tuple[int, int, int]]:
    """Return what is kept after half of the turns of a conversation, and after all."""
    said: list[str] = []
    sizes = []
    for n in range(turns):
        said += [message(2 * n), message(2 * n + 1)]
        keep(store, relayed(n, shown(said, n)))
        if n + 1 in {turns // 2, turns}:
            sizes.append((*counts(store), text_size(store)))
    return sizes


def test_a_client_that_resends_the_whole_conversation_costs_two_messages_a_turn(
    unsynced: PeeweeStore,
) -> None:
    half, whole = grow(unsynced, 100, lambda said, _: ["system", *said])
    assert half == (2 + 100, 50 * 3, 100 * 200 + 6 + 33)
    assert whole == (2 + 200, 100 * 3, 200 * 200 + 6 + 33)


def test_the_file_grows_by_the_same_number_of_pages_with_every_fifty_turns(
    unsynced: PeeweeStore,
) -> None:
    pages: list[int] = []
    said: list[str] = []
    for n in range(200):
        said += [message(2 * n), message(2 * n + 1)]
        keep(unsynced, relayed(n, said, answer=[b"a" * 50]))
        if n % 50 == 49:
            pages.append(int(value(unsynced, "PRAGMA page_count")))
    growth = [later - sooner for sooner, later in pairwise(pages)]
    assert max(growth) <= 1.5 * min(growth)  # a B-tree splits where it likes
    assert max(growth) < 25  # 50 x (2 x 200 bytes and the rows), in pages of 4096 bytes


def test_a_client_that_shows_the_last_messages_only_does_not_repeat_their_texts(
    unsynced: PeeweeStore,
) -> None:
    half, whole = grow(unsynced, 40, lambda said, _: ["system", *said[-10:]])
    assert (half[0], half[2]) == (2 + 40, 40 * 200 + 6 + 33)
    assert (whole[0], whole[2]) == (2 + 80, 80 * 200 + 6 + 33)
    assert whole[1] - half[1] == 20 * 11


def test_a_system_prompt_that_changes_repeats_neither_the_other_texts_nor_their_lists(
    unsynced: PeeweeStore,
) -> None:
    half, whole = grow(unsynced, 20, lambda said, n: [f"It is {n:02} o'clock.", *said])
    assert half == (1 + 10 + 20, 10 * 3, 20 * 200 + 10 * 17 + 33)
    assert whole == (1 + 20 + 40, 20 * 3, 40 * 200 + 20 * 17 + 33)


def test_parameters_are_kept_once_for_all_users_of_a_caller(unsynced: PeeweeStore) -> None:
    for n in range(5):
        keep(unsynced, relayed(n, ["Hello"], user_id=f"user-{n}"))
    assert counts(unsynced) == (2, 1)


def test_two_callers_share_no_text(store: PeeweeStore) -> None:
    keep(store, relayed(0, ["Hello", "again"], caller="one"))
    keep(store, relayed(1, ["Hello", "again"], caller="other"))
    assert counts(store) == (6, 4)
    assert store.erase("one", "ada") == 1
    assert counts(store) == (3, 2)
    kept = store.find("exchange-1")
    assert kept is not None
    assert kept.request == RequestText(messages=["Hello", "again"], parameters=PARAMETERS)


def test_a_list_that_is_cut_or_goes_another_way_is_another_list(store: PeeweeStore) -> None:
    lists = [["a", "b", "c"], ["a", "b"], [], ["a", "b", "d"], ["a"], ["b", "c"], ["ab", "c"]]
    for n, messages in enumerate(lists):
        keep(store, relayed(n, messages))
    for n, messages in enumerate(lists):
        found = store.find(f"exchange-{n}")
        assert found is not None
        assert found.request == RequestText(messages=messages, parameters=PARAMETERS)


# What nobody needs any more


def reachable(store: PeeweeStore) -> tuple[set[int], set[int]]:
    """Return the ids of the texts and of the links that some exchange needs."""
    writer = store.session.opened().writer
    links = {
        link: (previous, text_id)
        for link, previous, text_id in writer.execute_sql(
            "SELECT id, previous, text_id FROM message_chain"
        )
    }
    texts, chain = set(), set()
    for parameters_id, messages_id in writer.execute_sql(
        "SELECT parameters_id, messages_id FROM exchange WHERE parameters_id IS NOT NULL"
    ):
        texts.add(parameters_id)
        link = messages_id
        while link is not None:
            chain.add(link)
            link, text_id = links[link]
            texts.add(text_id)
    return texts, chain


def kept_ids(store: PeeweeStore) -> tuple[set[int], set[int]]:
    writer = store.session.opened().writer
    texts = {row[0] for row in writer.execute_sql("SELECT id FROM message_text")}
    chain = {row[0] for row in writer.execute_sql("SELECT id FROM message_chain")}
    return texts, chain


USERS = [("one", "ada"), ("one", "bob"), ("one", "eve"), ("other", "ada")]
USER = st.sampled_from(USERS)
WORDS = st.sampled_from(["a", "b", "c", PARAMETERS])
REQUEST = st.tuples(
    st.just("request"), USER, st.lists(WORDS, max_size=5), st.sampled_from([PARAMETERS, "a"])
)
RETRY = st.tuples(st.just("retry"), USER)
ERASURE = st.tuples(st.just("erase"), USER)


def test_whatever_is_erased_in_whatever_order_the_rest_stays_and_nothing_else(
    unsynced: PeeweeStore,
) -> None:
    @given(
        steps=st.lists(st.one_of(REQUEST, REQUEST, RETRY, ERASURE), max_size=14),
        order=st.permutations(USERS),
    )
    @settings(max_examples=60, deadline=None, database=None)
    def check(steps: list[Any], order: list[tuple[str, str]]) -> None:
        for table in ("exchange", "message_chain", "message_text"):
            unsynced.session.opened().writer.execute_sql(f"DELETE FROM {table}")
        put_in: dict[str, Exchange] = {}
        for n, (what, user, *details) in enumerate(steps):
            if what == "request":
                exchange = attempt(n, user, *details)
                keep(unsynced, exchange, state=State.FAILED)
                put_in[exchange.id] = exchange
            elif what == "retry":
                for exchange in [e for e in put_in.values() if (e.caller, e.user_id) == user][:1]:
                    keep(unsynced, exchange, state=State.FAILED)
            else:
                put_in = erase(unsynced, user, put_in)
            assert_kept(unsynced, put_in)
        for user in order:
            put_in = erase(unsynced, user, put_in)
            assert_kept(unsynced, put_in)
        assert counts(unsynced) == (0, 0)

    check()


def attempt(n: int, user: tuple[str, str], messages: list[str], parameters: str) -> Exchange:
    return relayed(
        n,
        caller=user[0],
        user_id=user[1],
        request=RequestText(messages=messages, parameters=parameters),
        idempotency_key=f"key-{n}",
        request_hash="hash",
    )


def erase(
    store: PeeweeStore, user: tuple[str, str], put_in: dict[str, Exchange]
) -> dict[str, Exchange]:
    rest = {name: e for name, e in put_in.items() if (e.caller, e.user_id) != user}
    file = (
        store.session.opened()
    )  # without the rewriting of the word index, which another test is for
    erased = store.session._commits.run(lambda: file.erase(*user))
    assert erased == len(put_in) - len(rest)
    return rest


def assert_kept(store: PeeweeStore, put_in: dict[str, Exchange]) -> None:
    for exchange in put_in.values():
        found = store.find(exchange.id)
        assert found is not None
        assert found.request == exchange.request
    assert kept_ids(store) == reachable(store)


def everything(path: Path) -> bytes:
    return b"".join(file.read_bytes() for file in path.parent.glob("log.db*") if file.is_file())


SECRETS = ("message", "parameters", "prompt", "reply", "tool-call", "key", "hash")


def secretive(n: int) -> Exchange:
    """Return an exchange whose every text says whose it is: `secret` of ada, `kept` of bob."""
    mark = f"{'kept' if n % 2 else 'secret'}-{{}} {n:03}".format
    messages = [mark("message") + "x" * 300 * n, mark("tool-call"), "shared by both"]
    return relayed(
        n,
        user_id="bob" if n % 2 else "ada",
        prompt=mark("prompt"),
        request=RequestText(messages=messages, parameters=mark("parameters")),
        idempotency_key=mark("key"),
        request_hash=mark("hash"),
        reply=mark("reply"),
        answer=[mark("answer").encode(), mark("tool-call").encode()],
    )


def test_of_an_erased_user_no_byte_is_left_in_the_files(store: PeeweeStore, path: Path) -> None:
    exchanges = [secretive(n) for n in range(20)]
    for n, exchange in enumerate(exchanges):
        store.begin(replace(exchange, reply="", answer=()), BOUNDS)
        store.checkpoint(replace(exchange, answer=[*exchange.answer, b"so far"]))
        if n % 4 < 2:
            store.finish(ended(exchange))
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA wal_checkpoint")
    before = everything(path)
    assert all(f"secret-{name} 002".encode() in before for name in SECRETS)
    answers = [packed(exchange.answer) or b"" for exchange in exchanges[0::4]]
    assert all(answer in before for answer in answers)

    assert store.erase("anonymous", "ada") == 10
    after = everything(path)
    assert b"secret-" not in after
    assert not any(answer in after for answer in answers)
    for text in ("kept-message 019", "kept-reply 017", "kept-key 001", "shared by both"):
        assert text.encode() in after
    for exchange in exchanges[1::2]:
        found = store.find(exchange.id)
        assert found is not None
        assert found.request == exchange.request
    store.close()
    with closing(sqlite3.connect(path)) as other:
        other.execute("VACUUM")
    assert b"secret-" not in everything(path)


def test_a_next_attempt_leaves_nothing_of_the_one_before(store: PeeweeStore, path: Path) -> None:
    exchange = relayed(0, ["the", "vixen"], idempotency_key="key-1", request_hash="hash-1")
    keep(store, exchange, state=State.FAILED, reply="vixen", answer=[b"half"])
    again = relayed(1, ["the", "badger"], id=exchange.id, attempts=1)
    again = replace(again, idempotency_key="key-1", request_hash="hash-1")
    store.begin(again, BOUNDS)
    assert (counts(store), kept_ids(store)) == ((3, 2), reachable(store))
    store.finish(ended(again, reply="fine"))
    assert store.erase("anonymous", "ada") == 1
    assert counts(store) == (0, 0)
    assert b"vixen" not in everything(path)


# What goes wrong in between


def test_a_refused_begin_leaves_no_texts(store: PeeweeStore) -> None:
    exchange = relayed(0, idempotency_key="key-1", request_hash="hash-1")
    store.begin(exchange, BOUNDS)
    for refused in (
        relayed(1, ["other"], idempotency_key="key-1", request_hash="hash-1"),
        replace(exchange, request=RequestText(messages=["other"], parameters="other")),
    ):
        with pytest.raises(IdempotencyInProgress):
            store.begin(refused, BOUNDS)
    assert counts(store) == (2, 1)


@pytest.mark.parametrize(
    "fields", [{"prompt": "\ud800"}, {"user_id": "\ud800"}, {"route": object()}, {"id": "taken"}]
)
def test_a_begin_that_cannot_be_written_leaves_no_texts_and_no_gap(
    store: PeeweeStore, fields: dict[str, Any]
) -> None:
    keep(store, relayed(0, ["first"], id="taken"))
    attempt = relayed(1, ["first", "mine"], idempotency_key="key-1", request_hash="hash-1")
    keep(store, attempt, state=State.FAILED)
    before = counts(store)
    with pytest.raises(Exception):  # noqa: B017  # which one is the driver's affair
        store.begin(relayed(2, ["first", "orphan"], **fields), BOUNDS)
    with pytest.raises(Exception):  # noqa: B017  # as above
        store.begin(replace(attempt, prompt="\ud800"), BOUNDS)
    assert counts(store) == before
    assert kept_ids(store) == reachable(store)
    assert store.find("exchange-1") is not None
    store.begin(replace(attempt, attempts=1), BOUNDS)


def test_a_full_disk_leaves_no_texts(store: PeeweeStore) -> None:
    keep(store, relayed(0, ["first"]))
    writer = store.session.opened().writer
    pages = value(store, "PRAGMA page_count")
    writer.execute_sql(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StorageFull):
        store.begin(relayed(1, ["first", "x" * 100_000]), BOUNDS)
    writer.execute_sql("PRAGMA max_page_count = 100000")
    assert counts(store) == (2, 1)
    keep(store, relayed(1, ["first", "x" * 100_000]))
    assert counts(store) == (3, 3)


def test_a_next_attempt_that_meets_a_busy_conversation_keeps_the_log(store: PeeweeStore) -> None:
    first = relayed(0, request=None, idempotency_key="key-1", request_hash="hash-1")
    keep(store, first, state=State.FAILED)
    store.begin(relayed(1, request=None), BOUNDS)
    with pytest.raises(ConversationBusy):
        store.begin(first, BOUNDS)
    assert [found.id for found in store.search(LogQuery())] == ["exchange-1", "exchange-0"]


@pytest.mark.parametrize("how", ["find", "earlier"])
def test_an_exchange_is_read_in_one_state_of_the_file(
    store: PeeweeStore, path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Somebody erases the user between two statements, and another takes the freed row ids."""
    mine = relayed(0, ["of ada"], idempotency_key="key-1", request_hash="hash-1")
    keep(store, mine)
    texts = store.session.opened().log._texts
    read = texts.read

    def read_late(*ids: Any) -> RequestText:
        with closing(PeeweeStore(path)) as other:
            with closing(sqlite3.connect(path)) as eraser:
                for table in ("exchange", "message_chain", "message_text"):
                    eraser.execute(f"DELETE FROM {table}")
                eraser.commit()
            keep(other, relayed(1, ["of bob"], caller="other", user_id="bob"))
        return read(*ids)

    monkeypatch.setattr(texts, "read", read_late)
    if how == "find":
        found = store.find("exchange-0")
    else:
        once = Once(request_hash="hash-1", key="key-1")
        found = store.earlier("anonymous", once, now=NOW, since=NOW)
    assert found is not None
    assert found.request == mine.request
    monkeypatch.undo()
    assert store.find("exchange-0") is None
    assert store.find("exchange-1") is not None


# Cost


def plans(connection: sqlite3.Connection, work: Callable[[], Any]) -> list[str]:
    """Return how SQLite finds its rows in each statement that the work runs."""
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    work()
    connection.set_trace_callback(None)
    details: list[str] = []
    for statement in statements:
        if statement.startswith(("SELECT", "UPDATE", "DELETE", "INSERT", "WITH")):
            details += [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}")]
    return details


ONCE_BY_KEY = Once(request_hash="hash-1", key="key-1")
ONCE_BY_HASH = Once(request_hash="hash-1", retry=True)


@pytest.mark.parametrize(
    ("once", "index"),
    [
        (ONCE_BY_KEY, "exchange_key (caller=? AND idempotency_key=?)"),
        (ONCE_BY_HASH, "exchange_request (caller=? AND request_hash=? AND finished_at"),
    ],
)
def test_what_a_request_repeats_is_found_by_an_index_without_sorting(
    store: PeeweeStore, once: Once, index: str
) -> None:
    connection = store.session.opened().reader.connection()
    found = plans(connection, lambda: store.earlier("anonymous", once, now=NOW, since=NOW))
    assert found
    assert all(index in plan for plan in found), found


def test_texts_are_found_added_and_dropped_by_indexes(store: PeeweeStore) -> None:
    keep(store, relayed(0, ["a", "b"]))
    connection = store.session.opened().writer.connection()
    found = plans(connection, lambda: store.begin(relayed(1, ["a", "b", "c"]), BOUNDS))
    file = store.session.opened()
    found += plans(
        connection, lambda: store.session._commits.run(lambda: file.erase("anonymous", "ada"))
    )
    assert counts(store) == (0, 0)
    for index in (
        "message_text_digest (caller=? AND digest=?)",
        "exchange_parameters (parameters_id=?)",
        "exchange_messages (messages_id=?)",
        "exchange_conversation (caller=? AND user_id=?)",
    ):
        assert any(index in plan for plan in found), (index, found)
    small = ("CONSTANT ROW", "SCAN spending")  # the latter is a look whether there is any row
    scans = [plan for plan in found if "SCAN" in plan and not any(each in plan for each in small)]
    assert [plan for plan in scans if "exchange_text" not in plan] == []


def test_a_request_is_read_without_a_scan(store: PeeweeStore) -> None:
    keep(store, relayed(0, ["a", "b"]))
    found = plans(store.session.opened().reader.connection(), lambda: store.find("exchange-0"))
    assert [plan for plan in found if plan.startswith("SCAN") and "list" not in plan] == []


def test_history_and_the_open_turn_still_have_their_partial_indexes(store: PeeweeStore) -> None:
    keep(store, relayed(0, request=None))
    store.begin(relayed(1, request=None), BOUNDS)
    connection = store.session.opened().writer.connection()

    def collide() -> None:
        with pytest.raises(ConversationBusy):
            store.begin(relayed(2, request=None), BOUNDS)

    searches = [plan.split(" USING ") for plan in plans(connection, collide)]
    assert [how for _, *used in searches for how in used] == [
        "INDEX exchange_history (caller=? AND user_id=?)",
        "INTEGER PRIMARY KEY (rowid=?)",  # the newest of all
        "INDEX exchange_open (caller=? AND user_id=?)",
    ]


def test_an_answer_stands_behind_all_that_the_log_lists(store: PeeweeStore) -> None:
    """SQLite reads a row from its beginning: what stands behind an answer costs the answer."""
    columns = store.session.opened().writer.get_columns("exchange")
    assert columns[-1].name == "answer"


FILL = """
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
INSERT INTO exchange (public_id, caller, user_id, state, route, model, prompt, reply, sanitized,
    tokens_estimated, turn_tokens, attempts, started_at, finished_at, lease_until, owner,
    request_hash)
SELECT hex(randomblob(16)), 'anonymous', 'u', 'completed', 'r', 'm', 'p', 'r', 0, 0, 1, 1,
    '2026-01-01', '2026-01-01', '2026-01-01', '', 'hash-1' FROM n
"""


def test_a_retry_costs_the_same_however_often_the_request_was_sent_before(
    store: PeeweeStore,
) -> None:
    costs: list[int] = []
    for rows in (10, 10_000):
        store.session.opened().writer.connection().execute(FILL, [rows])
        instructions = 0

        def tick() -> int:
            nonlocal instructions
            instructions += 1
            return 0

        reader = store.session.opened().reader.connection()
        reader.set_progress_handler(tick, 1)
        assert store.earlier("anonymous", ONCE_BY_HASH, now=NOW, since=NOW) is None
        reader.set_progress_handler(None, 0)
        costs.append(instructions)
    assert costs[1] <= costs[0] + 5


def instructions_of(store: PeeweeStore, messages: list[str]) -> int:
    """Return how many instructions SQLite executes to keep a request."""
    connection = store.session.opened().writer.connection()
    count = 0

    def tick() -> int:
        nonlocal count
        count += 1
        return 0

    connection.set_progress_handler(tick, 1)
    store.begin(relayed(len(messages), messages), BOUNDS)
    connection.set_progress_handler(None, 0)
    return count


def test_a_turn_late_in_a_long_conversation_costs_little_more_than_an_early_one(
    unsynced: PeeweeStore,
) -> None:
    said = [message(n) for n in range(1030)]
    unsynced.begin(relayed(8, said[:8]), BOUNDS)
    early = instructions_of(unsynced, said[:10])
    unsynced.begin(relayed(1024, said[:1024]), BOUNDS)
    late = instructions_of(unsynced, said[:1026])
    assert late < 3 * early  # the place where the list goes on is found by halving


def test_a_list_of_ten_thousand_messages_comes_back(unsynced: PeeweeStore) -> None:
    said = [str(n % 7) for n in range(10_000)]
    keep(unsynced, relayed(0, said))
    found = unsynced.find("exchange-0")
    assert found is not None
    assert found.request is not None
    assert found.request.messages == said
    file = unsynced.session.opened()
    assert unsynced.session._commits.run(lambda: file.erase("anonymous", "ada")) == 1
    assert counts(unsynced) == (0, 0)
