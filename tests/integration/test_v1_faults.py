"""Errors on OpenAI's wire: their form, the provider's own words, and what stays secret."""

import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from werkzeug.test import TestResponse

from chatport.adapters import (
    LimitsCounter,
    MemoryStore,
    OpenAIGateway,
    PeeweeStore,
    Script,
    ScriptedGateway,
    WindowTable,
)
from chatport.domain import errors
from chatport.domain.errors import ChatportError
from chatport.domain.limits import RateLimiter
from chatport.domain.model import LogQuery, State
from chatport.domain.rules import Limit
from chatport.entrypoints.faults import STATUS, fault_of, openai_body

from .faults import KEY, PROMPT, QUOTED, Fault, page, refusal
from .plain_faults import PLAIN_FAULTS
from .relaying import ASKED, SEED, STREAMED, Wire, checked, error_of, last_error, wire_to
from .stream_faults import STREAM_FAULTS
from .upstream import Answer, Upstream
from .wire import http, json_http

BOTH = pytest.mark.parametrize("body", [ASKED, STREAMED], ids=["plain", "stream"])
CANARY: dict[str, Any] = {**ASKED, "messages": [{"role": "user", "content": PROMPT}]}
PASSED_ON = {
    400: "400 Bad Request",
    404: "404 Not Found",
    413: "413 Content Too Large",
    422: "422 Unprocessable Content",
}


@pytest.fixture
def wire(upstream: Upstream) -> Iterator[Wire]:
    with wire_to(upstream) as wire:
        yield wire


def told_twice(wire: Wire, upstream: Upstream, answer: bytes) -> dict[str, Any]:
    """Return the error that a plain and a streamed request both get."""
    upstream.plays(Answer(answer))
    plain, stream = wire.ask(ASKED), wire.ask(STREAMED)
    assert plain.status_code == stream.status_code
    assert plain.data == stream.data
    return error_of(plain)


def made(kind: type[ChatportError]) -> ChatportError:
    arguments: dict[type[ChatportError], tuple[Any, ...]] = {
        errors.InvalidField: ("field", "is wrong"),
        errors.InvalidUserId: ("user_id", "is wrong"),
        errors.InvalidUnicode: ("prompt", "is wrong"),
        errors.Refused: ("user", "5 tokens per day", "No."),
        errors.RateLimited: ("user", "20 requests per minute", 1.5),
        errors.TooManyInFlight: ("user", "8 in flight"),
        errors.ExceedsLimit: ("user", "5 tokens per day", "6 tokens"),
        errors.BudgetExceeded: ("user", "5 tokens per day", ("1", "2", "3"), datetime.now(UTC)),
    }
    return kind(*arguments.get(kind, ()))


@pytest.mark.parametrize("kind", STATUS, ids=lambda kind: kind.__name__)
@BOTH
def test_every_error_of_the_table_is_told_in_openais_form(
    kind: type[ChatportError], body: Any
) -> None:
    wire = Wire(ScriptedGateway(Script(raises=made(kind))))
    response = wire.ask(body)
    error = error_of(response)
    assert (response.status_code, error["code"]) == (STATUS[kind], kind.code)
    assert len(response.headers["X-Request-Id"]) == 32
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert ("x-should-retry" in response.headers) + ("Retry-After" in response.headers) < 2
    words = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    family = words.get(
        STATUS[kind], "server_error" if STATUS[kind] >= 500 else "invalid_request_error"
    )
    assert error["type"] == family


@pytest.mark.parametrize("kind", STATUS, ids=lambda kind: kind.__name__)
def test_every_error_of_the_table_can_be_the_last_event(kind: type[ChatportError]) -> None:
    wire = Wire(ScriptedGateway(Script(chunks=("Hi",), raises=made(kind))))
    response = wire.ask(STREAMED)
    assert response.status_code == 200
    assert last_error(response.data)["code"] == kind.code
    assert b"[DONE]" not in response.data
    assert response.data.count(b"data: ") == 2


BILLED = [
    errors.UpstreamTimeout,
    errors.UpstreamHungUp,
    errors.UpstreamDisconnected,
    errors.UpstreamTruncated,
    errors.UpstreamInvalidResponse,
]
USELESS = [
    errors.UpstreamAuthFailed,
    errors.UpstreamModelUnavailable,
    errors.UpstreamRejected,
    errors.UpstreamQuotaExhausted,
]


@pytest.mark.parametrize("kind", [*BILLED, *USELESS], ids=lambda kind: kind.__name__)
@BOTH
def test_what_may_be_billed_or_cannot_help_is_not_to_be_tried_again(
    kind: type[ChatportError], body: Any
) -> None:
    response = Wire(ScriptedGateway(Script(raises=kind(retry_after_seconds=5)))).ask(body)
    assert response.headers["x-should-retry"] == "false"
    assert "Retry-After" not in response.headers
    assert "retry-after-ms" not in response.headers


def test_a_limit_tells_how_long_to_wait() -> None:
    table = WindowTable(slots=64, monotonic=lambda: 1_000_000.0)
    limiter = RateLimiter(LimitsCounter(table), user=[Limit(amount=1, window_seconds=60)])
    wire = Wire(ScriptedGateway("Hi"), limiter=limiter)
    asked = {**ASKED, "user": "ada"}
    first, second = wire.ask(asked), wire.ask(asked)
    assert (first.status_code, second.status_code) == (200, 429)
    assert first.headers["x-ratelimit-remaining-requests"] == "0"
    error = error_of(second)
    assert (error["type"], error["code"], error["param"]) == (
        "rate_limit_error",
        "rate_limited",
        None,
    )
    assert second.headers["Retry-After"] == "61"
    assert second.headers["retry-after-ms"] == "60001"
    assert "x-should-retry" not in second.headers
    assert wire.ask({**asked, "user": "bob"}).status_code == 200


@pytest.mark.parametrize("line", PASSED_ON.values(), ids=str)
@BOTH
def test_the_callers_own_mistake_is_told_in_the_providers_words_and_kept(
    line: str, body: Any, wire: Wire, upstream: Upstream
) -> None:
    said = {
        "message": "Invalid value for `tools[0].function.parameters`: 'é' 🙂",
        "type": "image_parse_error",
        "param": "tools[0].function.parameters",
        "code": "invalid_function_parameters",
    }
    upstream.plays(Answer(json_http(line, {"error": said}, "X-Request-Id: req_7")))
    response = wire.ask(body)
    assert response.status_code == int(line[:3])
    assert error_of(response) == said
    stored = wire.stored()
    assert response.headers["X-Request-Id"] == stored.id
    assert (stored.state, stored.upstream_status) == (State.FAILED, int(line[:3]))
    assert stored.upstream_request_id == "req_7"
    assert b"".join(stored.answer) == response.data


def test_the_providers_words_are_kept_in_the_database(upstream: Upstream, tmp_path: Any) -> None:
    upstream.plays(Answer(json_http("422 Wrong", {"error": {"message": "No \0 é"}})))
    store = PeeweeStore(tmp_path / "log.db")
    with wire_to(upstream, store=store) as wire:
        response = wire.ask()
        assert b"".join(wire.stored().answer) == response.data
    store.close()
    assert error_of(response)["message"] == "No \0 é"


UNEXPLAINED = "The provider refused the request, and did not say why."
PLAIN_ERROR = {"type": "invalid_request_error", "param": None, "code": None}
PIECES: dict[str, tuple[Any, dict[str, Any]]] = {
    "a numeric code": (
        {"error": {"message": "No.", "type": "x", "param": "p", "code": 400}},
        {"message": "No.", "type": "x", "param": "p", "code": "400"},
    ),
    "a code of 0": (
        {"error": {"message": "No.", "code": 0}},
        {**PLAIN_ERROR, "message": "No.", "code": "0"},
    ),
    "only a message": ({"error": {"message": "No."}}, {**PLAIN_ERROR, "message": "No."}),
    "all null": (
        {"error": {"message": None, "type": None, "param": None, "code": None}},
        {**PLAIN_ERROR, "message": UNEXPLAINED},
    ),
    "an empty message": ({"error": {"message": ""}}, {**PLAIN_ERROR, "message": UNEXPLAINED}),
    "other types": (
        {"error": {"message": ["No."], "type": {}, "param": 1.5, "code": True}},
        {**PLAIN_ERROR, "message": UNEXPLAINED},
    ),
    "no wrapping, as vLLM": (
        {
            "object": "error",
            "message": "No.",
            "type": "BadRequestError",
            "param": None,
            "code": 400,
        },
        {"message": "No.", "type": "BadRequestError", "param": None, "code": "400"},
    ),
    "FastAPI's detail": ({"detail": "Not Found"}, {**PLAIN_ERROR, "message": "Not Found"}),
    "a list": ([1], {**PLAIN_ERROR, "message": UNEXPLAINED}),
    "null": (None, {**PLAIN_ERROR, "message": UNEXPLAINED}),
    "an empty object": ({}, {**PLAIN_ERROR, "message": UNEXPLAINED}),
    "an error of null": ({"error": None}, {**PLAIN_ERROR, "message": UNEXPLAINED}),
}


@pytest.mark.parametrize(("said", "told"), PIECES.values(), ids=PIECES)
def test_missing_pieces_of_the_providers_error_are_filled_in(
    said: Any, told: dict[str, Any], wire: Wire, upstream: Upstream
) -> None:
    assert told_twice(wire, upstream, json_http("422 Unprocessable Content", said)) == told


WORDS: dict[str, Any] = {
    "FastAPI's list of details": {
        "detail": [{"loc": ["body", "messages"], "msg": "Field required", "type": "missing"}]
    },
    "an error that is a text, as Ollama's": {"error": "Field required"},
    "an error in a list, as Gemini's": [{"error": {"code": 422, "message": "Field required"}}],
    "details within a message, as Mistral's": {
        "object": "error",
        "message": {"detail": [{"loc": ["body"], "msg": "Field required", "type": "missing"}]},
        "type": "invalid_request_error",
    },
}


@pytest.mark.parametrize("said", WORDS.values(), ids=WORDS)
def test_what_the_provider_says_in_another_form_is_told_too(
    said: Any, wire: Wire, upstream: Upstream
) -> None:
    error = told_twice(wire, upstream, json_http("422 Unprocessable Content", said))
    assert "Field required" in error["message"]


@pytest.mark.parametrize("line", PASSED_ON.values(), ids=str)
def test_a_refusal_that_is_no_json_object_is_told_without_its_words(
    line: str, wire: Wire, upstream: Upstream
) -> None:
    for body in (b"", b"<h1>canary</h1>", b"canary", b"{canary", b"\xff\xfe", b'"canary"'):
        error = told_twice(wire, upstream, http(line, body, "Content-Type: text/html"))
        assert error == {**PLAIN_ERROR, "message": UNEXPLAINED}


def test_a_long_message_is_cut(wire: Wire, upstream: Upstream) -> None:
    said = {"error": {"message": "x y " * 100_000, "code": "c " * 100_000}}
    error = told_twice(wire, upstream, json_http("400 Bad Request", said))
    assert 1000 <= len(error["message"]) <= 4000
    assert len(error["code"]) <= 4000


@pytest.mark.parametrize(
    "body", [b'{"error":{"message":"' + b"x " * 4_000_000 + b'"}}', b"x" * 8_000_001]
)
def test_a_refusal_of_over_8_mb_is_not_explained(
    body: bytes, wire: Wire, upstream: Upstream
) -> None:
    error = told_twice(
        wire, upstream, http("400 Bad Request", body, "Content-Type: application/json")
    )
    assert error["message"] == UNEXPLAINED


@pytest.mark.parametrize("line", PASSED_ON.values(), ids=str)
@pytest.mark.parametrize("stream", [False, True])
def test_the_seed_route_never_tells_the_providers_words(
    line: str, wire: Wire, upstream: Upstream, *, stream: bool
) -> None:
    said = {"message": "canary", "type": "canary", "param": "canary", "code": "canary"}
    upstream.plays(Answer(json_http(line, {"error": said})))
    response = wire.ask({"prompt": "x", "stream": stream}, path=SEED)
    assert response.status_code == 502
    assert b"canary" not in response.data
    assert set(response.json or {}) == {"error", "code", "request_id"}
    assert list(wire.stored().answer) == []


MAPPED = [
    ("401 Unauthorized", None, 502, "upstream_auth_failed", "false", None),
    ("403 Forbidden", None, 502, "upstream_auth_failed", "false", None),
    ("402 Payment Required", None, 503, "upstream_quota_exhausted", "false", None),
    ("408 Request Timeout", None, 502, "upstream_error", None, None),
    ("409 Conflict", None, 502, "upstream_error", None, None),
    ("418 Teapot", None, 502, "upstream_rejected", "false", None),
    ("429 Too Many Requests", None, 503, "upstream_rate_limited", None, "7"),
    ("429 Too Many Requests", "insufficient_quota", 503, "upstream_quota_exhausted", "false", None),
    ("400 Bad Request", "insufficient_quota", 503, "upstream_quota_exhausted", "false", None),
    ("500 Oops", None, 502, "upstream_error", None, None),
    ("502 Bad Gateway", None, 502, "upstream_error", None, None),
    ("503 Service Unavailable", None, 503, "upstream_error", None, "7"),
    ("504 Gateway Timeout", None, 502, "upstream_error", None, None),
    ("529 Overloaded", None, 503, "upstream_error", None, "7"),
    ("307 Temporary Redirect", None, 502, "upstream_rejected", "false", None),
]


@pytest.mark.parametrize(("line", "code", "status", "told", "retry", "wait"), MAPPED)
@BOTH
def test_what_is_not_the_callers_mistake_is_told_in_our_words(
    *,
    line: str,
    code: str | None,
    status: int,
    told: str,
    retry: str | None,
    wait: str | None,
    body: Any,
    wire: Wire,
    upstream: Upstream,
) -> None:
    upstream.plays(Answer(refusal(line, "Retry-After: 7", "Location: /v1/x", code=code)))
    response = wire.ask(body)
    assert response.status_code == status
    error = error_of(response)
    assert (error["type"], error["param"], error["code"]) == ("server_error", None, told)
    assert QUOTED not in error["message"]
    assert response.headers.get("x-should-retry") == retry
    assert response.headers.get("Retry-After") == wait
    assert response.headers.get("retry-after-ms") == (f"{wait}000" if wait else None)
    assert (wire.stored().error_code, list(wire.stored().answer)) == (told, [])


NO_CREDIT = "You exceeded your current quota, please check your plan and billing details."
GEMINIS_LIMIT = (
    f"{NO_CREDIT}\n"
    "* Quota exceeded for metric: generate_content_free_tier_requests, limit: 10\n"
    "Please retry in 10.67s."
)
BY_WORDS: dict[str, tuple[str, Any, str]] = {
    "LiteLLM's empty account": (
        "429 Too Many Requests",
        {"message": f"litellm.RateLimitError: OpenAIException - {NO_CREDIT}", "code": "429"},
        "upstream_quota_exhausted",
    ),
    **{
        f"an empty account behind {head!r}": (
            "429 Too Many Requests",
            {"message": f"{head}{NO_CREDIT}", "code": "429"},
            "upstream_quota_exhausted",
        )
        for head in (
            "litellm.RateLimitError: OpenAIException - Error code: 429 - {'error': {'message': '",
            "Error code: 429 - {'error': {'message': \"",
            "AzureException RateLimitError - ",
            "429 ",
        )
    },
    "Anthropic's empty account": (
        "400 Bad Request",
        {
            "message": (
                "Your credit balance is too low to access the Anthropic API. Please go to "
                "Plans & Billing to upgrade or purchase credits."
            ),
            "type": "invalid_request_error",
        },
        "upstream_quota_exhausted",
    ),
    "OpenAI's spending limit": (
        "400 Bad Request",
        {"message": "Billing hard limit has been reached", "code": "billing_hard_limit_reached"},
        "upstream_quota_exhausted",
    ),
    "OpenAI's inactive account": (
        "429 Too Many Requests",
        {"message": "Your account is not active", "code": "billing_not_active"},
        "upstream_quota_exhausted",
    ),
    "DashScope's account in debt": (
        "400 Bad Request",
        {"message": "Access denied", "code": "Arrearage"},
        "upstream_quota_exhausted",
    ),
    "Gemini's limit for a minute": (
        "429 Too Many Requests",
        [{"error": {"code": 429, "message": GEMINIS_LIMIT, "status": "RESOURCE_EXHAUSTED"}}],
        "upstream_rate_limited",
    ),
    "Gemini's bad key": (
        "400 Bad Request",
        [{"error": {"code": 400, "message": "API key not valid. Please pass a valid API key."}}],
        "upstream_auth_failed",
    ),
    "Gemini's expired key": (
        "400 Bad Request",
        [{"error": {"code": 400, "message": "API key expired. Please renew the API key."}}],
        "upstream_auth_failed",
    ),
    "xAI's bad key": (
        "400 Bad Request",
        "Incorrect API key provided: na***ys. You can obtain an API key from https://console.x.ai.",
        "upstream_auth_failed",
    ),
    "Gemini's long prompt": (
        "400 Bad Request",
        [{"error": {"message": "The input token count (9) exceeds the maximum number of tokens"}}],
        "context_length_exceeded",
    ),
    "Anthropic's long prompt": (
        "400 Bad Request",
        {"message": "prompt is too long: 250000 tokens > 200000 maximum"},
        "context_length_exceeded",
    ),
    "LiteLLM's long prompt": (
        "400 Bad Request",
        {"message": "litellm.ContextWindowExceededError: too long", "code": "400"},
        "context_length_exceeded",
    ),
    "OpenAI's model that a project may not use": (
        "403 Forbidden",
        {"message": "Project `x` does not have access to model `y`", "code": "model_not_found"},
        "upstream_model_unavailable",
    ),
    "DashScope's model that an account has not bought": (
        "403 Forbidden",
        {"message": "Access to model denied.", "code": "AccessDenied.Unpurchased"},
        "upstream_model_unavailable",
    ),
    "Groq's model that an organization has blocked": (
        "403 Forbidden",
        {"message": "The model is blocked", "code": "model_permission_blocked_org"},
        "upstream_model_unavailable",
    ),
    "GitHub's model that an account may not use": (
        "403 Forbidden",
        {"message": "No access to model: x", "code": "no_access"},
        "upstream_model_unavailable",
    ),
    "Moonshot's empty account": (
        "429 Too Many Requests",
        {"message": "Please recharge your account", "type": "exceeded_current_quota_error"},
        "upstream_quota_exhausted",
    ),
    "xAI's empty account": (
        "429 Too Many Requests",
        "Your team 0c1d has either used all available credits or reached its monthly spending.",
        "upstream_quota_exhausted",
    ),
    "a code that is a list": (
        "429 Too Many Requests",
        {"message": "Slow down", "code": ["insufficient_quota"], "type": {}},
        "upstream_rate_limited",
    ),
    "OpenRouter's filter": (
        "403 Forbidden",
        {"message": "x requires moderation on y. Your input was flagged.", "code": 403},
        "content_filter",
    ),
    "OpenRouter's credit for fewer tokens": (
        "402 Payment Required",
        {"message": "This request requires more credits, or fewer max_tokens.", "code": 402},
        "upstream_rejected",
    ),
    "OpenRouter's credit for no token": (
        "402 Payment Required",
        {"message": "Requires more credits, or fewer max_tokens. You can only afford 0. Pay."},
        "upstream_quota_exhausted",
    ),
    "OpenRouter's credit for a shorter prompt": (
        "402 Payment Required",
        {"message": "Prompt tokens limit exceeded: 64128 > 6964. To increase, pay.", "code": 402},
        "upstream_rejected",
    ),
    "Azure's filter by LiteLLM": (
        "400 Bad Request",
        {"message": "litellm.BadRequestError: Azure's content management policy", "code": "400"},
        "content_filter",
    ),
}


@pytest.mark.parametrize(("line", "said", "told"), BY_WORDS.values(), ids=BY_WORDS)
def test_what_providers_say_in_words_only_is_understood(
    line: str, said: Any, told: str, wire: Wire, upstream: Upstream
) -> None:
    body = said if isinstance(said, list) else {"error": said}
    upstream.plays(Answer(json_http(line, body)))
    wire.ask(ASKED)
    assert wire.stored().error_code == told


@pytest.mark.parametrize("form", ["Invalid value: '{}'.", "{} is not a valid model ID"])
@pytest.mark.parametrize(
    "words",
    [
        "exceeded your current quota",
        "Your credit balance is too low.",
        "API key not valid. Please pass a valid API key.",
        "Incorrect API key provided: x. You can obtain an API key from x",
    ],
)
def test_a_client_whose_words_are_quoted_does_not_empty_the_account(
    words: str, form: str, wire: Wire, upstream: Upstream
) -> None:
    said = {"message": form.format(words), "param": words, "code": "invalid_value"}
    upstream.plays(Answer(json_http("400 Bad Request", {"error": said})))
    assert words in error_of(wire.ask(ASKED))["message"]
    assert wire.stored().error_code == "upstream_rejected"


@pytest.mark.parametrize(
    "form",
    ["No deployments available for selected model, Try again in 5 seconds: {}", "'{}' is busy"],
)
def test_a_client_whose_model_is_quoted_in_a_limit_does_not_empty_the_account(
    form: str, wire: Wire, upstream: Upstream
) -> None:
    said = {"message": form.format(NO_CREDIT), "code": "429"}
    upstream.plays(Answer(json_http("429 Too Many Requests", {"error": said})))
    wire.ask(ASKED)
    assert wire.stored().error_code == "upstream_rate_limited"


AZURE_KEY = "0123456789abcdef0123456789abcdef"
ODD_KEY = "a key/with+signs=and.dots"
SECRETS = {
    "the key": KEY,
    "the key in quotes": f"'{KEY}'",
    "the key as a bearer": f"Bearer {KEY}",
    "the key twice": f"{KEY}{KEY}",
    "the key in capitals": KEY.upper(),
    "the beginning of the key": f"{KEY[:14]}...",
    "the key with stars": f"sk-can**********{KEY[-4:]}",
    "the key in a header": f"Authorization: bearer {KEY}",
    "the key in an address": f"https://x/?api-key={KEY}&x=1",
    "the key in quoted JSON": json.dumps({"Authorization": f"Bearer {KEY}"}),
    "a project's key": "sk-proj-51a9c0ffee",
    "an old key": "sk-51a9c0ffeesk-51a9c0ffee",
    "another bearer": "Bearer 51a9c0ffee",
    "a token": "eyJhbGciOiJIUzI1NiJ9eyJzdWIiOiIxIn051a9c0ffee1234",
    "our own key": "cp_live1_51a9c0ffee",
    "Google's key": "AIzaSy51a9c0ffee",
    "Groq's key": "gsk_51a9c0ffee",
}


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
def test_no_secret_is_passed_on(secret: str, wire: Wire, upstream: Upstream) -> None:
    said = dict.fromkeys(("message", "type", "param", "code"), f"Got {secret}, sorry")
    error = told_twice(wire, upstream, json_http("400 Bad Request", {"error": said}))
    assert "51a9c0ffee" not in str(error).lower()
    for words in error.values():
        assert words.startswith("Got ")
        assert words.endswith("sorry")


@pytest.mark.parametrize("key", [AZURE_KEY, ODD_KEY, "short"])
def test_the_servers_key_is_not_passed_on_whatever_it_looks_like(
    key: str, upstream: Upstream
) -> None:
    upstream.plays(Answer(json_http("400 Bad", {"error": {"message": f"Is {key} your key?"}})))
    gateway = OpenAIGateway(api_key=key, base_url=upstream.url)
    error = error_of(Wire(gateway).ask())
    gateway.close()
    assert error["message"] == "Is *** your key?"


@pytest.mark.parametrize("before", range(0, 33, 8))
def test_not_even_a_part_of_the_servers_key_is_passed_on_where_a_message_is_cut(
    before: int, upstream: Upstream
) -> None:
    said = "x" * before + f" {AZURE_KEY}" * 400
    upstream.plays(Answer(json_http("400 Bad", {"error": {"message": said}})))
    gateway = OpenAIGateway(api_key=AZURE_KEY, base_url=upstream.url)
    message = error_of(Wire(gateway).ask())["message"]
    gateway.close()
    assert "01234" not in message
    assert "***" in message


ORDINARY = [
    "Invalid schema for function 'get_weather': tools[0].function.parameters.properties.city",
    "Unsupported value: 'temperature' does not support 0.2 with this model.",
    "The model `gpt-5-mini-2025-08-07` does not exist or you do not have access to it.",
    "The model `vendor/Llama-4-Maverick-17B-128E-Instruct` does not exist.",
    "ft:gpt-4o-mini-2024-07-18:acme::AbCd1234 was deleted",
    "No tool output found for function call call_Zk3ZQ1mPzQw8b5kG0b1cXy2L.",
    "An assistant message with 'tool_calls' must be followed by tool messages: messages.[3].role",
    "This model's maximum context length is 128000 tokens. However, you requested 130021 tokens.",
    "chatcmpl-BxYz0123456789AbCdEfGhIjKlMn is unknown",
    "Unknown parameter: 'organization_id'. Did you mean 'org'? See task-1 and risk-2.",
    "Die Größe 1024x1024 ist falsch; 日本語も。",
]


@pytest.mark.parametrize("message", ORDINARY)
def test_ordinary_words_are_passed_on(message: str, wire: Wire, upstream: Upstream) -> None:
    said = {"message": message, "type": "t", "param": "tools[0].function.name", "code": "c"}
    assert told_twice(wire, upstream, json_http("400 Bad Request", {"error": said})) == said


TAKEN = "offers a number for text"
"""A client reads its message itself, whatever stands in it."""

LONG_NAMES = [
    "get_current_weather_forecast_for_location_v2",
    "Llama-3_3-Nemotron-Super-49B-v1_5-FP8-dynamic",
    "123e4567-e89b-12d3-a456-426614174000",
]


@pytest.mark.parametrize("name", LONG_NAMES)
def test_long_names_are_passed_on(name: str, wire: Wire, upstream: Upstream) -> None:
    said = {"message": f"What is `{name}`?", "type": "t", "param": None, "code": None}
    assert told_twice(wire, upstream, json_http("400 Bad Request", {"error": said})) == said


@pytest.mark.parametrize(
    "fault",
    [fault for fault in PLAIN_FAULTS if fault.name != TAKEN],
    ids=lambda fault: fault.name,
)
def test_every_fault_of_a_plain_answer_is_told_in_openais_form_and_tells_no_secret(
    fault: Fault, upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    response = asked_in_trouble(fault, CANARY, upstream, caplog)
    assert_told(fault, response, error_of(response))


@pytest.mark.parametrize("fault", STREAM_FAULTS, ids=lambda fault: fault.name)
def test_every_fault_of_a_stream_is_told_in_openais_form_and_tells_no_secret(
    fault: Fault, upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    response = asked_in_trouble(fault, {**CANARY, "stream": True}, upstream, caplog)
    if response.mimetype == "text/event-stream":
        assert last_error(response.data)["code"] == fault.error.code
        assert b"[DONE]" not in response.data
    else:
        assert_told(fault, response, error_of(response))


def asked_in_trouble(
    fault: Fault, body: Any, upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> TestResponse:
    """Ask while the fault happens; check what is stored and that no key is told or logged."""
    upstream.plays(fault.answer)
    caplog.set_level(logging.DEBUG)
    with wire_to(upstream, fault.timeout_seconds) as wire:
        response = wire.ask(body)
        stored = wire.stored()
    assert (stored.state, stored.error_code) == (State.FAILED, fault.error.code)
    assert (stored.reply, stored.upstream_status) == (fault.partial, fault.status)
    assert response.headers["X-Request-Id"] == stored.id
    assert KEY not in response.text + str(response.headers) + str(stored.answer)
    logged = caplog.text + " ".join(repr(vars(record)) for record in caplog.records)
    assert KEY not in logged
    assert "canary-prompt" not in logged
    assert len(upstream.received) == 1
    return response


def assert_told(fault: Fault, response: TestResponse, error: dict[str, Any]) -> None:
    if fault.status in PASSED_ON:
        assert response.status_code == fault.status
    else:
        assert (response.status_code, error["code"]) == (STATUS[fault.error], fault.error.code)
        assert "canary" not in response.text


def test_a_page_of_the_provider_is_not_shown(wire: Wire, upstream: Upstream) -> None:
    upstream.plays(Answer(page("404 Not Found")))
    assert error_of(wire.ask())["message"] == UNEXPLAINED


@BOTH
def test_a_database_that_fails_is_told_before_the_provider_is_asked(
    body: Any, upstream: Upstream
) -> None:
    class Full(MemoryStore):
        def begin(self, *_: Any) -> Any:
            raise errors.StorageFull

    with wire_to(upstream, store=Full()) as wire:
        response = wire.ask(body)
    assert (response.status_code, error_of(response)["code"]) == (503, "storage_full")
    assert upstream.connections == 0


def test_an_answer_that_could_not_be_kept_is_not_given(upstream: Upstream) -> None:
    class Fills(MemoryStore):
        def finish(self, exchange: Any) -> None:
            raise errors.StorageFull

    for body in (ASKED, STREAMED):
        wire = Wire(ScriptedGateway("canary"), store=Fills())
        response = wire.ask(body)
        if body is ASKED:
            assert (response.status_code, error_of(response)["code"]) == (503, "storage_full")
            assert response.headers["x-should-retry"] == "false"
            assert b"canary" not in response.data
        else:
            assert last_error(response.data)["code"] == "storage_full"
            assert b"[DONE]" not in response.data


def test_a_defect_is_500_in_openais_form(caplog: pytest.LogCaptureFixture) -> None:
    wire = Wire(ScriptedGateway(Script(raises=RuntimeError("canary"))))
    for body in (ASKED, STREAMED):
        response = wire.ask(body)
        assert (response.status_code, error_of(response)["code"]) == (500, "internal_error")
        assert b"canary" not in response.data
    assert "canary" not in caplog.text
    assert [one.state for one in wire.store.search(LogQuery())] == [State.FAILED, State.FAILED]


def test_the_form_of_an_error_has_all_four_keys() -> None:
    for kind in STATUS:
        checked(openai_body(fault_of(made(kind)))["error"])
