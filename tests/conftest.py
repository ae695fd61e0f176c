"""What every test shares."""

import gc
import os
import shutil
import socket
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from werkzeug.routing import Rule

from chatport.adapters import PeeweeStore, sqlite_database
from chatport.adapters.file_condition import FileCondition
from chatport.adapters.life_sign import LifeSign
from chatport.adapters.open_files import make_place
from chatport.adapters.own_leases import OwnLeases
from chatport.domain import model
from integration.programs import PROGRAMS, SERVERS
from torture import TORTURE

LOOK_AT_MAKING = {"durability", "test_sqlite_store.py"}
MEMORY = "/dev/shm"
NEEDED_BYTES = 2 * 10**9
"""A run needs a quarter of it."""

GARBAGE = 10_000
"""Objects to be made before the collector looks, at what is new: most tests never make as many."""

DOORS = "doors"
"""What the processes of a run are told: where programs are asked for."""

TESTS = Path(__file__).parent
LOOPBACK = ("127.", "::1", "localhost", "0.0.0.0")


def pytest_configure(config: pytest.Config) -> None:
    """Keep the files of the tests in memory, where there is room: the disk cost a tenth of all.

    And end what programs are forked of, where the run ends that has begun it.
    """
    may = not TORTURE and "TMPDIR" not in os.environ and os.access(MEMORY, os.W_OK | os.X_OK)
    if may and shutil.disk_usage(MEMORY).free > NEEDED_BYTES:
        os.environ["TMPDIR"] = tempfile.tempdir = MEMORY
    PROGRAMS.door, SERVERS.door = getattr(config, "workerinput", {}).get(DOORS, ("", ""))
    for programs in (PROGRAMS, SERVERS):
        config.add_cleanup(programs.close)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Let all processes fork their programs of the same two: each imports for seconds."""
    if sys.platform != "win32":
        node.workerinput[DOORS] = PROGRAMS.open(), SERVERS.open()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Let one more process test than there are cores: many tests wait for a deadline.

    Two more would take a fifth more of the cores' time, in which they import, collect and wait for
    each other.
    """
    return (os.cpu_count() or 1) + 1


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Iterator[None]:
    """Spare the collector what is collected: thousands of tests, and they stay until the end."""
    gc.disable()
    if [session.config.rootpath / each for each in session.config.args] == [TESTS]:
        _import_a_share()
    try:
        return (yield)
    finally:
        gc.freeze()  # with what garbage there is: to find it took each process half a second
        gc.set_threshold(GARBAGE)
        gc.enable()


def _import_a_share() -> None:
    """Import what no other process of the run imports first, so that each module is compiled once.

    After a change, or in a new checkout, each process took seconds to rewrite the same assertions.
    """
    name = os.environ.get("PYTEST_XDIST_WORKER", "gw0")
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    modules = sorted(TESTS.glob("*/test_*.py"), key=lambda path: -path.stat().st_size)
    for path in modules[int(name.removeprefix("gw")) :: processes]:
        with suppress(Exception):  # whoever collects it says what is wrong
            import_module(f"{path.parent.name}.{path.stem}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Deal the long tests to all processes, and let each begin with them, so that none waits.

    Of the tests in their order, xdist gives each process one part, as long as the others. Those of
    whole services come next, which wait while others compute.
    """
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    long = [item for item in items if item.get_closest_marker("long")]
    others = [item for item in items if not item.get_closest_marker("long")]
    short = deque(sorted(others, key=lambda item: "e2e" not in item.path.parts))
    part = len(items) // processes
    items.clear()
    for n in range(processes):
        hand = long[n::processes]
        room = max(0, min(part - len(hand), len(short)))
        items += hand + [short.popleft() for _ in range(room)]
    items += short


@pytest.fixture(scope="session")
def patches() -> Iterator[pytest.MonkeyPatch]:
    """Return what changes something for all tests: thousands need not do it each."""
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="session", autouse=True)
def _offline(patches: pytest.MonkeyPatch) -> None:
    """Fail a test that opens a connection to anything but this machine."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if isinstance(address, tuple) and not str(address[0]).startswith(LOOPBACK):
            pytest.fail(f"a test tried to connect to {address[0]}")
        connect(self, address)

    patches.setattr(socket.socket, "connect", guarded)


@pytest.fixture(scope="session", autouse=True)
def _quickly_made_applications(patches: pytest.MonkeyPatch) -> None:
    """Spare thousands of applications the code that builds URLs, since no route builds any."""

    def no_url(*_: Any) -> None:
        pytest.fail("a route builds a URL")

    patches.setattr(Rule, "_compile_builder", lambda *_: no_url)


@pytest.fixture
def leases_of_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let leases end when records say so, as if nobody was known to live: a test need not wait."""
    monkeypatch.setattr(OwnLeases, "holds", lambda _self, _exchange_id: False)
    lives = LifeSign.lives
    monkeypatch.setattr(LifeSign, "lives", lambda self, owner: lives(self, owner) and None)


@pytest.fixture
def clock_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the log follow a clock that is set back, for models that do not know better."""
    monkeypatch.setattr(model, "LONGEST_SETBACK", timedelta(-1))


@pytest.fixture(scope="session")
def _new_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What a file holds that was just made."""
    path = tmp_path_factory.mktemp("new") / "chatport.db"
    with closing(PeeweeStore(path)) as store:
        store.check()
    return path.read_bytes()


@pytest.fixture(scope="session", autouse=True)
def _quickly_made_files(patches: pytest.MonkeyPatch, _new_file: bytes) -> None:
    """Spare thousands of tests the making of tables, unless it is what they look at."""

    one_at_a_time = threading.Lock()

    def make_quickly(path: Path, condition: FileCondition) -> None:
        file, *_ = os.environ.get("PYTEST_CURRENT_TEST", "").split("::")
        if not LOOK_AT_MAKING.isdisjoint(Path(file).parts):
            make_place(path, condition)
            return
        with one_at_a_time:  # a second store may be opening the same file
            is_new = not path.exists()
            make_place(path, condition)
            if is_new:
                whole = path.with_name(f"{path.name}-new")
                whole.write_bytes(_new_file)
                whole.chmod(path.stat().st_mode)
                whole.replace(path.resolve())  # at once: nobody sees half of it

    patches.setattr(sqlite_database, "make_place", make_quickly)
