"""Which server runs where."""

import subprocess
import sys
import threading
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from pytest_mock import MockerFixture

from chatport.adapters import (
    MemoryStore,
    PeeweeKeys,
    PeeweeStore,
    SqliteSession,
    SystemClock,
    random_key_id,
    random_secret,
)
from chatport.domain import Caller, ChatRequest
from chatport.domain.errors import StorageBusy
from chatport.domain.keys import Keys
from chatport.entrypoints import server
from chatport.entrypoints.settings import Settings
from chatport.entrypoints.wiring import Place, assembled

SERVING = server.Serving(host="127.0.0.1", port=0, workers=1, offline=True)


@pytest.mark.parametrize(
    ("platform", "runs"),
    [
        ("win32", "_serve_with_waitress"),
        ("linux", "_serve_with_gunicorn"),
        ("darwin", "_serve_with_gunicorn"),
    ],
)
def test_waitress_serves_on_windows_and_gunicorn_elsewhere(
    monkeypatch: pytest.MonkeyPatch, mocker: MockerFixture, platform: str, runs: str
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    chosen = {
        name: mocker.patch.object(server, name)
        for name in ("_serve_with_waitress", "_serve_with_gunicorn")
    }
    server.serve(Settings.from_mapping({}), SERVING)
    assert [name for name, called in chosen.items() if called.called] == [runs]


def test_on_windows_the_application_is_handed_to_waitress(
    monkeypatch: pytest.MonkeyPatch, mocker: MockerFixture
) -> None:
    waitress = mocker.MagicMock()
    recover = mocker.spy(MemoryStore, "recover")
    monkeypatch.setitem(sys.modules, "waitress", waitress)
    settings = Settings.from_mapping({"CHATPORT_DATABASE": "memory:"})
    server._serve_with_waitress(settings, SERVING)
    application = waitress.serve.call_args.args[0]
    assert application.test_client().get("/readyz").status_code == 200
    assert waitress.serve.call_args.kwargs["host"] == "127.0.0.1"
    assert recover.call_count >= 1


OUTSIDE = ["0.0.0.0", "::", "10.0.0.1", "example.com"]


def serving(host: str) -> server.Serving:
    return server.Serving(host=host, port=0, workers=1, offline=True)


def settings_for(path: Path | str) -> Settings:
    return Settings.from_mapping({"CHATPORT_DATABASE": str(path)})


@pytest.mark.parametrize("host", OUTSIDE)
@pytest.mark.parametrize("database", ["none yet", "no keys", "memory"])
def test_an_address_that_strangers_reach_is_refused_while_there_is_no_key(
    tmp_path: Path, host: str, database: str
) -> None:
    path = tmp_path / "chatport.db"
    if database == "no keys":
        PeeweeStore(path).check()
    settings = settings_for("memory:" if database == "memory" else f"sqlite:///{path}")
    with pytest.raises(server.CannotServe, match="chatport keys create NAME"):
        server.check_address(settings, serving(host))
    assert path.exists() == (database == "no keys")


def test_with_a_key_any_address_may_be_served(tmp_path: Path) -> None:
    path = tmp_path / "chatport.db"
    with closing(SqliteSession(path)) as session:
        keys = Keys(
            PeeweeKeys(session), clock=SystemClock(), new_id=random_key_id, new_secret=random_secret
        )
        keys.create(Caller(name="shop"))
        keys.revoke("shop")  # closed for good: what was stored since belongs to somebody
    server.check_address(settings_for(f"sqlite:///{path}"), serving("0.0.0.0"))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost"])
def test_loopback_addresses_are_served(host: str) -> None:
    server.check_address(settings_for("memory:"), serving(host))


def test_a_server_without_a_place_for_temporary_files_is_refused(mocker: MockerFixture) -> None:
    mocker.patch("tempfile.gettempdir", side_effect=FileNotFoundError)
    with pytest.raises(server.CannotServe, match="Name a folder in TMPDIR"):
        server.check_start(settings_for("memory:"), serving("127.0.0.1"))


def run(script: str) -> str:
    """Run a script in a fresh interpreter, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_killed_greenlet_waits_for_its_work_on_the_other_thread() -> None:
    said = run(
        "import threading, gevent\n"
        "from chatport.entrypoints.offload import offload\n"
        "go, said = threading.Event(), []\n"
        "def work(): go.wait(); said.append('worked')\n"
        "def caller():\n"
        "    try: offload(work)\n"
        "    finally: said.append('left')\n"
        "greenlet = gevent.spawn(caller); gevent.sleep(0.05)\n"
        "greenlet.kill(block=False); gevent.sleep(0.05)\n"
        "before = list(said); go.set(); greenlet.join()\n"
        "print(before, said)\n"
    )
    assert said == "[] ['worked', 'left']"


@pytest.mark.parametrize("left", [0, 1, 3])
def test_where_no_thread_can_be_started_nothing_is_done_not_even_later(left: int) -> None:
    said = run(
        "from gevent import threadpool\n"
        "from chatport.domain.errors import StorageUnavailable\n"
        "from chatport.entrypoints.offload import offload\n"
        f"start, left = threadpool.start_new_thread, [...] * {left}\n"
        "def start_what_may(*args):\n"
        "    if not left: raise RuntimeError\n"
        "    left.pop(); return start(*args)\n"
        "threadpool.start_new_thread = start_what_may\n"
        "try: offload(lambda: print('refused work'))\n"
        "except StorageUnavailable as error: print(error.retry_after_seconds)\n"
        "threadpool.start_new_thread = start\n"
        "offload(lambda: print('worked'))\n"
    )
    assert said == "1.0\nworked"


def test_threads_that_look_up_hosts_do_not_keep_the_database_waiting() -> None:
    said = run(
        "from gevent import monkey; monkey.patch_all()\n"
        "import gevent\n"
        "from chatport.entrypoints.offload import offload\n"
        "sleep = monkey.get_original('time', 'sleep')\n"
        "busy = [gevent.get_hub().threadpool.spawn(sleep, 300) for _ in range(10)]\n"
        "gevent.sleep(0.05)\n"
        "offload(lambda: print('worked', flush=True))\n"
        "import os; os._exit(0)\n"
    )
    assert said == "worked"


def test_who_gives_a_turn_to_others_gives_it_also_to_those_who_have_something_to_read() -> None:
    said = run(
        "import chatport.entrypoints.cli, chatport.entrypoints.whole_exchange as whole\n"
        "from gevent import monkey; monkey.patch_all()\n"
        "import gevent, socket\n"
        "near, far = socket.socketpair()\n"
        "turns, waited = [], []\n"
        "def work():\n"
        "    for turn in range(400):\n"
        "        if turn % 40 == 0: far.send(bytes([turn // 40]))\n"
        "        turns.append(turn); whole.let_others_run()\n"
        "    far.close()\n"
        "def read():\n"
        "    while data := near.recv(1): waited.append(len(turns) - 40 * data[0])\n"
        "gevent.joinall([gevent.spawn(read), gevent.spawn(work)])\n"
        "print(len(waited), max(waited) < 4)\n"
    )
    assert said == "10 True"


def test_a_worker_begins_also_without_its_database(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "HOUSEKEEPING_SECONDS", 1e6)
    server._keep_house(PeeweeStore(tmp_path))  # where there should be a file
    assert "what was left open stays so for now: storage_readonly" in caplog.text


def test_what_could_not_be_closed_at_the_start_is_closed_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Store(MemoryStore):
        looks = 0
        seen = threading.Event()

        def recover(self, now: datetime) -> int:
            self.looks += 1
            if self.looks < 3:
                raise StorageBusy
            self.seen.set()
            return super().recover(now)

    monkeypatch.setattr(server, "HOUSEKEEPING_SECONDS", 0.001)
    server._keep_house(Store())
    assert Store.seen.wait(10)
    monkeypatch.setattr(server, "HOUSEKEEPING_SECONDS", 1e6)


def test_a_lease_outlasts_the_longest_call() -> None:
    hour = {"CHATPORT_DATABASE": "memory:", "CHATPORT_TIMEOUT_SECONDS": "3600"}
    with assembled(Settings.from_mapping(hour), Place(offline=True)) as parts:
        stored = parts.store.find(parts.service.reply(ChatRequest(prompt="Hello")).exchange_id)
    assert stored is not None
    assert stored.lease_until - stored.started_at > timedelta(seconds=3600)


def test_libraries_that_log_what_is_said_are_quiet() -> None:
    run(
        "import logging\n"
        "from chatport.entrypoints.access_log import configure_logging\n"
        "configure_logging()\n"
        "for name in ('openai', 'httpx2', 'httpcore2', 'peewee', 'filelock', 'gunicorn.access'):\n"
        "    assert not logging.getLogger(name).isEnabledFor(logging.INFO), name\n"
    )
