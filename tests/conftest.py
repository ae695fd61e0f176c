"""What every test shares."""

import os
import socket
from contextlib import closing
from pathlib import Path
from typing import Any

import peewee
import pytest

from chatport.adapters import PeeweeStore, sqlite_database
from chatport.adapters.life_sign import LifeSign
from chatport.adapters.own_leases import OwnLeases
from chatport.adapters.schema import migrate

LOOK_AT_MAKING = {"durability", "test_sqlite_store.py"}
LOOPBACK = ("127.", "::1", "localhost", "0.0.0.0")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Let one more process test than there are cores: many tests wait, for a disk or a deadline."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the long tests begin first, so that no core waits for the last of them."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail a test that opens a connection to anything but this machine."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if isinstance(address, tuple) and not str(address[0]).startswith(LOOPBACK):
            pytest.fail(f"a test tried to connect to {address[0]}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture
def leases_of_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let leases end when records say so, as if nobody was known to live: a test need not wait."""
    monkeypatch.setattr(OwnLeases, "holds", lambda _self, _exchange_id: False)
    monkeypatch.setattr(LifeSign, "is_alive", lambda _self, _owner: False)


@pytest.fixture(scope="session")
def _new_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What a file holds that was just made."""
    path = tmp_path_factory.mktemp("new") / "chatport.db"
    with closing(PeeweeStore(path)) as store:
        store.check()
    return path.read_bytes()


@pytest.fixture(autouse=True)
def _quickly_made_files(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, _new_file: bytes
) -> None:
    """Spare thousands of tests the making of tables, unless it is what they look at."""

    def quickly(database: peewee.Database, path: Path) -> None:
        if path.stat().st_size == 0:
            path.write_bytes(_new_file)
        migrate(database, path)

    if LOOK_AT_MAKING.isdisjoint(request.node.path.parts):
        monkeypatch.setattr(sqlite_database, "migrate", quickly)
