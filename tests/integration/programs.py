"""The program in processes that start in no time: forks of one that has imported what it needs.

Run by its path, this is the process that forks: it has one thread, and what asks it to fork is at
the other end of a socket. A fork becomes the program before anything of the program has run, with
the arguments, environment, folder and streams that it is given, and ends as the interpreter does.
"""

import gc
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SECONDS = 20
MOST = 1 << 16
"""Bytes of a request, and of what is typed: less than a pipe or a socket takes at once."""

Process = subprocess.CompletedProcess[str]


class Programs:
    """Runs programs, with a process to fork that is started when first needed."""

    def __init__(self) -> None:
        self._door: socket.socket | None = None
        self._parent: subprocess.Popen[bytes] | None = None

    def run(
        self, arguments: Sequence[str], typed: bytes, environment: Mapping[str, str]
    ) -> Process:
        """Run the program in the current folder."""
        door = self._door or self._open(environment)
        assert len(typed) < MOST
        (stdin, keys), (out, stdout), (err, stderr) = os.pipe(), os.pipe(), os.pipe()
        os.write(keys, typed)
        os.close(keys)
        request = json.dumps([arguments, dict(environment), str(Path.cwd())]).encode()
        assert len(request) < MOST
        socket.send_fds(door, [request], [stdin, stdout, stderr])
        for given in (stdin, stdout, stderr):
            os.close(given)
        with ThreadPoolExecutor() as readers:
            said, complained = readers.map(_read, [out, err])
        code = json.loads(door.recv(MOST))
        return Process(arguments, code, said.decode(), complained.decode())

    def close(self) -> None:
        """End the process that forks."""
        if self._door is not None and self._parent is not None:
            self._door.close()
            _, problems = self._parent.communicate(timeout=SECONDS)
            assert (self._parent.returncode, problems) == (0, b"")
            self._door = self._parent = None

    def _open(self, environment: Mapping[str, str]) -> socket.socket:
        self._door, inside = socket.socketpair()
        with inside:
            self._parent = subprocess.Popen(
                [sys.executable, __file__, str(inside.fileno())],
                pass_fds=[inside.fileno()],
                env={name: environment[name] for name in ("PATH", "LANG")},
                stdin=subprocess.PIPE,  # as a program has, since its streams are made here
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        return self._door


def _read(end: int) -> bytes:
    with open(end, "rb") as pipe:
        return pipe.read()


def _fork_for_all(door: socket.socket) -> bool:
    """Fork for each request; return True in a fork, and False when no more are to come."""
    while True:
        request, streams, _, _ = socket.recv_fds(door, MOST, 3)
        if not request:
            return False
        child = os.fork()
        if child == 0:
            _become(streams, *json.loads(request))
            door.close()
            return True
        for stream in streams:
            os.close(stream)
        _, status = os.waitpid(child, 0)
        door.send(json.dumps(os.waitstatus_to_exitcode(status)).encode())


def _become(
    streams: Sequence[int], arguments: Sequence[str], environment: Mapping[str, str], folder: str
) -> None:
    """Take on what a new process is given."""
    signal.alarm(SECONDS)
    for place, stream in enumerate(streams):
        os.dup2(stream, place)
        os.close(stream)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = ["-c", *arguments]


if __name__ == "__main__":
    from chatport import adapters
    from chatport.entrypoints import access_log, server, wiring
    from chatport.entrypoints.cli import main

    prepared = [access_log, server, wiring, *(getattr(adapters, name) for name in adapters.__all__)]
    assert threading.active_count() == 1
    gc.freeze()  # or each fork looks through all of it at its end
    if _fork_for_all(socket.socket(fileno=int(sys.argv[1]))):
        main(prog_name="chatport")
