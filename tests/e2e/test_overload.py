"""More requests than the server answers at once: a quick no for the rest, and no place is lost."""

import http.client
import json
import os
import select
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from .conftest import COUNTING, Service, eventually
from .test_live_service import in_parallel, states

MOST = 8
Serve = Callable[..., Any]


@pytest.fixture
def service(serve: Serve) -> Any:
    unlimited = {"CHATPORT_USER_LIMIT": "", "CHATPORT_TOTAL_LIMIT": ""}
    return serve("--workers", "2", CHATPORT_MAX_IN_FLIGHT=str(MOST), **unlimited)


@pytest.fixture(autouse=True)
def _closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Close the clients' connections at the end."""
    with ExitStack() as stack:
        connect = Service.connect

        def closed_at_the_end(service: Service) -> http.client.HTTPConnection:
            return stack.enter_context(closing(connect(service)))

        monkeypatch.setattr(Service, "connect", closed_at_the_end)
        yield


def begin(service: Any, n: int, *, stream: bool) -> http.client.HTTPConnection:
    """Send a request, and do not wait for its answer."""
    connection: http.client.HTTPConnection = service.connect()
    body = json.dumps({"user_id": f"user-{n}", "prompt": "Hello", "stream": stream})
    connection.request("POST", "/openai-completion", body, {"Content-Type": "application/json"})
    return connection


def fill(service: Any, provider: Any, *, stream: bool) -> list[http.client.HTTPConnection]:
    """Take all places, and return when the provider has seen all of them."""
    provider.gate.clear()
    before = len(provider.prompts)
    taken = [begin(service, n, stream=stream) for n in range(MOST)]
    if stream:
        eventually(lambda: len(provider.prompts) >= before + MOST)
    while len(provider.prompts) < before + MOST:
        told, _, _ = select.select([connection.sock for connection in taken], [], [], 0.01)
        for n, connection in enumerate(taken):
            if connection.sock in told:  # refused: whoever had the place is just leaving
                taken[n] = begin(service, n, stream=stream)
    return taken


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_what_comes_beyond_is_refused_and_what_was_admitted_succeeds(
    service: Any, provider: Any, *, stream: bool
) -> None:
    taken = fill(service, provider, stream=stream)
    outcomes: Counter[tuple[int, str]] = Counter()

    def beyond(n: int) -> None:
        status, body, headers = service.ask({"user_id": f"late-{n}", "prompt": "Hello"})
        assert 1 <= int(headers["Retry-After"]) <= 3
        assert body["request_id"] == headers["X-Request-Id"]
        with COUNTING:
            outcomes[status, body["code"]] += 1

    in_parallel(3 * MOST, beyond)
    assert outcomes == {(503, "overloaded"): 3 * MOST}
    assert states(service.folder) == {"open": MOST}
    provider.gate.set()
    answers = [connection.getresponse() for connection in taken]
    assert all(answer.status == 200 and answer.read() for answer in answers)
    assert states(service.folder) == {"completed": MOST}
    status, _, _ = service.ask({"user_id": "after", "prompt": "Hello"})
    assert status == 200


def test_the_openai_wire_says_it_in_its_own_words(service: Any, provider: Any) -> None:
    taken = fill(service, provider, stream=False)
    connection = service.connect()
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hello"}]})
    headers = {"Content-Type": "application/json"}
    connection.request("POST", "/v1/chat/completions", body, headers)
    response = connection.getresponse()
    error = json.loads(response.read())["error"]
    assert (response.status, error["type"], error["code"]) == (503, "server_error", "overloaded")
    provider.gate.set()
    for each in taken:
        each.getresponse().read()


def test_health_and_history_are_told_also_under_overload(service: Any, provider: Any) -> None:
    taken = fill(service, provider, stream=False)
    for path in ("/healthz", "/readyz", "/conversations/user-0"):
        connection = service.connect()
        connection.request("GET", path)
        assert connection.getresponse().status == 200
    provider.gate.set()
    for each in taken:
        each.getresponse().read()


def test_whoever_fails_or_leaves_gives_the_place_back(service: Any, provider: Any) -> None:
    for n in range(3 * MOST):
        status, _, _ = service.ask({"user_id": f"user-{n}", "prompt": ""})
        assert status == 400
    provider.gate.clear()
    for connection in [begin(service, n, stream=True) for n in range(MOST)]:
        with connection.getresponse() as response:
            response.readline()
        connection.close()
    provider.gate.set()
    eventually(lambda: not set(states(service.folder)) - {"cancelled", "completed"})
    after = {"user_id": "after", "prompt": "Hello"}
    eventually(lambda: service.ask(after)[0] == 200)  # the last of them is just leaving
    for connection in fill(service, provider, stream=False):
        provider.gate.set()
        assert connection.getresponse().status == 200


def test_a_killed_worker_leaves_its_places_to_others(service: Any, provider: Any) -> None:
    fill(service, provider, stream=False)
    master = service.process.pid
    workers = [
        int(pid) for pid in Path(f"/proc/{master}/task/{master}/children").read_text().split()
    ]
    assert len(workers) == 2
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    provider.gate.set()
    status = 503
    while status == 503:
        try:
            status, _, _ = service.ask({"user_id": "after", "prompt": "Hello"})
        except OSError:  # no worker is there yet
            continue
    assert status == 200
