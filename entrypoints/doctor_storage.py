"""Checks of the database: its folder, its file, what stands in it, and the disk under it."""

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

from chatport.domain.errors import (
    StorageBusy,
    StorageCorrupt,
    StorageReadOnly,
    StorageUnavailable,
)

from . import database_name
from .doctor_findings import Check, Finding, Skip, error, ok, warning
from .doctor_installation import Installation

MB = 1_000_000
NEEDED_BYTES, WANTED_BYTES = 200 * MB, 1_000 * MB
DELETE = "Put the file back beside it; where it is gone for good, delete the -shm."
PUT_BACK = "Put the file back beside it; where it is gone for good, move the -wal away, too."
PUT_BACK_WAL = "Put it back, and restart chatport; where it is gone for good, delete the -shm."

LARGEST_CHECKED = 1_000 * MB
"""Reading it takes some seconds."""

LARGEST_WAL = 64 * 1024 * 1024
"""To what the write-ahead log is cut when nobody reads; a larger one is held by a reader."""

CLOCK_SLACK_SECONDS = 60
SHOWN = 10
RESTORE = "Stop chatport, keep a copy of the file, and copy a backup into its place."
FULL_SYNC, ON = "2", "1"
OWNER_USES = stat.S_IRUSR | stat.S_IWUSR
OTHERS = stat.S_IRWXG | stat.S_IRWXO
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
NETWORK = re.compile(
    r"nfs\d?|cifs|smb\w*|9p|afs|ceph|lustre|glusterfs|fuse\.(sshfs|glusterfs|s3fs|rclone)"
)
NAME_ANOTHER = "Name another file in CHATPORT_DATABASE."
PASSING = {"tmpfs", "ramfs", "overlay"}


def durable(installation: Installation) -> Finding:
    """Look whether anything is kept."""
    if installation.settings.database is None:
        return warning(
            "everything is kept in memory, and lost when the server stops",
            "Set CHATPORT_DATABASE=sqlite:///FILE.",
        )
    return ok(f"kept in {installation.database}")


def folder(installation: Installation) -> Finding:
    """Look whether SQLite can make its files."""
    place = installation.database.parent
    try:
        is_folder = place.is_dir()
    except OSError as fault:
        advice = "Let the user who runs chatport into the folders that it is in."
        return error(f"{place} cannot be looked at: {fault.strerror}", advice)
    if not is_folder:
        return error(f"{place} is no folder", f"Make it: mkdir -m 700 {place}")
    if not os.access(place, os.W_OK | os.X_OK):
        return error(f"{place} cannot be written", "Give it to the user who runs chatport.")
    return ok(f"{place} can be written")


def folder_access(installation: Installation) -> Finding:
    """Look whether others could replace the file, a link to it, or a folder that it is in."""
    _folder(installation)
    for path in (installation.database, installation.named):
        for number, place in enumerate(path.parents):
            mode = place.stat().st_mode
            others = stat.S_IWOTH if number else OTHERS_WRITE
            if mode & others and not mode & stat.S_ISVTX:
                return error(f"others may write into {place}", f"chmod go-w {place}")
    return ok("only its owner can replace the file")


def regular(installation: Installation) -> Finding:
    """Look whether a file stands where the database belongs."""
    path = installation.database
    if found := database_name.fault(path):
        return error(f"{path} cannot be used: {found}", NAME_ANOTHER)
    try:
        is_file = stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        wal, shm = (path.with_name(f"{path.name}{end}") for end in ("-wal", "-shm"))
        if wal.is_file() and wal.stat().st_size:
            return error(f"{path} is away, and {wal.name} holds what was written last", PUT_BACK)
        if shm.exists():
            return error(f"{path} is away, and {shm.name} is left of it", DELETE)
        return ok("it will be made at the first start")
    except OSError as fault:  # a link that leads to itself
        return error(f"{path} cannot be used: {fault.strerror}", NAME_ANOTHER)
    return ok("it is a file") if is_file else error(f"{path} is no file", NAME_ANOTHER)


def modes(installation: Installation) -> Finding:
    """Look whether others can read what users have said."""
    loose = [path for path in installation.files if path.stat().st_mode & OTHERS]
    if loose:
        names = " ".join(map(str, loose))
        return error(f"others may use {names}", f"chmod 600 {names}")
    return ok("only its owner can read it")


def owner(installation: Installation) -> Finding:
    """Look whose the files are, and whether their owner may use them."""
    euid = installation.around.euid
    files = [*installation.files, installation.lock]
    foreign = [path for path in files if path.exists() and path.stat().st_uid != euid]
    if foreign:
        names = " ".join(map(str, foreign))
        return error(f"another user owns {names}", f"chown {euid} {names}")
    shut = [path for path in files if path.exists() and ~path.stat().st_mode & OWNER_USES]
    if euid and shut:  # root may use them all the same
        names = " ".join(map(str, shut))
        return error(f"{names} cannot be written", f"chmod u+rw {names}")
    return ok("it belongs to the user who runs this")


def journal(installation: Installation) -> Finding:
    """Look whether the file has a write-ahead log."""
    if installation.file.stat().st_size and not installation.inspection.uses_wal():
        return error(
            "the file has no write-ahead log: readers wait for writers",
            "Stop what else uses the file; chatport turns WAL on when it starts.",
        )
    return ok("it has a write-ahead log")


def synchronous(installation: Installation) -> Finding:
    """Look whether a commit is on the disk before anybody is told."""
    pragmas = _pragmas(installation)
    if pragmas.get("synchronous") != FULL_SYNC or pragmas.get("journal_mode") != "wal":
        advice = "This SQLite or this chatport was altered; install both anew."
        return error("commits may be lost when the power fails", advice)
    return ok("a commit is on the disk before anybody is told (synchronous=FULL)")


def secure_delete(installation: Installation) -> Finding:
    """Look whether what is erased is overwritten."""
    if _pragmas(installation).get("secure_delete") != ON:
        advice = "This SQLite or this chatport was altered; install both anew."
        return error("what is erased stays readable in the file", advice)
    return ok("what is erased is overwritten")


def integrity(installation: Installation) -> Finding:
    """Let SQLite look through the file."""
    try:
        inspection = installation.inspection
        if installation.file.stat().st_size > LARGEST_CHECKED:
            raise Skip("it is above 1 GB: run PRAGMA quick_check on a backup")
        damages = inspection.damages()
    except StorageCorrupt:
        damages = ["it cannot be read"]
    except StorageReadOnly:
        return error("the file may not be read", "See storage.owner, and run this again.")
    except StorageBusy:
        raise
    except StorageUnavailable:
        return error("the file cannot be read; its -wal or -shm may be another's", PUT_BACK_WAL)
    if damages:
        return error(f"the file is damaged: {len(damages)} faults or more", RESTORE)
    return ok("SQLite finds no damage")


def schema(installation: Installation) -> Finding:
    """Look whether the file fits this version."""
    if installation.inspection.is_foreign():
        return error("the file belongs to another program", NAME_ANOTHER)
    if installation.inspection.unknown_migrations():
        return error("a newer version of chatport wrote it", "Run that version.")
    if pending := installation.inspection.pending_migrations():
        return warning(
            f"{len(pending)} migrations are pending",
            "Make a backup; chatport brings the file up to date when it starts.",
        )
    if flaws := installation.inspection.flaws():
        more = f" and {len(flaws) - SHOWN} more" if len(flaws) > SHOWN else ""
        return error(f"{', '.join(flaws[:SHOWN])}{more}", RESTORE)
    return ok("the file fits this version, with all its tables, indexes and triggers")


def space(installation: Installation) -> Finding:
    """Look how much can still be written."""
    free = installation.around.free_bytes(_folder(installation))
    found = f"{free // MB:,} MB are free"
    if free < NEEDED_BYTES:
        return error(found, "Make room now: chatport refuses requests that it cannot log.")
    if free < WANTED_BYTES:
        return warning(found, "Make room soon, or let old exchanges go: chatport purge --help")
    return ok(found)


def filesystem(installation: Installation) -> Finding:
    """Look whether the disk is one, and this machine's."""
    kind = _filesystem(_folder(installation).resolve(), installation.around.mounts)
    if NETWORK.fullmatch(kind):
        advice = "Move the database to a local disk: SQLite's WAL needs shared memory and locks."
        return error(f"it is on a network file system ({kind})", advice)
    if kind in PASSING:
        advice = "Put it on a disk or a mounted volume: this one goes with a restart."
        return warning(f"it is on {kind}", advice)
    return ok(f"it is on {kind}")


def wal_size(installation: Installation) -> Finding:
    """Look whether the write-ahead log is there, and ever emptied."""
    wal, shm = (Path(f"{installation.file}{end}") for end in ("-wal", "-shm"))
    try:
        size = wal.stat().st_size
    except FileNotFoundError:
        if shm.exists() and not wal.exists():  # it comes before the -shm, and goes after it
            return error(f"{wal.name} is away, which holds what was written last", PUT_BACK_WAL)
        size = 0
    found = f"its write-ahead log has {size // MB} MB"
    if size > LARGEST_WAL:
        advice = "Something reads the database without end, such as a shell or a backup: stop it."
        return warning(found, advice)
    return ok(found)


def open_exchanges(installation: Installation) -> Finding:
    """Look for exchanges that nobody will finish."""
    found, left = installation.inspection.open_exchanges(installation.around.now)
    if left:
        advice = "They are closed as interrupted when chatport starts."
        return warning(f"{left} exchanges were left open by processes that died", advice)
    return ok(
        f"{found} exchanges are open, and none is known to be left" if found else "none is open"
    )


def newest(installation: Installation) -> Finding:
    """Look whether the clock was set back."""
    found = installation.inspection.newest()
    if found is None:
        return ok("the log is empty")
    if (found - installation.around.now).total_seconds() > CLOCK_SLACK_SECONDS:
        what = f"the newest exchange is of {found:%Y-%m-%d %H:%M}, in the future"
        return error(what, "Set the clock: leases, budgets and expiry go by it.")
    return ok("the clock is past the newest exchange")


def _pragmas(installation: Installation) -> Mapping[str, str]:
    if not installation.around.pragmas:
        raise Skip("it can be tried in no file: see machine.temporary_folder")
    return installation.around.pragmas


def _folder(installation: Installation) -> Path:
    place = installation.database.parent
    try:
        if place.is_dir():
            return place
    except OSError:
        raise Skip("the folder cannot be looked at") from None
    raise Skip("there is no folder")


def _filesystem(path: Path, mounts: str) -> str:
    """Return the type of the file system that a path is on."""
    fields = [line.split() for line in mounts.splitlines()]
    places = [(_unescaped(point), kind) for _, point, kind, *_ in fields]
    found = [(place, kind) for place, kind in places if path.is_relative_to(place)]
    if not found:
        raise Skip("the system does not say")
    deepest = max(len(place.parts) for place, _ in found)
    return [kind for place, kind in found if len(place.parts) == deepest][-1]  # covers the others


def _unescaped(point: str) -> Path:
    r"""Return the folder that `/proc/mounts` writes with `\040` for a space."""
    return Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), point))


CHECKS = (
    Check("storage.durable", "Durability", durable),
    Check("storage.folder", "Folder of the database", folder),
    Check("storage.folder_access", "Who writes into that folder", folder_access),
    Check("storage.regular", "File of the database", regular),
    Check("storage.modes", "Who reads the database", modes),
    Check("storage.owner", "Owner of the database", owner),
    Check("storage.journal", "Journal", journal),
    Check("storage.synchronous", "Commits", synchronous),
    Check("storage.secure_delete", "Erasing", secure_delete),
    Check("storage.integrity", "Integrity", integrity),
    Check("storage.schema", "Schema", schema),
    Check("storage.space", "Free space", space),
    Check("storage.filesystem", "File system", filesystem),
    Check("storage.wal_size", "Write-ahead log", wal_size),
    Check("storage.open_exchanges", "Open exchanges", open_exchanges),
    Check("storage.newest", "Clock and log", newest),
)
