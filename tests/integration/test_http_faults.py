"""What clients are told when something fails: the table, the headers, and nothing secret."""

import inspect
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from chatport.adapters import (
    LimitsCounter,
    MemoryStore,
    Script,
    ScriptedGateway,
    SystemClock,
    random_id,
)
from chatport.domain import errors
from chatport.domain.chat import ChatService
from chatport.domain.errors import ChatportError
from chatport.domain.history import History, HistoryBounds
from chatport.domain.limits import RateLimiter
from chatport.domain.model import Exchange, State
from chatport.domain.rules import Limit
from chatport.domain.spending import NO_CLAIM, Claim
from chatport.entrypoints.access_log import JSONFormatter
from chatport.entrypoints.faults import STATUS, log_unhandled
from chatport.entrypoints.flask_app import create_app

PATH = "/openai-completion"
PIPE_BYTES = 4_096
KEY, PROMPT, ANSWER = "sk-canary-key", "canary prompt", "canary answer"
INTERNAL = "Something went wrong inside chatport; the operator finds it in the log."


class FailingStore(MemoryStore):
    """A store that cannot begin, or cannot finish."""

    def __init__(
        self, *, begin: BaseException | None = None, finish: BaseException | None = None
    ) -> None:
        super().__init__()
        self._on_begin = begin
        self._on_finish = finish

    def begin(self, exchange: Exchange, bounds: HistoryBounds, claim: Claim = NO_CLAIM) -> History:
        if self._on_begin is not None:
            claim.admit(exchange)
            raise self._on_begin
        return super().begin(exchange, bounds, claim)

    def finish(self, exchange: Exchange) -> None:
        if self._on_finish is not None:
            raise self._on_finish
        super().finish(exchange)


def client_of(
    gateway: ScriptedGateway | None = None, store: MemoryStore | None = None
) -> FlaskClient:
    service = ChatService(
        store=store or MemoryStore(),
        gateway=gateway or ScriptedGateway(ANSWER),
        clock=SystemClock(),
        new_id=random_id,
        model="m",
        limiter=RateLimiter(LimitsCounter(), user=[Limit(amount=1000, window_seconds=60)]),
    )
    return create_app(service, dict).test_client()


def failing(error: BaseException) -> ScriptedGateway:
    return ScriptedGateway(Script(raises=error))


def ask(client: FlaskClient, **more: Any) -> TestResponse:
    return client.post(PATH, json={"user_id": "ada", "prompt": PROMPT, **more})


def test_every_error_of_the_domain_is_in_the_table() -> None:
    def tree(kind: type[ChatportError]) -> Iterator[type[ChatportError]]:
        yield kind
        for child in kind.__subclasses__():
            yield from tree(child)

    domain = {kind for kind in tree(ChatportError) if kind.__module__.startswith(errors.__name__)}
    assert domain == {
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, ChatportError)
    }
    assert set(STATUS) == domain


UPSTREAM = [
    (errors.UpstreamError, 502, "upstream_error", None),
    (errors.UpstreamTimeout, 504, "upstream_timeout", "false"),
    (errors.UpstreamUnreachable, 502, "upstream_unreachable", None),
    (errors.UpstreamDisconnected, 502, "upstream_disconnected", "false"),
    (errors.UpstreamTruncated, 502, "upstream_truncated", "false"),
    (errors.UpstreamInvalidResponse, 502, "upstream_invalid_response", "false"),
    (errors.UpstreamAuthFailed, 502, "upstream_auth_failed", "false"),
    (errors.UpstreamModelUnavailable, 502, "upstream_model_unavailable", "false"),
    (errors.UpstreamRejected, 502, "upstream_rejected", "false"),
    (errors.UpstreamRateLimited, 503, "upstream_rate_limited", None),
    (errors.UpstreamQuotaExhausted, 503, "upstream_quota_exhausted", "false"),
    (errors.UpstreamUnavailable, 503, "upstream_unavailable", None),
    (errors.UpstreamOverloaded, 503, "upstream_error", None),
    (errors.ContentFiltered, 400, "content_filter", None),
    (errors.ContextLengthExceeded, 400, "context_length_exceeded", None),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("kind", "status", "code", "should_retry"), UPSTREAM)
def test_a_fault_of_the_provider_has_its_status_and_its_code(
    kind: type[ChatportError], status: int, code: str, should_retry: str | None, *, stream: bool
) -> None:
    store = MemoryStore()
    response = ask(client_of(failing(kind()), store), stream=stream)
    request_id = response.headers["X-Request-Id"]
    assert response.status_code == status
    assert response.content_type == "application/json"
    assert response.json == {"error": kind.message, "code": code, "request_id": request_id}
    assert response.headers.get("x-should-retry") == should_retry
    assert response.headers["x-ratelimit-remaining-requests"] == "999"
    exchange = store.find(request_id)
    assert exchange is not None
    assert (exchange.state, exchange.error_code) == (State.FAILED, code)


STORAGE = [
    (errors.StorageUnavailable, "storage_unavailable", None),
    (errors.StorageBusy, "storage_busy", "1000"),
    (errors.StorageFull, "storage_full", None),
    (errors.StorageReadOnly, "storage_readonly", None),
    (errors.StorageCorrupt, "storage_corrupt", None),
    (errors.StorageLost, "storage_lost", None),
    (errors.StorageTooNew, "storage_too_new", None),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("kind", "code", "milliseconds"), STORAGE)
def test_a_store_that_cannot_begin_means_503_and_no_call(
    kind: type[ChatportError], code: str, milliseconds: str | None, *, stream: bool
) -> None:
    gateway = ScriptedGateway(ANSWER)
    response = ask(client_of(gateway, FailingStore(begin=kind())), stream=stream)
    request_id = response.headers["X-Request-Id"]
    assert response.status_code == 503
    assert response.json == {"error": kind.message, "code": code, "request_id": request_id}
    assert response.headers.get("retry-after-ms") == milliseconds
    assert response.headers["x-ratelimit-remaining-requests"] == "1000"
    assert gateway.calls == []


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        (errors.StorageFull, 503, "storage_full"),
        (errors.ExchangeLost, 409, "exchange_lost"),
    ],
)
def test_an_answer_that_was_not_kept_is_not_given(
    kind: type[ChatportError], status: int, code: str
) -> None:
    response = ask(client_of(store=FailingStore(finish=kind())))
    request_id = response.headers["X-Request-Id"]
    assert response.status_code == status
    assert response.json == {"error": kind.message, "code": code, "request_id": request_id}
    assert response.headers["x-ratelimit-remaining-requests"] == "999"


def test_a_stream_that_was_not_kept_ends_in_an_error() -> None:
    response = ask(client_of(store=FailingStore(finish=errors.StorageFull())), stream=True)
    last = response.text.split("\n\n")[-2]
    assert last.startswith("event: error\n")
    assert '"code": "storage_full"' in last


@pytest.mark.parametrize("kind", [errors.StorageFull, errors.StorageBusy])
def test_a_client_is_told_not_to_repeat_what_was_billed_but_not_kept(
    kind: type[ChatportError],
) -> None:
    response = ask(client_of(store=FailingStore(finish=kind())))
    assert response.headers.get("x-should-retry") == "false"
    assert "Retry-After" not in response.headers


def test_a_wait_that_the_provider_asks_for_is_passed_on_rounded_up() -> None:
    error = errors.UpstreamRateLimited(retry_after_seconds=2.0001)
    response = ask(client_of(failing(error)))
    assert response.headers["Retry-After"] == "3"
    assert response.headers["retry-after-ms"] == "2001"


def test_a_wait_of_nothing_is_passed_on_as_one_second() -> None:
    response = ask(client_of(failing(errors.UpstreamOverloaded(retry_after_seconds=0))))
    assert response.headers["Retry-After"] == "1"
    assert response.headers["retry-after-ms"] == "1"


@pytest.mark.parametrize("stream", [False, True])
def test_what_nobody_expects_is_500_internal_error(
    caplog: pytest.LogCaptureFixture, *, stream: bool
) -> None:
    caplog.handler.setFormatter(JSONFormatter())
    store = MemoryStore()
    response = ask(client_of(failing(RuntimeError(KEY)), store), stream=stream)
    request_id = response.headers["X-Request-Id"]
    assert response.status_code == 500
    assert response.json == {"error": INTERNAL, "code": "internal_error", "request_id": request_id}
    assert KEY not in caplog.text
    defect = json.loads(caplog.text.splitlines()[0])
    assert (defect["level"], defect["logger"]) == ("error", "chatport.entrypoints.faults")
    assert defect["message"].startswith("unexpected RuntimeError in ")
    exchange = store.find(request_id)
    assert exchange is not None
    assert (exchange.state, exchange.error_code) == (State.FAILED, "internal_error")


def test_what_nobody_expects_in_mid_stream_is_the_last_event(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.handler.setFormatter(JSONFormatter())
    gateway = ScriptedGateway(Script(chunks=("One",), raises=ValueError(KEY)))
    response = ask(client_of(gateway), stream=True)
    error = {
        "error": INTERNAL,
        "code": "internal_error",
        "request_id": response.headers["X-Request-Id"],
    }
    assert response.text.endswith(f"\n\nevent: error\ndata: {json.dumps(error)}\n\n")
    assert KEY not in caplog.text
    assert "unexpected ValueError in " in caplog.text


def test_what_nobody_expects_still_tells_what_is_left_of_the_limit() -> None:
    response = ask(client_of(failing(RuntimeError())))
    assert response.headers.get("x-ratelimit-remaining-requests") == "999"


def test_the_access_log_names_the_error_of_a_stream(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "chatport.access")
    script = Script(chunks=("One",), raises=errors.UpstreamDisconnected())
    response = ask(client_of(ScriptedGateway(script)), stream=True)
    assert "event: error" in response.text
    response.close()
    (record,) = caplog.records
    assert vars(record)["fields"]["code"] == "upstream_disconnected"


def test_a_defect_is_one_line_however_deep_it_was(caplog: pytest.LogCaptureFixture) -> None:
    def fall(depth: int) -> None:
        if depth:
            fall(depth - 1)
        raise KeyError("canary")

    for error in (KeyError("canary"), OSError("canary"), OSError(24, "Too many open files")):
        log_unhandled(None, type(error), error, None)
    with pytest.raises(KeyError) as fallen:
        fall(500)
    log_unhandled(None, KeyError, fallen.value, fallen.tb)
    key, plain, full, deep = caplog.messages
    assert (key, plain) == ("unexpected KeyError in ", "unexpected OSError in ")
    assert full == "failed outside of all requests: Too many open files"
    assert deep.startswith("unexpected KeyError in fall (")
    assert len(deep) < PIPE_BYTES


def test_a_request_is_one_line_in_the_access_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "chatport.access")
    caplog.handler.setFormatter(JSONFormatter())
    response = client_of().post(PATH, data=b'{"prompt": 1}', content_type="application/json")
    response.close()
    (line,) = caplog.text.splitlines()
    logged = json.loads(line)
    assert logged.pop("time").endswith("+00:00")
    assert logged.pop("duration_ms") >= 0
    assert logged == {
        "level": "info",
        "logger": "chatport.access",
        "message": "request",
        "request_id": response.headers["X-Request-Id"],
        "method": "POST",
        "route": "/openai-completion",
        "status": 400,
        "bytes_in": 13,
        "caller": "anonymous",
        "code": "invalid_field",
    }


def test_the_access_log_holds_no_user_id_of_a_path(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "chatport.access")
    caplog.handler.setFormatter(JSONFormatter())
    client_of().get("/conversations/zoe").close()
    assert json.loads(caplog.text)["route"] == "/conversations/<user_id>"
    assert "zoe" not in caplog.text


def test_a_line_of_the_log_stays_one_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.handler.setFormatter(JSONFormatter())
    logging.getLogger("chatport").error("an id of %s", 'a\n{"level": "info"}\u2028')
    assert len(caplog.text.splitlines()) == 1


def test_a_line_of_the_log_names_an_exception_without_its_text() -> None:
    error = ValueError(PROMPT)
    facts = (ValueError, error, None)
    record = logging.LogRecord("chatport", logging.ERROR, "", 0, "defect", None, facts)
    line = JSONFormatter().format(record)
    assert json.loads(line)["exception"] == "ValueError"
    assert PROMPT not in line


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("where", ["call", "mid-stream", "begin", "finish"])
@pytest.mark.parametrize(
    "kind", [RuntimeError, OSError, KeyError, errors.UpstreamRejected, errors.StorageFull]
)
def test_no_key_prompt_or_answer_is_in_a_log_or_an_error(
    kind: type[Exception], where: str, caplog: pytest.LogCaptureFixture, *, stream: bool
) -> None:
    caplog.set_level(logging.DEBUG)
    error = kind() if issubclass(kind, ChatportError) else kind(KEY, PROMPT, ANSWER)
    scripts = {
        "call": Script(raises=error),
        "mid-stream": Script(chunks=(ANSWER,), raises=error),
    }
    stores = {"begin": FailingStore(begin=error), "finish": FailingStore(finish=error)}
    gateway = ScriptedGateway(scripts.get(where, ANSWER))
    response = ask(client_of(gateway, stores.get(where)), stream=stream)
    told = [event for event in response.text.split("\n\n") if "event: delta" not in event]
    response.close()
    assert '"code": "' in "".join(told)
    logged = [repr(vars(record)) for record in caplog.records]
    assert "canary" not in "".join([*told, *logged, str(response.headers), caplog.text])


@pytest.mark.parametrize(
    "body",
    [
        b'{"prompt": "canary',
        b'{"prompt": "canary", "canary": 1}',
        b'{"prompt": ["canary"]}',
        b'{"prompt": "canary", "user_id": "canary!"}',
        b'{"prompt": "canary\\ud800"}',
        b'"canary"',
        b'{"prompt": "' + b"canary" * 20_000 + b'"}',
        b"canary" * 200_000,
    ],
)
def test_nothing_of_a_refused_request_is_in_a_log_or_an_error(
    body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    headers = {"Authorization": "Bearer canary", "Cookie": "canary=1", "X-Request-Id": "canary"}
    response = client_of().post(
        f"{PATH}?canary=1", data=body, content_type="application/json", headers=headers
    )
    response.close()
    assert response.status_code in {400, 413}
    logged = " ".join(repr(vars(record)) for record in caplog.records)
    assert "canary" not in response.text + str(response.headers) + logged
