"""Bringing a database file to the schema of this version of chatport."""

from pathlib import Path

import peewee
from filelock import FileLock
from playhouse.migrations import Runner

from chatport.domain.errors import StorageReadOnly, StorageTooNew

MIGRATIONS = Path(__file__).with_name("migrations")
FOLDER = "The database's path leads to a folder; name a file in it instead."


def migrate(database: peewee.Database, path: Path) -> None:
    """Apply the migrations that the file lacks, one process at a time."""
    with FileLock(path.with_name(f"{path.name}.lock")):
        runner = Runner(database, str(MIGRATIONS))
        if any(migration.applied is None for migration in runner.status()):
            runner.up()


def refuse_newer(path: Path) -> None:
    """Look at the file as it is, without changing even its journal mode.

    Raises:
        StorageReadOnly: There is a folder in its place.
        StorageTooNew: It has migrations that this version does not know.
    """
    if path.is_dir():
        raise StorageReadOnly(FOLDER)
    with peewee.SqliteDatabase(str(path)) as database:
        status = Runner(database, str(MIGRATIONS)).status()
    if any(migration.path is None for migration in status):
        raise StorageTooNew
