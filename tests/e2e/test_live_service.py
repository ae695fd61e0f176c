"""A live service, its signals and its limits; the provider is a socket away."""

import http.client
import json
import os
import signal
import socket
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from integration.programs import SERVERS
from torture import times

from .conftest import COUNTING, PATIENCE_SECONDS, Service, eventually

ROUNDS = times(50, 500)
WHOLE = 10
"""In every tenth round the whole service is killed, in the others its workers."""

SEED = "/openai-completion"
Serve = Callable[..., Any]


def states(folder: Path) -> Counter[str]:
    with closing(sqlite3.connect(folder / "chatport.db")) as database:
        return Counter(state for (state,) in database.execute("SELECT state FROM exchange"))


def in_parallel(count: int, work: Callable[[int], None]) -> None:
    threads = [threading.Thread(target=work, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def events(response: http.client.HTTPResponse) -> list[tuple[str, dict[str, Any]]]:
    blocks = response.read().decode().strip().split("\n\n")
    lines = [block.split("\n") for block in blocks if not block.startswith(":")]
    return [(name[7:], json.loads(data[6:])) for name, data in lines]


def test_a_chat_goes_on_across_restarts(serve: Serve, serve_anew: Serve, provider: Any) -> None:
    service = serve_anew()
    status, body, headers = service.ask({"user_id": "ada", "prompt": "first"})
    assert (status, body) == (200, {"user_id": "ada", "completion": "echo: first"})
    assert headers["x-ratelimit-remaining-requests"] == "19"
    assert service.stop() == 0
    service = serve()
    service.ask({"user_id": "ada", "prompt": "second"})
    assert [message["content"] for message in provider.requests[1]["messages"]] == [
        "first",
        "echo: first",
        "second",
    ]


def test_a_stream_arrives_piece_by_piece_and_is_logged(serve: Serve, provider: Any) -> None:
    service = serve()
    provider.gate.clear()
    connection = service.connect()
    body = json.dumps({"user_id": "ada", "prompt": "flowing", "stream": True})
    connection.request("POST", "/openai-completion", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    assert response.getheader("Content-Type") == "text/event-stream"
    assert response.readline() == b"event: delta\n"  # while the provider has not finished
    assert states(service.folder) == {"open": 1}
    provider.gate.set()
    rest = response.read().decode()
    assert rest.endswith('event: done\ndata: {"user_id": "ada", "completion": "echo: flowing"}\n\n')
    assert states(service.folder) == {"completed": 1}
    connection.close()


def test_a_client_that_leaves_ends_the_call_and_the_exchange_is_cancelled(
    serve: Serve, provider: Any
) -> None:
    service = serve()
    provider.gate.clear()
    connection = service.connect()
    body = json.dumps({"user_id": "ada", "prompt": "leaving", "stream": True})
    connection.request("POST", "/openai-completion", body, {"Content-Type": "application/json"})
    connection.getresponse().readline()
    connection.close()
    provider.gate.set()
    eventually(lambda: states(service.folder) != {"open": 1})
    # The provider may have delivered its end before the server wrote to the closed socket.
    assert set(states(service.folder)) <= {"cancelled", "completed"}


def test_64_threads_on_one_user_never_have_two_open_turns_and_never_pass_the_limit(
    serve: Serve, provider: Any
) -> None:
    service = serve(CHATPORT_TOTAL_LIMIT="")
    outcomes: Counter[int] = Counter()

    def hammer(n: int) -> None:
        for attempt in range(4):
            status, _, _ = service.ask({"user_id": "ada", "prompt": f"ada {n} {attempt}"})
            with COUNTING:
                outcomes[status] += 1

    in_parallel(64, hammer)
    assert sum(outcomes.values()) == 256
    assert set(outcomes) <= {200, 409, 429}
    assert provider.together["ada"] == 1
    assert len(provider.prompts) == outcomes[200] == states(service.folder)["completed"]
    assert 1 <= outcomes[200] <= 20  # what is refused as busy takes nothing


def test_the_limit_holds_over_all_processes(serve: Serve) -> None:
    service = serve("--workers", "2", CHATPORT_USER_LIMIT="", CHATPORT_TOTAL_LIMIT="20/minute")
    outcomes: Counter[int] = Counter()

    def once(n: int) -> None:
        status, body, headers = service.ask({"user_id": f"user-{n}", "prompt": "Hello"})
        with COUNTING:
            outcomes[status] += 1
        if status == 429:
            assert body["code"] == "rate_limited"
            assert 1 <= int(headers["Retry-After"]) <= 61
            assert 1 <= int(headers["retry-after-ms"]) <= 61_000

    in_parallel(64, once)
    assert outcomes == {200: 20, 429: 44}
    with closing(sqlite3.connect(service.folder / "chatport.db")) as database:
        query = "SELECT caller, rule, sum(count) FROM refusal GROUP BY caller, rule"
        rule = "total 20 requests per minute"
        assert database.execute(query).fetchall() == [("anonymous", rule, 44)]


def test_a_server_whose_log_cannot_be_written_serves(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with Path("/dev/full").open("wb") as full:
        arguments = ["serve", "--offline", "--port", str(port)]
        server = SERVERS.start(arguments, dict(os.environ), tmp_path, full.fileno())
    assert eventually(lambda: Service._answers(port) or server.poll() is not None)
    assert server.poll() is None, "it has ended"
    server.send_signal(signal.SIGTERM)
    server.wait(PATIENCE_SECONDS)


@pytest.mark.long
def test_kill_9_loses_nothing_that_was_acknowledged(serve: Serve) -> None:
    acknowledged: dict[str, str] = {}
    for number in range(ROUNDS):
        if number % WHOLE == 0:
            service = serve(CHATPORT_TOTAL_LIMIT="", CHATPORT_USER_LIMIT="")
        _see_nothing_open(service.folder)
        kill = service.kill if (number + 1) % WHOLE == 0 else service.kill_workers
        _load_and_kill(service, number, acknowledged, kill)
    service = serve()
    _see_nothing_open(service.folder)
    with closing(sqlite3.connect(service.folder / "chatport.db")) as database:
        assert database.execute("PRAGMA quick_check").fetchall() == [("ok",)]
        stored = dict(database.execute("SELECT public_id, state || reply FROM exchange"))
        [(prompts, rows)] = database.execute(
            "SELECT count(DISTINCT prompt), count(*) FROM exchange WHERE state = 'completed'"
        )
    assert len(acknowledged) > ROUNDS
    assert {key: stored.get(key) for key in acknowledged} == acknowledged
    assert prompts == rows, "an exchange is there twice"
    assert states(service.folder)["interrupted"] > 0, "no kill hit an exchange in flight"


def _see_nothing_open(folder: Path) -> None:
    """Wait for the next worker, which finds what the last one has left."""
    eventually(lambda: "open" not in states(folder))


def _load_and_kill(
    service: Any, round_number: int, acknowledged: dict[str, str], kill: Callable[[], None]
) -> None:
    """Let 8 clients talk until something is killed, some answers later each round."""
    enough = threading.Event()
    answered = threading.Semaphore(0)

    def talk(n: int) -> None:
        ask = _streamed if n % 2 else _whole
        turns = count()
        with suppress(OSError, http.client.HTTPException, ValueError):
            while not enough.is_set():
                prompt = f"round {round_number} {n} {next(turns)}"
                for name, text in ask(service, {"user_id": f"user-{n}", "prompt": prompt}):
                    acknowledged[name] = f"completed{text}"
                    answered.release()

    threads = [threading.Thread(target=talk, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for _ in range(1 + round_number % times(12, 25)):
        assert answered.acquire(timeout=PATIENCE_SECONDS)
    kill()
    enough.set()
    for thread in threads:
        thread.join()


Answers = list[tuple[str, str]]
"""The id and the text of an answer, if there is one."""


def _whole(service: Any, body: dict[str, Any]) -> Answers:
    status, answer, headers = service.ask(body)
    return [(headers["X-Request-Id"], answer["completion"])] if status == 200 else []


def _streamed(service: Any, body: dict[str, Any]) -> Answers:
    with closing(service.connect()) as connection:
        headers = {"Content-Type": "application/json"}
        connection.request("POST", SEED, json.dumps({**body, "stream": True}), headers)
        response = connection.getresponse()
        if response.status != 200:
            return []
        last, data = events(response)[-1]
        name = str(response.getheader("X-Request-Id"))
        return [(name, data["completion"])] if last == "done" else []


def test_sigterm_lets_open_streams_come_to_their_end(serve: Serve, provider: Any) -> None:
    service = serve()
    provider.gate.clear()
    connection = service.connect()
    body = json.dumps({"user_id": "ada", "prompt": "patience", "stream": True})
    connection.request("POST", "/openai-completion", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    response.readline()
    service.process.send_signal(signal.SIGTERM)
    eventually(lambda: b"Handling signal: term" in service.log.read_bytes())
    provider.gate.set()
    assert b"event: done" in response.read()
    connection.close()
    assert service.stop() == 0
    assert states(service.folder) == {"completed": 1}


def test_a_killed_worker_is_replaced_and_its_exchange_interrupted(
    serve: Serve, provider: Any
) -> None:
    service = serve("--workers", "1")
    provider.gate.clear()
    waiting = threading.Thread(target=_ask_and_lose, args=(service,))
    waiting.start()
    eventually(lambda: provider.prompts)
    master = service.process.pid
    [worker] = Path(f"/proc/{master}/task/{master}/children").read_text().split()
    os.kill(int(worker), signal.SIGKILL)
    waiting.join()
    provider.gate.set()
    eventually(lambda: states(service.folder) == {"interrupted": 1})
    status, _, _ = service.ask({"user_id": "ada", "prompt": "again"})
    assert status == 200


def _ask_and_lose(service: Any) -> None:
    try:
        service.ask({"user_id": "ada", "prompt": "lost"})
    except (OSError, http.client.HTTPException):
        return
    raise AssertionError("the service was killed; nobody can have answered")


def test_no_secret_is_in_any_sink_of_a_live_service(serve: Serve) -> None:
    service = serve(CHATPORT_USER_LIMIT="3/minute")
    for n in range(5):
        service.ask({"user_id": "ada", "prompt": f"prompt-canary {n}"})
    service.ask({"user_id": "bob", "prompt": "prompt-canary", "stream": True, "sk-canary-key": 1})
    assert service.stop() == 0
    service = serve(OPENAI_BASE_URL="http://127.0.0.1:9/v1")
    status, body, _ = service.ask({"user_id": "eve", "prompt": "prompt-canary"})
    assert (status, body["code"]) == (502, "upstream_unreachable")
    assert service.stop() == 0
    said = service.log.read_text()
    assert said.count('"route": "/openai-completion"') == 7
    for canary in ["sk-canary-key", "prompt-canary", "echo: "]:
        assert canary not in said
    with closing(sqlite3.connect(service.folder / "chatport.db")) as database:
        assert "sk-canary-key" not in "\n".join(database.iterdump())


def test_what_is_no_http_is_answered_in_json(serve: Serve) -> None:
    service = serve()
    connection = service.connect()
    connection.connect()
    assert connection.sock is not None
    connection.sock.sendall(b"GET / HTTP/9.9\r\n\r\n")
    answer = b""
    while piece := connection.sock.recv(4096):
        answer += piece
    head, body = answer.split(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request")
    assert b"X-Request-Id: " in head
    assert json.loads(body)["error"]["code"] == "bad_request"
    connection.close()
