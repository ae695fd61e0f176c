"""The servers that a benchmark starts, and what they use, read from Linux's /proc."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import load

from chatport.adapters import PeeweeKeys, SqliteSession, SystemClock
from chatport.domain import Caller
from chatport.domain.errors import CallerExists
from chatport.domain.keys import Keys

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
WIDE_LIMITS = "1000000/minute; 10000000000 tokens/minute; 100000 in flight"
WIDE_BUDGETS = "1000000 USD/month"
EVERY_RULE = {
    f"CHATPORT_{scope}_{kind}": rules
    for scope in ("USER", "CALLER", "TOTAL")
    for kind, rules in (("LIMIT", WIDE_LIMITS), ("BUDGET", WIDE_BUDGETS))
}
"""Each kind of rule for each scope; all are counted, and none is ever reached."""

START_SECONDS = 30.0
STOP_SECONDS = 5.0
TICKS = os.sysconf("SC_CLK_TCK")
PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Memory:
    """Of a process tree, in MB. PSS counts a page that n processes share as 1/n for each."""

    rss: float
    pss: float


@dataclass(frozen=True, slots=True)
class Server:
    """A server that answers; `started_seconds` is how long that took."""

    pid: int
    port: int
    started_seconds: float

    def cpu_seconds(self) -> float:
        """Return the CPU time of the process tree so far."""
        return sum(_cpu_ticks(pid) for pid in _tree(self.pid)) / TICKS

    def memory(self) -> Memory:
        """Return the memory of the process tree."""
        each = [_rollup(pid) for pid in _tree(self.pid)]
        return Memory(sum(rss for rss, _ in each) / 1024, sum(pss for _, pss in each) / 1024)


@dataclass(frozen=True, slots=True)
class Busy:
    """How much all cores have worked so far: altogether, for us, and at most; in ticks."""

    all: int
    ours: float
    most: int

    @classmethod
    def now(cls, upstream_pid: int) -> "Busy":
        """Read the clocks; what we have started since must have ended, but for the provider."""
        first = (PROC / "stat").read_text().split("\n", 1)[0]
        ticks = [int(field) for field in first.split()[1:9]]  # idle and waiting are 3 and 4
        ours = sum(os.times()[:4]) * TICKS + _cpu_ticks(upstream_pid)
        return cls(sum(ticks) - ticks[3] - ticks[4], ours, sum(ticks))

    def others_since(self, before: "Busy") -> float:
        """Return the share of the cores that went to others; it spoils what was measured."""
        others = (self.all - before.all) - (self.ours - before.ours)
        return max(0.0, others / max(1, self.most - before.most))


@contextmanager
def upstream(folder: Path) -> Iterator[Server]:
    """Run the fake provider."""
    port = _free_port()
    command = [sys.executable, str(HERE / "fake_provider.py"), str(port)]
    with _running(command, folder, environment()) as process:
        _wait(lambda: _connects(port))
        yield Server(process.pid, port, 0.0)


@contextmanager
def bare(folder: Path, base_url: str, *, threads: int = 64) -> Iterator[Server]:
    """Run the bare application as its operator would: gunicorn, two workers, threads enough."""
    port = _free_port()
    command = [str(BIN / "gunicorn"), "bare_app:app", "--pythonpath", str(HERE)]
    command += ["--worker-class", "gthread", "--workers", "2", "--threads", str(threads)]
    command += ["--worker-connections", "4000", "--keep-alive", "30", "--reuse-port"]
    command += ["--no-control-socket", "--bind", f"127.0.0.1:{port}"]
    with _server(command, folder, base_url, port) as server:
        yield server


@contextmanager
def chatport(
    folder: Path, base_url: str, settings: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """Run `chatport serve` with everything on; its log of exchanges is a file in the folder."""
    port = _free_port()
    command = [str(BIN / "chatport"), "serve", "--workers", "2", "--port", str(port)]
    (folder / "prices.toml").write_text("[fake]\ninput = 0.25\noutput = 2.00\n")
    _add_caller(folder / "chatport.db")
    settings = {**EVERY_RULE, "CHATPORT_PRICES": "prices.toml", **(settings or {})}
    with _server(command, folder, base_url, port, settings) as server:
        yield server


def _add_caller(database: Path) -> None:
    session = SqliteSession(database)
    keys = Keys(
        PeeweeKeys(session),
        clock=SystemClock(),
        new_id=lambda: load.KEY_ID,
        new_secret=lambda: load.SECRET,
    )
    with suppress(CallerExists):
        keys.create(Caller(name=load.CALLER))
    session.close()


def environment(settings: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return our environment without what would change a measurement, and with the settings."""
    foreign = ("CHATPORT_", "OPENAI_", "PYTHONDONTWRITEBYTECODE")
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(foreign) and not name.lower().endswith("_proxy")
    }
    return {**kept, **(settings or {})}


@contextmanager
def _server(
    command: list[str],
    folder: Path,
    base_url: str,
    port: int,
    settings: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    variables = {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": base_url, **(settings or {})}
    began = time.perf_counter()
    with _running(command, folder, environment(variables)) as process:
        try:
            _wait(lambda: _answers(port, process))
        except (RuntimeError, TimeoutError) as error:
            error.add_note((folder / "output.log").read_text()[-2000:])
            raise
        yield Server(process.pid, port, time.perf_counter() - began)


@contextmanager
def _running(
    command: list[str], folder: Path, variables: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in a process group of its own, and end the whole group, whatever happens."""
    with (folder / "output.log").open("ab") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=variables,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    group = process.pid
    process.terminate()
    with suppress(subprocess.TimeoutExpired):  # it waits for answers that nobody wants any more
        process.wait(STOP_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
    process.wait()


def _wait(answers: Callable[[], bool]) -> None:
    give_up = time.perf_counter() + START_SECONDS
    while not answers():
        if time.perf_counter() > give_up:
            raise TimeoutError("a server did not start")
        time.sleep(0.005)


def _connects(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 1):
            return True
    except OSError:
        return False


def _answers(port: int, process: subprocess.Popen[bytes]) -> bool:
    """Ask once; a server that has ended, or that answers with an error, is a defect."""
    if process.poll() is not None:
        raise RuntimeError(f"a server ended at once, with code {process.returncode}")
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_SECONDS)
        body = load.request_bytes(load.new_user()).partition(b"\r\n\r\n")[2]
        headers = {"Content-Type": "application/json", "Authorization": load.AUTHORIZATION}
        connection.request("POST", load.SEED, body, headers)
        status = connection.getresponse().status
        connection.close()
    except ConnectionError:
        return False
    if status != http.client.OK:
        raise RuntimeError(f"a server answered with {status}")
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat after the name, which may hold spaces."""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has just ended
        return []


def _tree(root: int) -> list[int]:
    """Return a process and all its descendants."""
    parents = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            parents[int(entry.name)] = int(fields[1])
    tree = [root]
    for pid in tree:
        tree += [child for child, parent in parents.items() if parent == pid]
    return tree


def _cpu_ticks(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[11]) + int(fields[12]) if fields else 0


def _rollup(pid: int) -> tuple[int, int]:
    """Return a process's RSS and PSS in KB."""
    try:
        lines = (PROC / str(pid) / "smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return 0, 0
    kilobytes = {name: int(rest.split()[0]) for name, _, rest in (x.partition(":") for x in lines)}
    return kilobytes["Rss"], kilobytes["Pss"]
