"""A disk that forgets: records what SQLite writes and syncs, and builds what a power cut leaves.

`recording()` puts a VFS in front of the system's, written with ctypes against the library that
Python's own `sqlite3` uses. It passes everything on, and logs each change of a database, a
write-ahead log or a journal. `Disk` replays the log up to any point. Then it has, of each file,
what was synced for certain, and any part of what came after; see www.sqlite.org/atomiccommit.html
for what SQLite expects of a disk, and www.sqlite.org/vfs.html for the structs.
"""

import ctypes
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from ctypes import POINTER, c_char_p, c_int, c_int64, c_void_p
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

SQLITE_OK = 0
RECORDED = 0x100 | 0x800 | 0x80000
"""SQLITE_OPEN_MAIN_DB, _MAIN_JOURNAL and _WAL, of sqlite3.h."""

SECTOR = 512


class Write(NamedTuple):
    """Bytes went into a file, and into its cache for now."""

    file: str
    offset: int
    data: bytes


class Truncate(NamedTuple):
    """A file was cut."""

    file: str
    size: int


class Create(NamedTuple):
    """A file was made."""

    file: str


class Delete(NamedTuple):
    """A file was deleted, and its folder synced or not."""

    file: str
    synced: bool


class Sync(NamedTuple):
    """All of a file is on the disk."""

    file: str


class Ack(NamedTuple):
    """Somebody was told that something is kept, or is about to go."""

    what: Any


Event = Write | Truncate | Create | Delete | Sync | Ack
Log = list[Event]


class Disk:
    """What of a log is on the disk for certain, and what may be."""

    def __init__(self) -> None:
        self._durable: dict[str, bytes] = {}
        self._pending: dict[str, list[Event]] = {}

    def apply(self, event: Event) -> None:
        """Go on by one event."""
        if isinstance(event, Ack):
            return
        pending = self._pending.setdefault(event.file, [])
        if not isinstance(event, Sync):
            pending.append(event)
        if isinstance(event, Sync) and event.file not in self._durable:
            self._sync_folder()
        if isinstance(event, Sync) or (isinstance(event, Delete) and event.synced):
            self._keep(event.file, _replayed(self._durable.get(event.file), pending))
            pending.clear()

    def after_power_cut(self, random: Random) -> dict[str, bytes]:
        """Return what the files may hold now: all that was synced, and some of the rest."""
        share = random.choice((0.0, random.random(), 1.0))
        found = {}
        for file in self._durable.keys() | self._pending.keys():
            survivors = [
                part
                for event in _until_forgotten_delete(self._pending.get(file, []), random)
                for part in _surviving(event, share, random)
            ]
            content = _replayed(self._durable.get(file), survivors)
            if content is not None:
                found[file] = content
        return found

    def _sync_folder(self) -> None:
        """Make what was deleted be so for certain.

        SQLite syncs the folder with the first sync of a new journal or write-ahead log
        (`UNIXFILE_DIRSYNC` of its os_unix.c).
        """
        for file, pending in self._pending.items():
            deletes = [place for place, it in enumerate(pending) if isinstance(it, Delete)]
            if deletes:
                self._durable.pop(file, None)
                del pending[: deletes[-1] + 1]

    def _keep(self, file: str, content: bytes | None) -> None:
        if content is None:
            self._durable.pop(file, None)
        else:
            self._durable[file] = content


def _until_forgotten_delete(pending: list[Event], random: Random) -> list[Event]:
    """If the disk forgets that a file was deleted, nothing that came later is there."""
    for place, event in enumerate(pending):
        if isinstance(event, Delete) and random.random() < 0.5:
            return pending[:place]
    return pending


def _surviving(event: Event, share: float, random: Random) -> list[Event]:
    """Return the event, nothing, or those sectors of it that the disk got round to."""
    if not isinstance(event, Write):
        return [event] if isinstance(event, Delete) or random.random() < share else []
    if random.random() < 0.75:
        return [event] if random.random() < share else []
    start, sectors = event.offset, []
    end = start + len(event.data)
    while start < end:
        stop = min(end, (start // SECTOR + 1) * SECTOR)
        if random.random() < share:
            data = event.data[start - event.offset : stop - event.offset]
            sectors.append(Write(event.file, start, data))
        start = stop
    return list[Event](sectors)


def _replayed(content: bytes | None, events: list[Event]) -> bytes | None:
    """Return the content of a file after the events; None if there is no file."""
    if not events:
        return content
    now = None if content is None else bytearray(content)
    for event in events:
        if isinstance(event, Delete):
            now = None
            continue
        now = bytearray() if now is None else now
        if isinstance(event, Write):
            now.extend(bytes(max(0, event.offset - len(now))))
            now[event.offset : event.offset + len(event.data)] = event.data
        elif isinstance(event, Truncate):
            del now[event.size :]
    return None if now is None else bytes(now)


# The structs of sqlite3.h


class _File(ctypes.Structure):
    pass


class _Methods(ctypes.Structure):
    pass


class _Vfs(ctypes.Structure):
    pass


_CLOSE = ctypes.CFUNCTYPE(c_int, POINTER(_File))
_WRITE = ctypes.CFUNCTYPE(c_int, POINTER(_File), c_void_p, c_int, c_int64)
_TRUNCATE = ctypes.CFUNCTYPE(c_int, POINTER(_File), c_int64)
_SYNC = ctypes.CFUNCTYPE(c_int, POINTER(_File), c_int)
_OPEN = ctypes.CFUNCTYPE(c_int, POINTER(_Vfs), c_void_p, POINTER(_File), c_int, c_void_p)
_DELETE = ctypes.CFUNCTYPE(c_int, POINTER(_Vfs), c_char_p, c_int)

_File._fields_ = [("methods", POINTER(_Methods))]
_Methods._fields_ = [
    ("version", c_int),
    ("close", _CLOSE),
    ("read", c_void_p),
    ("write", _WRITE),
    ("truncate", _TRUNCATE),
    ("sync", _SYNC),
    # Size, locks, control, device; since version 2 shared memory, since 3 memory mapping.
    ("passed_on", c_void_p * 13),
]
_Vfs._fields_ = [
    ("version", c_int),
    ("size_of_file", c_int),
    ("longest_path", c_int),
    ("next", c_void_p),
    ("name", c_char_p),
    ("data", c_void_p),
    ("open", _OPEN),
    ("delete", _DELETE),
    # Access, path, libraries, randomness, time; since versions 2 and 3 more time, system calls.
    ("passed_on", c_void_p * 14),
]


def _copy(struct: Any) -> Any:
    return type(struct).from_buffer_copy(struct)


class CrashVfs:
    """The system's VFS with an ear on it.

    Only what changes a file is replaced; every other function of the system gets the very structs
    that it would have got, so that locks and shared memory work as ever.
    """

    def __init__(self, system: Any) -> None:
        self.log: Log = []
        self._system = system
        self._files: dict[int, tuple[str, Any]] = {}
        self._methods: dict[int, tuple[Any, Any]] = {}
        self.struct = _copy(system)
        self.struct.name = b"crash"
        self.struct.next = None
        self.struct.open = _OPEN(self._open)
        self.struct.delete = _DELETE(self._delete)

    def _open(self, _: Any, name: int | None, file: Any, flags: int, out: int | None) -> int:
        path = ctypes.string_at(name).decode() if name and flags & RECORDED else None
        new = path is not None and not Path(path).exists()
        code = int(self._system.open(ctypes.byref(self._system), name, file, flags, out))
        if code == SQLITE_OK and path is not None:
            original, wrapper = self._wrapped(file.contents.methods)
            self._files[ctypes.addressof(file.contents)] = (Path(path).name, original)
            file.contents.methods = ctypes.pointer(wrapper)
            if new:
                self.log.append(Create(Path(path).name))
        return code

    def _wrapped(self, methods: Any) -> tuple[Any, Any]:
        """Return the methods and a copy that tells; the copies stay, since SQLite uses them."""
        address = ctypes.addressof(methods.contents)
        if address not in self._methods:
            wrapper = _copy(methods.contents)
            wrapper.close = _CLOSE(self._close)
            wrapper.write = _WRITE(self._write)
            wrapper.truncate = _TRUNCATE(self._truncate)
            wrapper.sync = _SYNC(self._sync)
            self._methods[address] = (methods.contents, wrapper)
        return self._methods[address]

    def _find(self, file: Any) -> tuple[str, Any]:
        return self._files[ctypes.addressof(file.contents)]

    def _close(self, file: Any) -> int:
        _, methods = self._files.pop(ctypes.addressof(file.contents))
        return int(methods.close(file))

    def _write(self, file: Any, data: int, size: int, offset: int) -> int:
        name, methods = self._find(file)
        code = int(methods.write(file, data, size, offset))
        self._note(code, Write(name, offset, ctypes.string_at(data, size)))
        return code

    def _truncate(self, file: Any, size: int) -> int:
        name, methods = self._find(file)
        code = int(methods.truncate(file, size))
        self._note(code, Truncate(name, size))
        return code

    def _sync(self, file: Any, flags: int) -> int:
        name, methods = self._find(file)
        code = int(methods.sync(file, flags))
        self._note(code, Sync(name))
        return code

    def _delete(self, _: Any, name: bytes, sync_folder: int) -> int:
        code = int(self._system.delete(ctypes.byref(self._system), name, sync_folder))
        self._note(code, Delete(Path(name.decode()).name, bool(sync_folder)))
        return code

    def _note(self, code: int, event: Event) -> None:
        if code == SQLITE_OK:
            self.log.append(event)


@contextmanager
def recording() -> Iterator[Log]:
    """Yield a log of all that is written to databases which are opened and closed in the block."""
    library = _library()
    system = library.sqlite3_vfs_find(None)
    vfs = CrashVfs(system.contents)
    library.sqlite3_vfs_register(ctypes.byref(vfs.struct), 1)
    try:
        yield vfs.log
    finally:
        library.sqlite3_vfs_unregister(ctypes.byref(vfs.struct))
        library.sqlite3_vfs_register(system, 1)
        assert not vfs._files, "a database is still open, and its disk goes away"


def _library() -> Any:
    """Return the SQLite that the module `sqlite3` uses.

    Raises:
        LookupError: Its functions cannot be reached.
    """
    with closing(sqlite3.connect(":memory:")) as database:
        [(source_id,)] = database.execute("SELECT sqlite_source_id()")
    for load in _candidates():
        try:
            library = load()
            library.sqlite3_sourceid.restype = c_char_p
            library.sqlite3_vfs_find.restype = POINTER(_Vfs)
            library.sqlite3_vfs_find.argtypes = [c_char_p]
        except (OSError, AttributeError):
            continue
        if library.sqlite3_sourceid().decode() == source_id:
            return library
    raise LookupError(
        "The functions of the SQLite inside this Python cannot be reached, as is so where it is"
        " linked statically; power cuts need a Python that loads libsqlite3 as a shared library."
    )


def _candidates() -> Iterator[Callable[[], Any]]:
    """Yield what loads each file of this process that may hold SQLite, if it is loaded already."""
    mapped = Path("/proc/self/maps").read_text().splitlines()
    paths = {line.split(maxsplit=5)[-1] for line in mapped if "sqlite3" in line}
    for path in sorted(paths, key=lambda path: "libsqlite3" not in path):
        yield lambda path=path: ctypes.CDLL(path, mode=os.RTLD_NOLOAD | os.RTLD_LAZY)  # type: ignore[misc]
    yield lambda: ctypes.CDLL(None)
