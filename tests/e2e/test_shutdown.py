"""SIGTERM while streams are open: each is told of it, each gets its outcome, and the exit is 0."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from torture import times

from .conftest import COUNTING, eventually

SEED, OPENAI = "/openai-completion", "/v1/chat/completions"
STREAMS = 20
IMPATIENT = (
    "from chatport.entrypoints import server; server.GRACEFUL_SECONDS = 10\n"
    "from chatport.entrypoints.cli import main; main()"
)
"""The service as it is, but for how long it waits for streams."""


HELD = """
import os
from pathlib import Path
from time import sleep
from gevent import monkey
monkey.patch_all()
from chatport.entrypoints.cli import main
from chatport.entrypoints.gevent_worker import Worker

def held(self, begin=Worker.init_process):
    if self.age == 2:
        Path("pid.new").write_text(str(os.getpid()))
        Path("pid.new").rename("pid")
        while not Path("told").exists():
            sleep(0.01)
    begin(self)

Worker.init_process = held
main()
"""
"""The service as it is, but its second worker begins only when there is a file `told`."""

UNLIMITED = {"CHATPORT_USER_LIMIT": "", "CHATPORT_TOTAL_LIMIT": ""}
RESTARTS = times(1, 10)
CLIENTS = 8
PROBES = 100
"""The first of them may come before the signal."""

LOCKED_SECONDS = 3.5
"""Less than a commit waits for another's lock, and more than gunicorn gives whom it kills."""


@pytest.fixture
def clients() -> Iterator[ExitStack]:
    """Return what closes the clients' connections at the end."""
    with ExitStack() as stack:
        yield stack


def begin(service: Any, n: int, clients: ExitStack) -> Any:
    """Open a stream, on one wire or the other, and read its first line."""
    path = (SEED, OPENAI)[n % 2]
    body: dict[str, Any] = {"stream": True}
    if path == SEED:
        body |= {"user_id": f"user-{n}", "prompt": f"stream {n}"}
    else:
        body |= {"model": "m", "messages": [{"role": "user", "content": f"stream {n}"}]}
    connection = clients.enter_context(closing(service.connect()))
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    assert response.status == 200
    assert response.readline()
    return path, response


@pytest.mark.parametrize("program", [IMPATIENT], ids=["impatient"])
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_every_stream_that_cannot_be_finished_is_told_and_has_its_outcome(
    serve: Callable[..., Any],
    provider: Any,
    clients: ExitStack,
    how: signal.Signals,
) -> None:
    service = serve(**UNLIMITED)
    provider.gate.clear()
    streams = [begin(service, n, clients) for n in range(STREAMS)]
    service.process.send_signal(how)
    for path, response in streams:
        last = response.read().decode().strip().split("\n\n")[-1]
        name, _, data = last.rpartition("data: ")
        error = json.loads(data)
        if path == SEED:
            assert (name, error["code"]) == ("event: error\n", "server_shutdown")
        else:
            assert (name, error["error"]["code"]) == ("", "server_shutdown")
    provider.gate.set()
    assert service.process.wait(15) == 0
    with closing(sqlite3.connect(service.folder / "chatport.db")) as database:
        outcomes = Counter(database.execute("SELECT state, error_code, reply <> '' FROM exchange"))
    assert outcomes == {("interrupted", "server_shutdown", 1): STREAMS}


def test_who_waits_for_a_whole_answer_is_told_of_a_stop_too(
    serve: Callable[..., Any], provider: Any, clients: ExitStack
) -> None:
    service = serve(**UNLIMITED)
    provider.gate.clear()
    waiting = []
    for path, body in (
        (SEED, {"user_id": "ada", "prompt": "Hello"}),
        (OPENAI, {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}),
    ):
        connection = clients.enter_context(closing(service.connect()))
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        waiting.append(connection)
    eventually(lambda: len(provider.prompts) == len(waiting))
    service.process.send_signal(signal.SIGINT)
    seed, openai = (connection.getresponse() for connection in waiting)
    assert (seed.status, openai.status) == (503, 503)
    assert {answer.headers["x-should-retry"] for answer in (seed, openai)} == {"false"}
    assert json.loads(seed.read())["code"] == "server_shutdown"
    assert json.loads(openai.read())["error"]["code"] == "server_shutdown"
    provider.gate.set()
    assert service.process.wait(15) == 0
    with closing(sqlite3.connect(service.folder / "chatport.db")) as database:
        outcomes = Counter(database.execute("SELECT state, error_code FROM exchange"))
        ids = {name for (name,) in database.execute("SELECT public_id FROM exchange")}
    assert outcomes == {("interrupted", "server_shutdown"): 2}
    assert {answer.headers["X-Request-Id"] for answer in (seed, openai)} == ids
    log = service.log.read_text().splitlines()
    lines = [json.loads(line) for line in log if line.startswith("{")]
    assert {line.get("request_id") for line in lines if line.get("code")} == ids


def test_at_a_stop_an_answer_says_close_and_an_idle_connection_gets_none(
    serve: Callable[..., Any], provider: Any, clients: ExitStack
) -> None:
    service = serve("--workers", "1", **UNLIMITED)
    new = clients.enter_context(socket.create_connection(("127.0.0.1", service.port)))
    used, waiting = (clients.enter_context(closing(service.connect())) for _ in range(2))
    used.request("GET", "/healthz")
    assert used.getresponse().read()
    provider.gate.clear()
    body = {"user_id": "ada", "prompt": "Hello"}
    waiting.request("POST", SEED, json.dumps(body), {"Content-Type": "application/json"})
    eventually(lambda: provider.prompts)
    service.process.send_signal(signal.SIGINT)
    assert waiting.getresponse().headers["Connection"] == "close"
    assert [idle.recv(1) for idle in (new, used.sock)] == [b"", b""]
    assert service.process.wait(15) == 0


def test_a_service_that_is_stopping_says_that_it_is_not_ready(
    serve: Callable[..., Any], provider: Any, clients: ExitStack
) -> None:
    service = serve("--workers", "1", **UNLIMITED)
    probes = [clients.enter_context(closing(service.connect())) for _ in range(PROBES)]
    for probe in probes:
        probe.request("GET", "/healthz")
        assert probe.getresponse().read()
    provider.gate.clear()
    _, stream = begin(service, 0, clients)
    service.process.send_signal(signal.SIGTERM)
    for probe in probes:
        probe.request("GET", "/readyz")
        response = probe.getresponse()
        told = json.loads(response.read())
        if response.status != 200:
            break
    assert (response.status, told["code"]) == (503, "server_shutdown")
    for probe in probes:
        probe.close()
    provider.gate.set()
    assert b"event: done" in stream.read()
    assert service.process.wait(15) == 0


def test_a_service_that_starts_its_workers_anew_is_ready(
    serve: Callable[..., Any], provider: Any, clients: ExitStack
) -> None:
    service = serve("--workers", "1", **UNLIMITED)
    probe = clients.enter_context(closing(service.connect()))
    probe.request("GET", "/healthz")
    assert probe.getresponse().read()
    provider.gate.clear()
    _, stream = begin(service, 0, clients)
    (worker,) = service.workers()
    service.process.send_signal(signal.SIGHUP)
    eventually(lambda: service.workers() != [worker])
    probe.request("GET", "/readyz")
    response = probe.getresponse()
    assert json.loads(response.read())["status"] == "ready"
    provider.gate.set()
    assert b"event: done" in stream.read()


def test_a_stop_waits_until_the_outcomes_are_written_and_told(
    serve: Callable[..., Any], provider: Any, clients: ExitStack
) -> None:
    service = serve(**UNLIMITED)
    provider.gate.clear()
    streams = [begin(service, n, clients)[1] for n in range(2)]
    waiting = clients.enter_context(closing(service.connect()))
    body = {"user_id": "ada", "prompt": "Hello"}
    waiting.request("POST", SEED, json.dumps(body), {"Content-Type": "application/json"})
    eventually(lambda: len(provider.prompts) == 3)
    path = service.folder / "chatport.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        service.process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):  # the wait is the subject
            service.process.wait(LOCKED_SECONDS)
        database.execute("ROLLBACK")
        for answer in (*streams, waiting.getresponse()):
            assert b"server_shutdown" in answer.read()
        assert service.process.wait(15) == 0
        outcomes = Counter(database.execute("SELECT state, error_code FROM exchange"))
    assert outcomes == {("interrupted", "server_shutdown"): 3}


def test_a_service_that_is_stopping_finishes_what_it_can(
    serve_anew: Callable[..., Any], provider: Any, clients: ExitStack
) -> None:
    service = serve_anew(**UNLIMITED)
    provider.gate.clear()
    streams = [begin(service, n, clients) for n in range(STREAMS)]
    service.process.send_signal(signal.SIGTERM)
    provider.gate.set()
    for path, response in streams:
        text = response.read().decode()
        assert ("event: done" if path == SEED else "data: [DONE]") in text
    assert service.process.wait(15) == 0
    with closing(sqlite3.connect(service.folder / "chatport.db")) as database:
        outcomes = Counter(database.execute("SELECT state, error_code FROM exchange"))
    assert outcomes == {("completed", None): STREAMS}


@pytest.mark.long
def test_what_a_closed_terminal_sends_to_a_worker_cuts_no_stream(
    serve: Callable[..., Any], provider: Any, clients: ExitStack
) -> None:
    service = serve("--workers", "1", **UNLIMITED)
    provider.gate.clear()
    _, response = begin(service, 0, clients)
    [worker] = service.workers()
    for each in (signal.SIGHUP, signal.SIGUSR2):
        os.kill(worker, each)
    provider.gate.set()
    assert b"event: done" in response.read()
    assert service.workers() == [worker]
    assert service.stop() == 0


def test_a_worker_whose_master_is_gone_tells_everybody_that_it_stops(
    serve: Callable[..., Any], provider: Any, clients: ExitStack
) -> None:
    service = serve("--workers", "1", **UNLIMITED)
    provider.gate.clear()
    streams = [begin(service, n, clients)[1] for n in range(2)]
    service.process.kill()
    for response in streams:
        assert b"server_shutdown" in response.read()
    eventually(lambda: not service._is_alive())
    with closing(sqlite3.connect(service.folder / "chatport.db")) as database:
        outcomes = Counter(database.execute("SELECT state, error_code FROM exchange"))
    assert outcomes == {("interrupted", "server_shutdown"): 2}


def test_a_rolling_restart_under_load_fails_no_request(serve: Callable[..., Any]) -> None:
    serving = [serve(**UNLIMITED), serve(**UNLIMITED)]
    outcomes: Counter[int] = Counter()
    enough = threading.Event()

    def talk(n: int) -> None:
        for turn in count():
            if enough.is_set():
                return
            service = serving[turn % len(serving)]  # as a proxy does, which drains before a stop
            status, _, _ = service.ask({"user_id": f"user-{n}", "prompt": f"{n} {turn}"})
            with COUNTING:
                outcomes[status] += 1

    threads = [threading.Thread(target=talk, args=(n,)) for n in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for _ in range(2 * RESTARTS):
        serving.append(serve(**UNLIMITED))
        assert serving.pop(0).stop() == 0
    enough.set()
    for thread in threads:
        thread.join()
    assert set(outcomes) == {200}
    with closing(sqlite3.connect(serving[0].folder / "chatport.db")) as database:
        states = Counter(state for (state,) in database.execute("SELECT state FROM exchange"))
    assert states == {"completed": outcomes[200]}


@pytest.mark.parametrize("program", [HELD], ids=["held"])
def test_a_worker_that_has_just_begun_is_stopped_like_any_other(serve: Callable[..., Any]) -> None:
    service = serve("--workers", "2")
    worker = int(eventually((service.folder / "pid").read_text))
    os.kill(worker, signal.SIGTERM)
    (service.folder / "told").touch()
    eventually(lambda: not Path(f"/proc/{worker}").exists())
    assert service.stop() == 0
