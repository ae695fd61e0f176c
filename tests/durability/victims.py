"""Processes that do one work each, and die at a place of one's choice.

Each is a fork, so that it starts in no time, of a process that has imported only what is needed:
one of the tests has ten times as much to copy.
"""

import gc
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import closing
from pathlib import Path

from chatport.adapters import PeeweeStore

from .deadly import Diary, entries, watch_statements
from .works import WORKS

SECONDS = 60
MOST = 1 << 16
"""Bytes of a request: less than a socket takes at once."""


class Victims:
    """Starts the process that forks; to be closed."""

    def __init__(self) -> None:
        self._door, inside = socket.socketpair()
        self._door.settimeout(SECONDS)
        with inside:
            self._parent = subprocess.Popen(
                [sys.executable, "-m", __name__, str(inside.fileno())],
                cwd=Path(__file__).parent.parent,
                pass_fds=[inside.fileno()],
            )

    def dies(self, work: str, folder: Path, at: int | None = None) -> bool:
        """Do a work in a folder, with a diary; return False if it came to its end instead.

        Args:
            work: One of `WORKS`, by name.
            folder: Where `log.db` and the diary are.
            at: The number of the place at which it dies; None to live on.

        Raises:
            AssertionError: The work itself has failed.
        """
        self._door.send(json.dumps([work, str(folder), at]).encode())
        ended = json.loads(self._door.recv(MOST))
        assert ended in {0, -signal.SIGKILL}, entries(folder / "diary")[-1]
        return bool(ended)

    def close(self) -> None:
        """End the process that forks."""
        self._door.close()
        assert self._parent.wait(SECONDS) == 0


def _fork_for_all(door: socket.socket) -> None:
    """Fork for each request, until no more are to come."""
    while request := door.recv(MOST):
        child = os.fork()
        if child == 0:
            door.close()
            _do(*json.loads(request))
        _, status = os.waitpid(child, 0)
        door.send(json.dumps(os.waitstatus_to_exitcode(status)).encode())


def _do(work: str, folder: str, at: int | None) -> None:
    """Do a work, and be gone, whatever happens."""
    code = 1
    try:
        diary = Diary(Path(folder) / "diary", at)
        watch_statements(diary)
        WORKS[work](PeeweeStore(Path(folder) / "log.db"), diary)
        code = 0
    except BaseException as error:
        diary.passes(f"broke: {error!r}")
        raise
    finally:
        os._exit(code)


def _get_used_to_it() -> None:
    """Do once what each fork would else do for the first time, such as to build its queries."""
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(PeeweeStore(Path(folder) / "log.db")) as store,
    ):
        WORKS["a reply"](store, Diary(Path(folder) / "diary"))


if __name__ == "__main__":
    _get_used_to_it()
    assert threading.active_count() == 1
    gc.freeze()  # or each fork looks through all of it, and copies it thereby
    _fork_for_all(socket.socket(fileno=int(sys.argv[1])))
