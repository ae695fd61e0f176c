"""What the provider of the SDK tests says: completions, chunks, models and faults, as JSON."""

import json
from typing import Any

MODELS = [
    {"id": "vendor/echo-1", "object": "model", "created": 1_790_000_000, "owned_by": "vendor"},
    {"id": "echo-2", "object": "model", "created": 1_790_000_001, "owned_by": "nobody"},
]

USAGE = {
    "prompt_tokens": 9,
    "completion_tokens": 4,
    "total_tokens": 13,
    "prompt_tokens_details": {"cached_tokens": 3},
    "completion_tokens_details": {"reasoning_tokens": 2},
}

LOGPROBS = {
    "content": [{"token": "echo", "logprob": -0.25, "bytes": [101], "top_logprobs": []}],
    "refusal": None,
}

MADE_UP = '"made_up": {"price": 2.50, "deep": [1e2, null, "\\u00e9"]}'
"""A field that nobody knows, in a notation that no encoder chooses: 2.50, 1e2, \\u00e9."""


def error_body(
    message: str, *, kind: str = "invalid_request_error", param: Any = None, code: Any = None
) -> dict[str, Any]:
    """Return an error as OpenAI words it."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


FAULTS: dict[str, tuple[int, dict[str, str], Any]] = {
    "error 400": (
        400,
        {},
        error_body(
            "Unsupported value for sk-proj-Abcdefghijklmnop0123456789: 'temperature' is 9.",
            param="temperature",
            code="unsupported_value",
        ),
    ),
    "error 400 number": (400, {}, error_body("Wrong.", code=400)),
    "error 400 bare": (400, {}, {"error": {"message": "Only a message."}}),
    "error 400 length": (400, {}, error_body("Too long.", code="context_length_exceeded")),
    "error 401": (401, {}, error_body("upstream-canary sk-canary-key", code="invalid_api_key")),
    "error 403": (403, {}, error_body("upstream-canary region", code="unsupported_country")),
    "error 404": (404, {}, error_body("No model `nope`.", param="model", code="model_not_found")),
    "error 413": (413, {}, error_body("That is too large.", code="request_too_large")),
    "error 422": (422, {}, error_body("That makes no sense.", param="messages", code="senseless")),
    "error 429": (
        429,
        {"Retry-After": "7"},
        error_body("upstream-canary slow down", kind="requests", code="rate_limit_exceeded"),
    ),
    "error 429 quota": (
        429,
        {},
        error_body("upstream-canary", kind="insufficient_quota", code="insufficient_quota"),
    ),
    "error 500": (500, {}, error_body("upstream-canary broke", kind="server_error")),
    "error 502": (502, {}, b"<html>upstream-canary: bad gateway</html>"),
    "error 503": (503, {"Retry-After": "3"}, error_body("upstream-canary", kind="server_error")),
    "answers a page": (200, {}, b"<html>upstream-canary: log in</html>"),
}
"""For each prompt the status, the headers and the body. `upstream-canary` is never passed on."""


def completion(body: dict[str, Any], prompt: str) -> bytes:
    """Return the answer to a request, as bytes with a field that nobody knows."""
    answer = {
        "id": "chatcmpl-sdk",
        "object": "chat.completion",
        "created": 1_790_000_000,
        "model": body["model"],
        "choices": [_choice(body, message=_message(body, prompt), reason=_reason(body))],
        "usage": USAGE,
    }
    return _with_made_up(answer)


def chunks(body: dict[str, Any], prompt: str) -> list[bytes]:
    """Return the data of the events of the answer; the third is the first that has text."""
    options = body.get("stream_options") or {}
    asked = options.get("include_usage") is True
    head = {
        "id": "chatcmpl-sdk",
        "object": "chat.completion.chunk",
        "created": 1_790_000_000,
        "model": body["model"],
    }
    # OpenAI sends `usage: null` on all other chunks; many providers do not.
    silence = {"usage": None} if asked and not prompt.startswith("terse") else {}
    deltas = _deltas(_message(body, prompt))
    said = [{**head, "choices": [_choice(body, delta=delta)], **silence} for delta in deltas]
    last = {**head, "choices": [_choice(body, delta={}, reason=_reason(body))], **silence}
    if asked and prompt.startswith("merged"):  # some providers send no chunk for usage alone
        said.append({**last, "usage": USAGE})
    elif asked:
        said += [last, {**head, "choices": [], "usage": USAGE}]
    else:
        said.append(last)
    if prompt.startswith("compact"):
        return [json.dumps(chunk, separators=(",", ":")).encode() for chunk in said]
    return [_with_made_up(chunk) for chunk in said]


def _with_made_up(answer: dict[str, Any]) -> bytes:
    return (json.dumps(answer)[:-1] + ", " + MADE_UP + "}").encode()


def _choice(
    body: dict[str, Any],
    *,
    reason: str | None = None,
    **said: dict[str, Any],
) -> dict[str, Any]:
    logprobs = LOGPROBS if body.get("logprobs") else None
    return {"index": 0, **said, "logprobs": logprobs, "finish_reason": reason}


def _reason(body: dict[str, Any]) -> str:
    return "tool_calls" if _calls_tools(body) else "stop"


def _calls_tools(body: dict[str, Any]) -> bool:
    return bool(body.get("tools")) and body["messages"][-1]["role"] == "user"


def _message(body: dict[str, Any], prompt: str) -> dict[str, Any]:
    """Return a message: calls of the tool, what the tool said, an object, or an echo."""
    if _calls_tools(body):
        return {"role": "assistant", "content": None, "tool_calls": _tool_calls(body)}
    last = body["messages"][-1]
    if last["role"] == "tool":
        return {"role": "assistant", "content": f"The tool said {last['content']}."}
    if (body.get("response_format") or {}).get("type") == "json_schema":
        return {"role": "assistant", "content": '{"name": "Ada", "born": 1815}'}
    return {
        "role": "assistant",
        "content": f"echo: {prompt}",
        "reasoning_content": "It wants an echo.",
    }


def _tool_calls(body: dict[str, Any]) -> list[dict[str, Any]]:
    name = body["tools"][0]["function"]["name"]
    arguments = ['{"city": "Paris"}', '{"city": "S\u00e3o Paulo"}']
    return [
        {"id": f"call_{n}", "type": "function", "function": {"name": name, "arguments": given}}
        for n, given in enumerate(arguments)
    ]


def _deltas(message: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the pieces of a message: the role, the thoughts, the text in two halves."""
    if "tool_calls" in message:
        return [{"role": "assistant", "content": None}, *_tool_deltas(message["tool_calls"])]
    text = message["content"]
    half = len(text) // 2
    return [
        {"role": "assistant", "content": ""},
        {"reasoning_content": message.get("reasoning_content", "")},
        {"content": text[:half]},
        {"content": text[half:]},
    ]


def _tool_deltas(calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return each call in three pieces: its name, and the halves of its arguments."""
    deltas = []
    for index, call in enumerate(calls):
        name, arguments = call["function"]["name"], call["function"]["arguments"]
        named = {**call, "index": index, "function": {"name": name, "arguments": ""}}
        halves = [
            {"index": index, "function": {"arguments": half}}
            for half in (arguments[:9], arguments[9:])
        ]
        deltas += [{"tool_calls": [piece]} for piece in (named, *halves)]
    return deltas
