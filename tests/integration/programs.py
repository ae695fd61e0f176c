"""The program in processes that start in no time: forks of one that has imported what it needs.

Run by its path, this is the process that forks: it has one thread, and imports what it needs when
it is first asked. It is asked through a socket, by all processes that know its path, and holds up
nobody. A fork becomes the program before anything of the program has run, with the arguments,
environment, folder and streams that it is given. It ends as the interpreter does, but does not tidy
up its memory, which would first copy what all forks share.
"""

import atexit
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

SECONDS = 20
MOST = 1 << 16
"""Bytes of a request, and of what is typed: less than a pipe or a socket takes at once."""

PROGRAM = "from chatport.entrypoints.cli import main; main(prog_name='chatport')"
SERVING = "serving"
UNFLUSHED = 120
"""The exit code where what was printed last cannot be written: docs.python.org/3/c-api/init.html"""

Process = subprocess.CompletedProcess[str]


class Program:
    """A program that runs in a fork; to be used as a `Popen`."""

    def __init__(self, parent: "Programs", pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._parent = parent
        self._end = os.pidfd_open(pid)

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code, once there is one."""
        if self.returncode is None:
            end = select.poll()
            end.register(self._end)
            if not end.poll(None if timeout is None else timeout * 1000):
                raise subprocess.TimeoutExpired("chatport", timeout or 0)
            os.close(self._end)
            self.returncode = self._parent.reap(self.pid)
        return self.returncode

    def poll(self) -> int | None:
        """Return the exit code, if there is one."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            signal.pidfd_send_signal(self._end, number)

    def kill(self) -> None:
        """Kill it, unless it has ended."""
        self.send_signal(signal.SIGKILL)


class Programs:
    """Runs programs, with a process to fork that is started when first needed.

    Args:
        serving: Whether they are to serve: their imports are those of a server then, in its order,
            and changed by gevent as a server lets them be.

    Attributes:
        door: Where the process that forks is asked; empty until there is one. What another process
            has opened serves this one too, for as long as the other goes on.
    """

    def __init__(self, *, serving: bool = False) -> None:
        self.door = ""
        self._serving = serving
        self._parent: subprocess.Popen[bytes] | None = None

    def open(self) -> str:
        """Start the process that forks, unless there is one, and return where it is asked."""
        if not self.door:
            self.door = str(Path(tempfile.mkdtemp(), "door"))
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as inside:
                inside.bind(self.door)
                self._parent = subprocess.Popen(
                    [sys.executable, __file__, str(inside.fileno()), *[SERVING] * self._serving],
                    pass_fds=[inside.fileno()],
                    env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8"},
                    stdin=subprocess.PIPE,  # as a program has; and it ends with who holds this
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    process_group=0,  # or who interrupts the run interrupts this too
                )
        return self.door

    def run(
        self, arguments: Sequence[str], typed: bytes, environment: Mapping[str, str]
    ) -> Process:
        """Run the program in the current folder, for a few seconds at most."""
        assert len(typed) < MOST
        (stdin, keys), (out, stdout), (err, stderr) = os.pipe(), os.pipe(), os.pipe()
        os.write(keys, typed)
        os.close(keys)
        streams = stdin, stdout, stderr
        program = self._fork(streams, environment, arguments=arguments, seconds=SECONDS)
        for given in streams:
            os.close(given)
        with ThreadPoolExecutor() as readers:
            said, complained = readers.map(_read, [out, err])
        return Process(arguments, program.wait(), said.decode(), complained.decode())

    def start(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        log: int,
        program: str = PROGRAM,
    ) -> Program:
        """Start a program in a session of its own, which says all that it says into the log."""
        with Path(os.devnull).open("rb") as nothing:
            streams = nothing.fileno(), log, log
            return self._fork(
                streams, environment, arguments=arguments, folder=str(folder), program=program
            )

    def reap(self, pid: int) -> int:
        """Return the exit code of a program that has ended."""
        return self._ask(pid)

    def close(self) -> None:
        """End the process that forks, if it was opened here."""
        if self._parent is not None:
            _, problems = self._parent.communicate(timeout=SECONDS)
            assert (self._parent.returncode, problems) == (0, b"")
            self.door, self._parent = "", None

    def _fork(
        self, streams: Sequence[int], environment: Mapping[str, str], **options: Any
    ) -> Program:
        given = {"folder": str(Path.cwd()), "program": PROGRAM, "seconds": 0}
        wish = {**given, "environment": dict(environment), **options}
        return Program(self, self._ask(wish, streams))

    def _ask(self, wish: Any, streams: Sequence[int] = ()) -> int:
        request = json.dumps(wish).encode()
        assert len(request) < MOST
        answer, back = os.pipe()
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as door:
                door.connect(self.open())
                socket.send_fds(door, [request], [back, *streams])
        finally:
            os.close(back)
        return int(_read(answer))


PROGRAMS, SERVERS = Programs(), Programs(serving=True)
"""For all tests of a run: whoever has begun it opens and closes them."""


def _read(end: int) -> bytes:
    with open(end, "rb") as pipe:
        return pipe.read()


def _import_for_commands() -> None:
    from chatport import adapters
    from chatport.entrypoints import access_log, cli, server, wiring

    _ = [access_log, cli, server, wiring, *(getattr(adapters, name) for name in adapters.__all__)]


def _import_for_a_server() -> None:
    """Import what `chatport serve` imports, and let gevent change it where that does so."""
    from gevent import monkey

    from chatport import adapters
    from chatport.entrypoints import access_log, cli, server, wiring

    _ = [access_log, cli, server, wiring, adapters.read_prices, adapters.look_through]
    monkey.patch_all()
    from chatport.entrypoints import flask_app, gevent_worker

    _ = [gevent_worker, flask_app, *(getattr(adapters, name) for name in adapters.__all__)]


def _fork_for_all(door: socket.socket) -> str:
    """Fork for each request; return a program in a fork, and none when no more are to come."""
    fork, wait = os.fork, os.waitpid  # gevent's would need its loop, here where nothing runs
    for wish, (back, *streams) in _requests(door):
        _import_once()
        if isinstance(wish, int):
            _, status = wait(wish, 0)
            answer = os.waitstatus_to_exitcode(status)
        elif not (answer := fork()):
            door.close()
            os.close(back)
            return _become(streams, **wish)
        with suppress(BrokenPipeError):  # who asked is gone
            os.write(back, str(answer).encode())
        for given in (back, *streams):
            os.close(given)
    path = Path(door.getsockname())
    path.unlink()
    path.parent.rmdir()
    return ""


def _requests(door: socket.socket) -> Iterator[tuple[Any, list[int]]]:
    """Yield what is asked, for as long as the process goes on that has opened the door."""
    coming = select.poll()
    coming.register(door, select.POLLIN)
    coming.register(sys.stdin, 0)  # which tells its end, and nothing else
    while all(place == door.fileno() for place, _ in coming.poll()):
        request, given, _, _ = socket.recv_fds(door, MOST, 4)
        yield json.loads(request), given


@cache
def _import_once() -> None:
    _import_for_a_server() if SERVING in sys.argv else _import_for_commands()
    assert threading.active_count() == 1
    gc.freeze()  # or each fork looks through all of it at its end


def _become(
    streams: Sequence[int],
    *,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    folder: str,
    program: str,
    seconds: int,
) -> str:
    """Take on what a new process is given, and return its program."""
    signal.alarm(seconds)
    if not seconds:
        os.setsid()
    for place, stream in enumerate(streams):
        os.dup2(stream, place)
        os.close(stream)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = ["-c", *arguments]
    return program


def _run(program: str) -> None:
    """Run a program, and end as docs.python.org/3/c-api/interp-lifecycle.html says for Py_Finalize.

    What is no usual end goes on to the interpreter, which knows how to tell it.
    """
    code: Any = 0
    try:
        exec(program, {"__name__": "__main__"})
    except SystemExit as end:
        code = 0 if end.code is None else end.code
        if not isinstance(code, int):
            raise
    threading._shutdown()  # type: ignore[attr-defined]  # as the interpreter does
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream and not stream.closed:
                stream.flush()
        except OSError:
            code = UNFLUSHED
    os._exit(code & 0xFF)


if __name__ == "__main__":
    if to_run := _fork_for_all(socket.socket(fileno=int(sys.argv[1]))):
        _run(to_run)
