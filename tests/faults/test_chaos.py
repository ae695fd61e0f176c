"""A provider of which a third of all answers is wrong, and that is down for a while; 50 clients."""

import json
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from chatport.adapters import OpenAIGateway, PeeweeStore, SystemClock, random_id
from chatport.domain import Upstreams
from chatport.domain.chat import ChatService
from chatport.domain.model import Exchange, LogQuery, State
from chatport.domain.upstreams import Upstream as Provider
from chatport.entrypoints.flask_app import create_app
from integration.faults import KEY, refusal
from integration.relaying import PATH as V1
from integration.relaying import SEED
from integration.upstream import Answer, Received, Upstream, running_upstream
from integration.wire import DONE, chunks, completion, finished, http, said
from torture import times

from .answers import BREAKS, ENDS, ODD
from .modes import ELSEWHERE, STATUS, Half, Mode, Place
from .refusals import BEFORE

CLIENTS = 50
SECONDS = times(60, 600)
FEWEST_REQUESTS = 500
PAUSE_SECONDS = 2.0
"""From one request of a client to its next: a load that leaves the cores to other tests."""

TIMEOUT_SECONDS = 2.0
"""A quarter of it may pass in silence; a good answer must be out by then on a busy machine."""

FAULTY = 0.3
OUTAGE = (0.4, 0.6)
"""Parts of the whole time: in between, the provider is down."""

PASSED_ON = {"passed_on", "invalid_api_key", "model_not_found", "content_policy_violation"}
"""On `/v1`, an error without a code, and codes of the provider's own."""

NONCE = re.compile(r"nonce-[0-9a-f]{12}")


LASTING = {"upstream_auth_failed", "upstream_quota_exhausted"}


def _is_small(half: Half) -> bool:
    return all(len(answer.data) < 100_000 for answer in half.script)


def _may_come(mode: Mode) -> bool:
    """Return whether a mode is small, always fails, and does not open the breaker for long."""
    codes = {mode.plain.ending.code, mode.stream.ending.code}
    if mode.place is not Place.HERE or mode.relayed or codes & {None, *LASTING}:
        return False
    return _is_small(mode.plain) and _is_small(mode.stream)


FAULTS = [mode for mode in (*BEFORE, *BREAKS, *ODD, *ENDS) if _may_come(mode)]


class Chaos:
    """Says what the provider answers: the nonce that it was asked for, or something wrong."""

    def __init__(self, upstream: Upstream, seconds: float) -> None:
        self._upstream = upstream
        self._random = random.Random(7)
        began = time.monotonic()
        self._outage = [began + part * seconds for part in OUTAGE]

    def take(self, received: Received) -> Answer:
        self._upstream.received.append(received)
        asked = json.loads(received.body)
        stream = asked.get("stream", False)
        down, up = self._outage
        if down < time.monotonic() < up:
            return Answer(refusal("500 Down"))
        if self._random.random() < FAULTY:
            mode = self._random.choice(FAULTS)
            half = mode.stream if stream else mode.plain
            answer = half.script[0]
            data = answer.data.replace(ELSEWHERE, b"127.0.0.1:9")
            return Answer(data, drip=answer.drip, then=answer.then)
        return Answer(_echo(asked["messages"][-1]["content"], stream=stream))


def _echo(said_by_user: str, *, stream: bool) -> bytes:
    half = len(said_by_user) // 2
    if stream:
        pieces = said(said_by_user[:half]), said(said_by_user[half:])
        return chunks(*pieces, finished("stop"), DONE)
    body = json.dumps(completion(message={"content": said_by_user})).encode()
    return http("200 OK", body)


@dataclass
class Seen:
    """What the clients saw.

    Attributes:
        nonces: Of each request, by its id.
        foreign: Nonces in an answer to somebody else.
        longest: Seconds that a request took.
    """

    nonces: dict[str, str] = field(default_factory=dict)
    codes: Counter[str] = field(default_factory=Counter)
    foreign: list[str] = field(default_factory=list)
    strange: list[str] = field(default_factory=list)
    longest: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)


class Client(threading.Thread):
    """Asks one thing after the other: each has a nonce that must come back, or an error."""

    def __init__(self, number: int, http_client: FlaskClient, seen: Seen, until: float) -> None:
        super().__init__(daemon=True)
        self._random = random.Random(number)
        self._user = f"user-{number}"
        self._client = http_client
        self._seen = seen
        self._until = until
        self._next = time.monotonic() + PAUSE_SECONDS * number / CLIENTS
        self.crashed: BaseException | None = None

    def run(self) -> None:
        try:
            while self._next < self._until:
                time.sleep(max(0.0, self._next - time.monotonic()))
                self._next += PAUSE_SECONDS
                self._ask()
        except BaseException as error:  # noqa: BLE001  # the test raises it
            self.crashed = error

    def _ask(self) -> None:
        nonce = f"nonce-{self._random.getrandbits(48):012x}"
        stream = self._random.random() < 0.5
        path, body = SEED, {"user_id": f"{self._user}-{nonce}", "prompt": nonce, "stream": stream}
        if self._random.random() < 0.3:
            messages = [{"role": "user", "content": nonce}]
            path, body = V1, {"model": "m", "messages": messages, "stream": stream}
        began = time.monotonic()
        response = self._client.post(path, json=body)
        text = response.get_data(as_text=True)
        took = time.monotonic() - began
        with self._seen.lock:
            self._note(nonce, response.headers["X-Request-Id"], _without_seams(text), took)

    def _note(self, nonce: str, request_id: str, text: str, took: float) -> None:
        seen = self._seen
        assert request_id not in seen.nonces
        seen.nonces[request_id] = nonce
        seen.longest = max(seen.longest, took)
        seen.foreign += set(NONCE.findall(text)) - {nonce}
        failed = '"error":' in text
        code = re.search(r'"code": "(\w+)"', text)
        seen.codes[code[1] if code else "passed_on" if failed else "completed"] += 1
        if not failed and nonce not in text:
            seen.strange.append(text)


def _without_seams(text: str) -> str:
    """Return the text of a stream on `/v1` with its pieces in one, and any other as it is."""
    pieces = re.findall(r'"delta": \{"content": "([^"]*)"', text)
    return text + "".join(pieces)


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with running_upstream() as upstream:
        yield upstream


def every_row(store: PeeweeStore) -> list[Exchange]:
    rows: list[Exchange] = []
    while page := store.search(LogQuery(limit=1000, before=rows[-1].number if rows else None)):
        rows += page
    return rows


@pytest.mark.long
def test_chaos_leaves_each_request_with_its_own_answer_and_one_row(
    upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream, "take", Chaos(upstream, SECONDS).take)
    clock, seen = SystemClock(), Seen()
    with (
        closing(PeeweeStore(tmp_path / "log.db")) as store,
        closing(
            OpenAIGateway(api_key=KEY, base_url=upstream.url, timeout_seconds=TIMEOUT_SECONDS)
        ) as gateway,
    ):
        providers = Upstreams(
            [Provider(name="1", gateway=gateway)], clock, total_seconds=TIMEOUT_SECONDS
        )
        service = ChatService(
            store=store, gateway=providers, clock=clock, new_id=random_id, model="m"
        )
        app = create_app(service, dict)
        until = time.monotonic() + SECONDS
        clients = [Client(n, app.test_client(), seen, until) for n in range(CLIENTS)]
        for client in clients:
            client.start()
        for client in clients:
            client.join(SECONDS + 60)
        rows = every_row(store)

    assert [client.crashed for client in clients if client.crashed] == []
    assert not any(client.is_alive() for client in clients)
    check_answers(seen)
    check_rows(rows, seen, upstream)


def check_answers(seen: Seen) -> None:
    """Check that each client got what was meant for it, in time."""
    requests = len(seen.nonces)
    assert requests >= FEWEST_REQUESTS
    assert (seen.foreign, seen.strange) == ([], [])
    assert set(seen.codes) <= {"completed", *STATUS, *PASSED_ON}
    assert seen.longest < TIMEOUT_SECONDS + 1


def check_rows(rows: list[Exchange], seen: Seen, upstream: Upstream) -> None:
    """Check that each request has one outcome, and that the provider was asked as often as said."""
    assert len(rows) == len(seen.nonces)
    assert {row.id: row.prompt for row in rows} == seen.nonces
    assert {row.state for row in rows} == {State.COMPLETED, State.FAILED}
    called = [row.attempts for row in rows if row.attempts]
    assert set(called) == {1, 2}
    assert seen.codes["completed"] > len(called) / 2
    assert sum(called) == len(upstream.received) <= 1.2 * len(called)

    left_alone = [row for row in rows if row.error_code == "upstream_unavailable"]
    assert left_alone, "the breaker never opened"
    assert {row.attempts for row in left_alone} == {0}
    opened = min(row.number for row in left_alone)
    later = [row for row in rows if row.number > opened and row.state is State.COMPLETED]
    assert len(later) > FEWEST_REQUESTS / 20, "the breaker never closed"
