"""What happens when the disk or the file fails: which answer, no call, and how it ends."""

import errno
import multiprocessing
import os
import random
import resource
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from filelock import FileLock
from flask.testing import FlaskClient
from pytest_mock import MockerFixture
from werkzeug.test import TestResponse

from chatport.adapters import (
    PeeweeStore,
    ScriptedGateway,
    SystemClock,
    look_through,
    open_files,
    random_id,
    schema,
    sqlite_connection,
    sqlite_database,
    sqlite_faults,
)
from chatport.adapters.file_condition import FileCondition
from chatport.adapters.life_sign import LifeSign
from chatport.adapters.open_files import FileUnusable, make_place
from chatport.adapters.peewee_store import MIN_FREE_BYTES, free_bytes
from chatport.adapters.sqlite_database import ROOM_BYTES, SqliteFile
from chatport.adapters.sqlite_inspection import SqliteInspection
from chatport.domain.chat import ChatService
from chatport.domain.errors import (
    ChatportError,
    StorageBusy,
    StorageCorrupt,
    StorageFull,
    StorageLost,
    StorageReadOnly,
    StorageUnavailable,
)
from chatport.domain.model import Completion, CompletionRequest, LogQuery, State
from chatport.domain.relay import Once
from chatport.entrypoints import server
from chatport.entrypoints.flask_app import create_app
from chatport.entrypoints.settings import Settings
from chatport.entrypoints.wiring import Place, assembled, condition
from torture import times

from .programs import PROGRAM, PROGRAMS

ANSWER = "canary answer"
SEED, RELAY = "/openai-completion", "/v1/chat/completions"
LONG = "x" * 90_000
"""More than what is free in the file, in the write-ahead log, or under a limit of the file size."""

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)

Hook = Callable[[], None]


class Gateway(ScriptedGateway):
    """Answers, after doing what a test asks for."""

    def __init__(self) -> None:
        super().__init__(ANSWER)
        self.meanwhile: Hook = lambda: None

    def complete(self, request: CompletionRequest) -> Completion:
        self.meanwhile()
        return super().complete(request)


class World:
    """A server on a file that can be broken."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.free = MIN_FREE_BYTES
        self.gateway = Gateway()
        self.start()

    def start(self) -> None:
        self.store = PeeweeStore(self.path, free=lambda _folder: self.free)
        service = ChatService(
            store=self.store,
            gateway=self.gateway,
            clock=SystemClock(),
            new_id=random_id,
            model="m",
        )
        ready = partial(condition, self.store, lambda: "ok")
        self.client: FlaskClient = create_app(service, ready).test_client()

    def stop(self) -> None:
        self.store.close()

    def run(self, query: str) -> Any:
        """Run a statement on the connection that writes."""
        return self.store.session.opened().writer.execute_sql(query).fetchone()

    def ask(self, prompt: str = "hello", user_id: str = "ada") -> TestResponse:
        return self.client.post(SEED, json={"user_id": user_id, "prompt": prompt})

    def relay(self, prompt: str, *, stream: bool) -> TestResponse:
        messages = [{"role": "user", "content": prompt}]
        return self.client.post(RELAY, json={"model": "m", "messages": messages, "stream": stream})

    def ask_in_each_way(self) -> set[tuple[int, str]]:
        """Return status and code of a long prompt, on each route that calls the provider."""
        seed = self.ask(LONG)
        found = {(seed.status_code, seed.get_json().get("code", ""))}
        for stream in (False, True):
            relayed = self.relay(LONG, stream=stream)
            body = relayed.get_json(silent=True) or {}
            found.add((relayed.status_code, body.get("error", {}).get("code", "")))
        return found

    def ready(self) -> tuple[int, str]:
        response = self.client.get("/readyz")
        return response.status_code, response.get_json().get("code", "")

    def beside(self, end: str) -> Path:
        return self.path.with_name(self.path.name + end)

    def forget_pages(self) -> None:
        """Move all to the file and forget it, so that it is read again."""
        file = self.store.session.opened()
        for database in (file.writer, file.reader):
            database.execute_sql("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        for database in (file.writer, file.reader):
            database.close()
            database.connect()
        file.writer.timeout = 0
        file.files.close()
        known = self.store.session._condition
        file.files.__init__(self.path, known)  # type: ignore[misc]  # a restart without its first reads


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    folder = tmp_path / "data"
    folder.mkdir()
    world = World(folder / "log.db")
    yield world
    with suppress(ChatportError, OSError):
        world.stop()


# What breaks the storage; each breaks it inside the block, and repairs what can be.


@contextmanager
def full_database(world: World) -> Iterator[None]:
    [pages] = world.run("PRAGMA page_count")
    world.run(f"PRAGMA max_page_count = {pages}")
    yield
    world.run("PRAGMA max_page_count = 1000000")


@contextmanager
def limited_file_size(world: World) -> Iterator[None]:
    size = max(path.stat().st_size for path in world.path.parent.iterdir())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 4096, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def locked_by_another(world: World) -> Iterator[None]:
    script = (
        "import sqlite3, sys\n"
        f"other = sqlite3.connect({str(world.path)!r}, isolation_level=None)\n"
        "other.execute('BEGIN IMMEDIATE')\n"
        "print('locked', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"locked\n"
        yield
        assert other.stdin is not None
        other.stdin.close()


@contextmanager
def query_only(world: World) -> Iterator[None]:
    world.run("PRAGMA query_only = ON")
    yield
    world.run("PRAGMA query_only = OFF")


def no_life_sign(number: int) -> "Break":
    """Return what lets the process not say that it lives, which is its first write."""

    @contextmanager
    def broken(world: World) -> Iterator[None]:
        def show(_sign: LifeSign) -> None:
            raise OSError(number, os.strerror(number))

        world.stop()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(LifeSign, "show", show)
            yield

    return broken


@contextmanager
def deleted(world: World) -> Iterator[None]:
    world.path.unlink()
    yield


@contextmanager
def deleted_with_its_log(world: World) -> Iterator[None]:
    for end in ("", "-wal", "-shm"):
        world.beside(end).unlink()
    yield


def without(end: str) -> "Break":
    @contextmanager
    def broken(world: World) -> Iterator[None]:
        world.beside(end).unlink()
        yield

    return broken


@contextmanager
def replaced_by_a_copy(world: World) -> Iterator[None]:
    copy = world.beside(".copy")
    shutil.copy(world.path, copy)
    copy.replace(world.path)
    yield


@contextmanager
def replaced_by_an_empty_file(world: World) -> Iterator[None]:
    world.path.unlink()
    world.path.touch()
    yield


@contextmanager
def replaced_by_a_folder(world: World) -> Iterator[None]:
    world.path.unlink()
    world.path.mkdir()
    yield


@contextmanager
def replaced_by_a_link_to_nothing(world: World) -> Iterator[None]:
    world.path.unlink()
    world.path.symlink_to("nothing")
    yield


@contextmanager
def moved_behind_a_link(world: World) -> Iterator[None]:
    moved = world.path.rename(world.path.parent.with_name("moved.db"))
    world.path.symlink_to(moved)
    yield
    moved.replace(world.path)


@contextmanager
def moved_away_for_a_while(world: World) -> Iterator[None]:
    away = world.beside(".away")
    world.path.rename(away)
    yield
    away.rename(world.path)


@contextmanager
def folder_moved_away_for_a_while(world: World) -> Iterator[None]:
    away = world.path.parent.with_name("away")
    world.path.parent.rename(away)
    yield
    away.rename(world.path.parent)


@contextmanager
def folder_deleted(world: World) -> Iterator[None]:
    shutil.rmtree(world.path.parent)
    yield


def cut(end: str, length: int) -> "Break":
    """Return what cuts a file to a length, or, if that is negative, by so much."""

    @contextmanager
    def broken(world: World) -> Iterator[None]:
        file = world.beside(end)
        if not end:  # what the -wal holds, too, is no loss
            other_process(world, "PRAGMA wal_checkpoint")
        os.truncate(file, length if length >= 0 else file.stat().st_size + length)
        yield

    return broken


@contextmanager
def overwritten_by_an_older_copy(world: World) -> Iterator[None]:
    older = world.path.read_bytes()
    world.ask(LONG)
    world.forget_pages()
    assert world.path.stat().st_size > len(older)
    world.store.check()
    world.path.write_bytes(older)
    world.gateway.calls.clear()
    yield


@contextmanager
def an_older_log_of_writes(world: World) -> Iterator[None]:
    older = world.beside("-wal").read_bytes()
    world.run("PRAGMA wal_checkpoint")
    world.ask()
    world.beside("-wal").write_bytes(older)
    world.gateway.calls.clear()
    yield


def damaged(first: int, last: int | None, *, running: bool) -> "Break":
    """Return what overwrites the bytes of a file between two places."""

    @contextmanager
    def broken(world: World) -> Iterator[None]:
        if running:
            world.forget_pages()
        else:
            world.stop()
        content = bytearray(world.path.read_bytes())
        content[first:last] = b"\xa5" * len(content[first:last])
        with world.path.open("r+b") as file:
            file.write(content)
        yield

    return broken


@contextmanager
def restored_after_damage(world: World) -> Iterator[None]:
    world.stop()
    whole = world.path.read_bytes()
    world.path.write_bytes(b"\xa5" * len(whole))
    yield
    world.path.write_bytes(whole)


@contextmanager
def cut_short(world: World) -> Iterator[None]:
    world.stop()
    os.truncate(world.path, 5000)
    yield


@contextmanager
def no_database(world: World) -> Iterator[None]:
    world.stop()
    world.path.write_bytes(b"some other file " * 1000)
    yield


@contextmanager
def a_folder_from_the_start(world: World) -> Iterator[None]:
    world.stop()
    whole = world.path.read_bytes()
    world.start()
    world.path.unlink()
    world.path.mkdir()
    yield
    world.path.rmdir()
    world.path.write_bytes(whole)


@contextmanager
def no_folder_from_the_start(world: World) -> Iterator[None]:
    world.stop()
    world.start()
    away = world.path.parent.with_name("away")
    world.path.parent.rename(away)
    yield
    away.rename(world.path.parent)


Break = Callable[[World], AbstractContextManager[None]]


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        code: What those are told who ask.
        recovers: It works again when the cause is gone, without a restart.
    """

    name: str
    happen: Break
    code: str
    recovers: bool = False


FULL, LOST, CORRUPT, READ_ONLY = (
    "storage_full",
    "storage_lost",
    "storage_corrupt",
    "storage_readonly",
)
PAGE = 4096
FAULTS = (
    Fault("the database is full", full_database, FULL, recovers=True),
    Fault("files may not grow", limited_file_size, FULL, recovers=True),
    Fault("no inode is left", no_life_sign(errno.ENOSPC), FULL, recovers=True),
    Fault("the quota is used up", no_life_sign(errno.EDQUOT), FULL, recovers=True),
    Fault("another process has the lock", locked_by_another, "storage_busy", recovers=True),
    Fault("a file is too large", no_life_sign(errno.EFBIG), FULL, recovers=True),
    Fault("writing is forbidden", query_only, READ_ONLY, recovers=True),
    Fault("a read-only disk", no_life_sign(errno.EROFS), READ_ONLY, recovers=True),
    Fault("no permission", no_life_sign(errno.EACCES), READ_ONLY, recovers=True),
    Fault("the disk fails", no_life_sign(errno.EIO), "storage_unavailable", recovers=True),
    Fault("the file is deleted", deleted, LOST),
    Fault("all files are deleted", deleted_with_its_log, LOST),
    Fault("the -wal is deleted", without("-wal"), LOST),
    Fault("the -shm is deleted", without("-shm"), LOST),
    Fault("a copy replaces the file", replaced_by_a_copy, LOST),
    Fault("an empty file replaces it", replaced_by_an_empty_file, LOST),
    Fault("a folder replaces it", replaced_by_a_folder, LOST),
    Fault("a dangling link replaces it", replaced_by_a_link_to_nothing, LOST),
    Fault("the file is moved behind a link", moved_behind_a_link, LOST, recovers=True),
    Fault("the file is moved away and back", moved_away_for_a_while, LOST, recovers=True),
    Fault("the folder is moved away and back", folder_moved_away_for_a_while, LOST, recovers=True),
    Fault("the folder is deleted", folder_deleted, LOST),
    Fault("the file is emptied", cut("", 0), LOST),
    Fault("the file is cut", cut("", -1), LOST),
    Fault("an older copy is written over it", overwritten_by_an_older_copy, LOST),
    Fault("the -wal is emptied", cut("-wal", 0), LOST),
    Fault("the -wal is cut", cut("-wal", -1), LOST),
    Fault("an older -wal is written over it", an_older_log_of_writes, LOST),
    Fault("damage in the header", damaged(0, 100, running=False), CORRUPT),
    Fault("damage in the first page", damaged(100, PAGE, running=False), CORRUPT),
    Fault("damage in all but the first page", damaged(PAGE, None, running=False), CORRUPT),
    Fault("damage in the pages meanwhile", damaged(PAGE, None, running=True), CORRUPT),
    Fault("damage, then a backup", restored_after_damage, CORRUPT),
    Fault("the file is cut short", cut_short, CORRUPT),
    Fault("the file is no database", no_database, CORRUPT),
    Fault("a folder from the start", a_folder_from_the_start, READ_ONLY, recovers=True),
    Fault("no folder from the start", no_folder_from_the_start, READ_ONLY, recovers=True),
)


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name for fault in FAULTS])
def test_while_the_storage_is_down_the_code_says_why_and_nobody_is_called(
    fault: Fault, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatport.adapters.group_commit.BUSY_SECONDS", 0.05)
    assert world.ask("before").status_code == 200
    world.gateway.calls.clear()
    with fault.happen(world):
        assert world.ask_in_each_way() == {(503, fault.code)}
        assert world.ready() == (503, fault.code)
        assert world.ask_in_each_way() == {(503, fault.code)}
        assert world.gateway.calls == []
    if fault.recovers:
        assert world.ready() == (200, "")
        assert world.ask_in_each_way() == {(200, "")}
        assert len(world.gateway.calls) == 3
    else:
        assert world.ask_in_each_way() == {(503, fault.code)}
        assert world.gateway.calls == []


def test_what_can_be_read_is_read_while_nothing_can_be_written(world: World) -> None:
    world.ask("before")
    with full_database(world):
        assert world.ask(LONG, user_id="bob").status_code == 503
        assert ANSWER in world.client.get("/conversations/ada").text
        assert world.client.delete("/conversations/ada").get_json()["erased"] == 1
    assert ANSWER not in world.client.get("/conversations/ada").text


def test_to_ask_whether_it_is_ready_writes_only_after_a_write_has_failed(world: World) -> None:
    assert world.ask().status_code == 200
    before = contents(world)
    assert world.ready() == (200, "")
    assert contents(world) == before

    def fail() -> None:
        with full_database(world):
            assert world.ask(LONG, user_id="bob").status_code == 503
        world.stop()

    world.stop()
    in_another_process(fail)
    assert world.ready() == (200, "")
    assert world.beside("-wal").stat().st_size > ROOM_BYTES
    before = contents(world)
    assert world.ready() == (200, "")
    assert contents(world) == before


@pytest.mark.parametrize(("free", "status"), [(MIN_FREE_BYTES - 1, 503), (MIN_FREE_BYTES, 200)])
def test_a_disk_with_little_room_turns_new_requests_away_before_it_is_full(
    free: int, status: int, world: World
) -> None:
    world.free = free
    assert world.ready() == (status, "" if status == 200 else FULL)
    assert world.ask().status_code == 200  # there is room for those that come nevertheless


def test_the_room_that_is_left_is_that_of_the_real_disk(tmp_path: Path) -> None:
    assert free_bytes(tmp_path) == shutil.disk_usage(tmp_path).free
    with pytest.raises(StorageReadOnly), sqlite_faults.translated():
        free_bytes(tmp_path / "missing")


def test_a_disk_too_full_for_the_shared_memory_is_full() -> None:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorname = "SQLITE_IOERR_SHMSIZE"
    assert isinstance(sqlite_faults.translate(error), StorageFull)


@pytest.mark.parametrize("end", ["", "-wal", "-shm"])
def test_what_is_written_while_the_file_goes_away_is_not_acknowledged(
    end: str, world: World
) -> None:
    assert world.ask().status_code == 200
    with pytest.raises(StorageLost):
        world.store.session.write(lambda _file: world.beside(end).unlink())


@pytest.mark.parametrize("end", ["", "-wal"])
def test_a_file_that_is_cut_and_grows_again_is_not_taken_for_whole(end: str, world: World) -> None:
    assert world.ask().status_code == 200
    with suppress(StorageLost):  # if SQLite comes across it
        world.store.session.write(lambda file: emptied_while_writing(world.beside(end), file))
    assert world.ask_in_each_way() == {(503, LOST)}
    assert len(world.gateway.calls) == 1


def test_a_process_that_cannot_read_a_log_of_writes_that_was_cut_says_so(world: World) -> None:
    assert world.ask().status_code == 200
    other_process(world, "PRAGMA user_version = 1")  # so that it reads the first page anew
    with cut("-wal", 0)(world):
        assert world.ask_in_each_way() == {(503, LOST)}
        assert world.ready() == (503, LOST)


def emptied_while_writing(path: Path, file: SqliteFile) -> None:
    os.truncate(path, 0)
    file.pseudonym_key()


def test_what_others_may_do_to_the_files_is_not_taken_for_a_loss(world: World) -> None:
    for others in ("wal_checkpoint(TRUNCATE)", "wal_checkpoint(RESTART)", "wal_checkpoint"):
        assert world.ask_in_each_way() == {(200, "")}
        other_process(world, f"PRAGMA {others}")
    longest = world.path.stat().st_size
    assert world.client.delete("/conversations/ada").status_code == 200
    other_process(world, "DELETE FROM exchange")
    other_process(world, "VACUUM")
    other_process(world, "PRAGMA wal_checkpoint(TRUNCATE)")
    assert world.path.stat().st_size < longest
    assert world.ask_in_each_way() == {(200, "")}
    assert world.ready() == (200, "")


def other_process(world: World, query: str) -> None:
    program = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute(sys.argv[2])"
    program += ".connection.commit()"
    subprocess.run([sys.executable, "-c", program, str(world.path), query], check=True, timeout=30)


def test_a_file_that_was_made_short_and_grows_in_the_log_of_writes_alone_is_whole(
    world: World,
) -> None:
    for _ in range(3):
        assert world.ask(LONG).status_code == 200
    assert world.client.delete("/conversations/ada").status_code == 200
    assert world.ready() == (200, "")
    other_process(world, "VACUUM")
    other_process(world, "PRAGMA wal_checkpoint(TRUNCATE)")
    other_process(world, f"INSERT INTO secret VALUES ('more', zeroblob({len(LONG)}))")
    assert world.ready() == (200, "")
    assert world.ask_in_each_way() == {(200, "")}
    other_process(world, "PRAGMA wal_checkpoint")
    os.truncate(world.path, world.path.stat().st_size - 4096)
    assert world.ready() == (503, LOST)


@pytest.mark.parametrize("by", ["nothing", "another", "a link to it"])
def test_a_process_that_begins_while_the_file_is_away_makes_none_in_its_place(
    by: str, world: World, tmp_path: Path
) -> None:
    def begin() -> None:
        world.store.session._file = None  # as in a process that has opened nothing
        assert world.ask_in_each_way() == {(503, LOST)}
        assert world.ready() == (503, LOST)
        os._exit(0)

    assert world.ask("before").status_code == 200
    before = contents(world)
    away = world.path.rename(tmp_path / "away")
    if by == "another":
        with closing(PeeweeStore(tmp_path / "another.db")) as other:
            other.check()
        (tmp_path / "another.db").rename(world.path)
    elif by == "a link to it":
        world.path.symlink_to(away)
    there = set(world.path.parent.iterdir())
    in_another_process(begin)
    assert set(world.path.parent.iterdir()) == there
    assert world.ready() == (503, LOST)
    away.rename(world.path)
    assert contents(world) == before
    assert world.ask("after").status_code == 200


def test_a_link_that_leads_to_another_file_meanwhile_stops_all_until_it_leads_back(
    world: World, tmp_path: Path
) -> None:
    assert world.ask("before").status_code == 200
    world.stop()
    for name in ("link.db", "new.db"):
        (tmp_path / name).symlink_to(world.path)
    shutil.copy(world.path, tmp_path / "copy.db")
    (tmp_path / "another.db").symlink_to(tmp_path / "copy.db")
    linked = World(tmp_path / "link.db")
    assert linked.ask_in_each_way() == {(200, "")}
    (tmp_path / "another.db").replace(linked.path)
    assert linked.ask_in_each_way() == {(503, LOST)}
    (tmp_path / "new.db").replace(linked.path)
    assert linked.ask_in_each_way() == {(200, "")}
    linked.stop()
    assert [found.prompt for found in world.store.search(LogQuery(limit=1))] == [LONG]


@pytest.fixture
def left_behind(world: World, tmp_path: Path) -> Path:
    """Return an empty file beside the -wal of one that was killed."""
    assert world.ask("before").status_code == 200
    path = tmp_path / "left" / world.path.name
    path.parent.mkdir()
    path.touch()
    for end in ("-wal", "-shm"):
        shutil.copy(world.beside(end), path.parent)
    return path


@pytest.mark.parametrize(
    "use",
    [
        lambda path: look_through(path, 1.0),
        lambda path: SqliteInspection(path).close(),
        lambda path: PeeweeStore(path).check(),
    ],
    ids=["the start", "the doctor", "a store"],
)
def test_nobody_opens_an_empty_file_beside_what_was_written_last(
    use: Callable[[Path], object], left_behind: Path
) -> None:
    with pytest.raises(StorageUnavailable):
        use(left_behind)
    assert left_behind.with_name(left_behind.name + "-wal").stat().st_size > 0
    assert left_behind.stat().st_size == 0


def test_a_new_file_that_is_emptied_is_lost_although_the_log_of_writes_has_all(
    world: World,
) -> None:
    assert world.ask().status_code == 200
    world.run("VACUUM")  # so that every page stands in the log of writes
    os.truncate(world.path, 0)
    assert world.ask_in_each_way() == {(503, LOST)}
    assert world.ready() == (503, LOST)


@pytest.mark.parametrize("how", ["no -shm", "emptied"])
def test_nonsense_that_is_read_where_a_file_was_lost_is_not_taken_for_damage(
    how: str, world: World
) -> None:
    assert world.ask().status_code == 200
    if how == "emptied":
        os.truncate(world.path, 0)
    else:
        world.beside("-shm").unlink()
    with pytest.raises(StorageLost):
        world.store.session.read(find_damage)
    assert world.ready() == (503, LOST)


@pytest.mark.parametrize("end", ["-wal", "-shm"])
def test_what_was_seen_missing_beside_the_file_is_not_made_anew_by_a_process_that_begins(
    end: str, world: World
) -> None:
    assert world.ask().status_code == 200
    world.beside(end).rename(world.beside(f"{end}-away"))
    assert world.ready() == (503, LOST)
    with pytest.raises(FileUnusable):
        make_place(world.path, world.store.session._condition)
    world.beside(f"{end}-away").rename(world.beside(end))
    assert world.ready() == (503, LOST)


def test_a_process_that_locks_by_another_file_stops_them_all(world: World) -> None:
    assert world.ask().status_code == 200
    world.beside("-shm").rename(world.beside("-shm-away"))
    assert world.ready() == (503, LOST)
    other_process(world, "SELECT 1 FROM exchange")
    away = world.beside("-shm-new")
    world.beside("-shm-away").rename(away)
    shutil.copy(away, world.beside("-shm"))
    assert world.ready() == (503, LOST)
    away.rename(world.beside("-shm"))
    assert world.ask_in_each_way() == {(503, LOST)}


@pytest.mark.parametrize("empty", [False, True], ids=["-wal", "empty -wal"])
def test_a_start_while_the_file_is_away_leaves_what_was_written_last(
    world: World, tmp_path: Path, *, empty: bool
) -> None:
    assert world.ask("before").status_code == 200
    if empty:
        other_process(world, "PRAGMA wal_checkpoint(TRUNCATE)")
    away = world.path.rename(tmp_path / "away")
    for new in (lambda: None, world.path.touch):
        new()
        with closing(PeeweeStore(world.path)) as store, pytest.raises(StorageLost):
            store.search(LogQuery())
        assert (world.beside("-wal").stat().st_size == 0) == empty
    away.rename(world.path)
    assert world.ask("after").status_code == 200


def test_a_worker_that_begins_beside_a_shm_that_was_cut_stops_them_all(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert world.ask("before").status_code == 200
    (tmp_path / "copy").mkdir()
    for end in ("", "-wal", "-shm"):
        shutil.copy(f"{world.path}{end}", tmp_path / "copy")
    path = tmp_path / "copy" / world.path.name
    os.truncate(f"{path}-shm", 4096)
    monkeypatch.setattr(open_files, "MAKING_SECONDS", 0.05)
    condition = FileCondition()
    condition.identity = path.stat().st_dev, path.stat().st_ino
    with pytest.raises(FileUnusable):
        make_place(path, condition)
    assert condition.fault == "FILE_LOST"
    with closing(PeeweeStore(path)) as store:  # nobody else has it open, and SQLite makes another
        assert [each.prompt for each in store.search(LogQuery())] == ["before"]


def test_a_worker_that_begins_while_another_process_makes_the_shm_takes_it_for_no_cut(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert world.ask("before").status_code == 200
    world.store.close()
    world.beside("-shm").write_bytes(bytes(8192))  # as far as the other process has come
    condition = FileCondition()
    condition.identity = world.path.stat().st_dev, world.path.stat().st_ino
    monkeypatch.setattr(time, "sleep", lambda _: os.truncate(world.beside("-shm"), 32_768))
    make_place(world.path, condition)
    assert condition.fault == ""
    world.beside("-shm").unlink()


def test_a_file_that_was_cut_before_it_was_opened_is_not_written_to(
    world: World, tmp_path: Path
) -> None:
    for _ in range(3):
        assert world.ask(LONG).status_code == 200
    other_process(world, "PRAGMA wal_checkpoint(TRUNCATE)")
    world.store.session.write(SqliteFile.try_to_write)  # so that it stays in the -wal
    found = tmp_path / "found"
    found.mkdir()
    for end in ("", "-wal"):
        shutil.copy(world.beside(end), found)
    path = found / world.path.name
    os.truncate(path, path.stat().st_size - 4096 * 3)
    with closing(PeeweeStore(path)) as store, pytest.raises(StorageLost):
        store.check()


def test_two_processes_that_write_while_others_tidy_up_lose_nothing(world: World) -> None:
    assert world.ask().status_code == 200
    world.stop()
    until = time.monotonic() + times(2, 60)

    def write() -> None:
        while time.monotonic() < until:
            assert world.ask(LONG, user_id=random_id()).status_code == 200

    def tidy() -> None:
        with closing(sqlite3.connect(world.path, isolation_level=None)) as other:
            while time.monotonic() < until:
                other.execute("DELETE FROM exchange WHERE state = 'completed'")
                for query in ("VACUUM", "PRAGMA wal_checkpoint(TRUNCATE)"):
                    with suppress(sqlite3.OperationalError):  # the others have the lock
                        other.execute(query).fetchall()

    fork = multiprocessing.get_context("fork").Process
    processes = [fork(target=work) for work in (write, write, tidy)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]


def test_an_answer_that_comes_after_the_file_is_gone_is_not_acknowledged(world: World) -> None:
    world.gateway.meanwhile = world.path.unlink
    response = world.ask()
    assert (response.status_code, response.get_json()["code"]) == (503, LOST)
    assert ANSWER not in response.text


def test_a_lost_file_is_not_touched_by_the_end_of_the_process(world: World) -> None:
    assert world.ask().status_code == 200
    with replaced_by_a_copy(world):
        before = contents(world)
        world.stop()
        assert contents(world) == before


def test_a_restart_takes_the_file_that_stands_there_then(world: World) -> None:
    assert world.ask("before").status_code == 200
    world.forget_pages()
    with replaced_by_a_copy(world):
        assert world.ask().status_code == 503
    world.stop()
    world.start()
    assert world.ask("after").status_code == 200
    assert [found.prompt for found in world.store.search(LogQuery())] == ["after", "before"]


def test_once_damage_is_found_nothing_is_written_until_the_file_is_opened_anew(
    world: World,
) -> None:
    assert world.ask().status_code == 200
    with pytest.raises(StorageCorrupt):
        world.store.session.read(find_damage)
    before = contents(world)
    assert world.ask_in_each_way() == {(503, CORRUPT)}
    assert world.ready() == (503, CORRUPT)
    assert contents(world) == before
    assert [found.reply for found in world.store.search(LogQuery())] == [ANSWER]
    world.stop()
    world.start()
    assert world.ask_in_each_way() == {(200, "")}


def test_damage_that_one_process_finds_as_it_opens_the_file_stops_the_others_too(
    world: World,
) -> None:
    def see_damage() -> None:
        assert world.ask().status_code == 503

    assert world.ask().status_code == 200
    with restored_after_damage(world):
        in_another_process(see_damage)
    assert world.ask_in_each_way() == {(503, CORRUPT)}
    world.stop()
    world.start()
    assert world.ask_in_each_way() == {(200, "")}


def in_another_process(work: Callable[[], object]) -> None:
    """Do the work in a process forked now, while the file is closed, and wait for its end."""
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(10)
    assert process.exitcode == 0


def test_what_one_process_finds_damaged_no_other_of_its_server_writes_to(world: World) -> None:
    def see_damage() -> None:
        with pytest.raises(StorageCorrupt):
            world.store.session.read(find_damage)

    def see_it_refused() -> None:
        assert world.ask_in_each_way() == {(503, CORRUPT)}
        assert world.ready() == (503, CORRUPT)

    in_another_process(see_damage)
    see_it_refused()
    world.stop()
    in_another_process(see_it_refused)  # as a worker that takes the place of another
    see_it_refused()
    assert world.gateway.calls == []


def find_damage(_file: SqliteFile) -> None:
    damage = sqlite3.DatabaseError("database disk image is malformed")
    damage.sqlite_errorname = "SQLITE_CORRUPT_INDEX"
    raise damage


def contents(world: World) -> dict[str, bytes]:
    """Return the files but the -shm, in which SQLite notes who reads."""
    files = world.path.parent.iterdir()
    return {file.name: file.read_bytes() for file in files if not file.name.endswith("-shm")}


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("started_at", "'yesterday'"),
        ("state", "'odd'"),
        ("answer", "x'00ff'"),
        ("prompt", "CAST(x'ff' AS TEXT)"),
    ],
)
def test_a_row_that_makes_no_sense_is_damage(column: str, value: str, world: World) -> None:
    assert world.ask().status_code == 200
    [found] = world.store.search(LogQuery())
    world.run(f"UPDATE exchange SET {column} = {value} WHERE 1 RETURNING 1")
    for read in (
        lambda: world.store.find(found.id),
        lambda: world.store.earlier(
            found.caller, Once(request_hash="", key="key-1"), now=NOW, since=NOW
        ),
    ):
        world.run("UPDATE exchange SET idempotency_key = 'key-1' WHERE 1 RETURNING 1")
        with pytest.raises(StorageCorrupt):
            read()


def test_an_open_row_that_makes_no_sense_does_not_hinder_the_end_of_the_process(
    world: World,
) -> None:
    stopped: list[bool] = []

    def stop() -> None:
        world.run("UPDATE exchange SET started_at = 'yesterday' WHERE 1 RETURNING 1")
        world.stop()
        stopped.append(True)

    world.gateway.meanwhile = stop
    world.ask()
    assert stopped == [True]


def test_the_end_of_a_process_waits_for_another_that_writes(world: World) -> None:
    states: list[tuple[str]] = []

    def stop() -> None:
        with closing(sqlite3.connect(world.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            ending = threading.Thread(target=world.stop)
            ending.start()
            ending.join(0.05)  # the wait is the subject
            other.execute("ROLLBACK")
            ending.join()
            states.extend(other.execute("SELECT state FROM exchange"))

    world.gateway.meanwhile = stop
    world.ask()
    assert states == [("interrupted",)]


def test_what_outlives_the_end_of_the_process_does_not_open_the_file_again(tmp_path: Path) -> None:
    settings = Settings.from_mapping({"CHATPORT_DATABASE": f"sqlite:///{tmp_path / 'log.db'}"})
    with assembled(settings, Place(offline=True)) as parts:
        parts.store.check()
    with pytest.raises(StorageUnavailable):
        parts.store.check()
    assert {file.name for file in tmp_path.iterdir()} == {"log.db", "log.db.lock"}


def test_a_look_that_outlives_the_end_of_the_process_does_not_open_the_file_again(
    world: World,
) -> None:
    def end_and_look(file: SqliteFile) -> object:
        world.store.session.close(for_good=True)
        return file.log.find("x")

    with pytest.raises(StorageUnavailable):
        world.store.session.read(end_and_look)


# An answer that cannot be kept


@contextmanager
def lock_from_now_on(world: World) -> Iterator[Hook]:
    """Yield what makes another connection take the lock."""
    with closing(
        sqlite3.connect(world.path, isolation_level=None, check_same_thread=False)
    ) as other:

        def lock() -> None:
            other.execute("BEGIN IMMEDIATE")

        yield lock


def test_an_answer_that_cannot_be_kept_is_not_given_and_its_exchange_is_interrupted_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatport.adapters.group_commit.BUSY_SECONDS", 0.05)
    world.store.check()
    with lock_from_now_on(world) as lock:
        world.gateway.meanwhile = lock
        response = world.ask()
    assert response.status_code == 503
    assert response.get_json()["code"] == "storage_busy"
    assert ANSWER not in response.text
    assert response.headers["x-should-retry"] == "false"  # the provider may bill it twice
    found = world.store.find(response.headers["X-Request-Id"])
    assert found is not None
    assert (found.state, found.reply) == (State.OPEN, "")
    assert world.store.recover(datetime.now(UTC) + timedelta(hours=1)) == 1
    found = world.store.find(found.id)
    assert found is not None
    assert found.state is State.INTERRUPTED


def test_an_answer_waits_for_its_commit_while_another_has_the_lock(world: World) -> None:
    world.store.check()
    with lock_from_now_on(world) as lock:
        unlocking = threading.Event()

        def lock_for_a_while() -> None:
            lock()
            unlocking.set()

        world.gateway.meanwhile = lock_for_a_while
        answers: list[TestResponse] = []
        asking = threading.Thread(target=lambda: answers.append(world.ask()))
        asking.start()
        assert unlocking.wait(5)
        while not world.store.session._commits._led:
            time.sleep(0.001)
        time.sleep(0.05)  # the wait is the subject
        assert answers == []
    asking.join(5)
    assert [answer.get_json()["completion"] for answer in answers] == [ANSWER]


# Single bytes that change


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a process that was killed: a file, and a write-ahead log beside it."""
    world = World(tmp_path_factory.mktemp("made") / "log.db")
    for n in range(40):
        world.ask(f"prompt {n} " + "word " * (n % 7 * 40), user_id=f"user-{n % 5}")
        world.relay(f"relayed {n}", stream=bool(n % 2))
        if n == 30:
            world.run("PRAGMA wal_checkpoint(TRUNCATE)")
    left = tmp_path_factory.mktemp("killed")
    for file in world.path.parent.iterdir():
        if not file.name.endswith("-shm"):
            shutil.copy(file, left)  # with the life sign, which nobody holds there
    world.stop()
    return left


def flip(file: Path, chance: random.Random, first: int, last: int) -> None:
    """Change some bits of one byte."""
    content = bytearray(file.read_bytes())
    content[chance.randrange(first, last)] ^= chance.randrange(1, 256)
    with file.open("r+b") as opened:
        opened.write(content)


def flip_somewhere(world: World, chance: random.Random) -> None:
    size = world.path.stat().st_size
    wal = world.beside("-wal")
    flip(
        *chance.choice(
            [
                (world.path, chance, 0, 100),
                (world.path, chance, 100, PAGE),
                (world.path, chance, PAGE, 2 * PAGE),
                (world.path, chance, 2 * PAGE, size),
                (world.path, chance, 2 * PAGE, size),
                (wal, chance, 0, wal.stat().st_size),
            ]
        )
    )


def rows_that_say(path: Path, prompt: str) -> int | None:
    """Count the committed rows with this prompt, through no index; None if nobody can tell."""
    with closing(sqlite3.connect(path)) as other, suppress(sqlite3.DatabaseError):
        query = "SELECT count(*) FROM exchange NOT INDEXED WHERE prompt = ?"
        [count] = other.execute(query, [prompt]).fetchone()
        return int(count)
    return None


@pytest.mark.parametrize("running", [False, True], ids=["stopped", "running"])
@pytest.mark.parametrize("seed", range(times(20, 100)))
def test_a_flipped_byte_is_an_honest_failure_or_none(
    seed: int, killed: Path, tmp_path: Path, *, running: bool
) -> None:
    chance = random.Random(f"{seed}-{running}")
    shutil.copytree(killed, tmp_path, dirs_exist_ok=True)
    world = World(tmp_path / "log.db")
    if running:
        ask_and_compare(world, "first", user_id="user-0")
    flip_somewhere(world, chance)
    began = time.monotonic()
    for n in range(3):
        ask_and_compare(world, f"new prompt {n}", user_id=f"user-{n}")
    for read in (
        lambda: world.store.search(LogQuery(limit=1000)),
        lambda: world.store.search(LogQuery(text="word")),
        lambda: world.store.conversation("anonymous", "user-1", before=None, limit=50),
        lambda: world.store.recover(datetime.now(UTC)),
        lambda: world.store.erase("anonymous", "user-4"),
        world.stop,
    ):
        with suppress(StorageUnavailable):
            read()
    assert time.monotonic() - began < 10


def ask_and_compare(world: World, prompt: str, user_id: str) -> None:
    """Ask; nobody is called without a row, and an answer that is given is kept as it is."""
    unkept: list[str] = []
    world.gateway.meanwhile = lambda: (
        unkept.append(prompt) if rows_that_say(world.path, prompt) == 0 else None
    )
    called = len(world.gateway.calls)
    response = world.ask(prompt, user_id)
    assert unkept == []
    if response.status_code == 200:
        with suppress(StorageUnavailable):
            found = world.store.find(response.headers["X-Request-Id"])
            assert found is not None
            assert (found.prompt, found.reply) == (prompt, ANSWER)
    else:
        assert response.status_code == 503, response.text
        assert response.get_json()["code"].startswith("storage_")
    assert len(world.gateway.calls) <= called + 1


# At the start

DAMAGED = (
    "chatport: The database file is damaged; stop whatever uses it, move it and its -wal and -shm"
    " to another folder, copy a backup into its place, and start again.\n"
)
FOLDER = "chatport: The database's path leads to a folder; name a file in it instead.\n"
NOBODY = 65534
UNWRITABLE = (
    "chatport: The database cannot be written; check that its folder is there, and the"
    " permissions.\n"
)


def serve(database: Path, *before: str) -> tuple[int, str]:
    """Start the server, which ends at once; return its exit code and what it says last."""
    arguments = ["serve", "--offline", "--port", "0"]
    environment = {**os.environ, "CHATPORT_DATABASE": f"sqlite:///{database}"}
    if not before:
        done = PROGRAMS.run(arguments, b"", environment)
    else:
        done = subprocess.run(
            [*before, sys.executable, "-c", PROGRAM, *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    return done.returncode, done.stderr.splitlines(keepends=True)[-1]


def test_a_damaged_file_ends_the_start_with_the_way_to_restore_it(killed: Path) -> None:
    for begin, end in ((0, 100), (100, None)):
        content = bytearray((killed / "log.db").read_bytes())
        content[begin:end] = b"\xa5" * len(content[begin:end])
        damaged = killed.parent / f"damaged-{begin}.db"
        damaged.write_bytes(content)
        assert serve(damaged) == (3, DAMAGED)
        assert damaged.read_bytes() == content


def test_where_no_thread_can_be_started_the_file_is_not_looked_through(
    tmp_path: Path, mocker: MockerFixture
) -> None:
    path = tmp_path / "log.db"
    with closing(PeeweeStore(path)) as store:
        store.check()
    assert look_through(path, 1.0)
    mocker.patch("threading.Thread.start", side_effect=RuntimeError("can't start new thread"))
    assert not look_through(path, 1.0)


def test_damage_that_only_a_look_through_the_file_finds_ends_the_start(
    killed: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / "log.db"
    with closing(sqlite3.connect(killed / "log.db")) as whole:
        [[root]] = whole.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'refusal'")
    content = bytearray((killed / "log.db").read_bytes())
    content[(root - 1) * PAGE : (root - 1) * PAGE + 8] = b"\xa5" * 8
    damaged.write_bytes(content)
    with closing(PeeweeStore(tmp_path / "log.db")) as store:
        store.check()  # to open it is not to look through it
    content = bytearray(damaged.read_bytes())
    with pytest.raises(StorageCorrupt):
        look_through(damaged, 10)
    assert serve(damaged) == (3, DAMAGED)
    assert damaged.read_bytes() == content


def test_a_log_that_is_too_large_to_be_looked_through_is_served(
    killed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(killed / "log.db", tmp_path)
    settings = Settings.from_mapping({"CHATPORT_DATABASE": f"sqlite:///{tmp_path / 'log.db'}"})
    server.check_database(settings)
    assert caplog.text == ""
    with closing(sqlite3.connect(tmp_path / "log.db")) as other:
        other.execute(
            "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n LIMIT 100000)"
            " INSERT INTO refusal SELECT 'shop', 'rule', n, 1 FROM n"
        )
        other.commit()
    monkeypatch.setattr(server, "LOOK_SECONDS", 0.001)
    server.check_database(settings)
    assert "too large to be looked through at the start" in caplog.text


def test_only_a_file_is_looked_through_at_the_start(tmp_path: Path) -> None:
    for database in (tmp_path, tmp_path / "none yet", "memory:"):
        place = str(database) if database == "memory:" else f"sqlite:///{database}"
        server.check_database(Settings.from_mapping({"CHATPORT_DATABASE": place}))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_place_of_the_file_ends_the_start_with_a_reason(tmp_path: Path) -> None:
    assert serve(tmp_path) == (3, FOLDER)
    assert serve(tmp_path / "missing" / "log.db") == (3, UNWRITABLE)


def test_beside_a_file_that_may_only_be_read_nothing_is_made() -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "log.db"
        with closing(PeeweeStore(path)) as store:
            store.check()
        path.chmod(0o400)
        there = set(path.parent.iterdir())

        def begin() -> None:
            if os.geteuid() == 0:  # who may write it nevertheless
                for each in (path.parent, *there):
                    os.chown(each, NOBODY, -1)
                os.setuid(NOBODY)
            with closing(PeeweeStore(path)) as store, pytest.raises(StorageReadOnly):
                store.check()

        in_another_process(begin)
        assert set(path.parent.iterdir()) == there


@pytest.mark.parametrize("end", ["", "-wal", "-shm"])
def test_who_finds_a_file_that_may_only_be_read_writes_as_soon_as_it_may(end: str) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "log.db"
        with closing(PeeweeStore(path)) as running:
            running.check()
            shut = path.with_name(path.name + end)
            shut.chmod(0o400)
            for each in (path.parent, *path.parent.iterdir()):
                os.chown(each, NOBODY, -1)

            def begin() -> None:
                os.setuid(NOBODY)
                with closing(PeeweeStore(path)) as store:
                    with pytest.raises(StorageReadOnly):
                        store.check()
                    shut.chmod(0o600)
                    store.check()

            in_another_process(begin)


def test_who_waits_for_the_file_to_be_opened_waits_no_longer_than_who_tries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mocker: MockerFixture
) -> None:
    monkeypatch.setattr(schema, "BUSY_SECONDS", 1)
    tries = mocker.spy(sqlite_database, "migrate")
    path = tmp_path / "log.db"
    with closing(PeeweeStore(path)) as store, FileLock(f"{path}.lock"):
        begun = threading.Barrier(8)

        def ask(_: int) -> None:
            begun.wait()
            with pytest.raises(StorageBusy):
                store.check()

        with ThreadPoolExecutor(8) as clients:
            assert len(list(clients.map(ask, range(8)))) == 8
        assert tries.call_count == 1


def check(path: Path) -> None:
    with closing(PeeweeStore(path)) as store:
        store.check()


OPENED = pytest.mark.parametrize(
    "use", [lambda path: look_through(path, 1.0), check], ids=["the start", "a store"]
)


@OPENED
def test_a_file_that_another_has_for_itself_is_waited_for_where_others_go_on(
    use: Callable[[Path], object], tmp_path: Path, mocker: MockerFixture
) -> None:
    path = tmp_path / "log.db"
    check(path)
    waits = mocker.patch("time.sleep")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        waits.side_effect = lambda _: other.close()
        use(path)
    assert waits.call_count == 1


@OPENED
def test_a_file_that_another_keeps_for_itself_is_busy(
    use: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log.db"
    check(path)
    monkeypatch.setattr(sqlite_connection, "BUSY_SECONDS", 0.1)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StorageBusy):
            use(path)


def test_a_store_says_so_where_there_is_no_thread_for_what_is_asked(tmp_path: Path) -> None:
    def offload(_: object) -> None:
        raise StorageUnavailable

    store = PeeweeStore(tmp_path / "log.db", offload=offload)
    with closing(store), pytest.raises(StorageUnavailable):
        store.check()


READ_ONLY_MOUNT = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'


def may_mount(folder: Path) -> bool:
    """Return whether this process may mount something, unseen by others."""
    if shutil.which("unshare") is None:
        return False
    trial = ["unshare", "-m", "sh", "-c", READ_ONLY_MOUNT, str(folder), "true"]
    return subprocess.run(trial, capture_output=True, check=False).returncode == 0


def test_a_read_only_disk_ends_the_start_with_a_reason(killed: Path, tmp_path: Path) -> None:
    if not may_mount(tmp_path):
        pytest.skip("only root may mount")
    shutil.copytree(killed, tmp_path, dirs_exist_ok=True)
    mounted = ["unshare", "-m", "sh", "-c", READ_ONLY_MOUNT, str(tmp_path)]
    assert serve(tmp_path / "log.db", *mounted) == (3, UNWRITABLE)
    assert serve(tmp_path / "new.db", *mounted) == (3, UNWRITABLE)
