"""Rate limits at the edge: literal headers, and waits that are true to the millisecond."""

from collections.abc import Sequence

import pytest
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st

from chatport.adapters import (
    LimitsCounter,
    MemoryStore,
    ScriptedGateway,
    SystemClock,
    WindowTable,
    random_id,
)
from chatport.domain.callers import ANONYMOUS
from chatport.domain.chat import ChatService
from chatport.domain.limits import RateLimiter
from chatport.domain.rules import Limit, Unit
from chatport.entrypoints.flask_app import create_app

PATH = "/openai-completion"


class Service:
    """A limited service with a clock that only the test moves."""

    def __init__(self, *, user: Sequence[Limit] = (), total: Sequence[Limit] = ()) -> None:
        self.now = 1_000_000.0
        self.store = MemoryStore()
        self.gateway = ScriptedGateway("Hi")
        table = WindowTable(slots=64, monotonic=lambda: self.now)
        service = ChatService(
            store=self.store,
            gateway=self.gateway,
            clock=SystemClock(),
            new_id=random_id,
            model="m",
            limiter=RateLimiter(LimitsCounter(table), user=user, total=total),
        )
        self.client: FlaskClient = create_app(service, dict).test_client()

    def ask(self, user: str = "ada", **more: object) -> tuple[int, dict[str, str]]:
        """Return the status and the headers that are about limits."""
        response = self.client.post(PATH, json={"user_id": user, "prompt": "x", **more})
        assert response.data
        headers = {name.lower(): value for name, value in response.headers}
        names = [name for name in headers if name.startswith(("x-ratelimit-", "retry-after"))]
        return response.status_code, {name: headers[name] for name in names}

    def status(self, user: str = "ada") -> int:
        return self.ask(user)[0]


def per_minute(amount: int) -> Limit:
    return Limit(amount=amount, window_seconds=60)


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_tells_what_is_left(*, stream: bool) -> None:
    service = Service(user=[per_minute(2)])
    assert service.ask(stream=stream) == (
        200,
        {
            "x-ratelimit-limit-requests": "2",
            "x-ratelimit-remaining-requests": "1",
            "x-ratelimit-reset-requests": "1m1s",
        },
    )


def test_a_refusal_tells_when_to_come_back() -> None:
    service = Service(user=[per_minute(2)])
    service.ask()
    service.ask()
    assert service.ask() == (
        429,
        {
            "x-ratelimit-limit-requests": "2",
            "x-ratelimit-remaining-requests": "0",
            "x-ratelimit-reset-requests": "1m1s",
            "retry-after": "61",
            "retry-after-ms": "60001",
        },
    )


def test_a_refusal_is_a_sentence_with_a_code() -> None:
    service = Service(user=[per_minute(1)])
    service.ask()
    response = service.client.post(PATH, json={"user_id": "ada", "prompt": "x"})
    assert response.json == {
        "error": "The user limit of 1 request per minute is reached; try again in 61 s.",
        "code": "rate_limited",
        "request_id": response.headers["X-Request-Id"],
    }
    assert "x-should-retry" not in response.headers


def test_a_long_wait_is_told_in_words_that_people_read() -> None:
    service = Service(user=[Limit(amount=1, window_seconds=86_400)])
    service.ask()
    response = service.client.post(PATH, json={"user_id": "ada", "prompt": "x"})
    assert response.json is not None
    assert "e+" not in response.json["error"]


def test_what_is_refused_is_neither_stored_nor_sent_but_counted() -> None:
    service = Service(user=[per_minute(1)])
    statuses = [service.status() for _ in range(3)]
    assert statuses == [200, 429, 429]
    assert len(service.gateway.calls) == 1
    assert len(service.store.conversation(ANONYMOUS.name, "ada", before=None, limit=10)) == 1
    counted = {key[:2]: count for key, count in service.store.refusals.items()}
    assert counted == {("anonymous", "user 1 request per minute"): 2}


def test_each_user_has_a_limit_of_his_own() -> None:
    service = Service(user=[per_minute(1)])
    assert [service.status(user) for user in ("ada", "bob", "ada", "bob")] == [200, 200, 429, 429]


def test_a_total_limit_is_met_by_new_users_too() -> None:
    service = Service(user=[per_minute(10)], total=[per_minute(2)])
    answers = [service.client.post(PATH, json={"prompt": "x"}) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[2].json is not None
    assert (
        answers[2].json["error"].startswith("The total limit of 2 requests per minute is reached;")
    )


def test_a_refusal_by_one_limit_takes_nothing_from_another() -> None:
    service = Service(user=[per_minute(1)], total=[per_minute(3)])
    assert [service.status() for _ in range(5)] == [200, 429, 429, 429, 429]
    assert [service.status("bob"), service.status("eve"), service.status("joe")] == [200, 200, 429]


def test_the_headers_are_those_of_the_limit_that_is_nearest_to_refusing() -> None:
    service = Service(user=[per_minute(5), Limit(amount=2, window_seconds=3600)])
    assert service.ask()[1]["x-ratelimit-limit-requests"] == "2"


def test_an_invalid_request_takes_nothing() -> None:
    service = Service(user=[per_minute(1)])
    bad = service.client.post(PATH, json={"user_id": "ada", "prompt": ""})
    assert bad.status_code == 400
    assert service.status() == 200


def test_without_limits_there_are_no_headers() -> None:
    assert Service().ask() == (200, {})


@pytest.mark.parametrize("limit", [Limit(amount=2, window_seconds=1), per_minute(3)])
def test_waiting_for_exactly_as_long_as_told_admits_and_5_ms_less_do_not(limit: Limit) -> None:
    service = Service(user=[limit])
    for _ in range(limit.amount):
        assert service.status() == 200
    wait = int(service.ask()[1]["retry-after-ms"]) / 1000
    service.now += wait - 0.005
    assert service.status() == 429
    service.now += 0.005
    assert service.status() == 200


@given(
    gaps=st.lists(st.floats(0, 40), min_size=1, max_size=25),
    user=st.integers(1, 4),
    total=st.integers(1, 6),
)
def test_the_wait_is_true_after_any_traffic(gaps: list[float], user: int, total: int) -> None:
    service = Service(user=[per_minute(user)], total=[Limit(amount=total, window_seconds=25)])
    refused: dict[str, str] = {}
    for gap in gaps:
        service.now += gap
        status, headers = service.ask()
        if status == 429:
            refused = headers
            break
    if not refused:
        return
    milliseconds = int(refused["retry-after-ms"])
    assert int(refused["retry-after"]) == max(1, -(-milliseconds // 1000))
    assert refused["x-ratelimit-remaining-requests"] == "0"
    before = service.now
    if milliseconds > 5:
        service.now = before + (milliseconds - 5) / 1000
        assert service.status() == 429
    service.now = before + milliseconds / 1000
    assert service.status() == 200


def test_a_request_that_no_limit_can_ever_admit_is_429_and_not_to_be_sent_again() -> None:
    service = Service(user=[Limit(amount=4_000, window_seconds=60, unit=Unit.TOKENS)])
    response = service.client.post(PATH, json={"user_id": "ada", "prompt": "x"})
    assert response.status_code == 429
    assert response.json is not None
    assert response.json["code"] == "exceeds_limit"
    assert response.headers["x-should-retry"] == "false"
    assert "Retry-After" not in response.headers
    assert "x-ratelimit-reset-tokens" not in response.headers
