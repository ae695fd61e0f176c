"""`chatport doctor`: each check is shown one installation that is bad, and one that is good."""

import hashlib
import json
import multiprocessing
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import peewee
import pytest
from click.testing import CliRunner, Result
from playhouse.migrations import Runner

from chatport.adapters import OpenAIGateway, PeeweeKeys, PeeweeStore, ScriptedGateway
from chatport.adapters.life_sign import LifeSign
from chatport.adapters.schema import MIGRATIONS
from chatport.adapters.sqlite_inspection import (
    AT_REST,
    SqliteInspection,
    compile_options,
    effective_pragmas,
)
from chatport.domain import Caller, Exchange, HistoryBounds, State
from chatport.domain.callers import Role
from chatport.domain.errors import StorageBusy
from chatport.domain.keys import ApiKey
from chatport.domain.models import ModelCard
from chatport.domain.ports import LLMGateway
from chatport.entrypoints.cli import main
from chatport.entrypoints.doctor import CHECKS, examine
from chatport.entrypoints.doctor_findings import Finding, Level
from chatport.entrypoints.doctor_installation import Surroundings
from chatport.entrypoints.doctor_surroundings import surroundings
from chatport.entrypoints.server import Serving
from chatport.entrypoints.setting_values import UpstreamSetting

NOON = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)
DAY = timedelta(days=1)
SECRET = "sk-a-secret-that-nobody-may-see-0123456789"
GOOD_SETTINGS = {
    "OPENAI_API_KEY": SECRET,
    "CHATPORT_DATABASE": "sqlite:///log.db",
    "CHATPORT_TOTAL_BUDGET": "5 USD/day",
    "CHATPORT_MAX_OUTPUT_TOKENS": "1000",
}
KEY = ApiKey(
    id="0" * 16,
    caller="boss",
    secret_hash=b"h" * 32,
    created_at=NOON - DAY,
    expires_at=NOON + DAY,
)


def listing(*models: str) -> Callable[[UpstreamSetting], AbstractContextManager[LLMGateway]]:
    cards = [ModelCard(id=model, facts={}) for model in models]
    return lambda _: nullcontext(ScriptedGateway(models=cards))


def calling(setting: UpstreamSetting) -> AbstractContextManager[LLMGateway]:
    assert setting.key is not None
    return closing(OpenAIGateway(api_key=setting.key.reveal(), base_url=setting.url))


def unknown_host(host: str) -> object:
    raise socket.gaierror(-2, f"{host} is not known")


def exchange(id_: str, prompt: str) -> Exchange:
    return Exchange(
        id=id_,
        caller="boss",
        user_id=f"user-of-{id_}",
        route="test",
        model="m",
        prompt=prompt,
        started_at=NOON - DAY,
        lease_until=NOON,
    )


class Setup:
    """An installation in which all is well, until it is changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.database = folder / "log.db"
        folder.chmod(0o700)
        self._write_log()
        euid = os.geteuid() or 1000
        for path in (folder, *folder.iterdir()):
            os.chown(path, euid, -1)
        self.around = Surroundings(
            environment=GOOD_SETTINGS,
            folder=folder,
            serving=Serving(host="127.0.0.1", port=0, workers=1, offline=False),
            network=True,
            now=NOON,
            euid=euid,
            python=(3, 11, 0),
            bits=64,
            has_gil=True,
            assertions=True,
            sqlite_version=(3, 51, 3),
            sqlite_options=compile_options(),
            has_word_index=True,
            pragmas=effective_pragmas(),
            temporary_folder=lambda: "/tmp",
            most_open_files=20_000,
            core_bytes=0,
            mounts="/dev/sda / ext4 rw 0 0\n",
            free_bytes=lambda _: 10**10,
            random_bytes=os.urandom,
            resolve=lambda _: None,
            gateway=listing("gpt-5-mini"),
        )

    def _write_log(self) -> None:
        hello = exchange("e1", prompt="Hello")
        with closing(PeeweeStore(self.database)) as store:
            store.begin(hello, HistoryBounds())
            store.finish(replace(hello, state=State.COMPLETED, finished_at=NOON))
            PeeweeKeys(store.session).add(Caller(name="boss", role=Role.ADMIN), KEY)

    def change(self, **facts: Any) -> Self:
        self.around = replace(self.around, **facts)
        return self

    def set(self, **settings: str) -> Self:
        self.change(environment={**self.around.environment, **settings})
        return self

    def serve(self, **options: Any) -> Self:
        self.change(serving=replace(self.around.serving, **options))
        return self

    def sql(self, *statements: str) -> Self:
        with closing(sqlite3.connect(self.database)) as connection:
            for statement in statements:
                connection.execute(statement)
            connection.commit()
        return self

    def file(self, name: str, text: str, mode: int = 0o600) -> Self:
        (self.folder / name).write_text(text)
        (self.folder / name).chmod(mode)
        return self

    def link(self, target: str, mode: int = 0o700) -> Self:
        """Move the database to a path in the folder, and put a link into its place."""
        moved = self.folder / target
        moved.parent.mkdir(exist_ok=True)
        moved.parent.chmod(mode)
        self.database.rename(moved)
        self.database.symlink_to(moved)
        return self

    def loop(self) -> None:
        (self.folder / "self").symlink_to(self.folder / "self")

    def foreign(self) -> None:
        self.database.unlink()
        self.sql("CREATE TABLE notes (text)")

    def beneath(self, name: str) -> Path:
        """Put the database into a folder of this one."""
        (self.folder / name).mkdir(mode=0o700)
        self.set(CHATPORT_DATABASE=f"sqlite:///{name}/log.db")
        return self.folder

    def leave_open(self, owner: str = "gone") -> Self:
        """Leave an exchange open whose lease has not run out."""
        lease = (NOON + DAY).isoformat(timespec="microseconds")
        return self.sql(
            f"UPDATE exchange SET state = 'open', lease_until = '{lease}', owner = '{owner}'"
        )

    def damage(self) -> None:
        with self.database.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xff" * 4000)

    def long_wal(self) -> None:
        self.file("log.db-wal", "")
        os.truncate(self.folder / "log.db-wal", 65 * 1024 * 1024)

    def findings(self) -> dict[str, Finding]:
        return {check.id: finding for check, finding in examine(self.around)}


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(tmp_path)


INDEXES = (
    *("exchange_conversation", "exchange_history", "exchange_open", "exchange_parameters"),
    *("exchange_messages", "exchange_key", "exchange_request", "exchange_in_flight"),
    *("message_text_digest", "messagechain_previous", "messagechain_text_id"),
)
W, E = Level.WARNING, Level.ERROR
HALF_PRICE = '["mine"]\ninput = 1\n'
BAD: list[tuple[str, Level, Callable[[Setup], object]]] = [
    ("machine.python", E, lambda s: s.change(python=(3, 10, 9))),
    ("machine.build", W, lambda s: s.change(bits=32)),
    ("machine.build", W, lambda s: s.change(has_gil=False)),
    ("machine.assertions", W, lambda s: s.change(assertions=False)),
    ("machine.sqlite_version", W, lambda s: s.change(sqlite_version=(3, 51, 2))),
    ("machine.sqlite_build", E, lambda s: s.change(sqlite_options=frozenset({"THREADSAFE=0"}))),
    ("machine.word_index", E, lambda s: s.change(has_word_index=False)),
    ("machine.temporary_folder", E, lambda s: s.change(temporary_folder=nowhere)),
    ("machine.user", W, lambda s: s.change(euid=0)),
    ("machine.open_files", E, lambda s: s.change(most_open_files=1000)),
    ("machine.open_files", W, lambda s: s.change(most_open_files=4000)),
    ("machine.core_dumps", W, lambda s: s.change(core_bytes=-1)),
    ("machine.clock", E, lambda s: s.change(now=datetime(1970, 1, 1, tzinfo=UTC))),
    ("machine.randomness", E, lambda s: s.change(random_bytes=bytes)),
    ("machine.debugging", W, lambda s: s.set(FLASK_DEBUG="1")),
    ("machine.debugging", W, lambda s: s.set(PYTHONDEVMODE="1")),
    ("machine.provider_log", E, lambda s: s.set(OPENAI_LOG="debug")),
    ("settings.valid", E, lambda s: s.set(CHATPORT_TIMEOUT_SECONDS="soon")),
    ("settings.valid", E, lambda s: (s.folder / ".env").write_bytes(b"A=\xff")),
    ("settings.valid", E, lambda s: s.file(".env", "CHATPORT_USER_LIMIT 5/minute")),
    ("settings.valid", E, lambda s: os.mkfifo(s.folder / ".env")),
    ("settings.known", E, lambda s: s.set(CHATPORT_DATABSE="sqlite:///log.db")),
    ("settings.key", E, lambda s: s.set(OPENAI_API_KEY="")),
    ("settings.key_form", W, lambda s: s.set(OPENAI_API_KEY="sk-...")),
    ("settings.dotenv_mode", E, lambda s: s.file(".env", "A=b", 0o644)),
    ("settings.dotenv_folder", E, lambda s: s.folder.chmod(0o777)),
    ("settings.dotenv_folder", E, lambda s: s.change(folder=Path())),
    ("settings.model", W, lambda s: s.set(CHATPORT_MODELS="gpt-5, gpt-5-nano")),
    ("settings.sizes", E, lambda s: s.set(CHATPORT_MAX_BODY_BYTES="5000")),
    ("settings.sizes", W, lambda s: s.set(CHATPORT_MAX_BODY_BYTES="900000000")),
    ("settings.timeout", W, lambda s: s.set(CHATPORT_TIMEOUT_SECONDS="2")),
    ("settings.prices", E, lambda s: s.set(CHATPORT_PRICES="missing.toml")),
    (
        "settings.prices",
        E,
        lambda s: s.file("p.toml", HALF_PRICE).set(CHATPORT_PRICES="p.toml"),
    ),
    (
        "settings.proxy_hops",
        W,
        lambda s: s.set(CHATPORT_PROXY_HOPS="1").serve(host="0.0.0.0"),
    ),
    ("settings.proxy_hops", W, lambda s: s.set(CHATPORT_PROXY_HOPS="9")),
    ("storage.durable", W, lambda s: s.set(CHATPORT_DATABASE="memory:")),
    ("storage.folder", E, lambda s: s.set(CHATPORT_DATABASE="sqlite:///missing/log.db")),
    ("storage.folder_access", E, lambda s: s.folder.chmod(0o770)),
    (
        "storage.folder",
        E,
        lambda s: s.link("far/log.db").folder.joinpath("far").rename(s.folder / "f"),
    ),
    ("storage.folder_access", E, lambda s: s.link("far/log.db", 0o770)),
    ("storage.folder_access", E, lambda s: s.link("far/log.db").folder.chmod(0o770)),
    ("storage.folder_access", E, lambda s: s.link("far/log.db").folder.chmod(0o707)),
    ("storage.folder_access", E, lambda s: s.beneath("far").chmod(0o707)),
    ("storage.regular", E, lambda s: s.set(CHATPORT_DATABASE=f"sqlite:///{s.folder}")),
    ("storage.regular", E, lambda s: s.set(CHATPORT_DATABASE=f"sqlite:///{'x' * 300}")),
    ("storage.regular", E, lambda s: s.set(CHATPORT_DATABASE=f"sqlite:///{'x' * 220}")),
    ("storage.regular", E, lambda s: s.set(CHATPORT_DATABASE="sqlite:///self").loop()),
    (
        "storage.regular",
        E,
        lambda s: s.set(CHATPORT_DATABASE="sqlite:///away").file("away-wal", "acknowledged"),
    ),
    (
        "storage.regular",
        E,
        lambda s: s.set(CHATPORT_DATABASE="sqlite:///away").file("away-shm", ""),
    ),
    ("storage.modes", E, lambda s: s.database.chmod(0o644)),
    ("storage.modes", E, lambda s: s.file("log.db-wal", "", 0o604)),
    ("storage.owner", E, lambda s: s.change(euid=s.around.euid + 1)),
    ("storage.journal", E, lambda s: s.sql("PRAGMA journal_mode=delete")),
    (
        "storage.synchronous",
        E,
        lambda s: s.change(
            pragmas=effective_pragmas({"journal_mode": "wal", "synchronous": "normal"})
        ),
    ),
    (
        "storage.synchronous",
        E,
        lambda s: s.change(pragmas=effective_pragmas({"synchronous": "full"})),
    ),
    (
        "storage.secure_delete",
        E,
        lambda s: s.change(pragmas=effective_pragmas({"secure_delete": "off"})),
    ),
    ("storage.integrity", E, lambda s: s.damage()),
    ("storage.integrity", E, lambda s: s.file("log.db", "this is no database, but a text")),
    (
        "storage.schema",
        E,
        lambda s: s.sql("INSERT INTO schema_migration (name, applied) VALUES ('9999_x', '2099')"),
    ),
    ("storage.schema", W, lambda s: s.sql("DELETE FROM schema_migration WHERE name LIKE '0003%'")),
    ("storage.schema", E, lambda s: s.foreign()),
    ("storage.schema", E, lambda s: s.sql("DROP INDEX exchange_in_flight")),
    ("storage.schema", E, lambda s: s.sql("DROP INDEX exchange_open")),
    ("storage.schema", E, lambda s: s.sql("DROP TABLE spending")),
    ("storage.schema", E, lambda s: s.sql("DROP TRIGGER exchange_text_added")),
    ("storage.schema", E, lambda s: s.sql("ALTER TABLE usage DROP COLUMN unpriced")),
    ("storage.schema", E, lambda s: s.sql(*(f"DROP INDEX {name}" for name in INDEXES))),
    ("storage.space", E, lambda s: s.change(free_bytes=lambda _: 199_000_000)),
    ("storage.space", W, lambda s: s.change(free_bytes=lambda _: 999_000_000)),
    (
        "storage.filesystem",
        E,
        lambda s: s.change(mounts=f"/dev/sda / ext4 rw 0 0\nfar:/ {s.folder} nfs4 rw 0 0\n"),
    ),
    ("storage.filesystem", W, lambda s: s.change(mounts="tmpfs / tmpfs rw 0 0\n")),
    ("storage.wal_size", E, lambda s: s.file("log.db-shm", "")),
    ("storage.wal_size", W, lambda s: s.long_wal()),
    ("storage.open_exchanges", W, lambda s: s.sql("UPDATE exchange SET state = 'open'")),
    ("storage.open_exchanges", W, lambda s: s.leave_open().file("log.db-alive-gone", "")),
    (
        "storage.open_exchanges",
        W,
        lambda s: s.leave_open().link("far/log.db").file("far/log.db-alive-gone", ""),
    ),
    (
        "storage.open_exchanges",
        W,
        lambda s: s.leave_open().link("far/log.db").file("log.db-alive-gone", ""),
    ),
    (
        "storage.newest",
        E,
        lambda s: s.sql("UPDATE exchange SET started_at = '2027-01-01T00:00:00.000000+00:00'"),
    ),
    ("limits.user", W, lambda s: s.set(CHATPORT_USER_LIMIT="")),
    ("limits.total", W, lambda s: s.set(CHATPORT_TOTAL_LIMIT="")),
    ("limits.budget", W, lambda s: s.set(CHATPORT_TOTAL_BUDGET="")),
    ("limits.price", E, lambda s: s.set(CHATPORT_MODEL="a-model-of-our-own")),
    ("limits.output", W, lambda s: s.set(CHATPORT_MAX_OUTPUT_TOKENS="")),
    ("callers.admin", W, lambda s: s.sql("UPDATE caller SET role = 'caller'")),
    ("callers.usable", W, lambda s: s.change(now=NOON + 2 * DAY)),
    ("callers.expiring", W, lambda s: s.sql("UPDATE api_key SET expires_at = NULL")),
    (
        "network.address",
        E,
        lambda s: s.serve(host="0.0.0.0").sql("DELETE FROM caller"),
    ),
    ("network.port", W, lambda s: s.serve(host="127.0.0.1", port=taken_port())),
    ("network.proxies", W, lambda s: s.set(https_proxy="http://proxy:3128")),
    ("network.encrypted", E, lambda s: s.set(OPENAI_BASE_URL="http://far.example/v1")),
    ("network.resolved", E, lambda s: s.change(resolve=unknown_host)),
    (
        "network.answers",
        E,
        lambda s: s.set(OPENAI_BASE_URL="http://127.0.0.1:1/v1").change(gateway=calling),
    ),
    ("network.model", E, lambda s: s.change(gateway=listing("another"))),
]

IDS = [f"{check}-{number}" for number, (check, _, _) in enumerate(BAD)]
HELD: list[socket.socket] = []


def taken_port() -> int:
    """Return a port that something listens on until the test ends."""
    HELD.append(socket.create_server(("127.0.0.1", 0)))
    return int(HELD[-1].getsockname()[1])


@pytest.fixture(autouse=True)
def _let_go() -> Iterator[None]:
    yield
    while HELD:
        HELD.pop().close()


def test_a_good_installation_passes_every_check(setup: Setup) -> None:
    found = setup.findings()
    assert {id_: each for id_, each in found.items() if each.level is not Level.OK} == {}
    assert len(found) == len(CHECKS) >= 30


@pytest.mark.parametrize(("check", "level", "spoil"), BAD, ids=IDS)
def test_each_check_sees_what_is_bad_and_says_what_to_do(
    setup: Setup, check: str, level: Level, spoil: Callable[[Setup], object]
) -> None:
    spoil(setup)
    finding = setup.findings()[check]
    assert finding.level is level, finding
    assert finding.found
    assert finding.advice
    assert "could not be checked" not in finding.found


def test_the_lock_beside_the_database_must_be_its_owners_too(setup: Setup) -> None:
    setup.change(euid=setup.around.euid + 1)
    assert f"{setup.database}.lock" in setup.findings()["storage.owner"].found


@pytest.mark.parametrize("end", ["", "-shm", ".lock"])
def test_the_owner_must_be_allowed_to_write_the_files(setup: Setup, end: str) -> None:
    with closing(PeeweeStore(setup.database)) as store:
        store.check()
        Path(f"{setup.database}{end}").chmod(0o400)
        for path in setup.folder.iterdir():
            os.chown(path, setup.around.euid, -1)
        found = setup.findings()["storage.owner"]
    assert found == Finding(
        Level.ERROR,
        f"{setup.database}{end} cannot be written",
        f"chmod u+rw {setup.database}{end}",
    )


def test_every_check_is_proven_by_a_bad_installation() -> None:
    ids = [check.id for check in CHECKS]
    assert len(ids) == len(set(ids))
    assert {check for check, _, _ in BAD} == set(ids)


@pytest.mark.parametrize("spoil", [spoil for _, _, spoil in BAD], ids=IDS)
def test_no_installation_is_so_bad_that_a_check_breaks_or_tells_the_key(
    setup: Setup, spoil: Callable[[Setup], object]
) -> None:
    spoil(setup)
    said = repr(setup.findings())
    assert SECRET not in said
    assert "could not be checked" not in said


def test_a_key_in_place_of_the_name_of_its_variable_is_not_told(setup: Setup) -> None:
    setup.set(CHATPORT_UPSTREAMS=f"https://one.example/v1 {SECRET}")
    found = setup.findings()
    assert found["settings.valid"].level is Level.ERROR
    assert SECRET not in repr(found)


def test_a_line_of_a_dotenv_file_that_may_be_a_key_is_not_told(setup: Setup) -> None:
    found = setup.file(".env", f"A=b\n{SECRET} x\n").findings()
    problem = f"{setup.folder / '.env'}, line 2, is not NAME=VALUE."
    assert found["settings.valid"].found == problem
    assert SECRET not in repr(found)


def test_a_check_that_breaks_is_an_error_that_does_not_quote(setup: Setup) -> None:
    def broken(_: Path) -> int:
        raise RuntimeError(SECRET)

    setup.change(free_bytes=broken)
    found = setup.findings()
    assert found["storage.space"].level is Level.ERROR
    assert found["storage.space"].found == "could not be checked: RuntimeError"
    assert found["network.model"].level is Level.OK


def test_without_the_network_the_provider_is_not_asked(setup: Setup) -> None:
    setup.change(network=False, resolve=unknown_host)
    found = setup.findings()
    skipped = [id_ for id_, each in found.items() if each.level is Level.SKIPPED]
    assert skipped == ["network.resolved", "network.answers", "network.model"]


def test_a_schema_is_told_what_it_lacks_and_what_is_altered(setup: Setup) -> None:
    setup.sql(
        "DROP INDEX exchange_open",
        "CREATE INDEX exchange_open ON exchange (caller, user_id) WHERE state = 'open'",
        "DROP TABLE spending",
    )
    assert setup.findings()["storage.schema"].found == (
        "index exchange_open is altered, table spending is missing"
    )


def test_what_others_add_to_the_schema_is_theirs(setup: Setup) -> None:
    setup.sql("CREATE INDEX mine ON exchange (model)", "CREATE TABLE notes (text)", "ANALYZE")
    assert setup.findings()["storage.schema"].level is Level.OK


def test_a_file_that_was_brought_up_to_date_has_the_schema_of_a_new_one(
    setup: Setup,
) -> None:
    setup.database.unlink()
    with peewee.SqliteDatabase(str(setup.database)) as database:
        Runner(database, str(MIGRATIONS)).up("0001_exchange")
    assert setup.findings()["storage.schema"].found == "3 migrations are pending"
    with closing(PeeweeStore(setup.database)) as store:
        store.check()
    assert setup.findings()["storage.schema"].level is Level.OK


def test_an_exchange_whose_process_lives_was_not_left(setup: Setup) -> None:
    setup.leave_open()
    sign = LifeSign(setup.database, "gone")
    sign.show()
    found = setup.change(now=NOON + 2 * DAY).findings()["storage.open_exchanges"]
    assert found == Finding(Level.OK, "1 exchanges are open, and none is known to be left")
    sign.hide(clean=False)
    before = contents(setup.folder)
    assert setup.findings()["storage.open_exchanges"].level is Level.WARNING
    assert contents(setup.folder) == before


def test_behind_a_link_all_is_looked_at_where_the_database_is(setup: Setup) -> None:
    setup.link("far/log.db").file("far/log.db-wal", "", 0o604)
    os.truncate(setup.folder / "far/log.db-wal", 65 * 1024 * 1024)
    room = {setup.folder / "far": 10**10}
    setup.change(free_bytes=lambda place: room[place])
    setup.change(mounts=f"/dev/sda / ext4 rw 0 0\nfar:/ {setup.folder / 'far'} nfs4 rw 0 0\n")
    found = setup.findings()
    assert str(setup.folder / "far/log.db-wal") in found["storage.modes"].found
    assert found["storage.wal_size"].level is Level.WARNING
    assert found["storage.filesystem"].level is Level.ERROR
    assert found["storage.space"].level is Level.OK


@pytest.mark.parametrize(
    ("anew", "check"),
    [(False, "storage.wal_size"), (True, "storage.integrity")],
    ids=["it is away", "another was made"],
)
def test_a_wal_that_was_taken_away_meanwhile_is_an_error(
    setup: Setup, check: str, *, anew: bool
) -> None:
    with closing(PeeweeStore(setup.database)) as store:
        store.pseudonym_key()
        wal = setup.folder / "log.db-wal"
        wal.rename(setup.folder / "away")
        if anew:
            wal.touch()
        found = setup.findings()
    assert found[check].level is E


def test_what_is_no_database_is_said_once(setup: Setup, caplog: pytest.LogCaptureFixture) -> None:
    setup.file("log.db", "this is no database, but a text")
    found = {id_: each for id_, each in setup.findings().items() if "storage" in id_}
    bad = [id_ for id_, each in found.items() if each.level in {W, E}]
    assert bad == ["storage.integrity"]
    assert found["storage.journal"].found == "the database cannot be read: see storage.integrity"
    assert caplog.messages == []


def test_what_may_not_be_read_is_said_once_and_is_no_defect() -> None:
    with TemporaryDirectory() as folder:
        setup = Setup(Path(folder))
        setup.findings()  # which imports what another user might not

        def look() -> None:
            if os.geteuid() == 0:  # who may read it nevertheless
                os.setuid(setup.around.euid)
            setup.database.chmod(0)
            found = setup.findings().values()
            assert "the file may not be read" in [each.found for each in found]
            assert [each for each in found if "could not be checked" in each.found] == []

        process = multiprocessing.get_context("fork").Process(target=look)
        process.start()
        process.join(10)
        assert process.exitcode == 0


def nowhere() -> str:
    raise FileNotFoundError


def contents(folder: Path) -> dict[str, tuple[str, int]]:
    return {
        path.name: (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in folder.iterdir()
    }


def findings_of_another_process(setup: Setup) -> dict[str, dict[str, str]]:
    """Return what the command finds; in one process, SQLite shares what it has open."""
    script = "from chatport.entrypoints.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script, "doctor", "--port=0", "--no-network", "--json"],
        cwd=setup.folder,
        env={**os.environ, **GOOD_SETTINGS},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stderr == ""
    return {each["id"]: each for each in map(json.loads, done.stdout.splitlines())}


def test_nothing_is_changed_of_a_database_at_rest(setup: Setup) -> None:
    before = contents(setup.folder)
    setup.findings()
    assert contents(setup.folder) == before


def write_much(setup: Setup) -> None:
    """Change many pages of the file, and what stands where."""
    with closing(PeeweeStore(setup.database)) as store:
        for number in range(50):
            store.begin(exchange(f"new-{number}", prompt=f"word-{number} " * 3000), HistoryBounds())


def test_a_file_that_others_begin_to_write_meanwhile_is_not_taken_for_damaged(
    setup: Setup,
) -> None:
    write_much(setup)
    with closing(SqliteInspection(setup.database)) as inspection:
        before = inspection.newest()
        with closing(PeeweeStore(setup.database)) as store:
            assert store.erase("boss", None) == 51
        with pytest.raises(StorageBusy):
            inspection.damages()
        assert inspection.damages() == []
        assert before is not None
        assert inspection.newest() is None
        write_much(setup)
        with pytest.raises(StorageBusy):
            inspection.flaws()
        assert inspection.flaws() == []


def test_a_file_that_changes_with_every_look_is_not_judged(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = count()
    monkeypatch.setattr(SqliteInspection, "_state", lambda _: (AT_REST, next(sizes), 0))
    found = setup.findings()
    for id_ in ("integrity", "schema", "open_exchanges", "newest"):
        assert found[f"storage.{id_}"] == Finding(
            Level.SKIPPED, "others began to use the database meanwhile: run this again"
        )


def test_a_file_that_others_are_just_closing_is_well(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    wal = setup.database.with_name("log.db-wal")
    exists = Path.exists

    def then_it_goes(path: Path) -> bool:
        found = exists(path)
        if path == wal:
            wal.unlink(missing_ok=True)
        return found

    monkeypatch.setattr(Path, "exists", then_it_goes)
    wal.write_bytes(b"0")
    with closing(SqliteInspection(setup.database)) as inspection:
        assert inspection.flaws() == []
    wal.write_bytes(b"0")
    with closing(PeeweeStore(setup.database)) as store:
        store.check()


def test_a_file_that_changes_once_is_looked_at_again(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = iter([1, *[2] * 1_000])
    monkeypatch.setattr(SqliteInspection, "_state", lambda _: (AT_REST, next(sizes), 0))
    found = setup.findings()
    assert found["storage.open_exchanges"].level is Level.OK
    assert [each for each in found.values() if "meanwhile" in each.found] == []


def test_where_no_file_can_be_written_what_needs_none_is_judged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    serving = Serving(host="127.0.0.1", port=0, workers=1, offline=False)
    around = surroundings({}, serving, network=False)
    assert around.has_word_index
    assert "THREADSAFE=1" in around.sqlite_options
    found = {check.id: finding for check, finding in examine(around)}
    assert found["machine.temporary_folder"].level is Level.ERROR
    assert found["storage.synchronous"] == found["storage.secure_delete"]
    assert found["storage.synchronous"].level is Level.SKIPPED
    assert [each for each in found.values() if "could not be checked" in each.found] == []


def test_a_folder_that_may_not_be_entered_is_said_and_is_no_defect() -> None:
    with TemporaryDirectory() as folder:
        setup = Setup(Path(folder))
        shut = setup.folder / "shut"
        shut.mkdir(0)
        setup.set(CHATPORT_DATABASE=f"sqlite:///{shut}/sub/log.db")
        setup.findings()

        def look() -> None:
            if os.geteuid() == 0:
                os.setuid(setup.around.euid)
            found = setup.findings()
            assert found["storage.folder"].found == (
                f"{shut}/sub cannot be looked at: Permission denied"
            )
            assert [each for each in found.values() if "could not be checked" in each.found] == []

        process = multiprocessing.get_context("fork").Process(target=look)
        process.start()
        process.join(10)
        assert process.exitcode == 0


def test_nothing_is_changed_under_a_server_that_runs_and_what_it_wrote_is_seen(
    setup: Setup,
) -> None:
    with closing(PeeweeStore(setup.database)) as store:
        PeeweeKeys(store.session).add(
            Caller(name="new"), replace(KEY, id="1" * 16, caller="new", expires_at=None)
        )
        before = contents(setup.folder)
        found = findings_of_another_process(setup)
        assert contents(setup.folder) == before
    assert found["callers.expiring"]["found"] == "keys never expire of new"


def test_nothing_is_changed_of_what_a_killed_server_has_left(
    setup: Setup, tmp_path_factory: pytest.TempPathFactory
) -> None:
    left = tmp_path_factory.mktemp("left")
    with closing(PeeweeStore(setup.database)) as store:
        store.check()
        PeeweeKeys(store.session).change(Caller(name="boss"))
        for path in setup.folder.iterdir():
            shutil.copy(path, left)
    setup.change(folder=left)
    before = contents(left)
    assert setup.findings()["callers.admin"].level is Level.WARNING
    (left / "log.db-shm").unlink()
    del before["log.db-shm"]
    assert setup.findings()["storage.integrity"] == Finding(
        Level.SKIPPED, "its -wal has no -shm beside it; start chatport once first"
    )
    assert contents(left) == before


def test_no_database_is_made(setup: Setup) -> None:
    setup.set(CHATPORT_DATABASE="sqlite:///other.db")
    before = contents(setup.folder)
    assert setup.findings()["storage.integrity"].level is Level.SKIPPED
    assert contents(setup.folder) == before


class Refusing(BaseHTTPRequestHandler):
    """A provider that takes no key, and quotes it."""

    def do_GET(self) -> None:
        body = json.dumps({"error": {"message": f"bad key {SECRET}"}}).encode()
        self.send_response(401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def refusing() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()
        thread.join()


@pytest.fixture
def doctor(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Return the command, in the good installation as far as this machine is one."""
    monkeypatch.chdir(setup.folder)
    for name in ("CHATPORT_USER_LIMIT", "CHATPORT_MODEL", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in GOOD_SETTINGS.items():
        monkeypatch.setenv(name, value)
    owner = os.geteuid()
    for path in (setup.folder, *setup.folder.iterdir()):
        os.chown(path, owner, -1)
    return lambda *arguments: CliRunner().invoke(main, ["doctor", "--port", "0", *arguments])


def objects(result: Result) -> dict[str, dict[str, str]]:
    return {each["id"]: each for each in map(json.loads, result.stdout.splitlines())}


def test_the_command_tells_that_a_key_is_refused_and_not_the_key(
    doctor: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, refusing: str
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", refusing)
    done = doctor("--json")
    assert done.exit_code == 1
    assert SECRET not in done.output
    assert objects(done)["network.answers"] == {
        "id": "network.answers",
        "title": "Provider",
        "level": "error",
        "found": f"{refusing} refuses the key",
        "advice": "Put a valid key into the settings.",
    }


def test_errors_are_exit_code_1_and_settings_that_cannot_be_used_are_one(
    doctor: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHATPORT_TIMEOUT_SECONDS", "soon")
    done = doctor("--no-network")
    assert done.exit_code == 1
    line = "error    settings.valid: CHATPORT_TIMEOUT_SECONDS must be a number of seconds"
    assert line in done.stdout
    assert "skipped  settings.timeout: the settings cannot be used\n" in done.stdout


def test_warnings_are_exit_code_0_unless_they_count(
    doctor: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHATPORT_USER_LIMIT", "")
    done = doctor("--no-network")
    assert done.exit_code == 0, done.output
    advice = "           Set CHATPORT_USER_LIMIT, such as 20/minute.\n"
    assert f"warning  limits.user: a user has no limit\n{advice}" in done.stdout
    assert done.stdout.splitlines()[-1].startswith(f"{len(CHECKS)} checks: ")
    assert "\x1b" not in done.stdout
    assert doctor("--no-network", "--strict").exit_code == 1


def test_offline_needs_no_key(
    doctor: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "")
    done = doctor("--offline", "--json")
    assert done.exit_code == 0, done.output
    assert objects(done)["settings.key"]["level"] == "skipped"
