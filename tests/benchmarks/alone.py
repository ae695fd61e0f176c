"""What is measured of chatport alone: long conversations, a long log, and how it starts."""

import sqlite3
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import load
import processes
from measured import drive
from place import Place
from table import Row

from chatport.adapters.file_condition import FileCondition
from chatport.adapters.peewee_store import PeeweeStore
from chatport.adapters.sqlite_database import SqliteFile
from chatport.domain.history import HistoryBounds
from chatport.domain.model import Exchange, State

LONG_CONVERSATION = 500
CONVERSATIONS = 10
TURNS_EACH = 15
"""Below the default limit of 20 requests a minute for each user."""

LOG_ROWS = 1_000_000
QUICK_LOG_ROWS = 100_000
HISTORY_TURNS = 10
HISTORY_USERS = 20
HISTORY_READS = 2_000
ROUNDS = 5

FILL = """
WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?)
INSERT INTO exchange (public_id, caller, user_id, state, route, model, prompt, reply, sanitized,
    tokens_estimated, turn_tokens, attempts, started_at, finished_at, lease_until, owner)
SELECT printf('%032x', n), 'bench', printf('u%d', n % ?), 'completed', '/openai-completion',
    'fake', 'What is a port?', printf('%0100d', n), 0, 0, 20, 1, '2026-01-01T00:00:00.000000+00:00',
    '2026-01-01T00:00:01.000000+00:00', '2026-01-01T00:02:30.000000+00:00', ''
FROM numbers
"""

IMPORT = """
import sys, time
before, began = set(sys.modules), time.perf_counter()
import chatport.domain
milliseconds = (time.perf_counter() - began) * 1000
roots = {name.partition(".")[0] for name in set(sys.modules) - before}
print(milliseconds, len(roots - sys.stdlib_module_names - {"chatport"}))
"""


def conversation(place: Place) -> list[Row]:
    """Measure a request with 1,000 messages of history against one with a single message."""
    folder = place.folder()
    users = [load.new_user() for _ in range(CONVERSATIONS)]
    store = PeeweeStore(folder / "chatport.db")
    for user_id in users:
        _converse(store, user_id)
    store.close()
    settings = {"CHATPORT_HISTORY_TOKENS": "100000000"}
    costs = []
    with processes.chatport(folder, place.provider(), settings) as server:
        for _ in range(TURNS_EACH // 5):
            long = drive(server, load.one_by_one(server.port, users * 5))
            strangers = [load.new_user() for _ in range(5 * CONVERSATIONS)]
            short = drive(server, load.one_by_one(server.port, strangers))
            failures = long.outcome.failures.total() + short.outcome.failures.total()
            costs.append((long.cpu_us, short.cpu_us, failures))
    many, one, failures = (statistics.median(column) for column in zip(*costs, strict=True))
    return [
        Row(
            figure="CPU with 1,000 messages against 1, us",
            chatport=many,
            other=one,
            ratio=many / one,
            budget=2,
            of_ratio=True,
        ),
        Row(figure="  failures", chatport=failures, budget=0),
    ]


def _converse(store: PeeweeStore, user_id: str) -> None:
    """Write a conversation of 1,000 messages, 60 bytes each."""
    began = datetime.now(UTC)
    for number in range(LONG_CONVERSATION):
        exchange = Exchange(
            id=f"{user_id}-{number}",
            caller=load.CALLER,
            user_id=user_id,
            route=load.SEED,
            model="fake",
            prompt=f"{number:060}",
            started_at=began,
            lease_until=began + timedelta(minutes=2),
        )
        store.begin(exchange, HistoryBounds(turns=1))
        store.finish(_completed(exchange))


def _completed(exchange: Exchange) -> Exchange:
    return replace(
        exchange,
        state=State.COMPLETED,
        reply=exchange.prompt,
        finish_reason="stop",
        turn_tokens=30,
        finished_at=exchange.started_at,
    )


def history(place: Place) -> list[Row]:
    """Measure the read of a user's last ten turns in a long log against a short one."""
    rows = QUICK_LOG_ROWS if place.quick else LOG_ROWS
    long = _filled(place.folder() / "chatport.db", rows)
    short = _filled(place.folder() / "chatport.db", HISTORY_USERS * HISTORY_TURNS)
    times = [
        (_read_us(long, rows), _read_us(short, HISTORY_USERS * HISTORY_TURNS))
        for _ in range(ROUNDS)
    ]
    long.close()
    short.close()
    ours, other = (statistics.median(side) for side in zip(*times, strict=True))
    return [
        Row(
            figure=f"history read, {rows:,} rows in the log against {HISTORY_USERS * 10}, us",
            chatport=ours,
            other=other,
            ratio=statistics.median(one / two for one, two in times),
            budget=1.5,
            of_ratio=True,
        )
    ]


def _filled(path: Path, rows: int) -> SqliteFile:
    """Return a log of so many rows, where each user has ten, far from each other."""
    SqliteFile(path, FileCondition()).close()
    database = sqlite3.connect(path)
    with database:
        database.execute(FILL, (rows, rows // HISTORY_TURNS))
    database.close()
    return SqliteFile(path, FileCondition())


def _read_us(file: SqliteFile, rows: int) -> float:
    """Return what `begin` pays for one history, for users from all over the log."""
    apart = rows // HISTORY_TURNS // HISTORY_USERS
    users = [f"u{number * apart}" for number in range(HISTORY_USERS)]
    began = time.perf_counter()
    for number in range(HISTORY_READS):
        wanted = {"caller": load.CALLER, "user_id": users[number % HISTORY_USERS], "turns": 501}
        turns = file._run(file._queries.history, wanted).fetchall()
        assert len(turns) == HISTORY_TURNS
    return (time.perf_counter() - began) / HISTORY_READS * 1e6


def imports(place: Place) -> list[Row]:
    """Measure the import of the domain in a fresh interpreter."""
    command = [sys.executable, "-c", IMPORT]
    seen = [_output(command, place).split() for _ in range(ROUNDS)]
    return [
        Row(
            figure="import chatport.domain, ms",
            chatport=statistics.median(float(milliseconds) for milliseconds, _ in seen),
            budget=100,
        ),
        Row(
            figure="  third-party packages that it loads",
            chatport=max(int(foreign) for _, foreign in seen),
            budget=0,
        ),
    ]


def start(place: Place) -> list[Row]:
    """Measure how long `chatport serve` takes to its first answer, and `chatport --help`."""
    ours, bare = [], []
    for _ in range(ROUNDS):
        with processes.chatport(place.folder(), place.provider()) as server:
            ours.append(server.started_seconds)
        with processes.bare(place.folder(), place.provider()) as server:
            bare.append(server.started_seconds)
    values = statistics.median(ours), statistics.median(bare)
    help_command = [str(processes.BIN / "chatport"), "--help"]
    helps = [_seconds(help_command, place) for _ in range(ROUNDS)]
    return [
        Row(
            figure="chatport serve to first answer, s",
            chatport=values[0],
            other=values[1],
            ratio=values[0] / values[1],
            budget=0.8,
        ),
        Row(figure="chatport --help, s", chatport=statistics.median(helps), budget=0.25),
    ]


def _seconds(command: list[str], place: Place) -> float:
    began = time.perf_counter()
    _output(command, place)
    return time.perf_counter() - began


def _output(command: list[str], place: Place) -> str:
    """Run a program to its end, as it would run outside of a benchmark."""
    done = subprocess.run(
        command,
        cwd=place.root,
        env=processes.environment(),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout
