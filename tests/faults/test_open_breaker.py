"""A provider that keeps failing is left alone: what clients are told then, and what is stored."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest

from integration.faults import PROMPT, SOON, page, refusal
from integration.relaying import PATH as V1
from integration.relaying import SEED
from integration.upstream import Answer, Then, Upstream, running_upstream
from integration.wire import json_http

from .calls import Service
from .modes import HELLO_EVENTS, HELLO_JSON, Place
from .places import address

IN_A_ROW = 5
QUESTION: dict[str, Any] = {"user_id": "ada", "prompt": PROMPT}
RELAYED: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
BODIES = ((SEED, QUESTION), (V1, RELAYED))

FAILURES = {
    "timeouts": (Answer(then=Then.HANG), Place.HERE, 10),
    "broken connections": (Answer(then=Then.RESET), Place.HERE, 10),
    "errors": (Answer(refusal("500 No")), Place.HERE, 10),
    "pages": (Answer(page("503 No")), Place.HERE, 10),
    "late gateways": (Answer(page("504 No")), Place.HERE, 10),
    "refused keys": (Answer(refusal("401 No")), Place.HERE, 60),
    "empty accounts": (Answer(refusal("429 No", code="insufficient_quota")), Place.HERE, 60),
    "closed ports": (Answer(), Place.CLOSED_PORT, 10),
}
NO_FAILURES = {
    "refused requests": Answer(refusal("400 No")),
    "unknown models": Answer(refusal("404 No")),
    "limits": Answer(refusal("429 No")),
    "filters": Answer(refusal("400 No", code="content_filter")),
}


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with running_upstream() as upstream:
        yield upstream


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def served(stack: ExitStack, upstream: Upstream, place: Place = Place.HERE) -> Service:
    service = Service(stack.enter_context(address(place, upstream)), SOON)
    stack.enter_context(closing(service.gateway))
    return service


def fail_in_a_row(service: Service) -> None:
    for _ in range(IN_A_ROW):
        assert service.client.post(SEED, json=QUESTION).status_code >= 500


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("kind", FAILURES)
def test_whoever_asks_is_told_at_once_and_the_provider_hears_nothing(
    kind: str, stack: ExitStack, upstream: Upstream, *, stream: bool
) -> None:
    answer, place, seconds = FAILURES[kind]
    upstream.plays(answer)
    service = served(stack, upstream, place)
    fail_in_a_row(service)
    connections = upstream.connections
    took = []
    for path, body in BODIES * 3:
        began, worked = time.monotonic(), time.thread_time()
        response = service.client.post(path, json={**body, "stream": stream})
        took.append((time.monotonic() - began, time.thread_time() - worked))
        assert (response.status_code, response.mimetype) == (503, "application/json")
        assert '"code": "upstream_unavailable"' in response.get_data(as_text=True)
        assert seconds / 2 < int(response.headers["Retry-After"]) <= seconds
        row = service.store.find(response.headers["X-Request-Id"])
        assert row is not None
        assert (row.state, row.error_code, row.attempts) == ("failed", "upstream_unavailable", 0)
    waited, worked = map(min, zip(*took, strict=True))
    assert worked < 0.02
    assert waited < 0.2  # which is more only where others have the cores
    assert upstream.connections == connections


@pytest.mark.parametrize("kind", NO_FAILURES)
def test_a_provider_that_refuses_requests_is_not_left_alone(
    kind: str, stack: ExitStack, upstream: Upstream
) -> None:
    upstream.plays(NO_FAILURES[kind])
    service = served(stack, upstream)
    for _ in range(30):
        response = service.client.post(SEED, json=QUESTION)
        assert "upstream_unavailable" not in response.get_data(as_text=True)
    assert len(upstream.received) == 30


def test_one_call_alone_finds_out_whether_the_provider_is_back(
    stack: ExitStack, upstream: Upstream
) -> None:
    upstream.plays(Answer(refusal("500 No")))
    service = served(stack, upstream)
    fail_in_a_row(service)
    service.clock.skipped += 11
    before = len(upstream.received)
    upstream.plays(Answer(then=Then.HANG))
    together = threading.Barrier(8)
    codes: list[str] = []

    def ask(number: int) -> None:
        client = service.client.application.test_client()
        together.wait()
        answer = client.post(SEED, json={**QUESTION, "user_id": f"user-{number}"}).json
        assert answer is not None
        codes.append(answer["code"])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(codes) == ["upstream_timeout", *["upstream_unavailable"] * 7]
    assert len(upstream.received) == before + 1


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_a_provider_that_is_back_answers_everybody_again(
    stack: ExitStack, upstream: Upstream, *, stream: bool
) -> None:
    upstream.plays(Answer(refusal("500 No")))
    service = served(stack, upstream)
    fail_in_a_row(service)
    upstream.plays(Answer(HELLO_EVENTS if stream else HELLO_JSON))
    assert service.client.post(SEED, json=QUESTION).status_code == 503
    service.clock.skipped += 11
    for _ in range(3):
        response = service.client.post(SEED, json={**QUESTION, "stream": stream})
        assert (response.status_code, "Hello" in response.get_data(as_text=True)) == (200, True)


@pytest.mark.parametrize("kind", [kind for kind in FAILURES if FAILURES[kind][1] is Place.HERE])
def test_a_provider_whose_list_of_models_fails_is_asked_for_answers(
    kind: str, stack: ExitStack, upstream: Upstream
) -> None:
    upstream.plays(FAILURES[kind][0])
    service = served(stack, upstream)
    for _ in range(IN_A_ROW):
        assert service.client.get("/v1/models").status_code >= 500
    assert "upstream_unavailable" in service.client.get("/v1/models").get_data(as_text=True)
    upstream.plays(Answer(HELLO_JSON))
    assert service.client.post(SEED, json=QUESTION).status_code == 200


def test_a_provider_that_fails_to_answer_is_asked_for_its_list_of_models(
    stack: ExitStack, upstream: Upstream
) -> None:
    upstream.plays(Answer(refusal("500 No")))
    service = served(stack, upstream)
    fail_in_a_row(service)
    upstream.plays(Answer(json_http("200 OK", {"data": [{"id": "m"}]})))
    assert service.client.get("/v1/models").status_code == 200
    refused = service.client.post(SEED, json=QUESTION).get_data(as_text=True)
    assert '"code": "upstream_unavailable"' in refused
