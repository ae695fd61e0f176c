"""The official Python SDK against a live service: every failure is the class that it should be."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest
from openai import (
    APIStatusError,
    BadRequestError,
    InternalServerError,
    NotFoundError,
    OpenAI,
    RateLimitError,
    UnprocessableEntityError,
)

from .conftest import Service
from .sdk_provider import SdkProvider, running_provider
from .sdk_service import MODEL, ask, ended, running_service, url

both_ways = pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])


@pytest.fixture(scope="module")
def upstream() -> Iterator[SdkProvider]:
    with running_provider() as provider:
        yield provider


@pytest.fixture(scope="module")
def service(upstream: SdkProvider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("chatport")
    # A quarter of the whole time may pass in silence: 1.5 s.
    with running_service(
        upstream, folder, "--workers", "1", CHATPORT_TIMEOUT_SECONDS="6"
    ) as service:
        yield service


@pytest.fixture
def client(service: Service) -> Iterator[OpenAI]:
    with OpenAI(api_key="sk-unused", base_url=url(service), max_retries=0) as client:
        for _ in range(3):  # so that what fails in these tests is never most of what was asked
            raw_answer(client, "fine")
        yield client


@both_ways
@pytest.mark.parametrize(
    ("prompt", "kind", "status", "param", "code", "message"),
    [
        ("error 404", NotFoundError, 404, "model", "model_not_found", "No model `nope`."),
        ("error 413", APIStatusError, 413, None, "request_too_large", "That is too large."),
        (
            "error 422",
            UnprocessableEntityError,
            422,
            "messages",
            "senseless",
            "That makes no sense.",
        ),
    ],
)
def test_what_the_provider_says_of_the_callers_mistake_is_passed_on(
    client: OpenAI,
    service: Service,
    *,
    prompt: str,
    kind: type[APIStatusError],
    status: int,
    param: str | None,
    code: str,
    message: str,
    stream: bool,
) -> None:
    error = refused(client, prompt, kind, stream=stream)
    assert (error.status_code, error.param, error.code) == (status, param, code)
    assert body(error)["message"] == message
    assert error.type == "invalid_request_error"
    assert error.response.headers["content-type"] == "application/json"
    exchange = ended(service, error.request_id)
    assert (exchange.state, exchange.upstream_status) == ("failed", status)


@both_ways
def test_a_key_in_the_providers_words_is_masked(client: OpenAI, *, stream: bool) -> None:
    error = refused(client, "error 400", BadRequestError, stream=stream)
    assert (error.param, error.code) == ("temperature", "unsupported_value")
    message = body(error)["message"]
    assert message.startswith("Unsupported value for ")
    assert message.endswith(": 'temperature' is 9.")
    assert "Abcdefghijklmnop0123456789" not in error.response.text


def test_an_error_of_the_provider_gets_the_form_that_clients_expect(client: OpenAI) -> None:
    """Other gateways send numbers as codes, or a message and nothing else."""
    number = body(refused(client, "error 400 number", BadRequestError))
    assert number["code"] in {"400", None}
    assert number["message"] == "Wrong."
    bare = body(refused(client, "error 400 bare", BadRequestError))
    assert set(bare) >= {"message", "type", "param", "code"}
    assert isinstance(bare["type"], str)
    assert bare["message"] == "Only a message."
    too_long = refused(client, "error 400 length", BadRequestError)
    assert too_long.code == "context_length_exceeded"


@both_ways
@pytest.mark.parametrize(
    ("prompt", "status", "code", "advice"),
    [
        ("error 401", 502, "upstream_auth_failed", "never"),
        ("error 403", 502, "upstream_auth_failed", "never"),
        ("error 429", 503, "upstream_rate_limited", "7"),
        ("error 429 quota", 503, "upstream_quota_exhausted", "never"),
        ("error 500", 502, "upstream_error", None),
        ("error 502", 502, "upstream_error", None),
        ("error 503", 503, "upstream_error", "3"),
        ("answers a page", 502, "upstream_invalid_response", "never"),
        ("hangs up", 502, "upstream_unreachable", "never"),
        ("hangs", 504, "upstream_timeout", "never"),
    ],
)
def test_what_the_provider_does_wrong_is_a_server_error(
    client: OpenAI,
    service: Service,
    upstream: SdkProvider,
    *,
    prompt: str,
    status: int,
    code: str,
    advice: str | None,
    stream: bool,
) -> None:
    never = advice == "never"
    asking = client.with_options(max_retries=2 if never else 0)  # the SDK obeys x-should-retry
    error = refused(asking, f"{prompt} #{stream}", InternalServerError, stream=stream)
    twice = prompt in {"error 500", "error 502", "error 503"}
    assert len(upstream.calls(f"{prompt} #{stream}")) == 1 + twice
    assert (error.status_code, error.code, error.param) == (status, code, None)
    assert error.type == "server_error"
    assert "canary" not in error.response.text
    headers = error.response.headers
    assert headers.get("x-should-retry") == ("false" if never else None)
    assert headers.get("retry-after") == (None if never else advice)
    exchange = ended(service, error.request_id)
    assert (exchange.state, exchange.error_code) == ("failed", code)


def test_what_is_wrong_with_a_request_is_said_without_calling_the_provider(
    client: OpenAI, upstream: SdkProvider
) -> None:
    for extra in [{"api_key": "sk-mine"}, {"base_url": "http://127.0.0.1:9"}]:
        error = refused(client, "own 400", BadRequestError, extra_body=extra)
        assert isinstance(error.code, str)
        assert error.type == "invalid_request_error"
        assert error.request_id
        assert "sk-mine" not in error.response.text
    key = {"Idempotency-Key": "k" * 256}
    error = refused(client, "own 400", BadRequestError, extra_headers=key)
    assert isinstance(error.code, str)
    assert upstream.calls("own 400") == []


def test_a_route_that_is_not_there_is_not_found(client: OpenAI) -> None:
    with pytest.raises(NotFoundError) as caught:
        client.embeddings.create(model=MODEL, input="nothing")
    assert (caught.value.code, caught.value.param) == ("not_found", None)
    assert caught.value.type == "invalid_request_error"
    assert caught.value.request_id


def test_a_short_limit_is_waited_for_and_a_long_one_raises(
    upstream: SdkProvider, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("limited")
    with (
        running_service(upstream, folder, CHATPORT_USER_LIMIT="2/hour;1/second") as service,
        OpenAI(api_key="sk-unused", base_url=url(service), max_retries=2) as client,
        ThreadPoolExecutor() as pool,
    ):
        at_once = [pool.submit(raw_answer, client, f"limited #{n}", user="ada") for n in range(2)]
        assert sum(answer.result().retries_taken for answer in at_once) > 0
        # The SDK does not wait for longer than 2 minutes; it raises at once.
        error = refused(client, "limited #2", RateLimitError, user="ada")
        bob = raw_answer(client, "limited #3", user="bob")
    assert [len(upstream.calls(f"limited #{n}")) for n in range(4)] == [1, 1, 0, 1]
    assert (error.code, error.type, error.param) == ("rate_limited", "rate_limit_error", None)
    headers = error.response.headers
    assert error.request_id == headers["x-request-id"]
    assert 3590 <= int(headers["retry-after"]) <= 3601
    assert 3_590_000 <= int(headers["retry-after-ms"]) <= 3_601_000
    assert "x-should-retry" not in headers
    assert headers["x-ratelimit-limit-requests"] == "2"
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert re.fullmatch(r"1h0m0s|59m\d+s", headers["x-ratelimit-reset-requests"])
    assert bob.headers["x-ratelimit-remaining-requests"] == "0"


def raw_answer(client: OpenAI, prompt: str, **options: Any) -> Any:
    return client.chat.completions.with_raw_response.create(
        model=MODEL, messages=ask(prompt), **options
    )


def refused(
    client: OpenAI, prompt: str, kind: type[APIStatusError], **options: Any
) -> APIStatusError:
    """Ask what fails, and return the error, which is of just this class and has a request id."""
    with pytest.raises(APIStatusError) as caught:
        client.chat.completions.create(model=MODEL, messages=ask(prompt), **options)
    assert type(caught.value) is kind
    assert caught.value.request_id
    assert set(body(caught.value)) >= {"message", "type", "param", "code"}
    return caught.value


def body(error: APIStatusError) -> dict[str, Any]:
    """Return the inner object of the error, which the SDK has unwrapped."""
    return cast("dict[str, Any]", error.body)
