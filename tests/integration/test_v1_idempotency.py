"""Requests that are made twice: what comes back, what is called, and what is charged."""

import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from datetime import datetime, timedelta
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from werkzeug.test import TestResponse

from chatport.adapters import (
    LimitsCounter,
    MemoryStore,
    PeeweeStore,
    Script,
    ScriptedGateway,
    SystemClock,
)
from chatport.domain import errors
from chatport.domain.limits import RateLimiter
from chatport.domain.model import LogQuery, State
from chatport.domain.ports import ConversationStore
from chatport.domain.rules import Limit

from .faults import AMPLE_SECONDS, SOON
from .relaying import ASKED, PATH, SEED, STREAMED, WITH_USAGE, Wire, error_of, wire_to
from .upstream import PATIENCE_SECONDS, Answer, Then, Upstream
from .wire import DONE, EVENTS_HEAD, HELLO, chunk, chunks, completion, event, json_http, said

PLAIN_SEED = {"user_id": "ada", "prompt": "Hi"}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "/v1": (PATH, ASKED),
    "/v1, streamed": (PATH, STREAMED),
    "/v1, streamed with usage": (PATH, WITH_USAGE),
    "/openai-completion": (SEED, PLAIN_SEED),
    "/openai-completion, streamed": (SEED, {**PLAIN_SEED, "stream": True}),
}
EVERY_KIND = pytest.mark.parametrize(("path", "body"), KINDS.values(), ids=KINDS)
PLAIN_KINDS = pytest.mark.parametrize(
    ("path", "body"), [(PATH, ASKED), (SEED, PLAIN_SEED)], ids=[PATH, SEED]
)


class Later(SystemClock):
    """The real time, but for what a test adds to it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> datetime:
        return super().now() + timedelta(seconds=self.seconds)


@pytest.fixture(params=["in memory", "in a file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ConversationStore]:
    """Return a store of each kind; only a few tests need more than memory."""
    kept = MemoryStore() if request.param == "in memory" else PeeweeStore(tmp_path / "log.db")
    yield kept
    kept.close()


@pytest.fixture
def wire(upstream: Upstream) -> Iterator[Wire]:
    with wire_to(upstream) as wire:
        yield wire


def good(body: dict[str, Any]) -> Answer:
    if body.get("stream"):
        return Answer(chunks(*HELLO))
    return Answer(json_http("200 OK", completion(), "X-Request-Id: req_7"))


def assert_same(first: TestResponse, again: TestResponse) -> None:
    assert again.status_code == first.status_code
    assert again.data == first.data
    assert again.headers["Content-Type"] == first.headers["Content-Type"]
    assert again.headers["X-Request-Id"] == first.headers["X-Request-Id"]
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"


def only_count(store: ConversationStore) -> int:
    return len(store.search(LogQuery()))


@EVERY_KIND
def test_the_same_key_gets_the_same_bytes_and_no_second_call(
    path: str, body: Any, store: ConversationStore, upstream: Upstream
) -> None:
    upstream.plays(good(body))
    with wire_to(upstream, store=store) as wire:
        first = wire.ask(body, path, Idempotency_Key="k")
        assert first.status_code == 200
        for _ in range(2):
            assert_same(first, wire.ask(body, path, Idempotency_Key="k"))
        stored = wire.stored()
    assert len(upstream.received) == 1
    assert (stored.state, stored.attempts, stored.idempotency_key) == (State.COMPLETED, 1, "k")


@EVERY_KIND
def test_a_replay_is_not_charged(path: str, body: Any, upstream: Upstream) -> None:
    limiter = RateLimiter(LimitsCounter(), total=[Limit(amount=2, window_seconds=3600)])
    upstream.plays(good(body))
    with wire_to(upstream, limiter=limiter) as wire:
        first = wire.ask(body, path, Idempotency_Key="k")
        assert first.headers["x-ratelimit-remaining-requests"] == "1"
        assert_same(first, wire.ask(body, path, Idempotency_Key="k"))
        other = wire.ask(body, path, Idempotency_Key="other")
        assert other.headers["x-ratelimit-remaining-requests"] == "0"
        assert wire.ask(body, path, Idempotency_Key="third").status_code == 429
        assert_same(first, wire.ask(body, path, Idempotency_Key="k"))


@EVERY_KIND
def test_a_key_outlives_a_restart(path: str, body: Any, upstream: Upstream, tmp_path: Path) -> None:
    upstream.plays(good(body))
    responses = []
    for _ in range(2):
        store = PeeweeStore(tmp_path / "log.db")
        with wire_to(upstream, store=store) as wire:
            responses.append(wire.ask(body, path, Idempotency_Key="k"))
        store.close()
    assert_same(*responses)
    assert len(upstream.received) == 1


@EVERY_KIND
def test_a_key_is_good_for_one_body(path: str, body: Any, wire: Wire, upstream: Upstream) -> None:
    upstream.plays(good(body))
    first = wire.ask(body, path, Idempotency_Key="k")
    for other in ({**body, "stream": not body.get("stream")}, json.dumps(body).encode() + b" "):
        response = wire.ask(other, path, Idempotency_Key="k")
        assert response.status_code == 422
        assert code_of(response, path) == "idempotency_key_reused"
        assert "Idempotency-Replayed" not in response.headers
    assert_same(first, wire.ask(body, path, Idempotency_Key="k"))
    assert len(upstream.received) == 1


def code_of(response: TestResponse, path: str) -> object:
    if path == PATH:
        return error_of(response)["code"]
    assert isinstance(response.json, dict)
    assert set(response.json) == {"error", "code", "request_id"}
    assert response.json["request_id"] == response.headers["X-Request-Id"]
    return response.json["code"]


def test_a_key_is_good_for_one_route(wire: Wire, upstream: Upstream) -> None:
    upstream.plays(good(ASKED))
    wire.ask(ASKED, Idempotency_Key="k")
    response = wire.ask(PLAIN_SEED, SEED, Idempotency_Key="k")
    assert (response.status_code, code_of(response, SEED)) == (422, "idempotency_key_reused")
    assert len(upstream.received) == 1


def test_keys_that_differ_in_case_differ(wire: Wire, upstream: Upstream) -> None:
    upstream.plays(good(ASKED))
    for key in ("k", "K", "k k"):
        assert "Idempotency-Replayed" not in wire.ask(Idempotency_Key=key).headers
    assert len(upstream.received) == 3


@PLAIN_KINDS
@pytest.mark.parametrize(
    "key", ["", "x" * 256, "é", "ключ".encode().decode("latin-1"), "a\tb", "\x7f"]
)
def test_a_key_of_other_characters_or_of_another_length_is_400(
    key: str, path: str, body: Any, wire: Wire, upstream: Upstream
) -> None:
    response = wire.ask(body, path, Idempotency_Key=key)
    assert response.status_code == 400
    assert code_of(response, path) == "invalid_idempotency_key"
    assert wire.nothing_stored()
    assert upstream.connections == 0


@PLAIN_KINDS
@pytest.mark.parametrize("key", ["x" * 255, "!", '~"%{}', "0"])
def test_a_key_may_be_255_printable_characters(
    key: str, path: str, body: Any, wire: Wire, upstream: Upstream
) -> None:
    upstream.plays(good(body))
    first = wire.ask(body, path, Idempotency_Key=key)
    assert_same(first, wire.ask(body, path, Idempotency_Key=key))


@EVERY_KIND
def test_of_32_at_once_one_is_answered_and_the_others_are_told_to_wait(
    path: str, body: Any, store: ConversationStore
) -> None:
    gate = Event()
    gateway = ScriptedGateway(Script(chunks=("Hel", "lo"), waits_for=gate))
    wire = Wire(gateway, store=store)

    def ask(_: int) -> TestResponse:
        return wire.ask(body, path, Idempotency_Key="k")

    with ThreadPoolExecutor(32) as pool:
        futures = [pool.submit(ask, n) for n in range(32)]
        refused = first_of(futures, 31)
        gate.set()
        [answered] = [one.result() for one in futures if one.result().status_code == 200]
    for response in refused:
        assert response.status_code == 409
        assert code_of(response, path) == "idempotency_in_progress"
        assert response.headers["Retry-After"] == "1"
        assert response.headers["retry-after-ms"] == "1000"
        assert "x-should-retry" not in response.headers
    assert len(gateway.calls) == 1
    assert only_count(wire.store) == 1
    assert_same(answered, ask(0))
    assert len(gateway.calls) == 1


def first_of(futures: list[Future[TestResponse]], count: int) -> list[TestResponse]:
    done = as_completed(futures, timeout=PATIENCE_SECONDS)
    return [next(done).result() for _ in range(count)]


SAID = EVENTS_HEAD + chunk(said("Hel"))


def patience(answer: Answer) -> float:
    return SOON if answer.then is Then.HANG else AMPLE_SECONDS


FINAL_PLAIN = {
    "silence": (Answer(then=Then.HANG), 504, "upstream_timeout"),
    "a hang-up": (Answer(then=Then.CLOSE), 502, "upstream_unreachable"),
    "a break": (
        Answer(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", then=Then.RESET),
        502,
        "upstream_disconnected",
    ),
    "nonsense": (Answer(json_http("200 OK", {})), 502, "upstream_invalid_response"),
}
FINAL_STREAMED = {
    "silence": (Answer(SAID, then=Then.HANG), "upstream_timeout"),
    "a break": (Answer(SAID, then=Then.RESET), "upstream_disconnected"),
    "an early end": (Answer(chunks(said("Hel"))), "upstream_truncated"),
    "nonsense": (Answer(chunks(said("Hel"), b"data: {\n\n")), "upstream_invalid_response"),
    "an error": (Answer(chunks(said("Hel"), event({"error": {"a": 1}}))), "upstream_error"),
}


@PLAIN_KINDS
@pytest.mark.parametrize(("answer", "status", "code"), FINAL_PLAIN.values(), ids=FINAL_PLAIN)
def test_a_failure_that_may_be_billed_is_told_again_and_not_tried_again(
    *,
    answer: Answer,
    status: int,
    code: str,
    path: str,
    body: Any,
    upstream: Upstream,
) -> None:
    upstream.plays(answer)
    with wire_to(upstream, patience(answer)) as wire:
        first = wire.ask(body, path, Idempotency_Key="k")
        assert (first.status_code, code_of(first, path)) == (status, code)
        assert first.headers["x-should-retry"] == "false"
        again = wire.ask(body, path, Idempotency_Key="k")
        assert_same(first, again)
        assert again.headers["x-should-retry"] == "false"
        assert (wire.stored().state, wire.stored().attempts) == (State.FAILED, 1)
    assert len(upstream.received) == 1


@pytest.mark.parametrize(
    ("path", "body"),
    [KINDS["/v1, streamed"], KINDS["/openai-completion, streamed"]],
    ids=[PATH, SEED],
)
@pytest.mark.parametrize(("answer", "code"), FINAL_STREAMED.values(), ids=FINAL_STREAMED)
def test_a_stream_that_broke_is_told_again_up_to_the_same_error(
    *,
    answer: Answer,
    code: str,
    path: str,
    body: Any,
    upstream: Upstream,
) -> None:
    upstream.plays(answer)
    with wire_to(upstream, patience(answer)) as wire:
        first = wire.ask(body, path, Idempotency_Key="k")
        assert code.encode() in first.data
        assert b"Hel" in first.data
        assert_same(first, wire.ask(body, path, Idempotency_Key="k"))
    assert len(upstream.received) == 1


RETRIED = {
    "500": Answer(json_http("500 Oops", {"error": {"message": "x"}})),
    "503": Answer(json_http("503 Busy", {}, "Retry-After: 1")),
    "429": Answer(json_http("429 Slow down", {}, "Retry-After: 1")),
    "401": Answer(json_http("401 No", {})),
}


@EVERY_KIND
@pytest.mark.parametrize("failure", RETRIED.values(), ids=RETRIED)
def test_a_failure_that_is_not_billed_is_tried_again_as_the_same_exchange(
    failure: Answer, path: str, body: Any, wire: Wire, upstream: Upstream
) -> None:
    upstream.plays(failure, failure, good(body))
    first, second, third = (wire.ask(body, path, Idempotency_Key="k") for _ in range(3))
    assert [one.status_code >= 500 for one in (first, second, third)] == [True, True, False]
    assert len({one.headers["X-Request-Id"] for one in (first, second, third)}) == 1
    assert not [one for one in (first, second, third) if "Idempotency-Replayed" in one.headers]
    stored = wire.stored()
    assert (stored.state, stored.attempts) == (State.COMPLETED, 3)
    assert_same(third, wire.ask(body, path, Idempotency_Key="k"))
    assert len(upstream.received) == 3


def test_an_error_event_before_the_first_word_of_a_stream_is_tried_again(
    wire: Wire, upstream: Upstream
) -> None:
    upstream.plays(Answer(chunks(said(""), event({"error": {"a": 1}}))), good(STREAMED))
    first, second = (wire.ask(STREAMED, Idempotency_Key="k") for _ in range(2))
    assert DONE not in first.data
    assert second.data.endswith(DONE)
    stored = wire.stored()
    assert (stored.attempts, stored.reply, len(stored.answer)) == (2, "Hello", 4)


def of_delta(**delta: Any) -> bytes:
    return event({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})


BROKE = {"error": {"message": "Oops"}}
COUNTED = {"usage": {"prompt_tokens": 5, "completion_tokens": 500}}
UNSEEN = {
    "counts": event({"choices": [], **COUNTED}) + event(BROKE),
    "counts in the error": event({**BROKE, **COUNTED}),
    "words in the error": event({**BROKE, "choices": [{"index": 0, "delta": {"content": "Hi"}}]}),
    "sealed thoughts": of_delta(reasoning_details=[{"data": "c2VhbGVk"}]) + event(BROKE),
    "sound": of_delta(audio={"id": "a", "data": "c291bmQ="}) + event(BROKE),
    "a call that is no text": of_delta(tool_calls=[{"function": {"arguments": {}}}]) + event(BROKE),
    "a whole message": event({"choices": [{"index": 0, "message": {"content": "Hi"}}]})
    + event(BROKE),
}


@pytest.mark.parametrize("events", UNSEEN.values(), ids=UNSEEN)
def test_an_error_event_after_work_that_nobody_reads_is_final(
    events: bytes, wire: Wire, upstream: Upstream
) -> None:
    upstream.plays(Answer(chunks(events)))
    first, second = (wire.ask(STREAMED, Idempotency_Key="k") for _ in range(2))
    assert b"upstream_error" in first.data
    assert b"upstream_error" in second.data
    assert second.status_code == 200 or second.headers["x-should-retry"] == "false"
    assert len(upstream.received) == 1
    assert wire.stored().usage is not None


def test_a_stream_that_its_client_left_is_tried_again(wire: Wire, upstream: Upstream) -> None:
    upstream.plays(Answer(SAID, drip=chunk(said("x"))), good(STREAMED))
    left = wire.begin(STREAMED, Idempotency_Key="k")
    next(iter(left.iter_encoded()))
    left.close()
    assert wire.stored().state is State.CANCELLED
    again = wire.ask(STREAMED, Idempotency_Key="k")
    assert again.data.endswith(DONE)
    assert (wire.stored().state, wire.stored().attempts) == (State.COMPLETED, 2)
    assert again.headers["X-Request-Id"] == left.headers["X-Request-Id"]


def test_what_was_refused_before_the_call_takes_no_key(wire: Wire, upstream: Upstream) -> None:
    upstream.plays(good(ASKED))
    assert wire.ask({**ASKED, "stream": 5}, Idempotency_Key="k").status_code == 400
    assert wire.ask(b"{", Idempotency_Key="k").status_code == 400
    assert wire.ask(ASKED, Idempotency_Key="k").status_code == 200


def test_what_a_limit_refused_takes_no_key() -> None:
    limits = [Limit(amount=1, window_seconds=3600)]
    wire = Wire(ScriptedGateway("Hi"), limiter=RateLimiter(LimitsCounter(), user=limits))
    ada, bob = ({**ASKED, "user": user} for user in ("ada", "bob"))
    assert wire.ask(ada, Idempotency_Key="first").status_code == 200
    assert wire.ask(ada, Idempotency_Key="k").status_code == 429
    assert wire.ask(bob, Idempotency_Key="k").status_code == 200


def retrying(wire: Wire, count: str, body: Any = ASKED, path: str = PATH) -> TestResponse:
    return wire.ask(body, path, X_Stainless_Retry_Count=count)


@EVERY_KIND
def test_a_retry_of_what_has_just_been_answered_gets_that_answer(
    path: str, body: Any, wire: Wire, upstream: Upstream
) -> None:
    upstream.plays(good(body))
    first = retrying(wire, "0", body, path)
    assert_same(first, retrying(wire, "1", body, path))
    assert_same(first, retrying(wire, "2", body, path))
    assert len(upstream.received) == 1
    assert only_count(wire.store) == 1


def test_a_request_that_is_no_retry_is_never_merged(wire: Wire, upstream: Upstream) -> None:
    upstream.plays(good(ASKED))
    responses = [retrying(wire, "0") for _ in range(3)]
    assert len({one.headers["X-Request-Id"] for one in responses}) == 3
    assert len(upstream.received) == 3


@pytest.mark.parametrize(
    "count", ["", "-1", "+1", "1.5", "1e3", "one", "0x1", "²", "1 2", "00", "٣"]
)
def test_a_retry_count_that_is_none_is_ignored(count: str, wire: Wire, upstream: Upstream) -> None:
    upstream.plays(good(ASKED))
    retrying(wire, "0")
    second = retrying(wire, count.encode().decode("latin-1"))
    assert second.status_code == 200
    assert "Idempotency-Replayed" not in second.headers
    assert len(upstream.received) == 2


@pytest.mark.parametrize("count", ["1", "2", "01", "10", "9" * 5000])
def test_every_count_over_zero_is_a_retry(count: str, wire: Wire, upstream: Upstream) -> None:
    upstream.plays(good(ASKED))
    assert_same(retrying(wire, "0"), retrying(wire, count))


@pytest.mark.parametrize(("seconds", "calls"), [(55.0, 1), (61.0, 2)])
def test_a_retry_is_merged_for_a_minute(seconds: float, calls: int, upstream: Upstream) -> None:
    clock = Later()
    upstream.plays(good(ASKED))
    with wire_to(upstream, clock=clock) as wire:
        retrying(wire, "0")
        clock.seconds = seconds
        retrying(wire, "1")
    assert len(upstream.received) == calls


def test_a_key_is_good_for_more_than_a_minute(upstream: Upstream) -> None:
    clock = Later()
    upstream.plays(good(ASKED))
    with wire_to(upstream, clock=clock) as wire:
        first = wire.ask(Idempotency_Key="k")
        clock.seconds = 3600.0
        assert_same(first, wire.ask(Idempotency_Key="k"))


@EVERY_KIND
def test_a_retry_of_what_is_being_answered_waits_for_it(path: str, body: Any) -> None:
    gate = Event()
    gateway = ScriptedGateway(Script(chunks=("Hel", "lo"), waits_for=gate))
    waiting = Event()

    class Clock(SystemClock):
        def sleep(self, seconds: float) -> None:
            waiting.set()
            super().sleep(seconds)

    wire = Wire(gateway, clock=Clock())
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(retrying, wire, "0", body, path)
        while not gateway.calls:
            assert not first.done()
        second = pool.submit(retrying, wire, "1", body, path)
        assert waiting.wait(PATIENCE_SECONDS)
        gate.set()
        assert_same(first.result(PATIENCE_SECONDS), second.result(PATIENCE_SECONDS))
    assert len(gateway.calls) == 1


def test_a_retry_of_another_body_or_route_is_a_request_of_its_own(
    wire: Wire, upstream: Upstream
) -> None:
    upstream.plays(good(ASKED))
    retrying(wire, "0")
    for other, path in (
        ({**ASKED, "n": 1}, PATH),
        ({**ASKED, "user": "ada"}, PATH),
        (PLAIN_SEED, SEED),
    ):
        response = retrying(wire, "1", other, path)
        assert "Idempotency-Replayed" not in response.headers
    assert len(upstream.received) == 4


@PLAIN_KINDS
def test_a_retry_of_what_failed_for_nothing_is_a_new_exchange(
    path: str, body: Any, wire: Wire, upstream: Upstream
) -> None:
    upstream.plays(Answer(json_http("500 Oops", {})), good(body))
    first, second = (retrying(wire, count, body, path) for count in ("0", "1"))
    assert (first.status_code, second.status_code) == (502, 200)
    assert only_count(wire.store) == 2
    assert first.headers["X-Request-Id"] != second.headers["X-Request-Id"]
    assert_same(second, retrying(wire, "2", body, path))


def test_a_retry_of_what_may_be_billed_is_told_the_failure_again(upstream: Upstream) -> None:
    upstream.plays(Answer(then=Then.HANG))
    with wire_to(upstream, SOON) as wire:
        assert_same(retrying(wire, "0"), retrying(wire, "1"))
    assert len(upstream.received) == 1


def test_a_key_counts_more_than_a_retry_count(wire: Wire, upstream: Upstream) -> None:
    upstream.plays(good(ASKED))
    wire.ask(ASKED, X_Stainless_Retry_Count="0")
    second = wire.ask(ASKED, X_Stainless_Retry_Count="1", Idempotency_Key="new")
    assert "Idempotency-Replayed" not in second.headers
    assert_same(second, wire.ask(ASKED, X_Stainless_Retry_Count="0", Idempotency_Key="new"))
    assert len(upstream.received) == 2


@EVERY_KIND
def test_an_answer_that_could_not_be_kept_is_not_replayed(path: str, body: Any) -> None:
    class Fills(MemoryStore):
        full = True

        def finish(self, exchange: Any) -> None:
            if self.full:
                raise errors.StorageFull
            super().finish(exchange)

    store = Fills()
    wire = Wire(ScriptedGateway("Hi"), store=store)
    failed = wire.ask(body, path, Idempotency_Key="k")
    assert b"storage_full" in failed.data
    assert wire.ask(body, path, Idempotency_Key="k").status_code == 409  # nobody knows its outcome


def test_the_route_for_models_reads_no_key(upstream: Upstream) -> None:
    upstream.plays(Answer(json_http("200 OK", {"object": "list", "data": []})))
    with wire_to(upstream) as wire:
        response = wire.client.get("/v1/models", headers={"Idempotency-Key": "x" * 300})
    assert response.status_code == 200
