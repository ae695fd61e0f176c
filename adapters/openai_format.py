"""Writing the answers of OpenAI's protocol, for gateways without a provider."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from chatport.domain.model import Delta, Usage

HEAD = {"id": "chatcmpl-offline", "created": 0}
"""The same in every answer, so that equal requests have equal answers."""


def whole_answer(text: str, *, model: str, finish_reason: str, usage: Usage | None) -> bytes:
    """Return a chat completion."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    answer = {**HEAD, "object": "chat.completion", "model": model, "choices": [choice]}
    return _encoded({**answer, "usage": _tokens(usage)} if usage else answer)


def streamed_answer(
    texts: Iterable[str],
    *,
    model: str,
    finish_reason: str | None,
    usage: Usage | None,
    relayed: bool,
) -> Iterator[Delta]:
    """Yield the pieces of an answer as they are taken, with their events if it is relayed."""
    role = {"role": "assistant"}
    for text in texts:
        events = (_chunk(model, {**role, "content": text}, None),) if relayed else ()
        yield Delta(text=text, events=events)
        role = {}
    if finish_reason is None:
        return
    events = (_chunk(model, {}, finish_reason),) if relayed else ()
    if relayed and usage is not None:
        chunk = {**HEAD, "object": "chat.completion.chunk", "model": model, "choices": []}
        events = (*events, _encoded({**chunk, "usage": _tokens(usage)}))
    yield Delta(finish_reason=finish_reason, usage=usage, events=events)


def _chunk(model: str, delta: dict[str, str], finish_reason: str | None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return _encoded(
        {**HEAD, "object": "chat.completion.chunk", "model": model, "choices": [choice]}
    )


def _tokens(usage: Usage) -> dict[str, int]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def _encoded(answer: dict[str, Any]) -> bytes:
    return json.dumps(answer, separators=(",", ":")).encode()
