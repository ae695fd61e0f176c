"""A provider without a network: deterministic answers for trying chatport out."""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from chatport.domain.model import Completion, CompletionRequest, Delta, Message, Usage
from chatport.domain.models import ModelCard
from chatport.domain.ports import LLMGateway

from .openai_format import streamed_answer, whole_answer

MODEL = "offline"
WORD = re.compile(r"\s*\S+|\s+$")


class OfflineGateway(LLMGateway):
    """Repeats the prompt and says what it remembers; counts a word as a token."""

    def complete(self, request: CompletionRequest) -> Completion:
        """Answer at once."""
        messages = _messages(request)
        text = _answer(messages)
        usage = _usage(messages, text)
        body = None
        if request.body is not None:
            body = whole_answer(text, model=MODEL, finish_reason="stop", usage=usage)
        return Completion(text=text, finish_reason="stop", usage=usage, body=body)

    @contextmanager
    def stream(self, request: CompletionRequest) -> Iterator[Iterator[Delta]]:
        """Answer word by word."""
        messages = _messages(request)
        text = _answer(messages)
        usage = _usage(messages, text)
        yield streamed_answer(
            WORD.findall(text),
            model=MODEL,
            finish_reason="stop",
            usage=usage,
            relayed=request.body is not None,
        )

    def models(self) -> Sequence[ModelCard]:
        """Return the one model that there is."""
        facts = {"id": MODEL, "object": "model", "created": 0, "owned_by": "chatport"}
        return [ModelCard(id=MODEL, facts=facts)]


def _messages(request: CompletionRequest) -> Sequence[Message]:
    if request.body is None:
        return request.messages
    messages = json.loads(request.body)["messages"]
    return [Message(message["role"], _text(message.get("content"))) for message in messages]


def _text(content: Any) -> str:
    """Return the text of a message that may be in parts."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    return " ".join(text for text in texts if isinstance(text, str))


def _answer(messages: Sequence[Message]) -> str:
    said = [message.text for message in messages if message.role == "user"]
    answer = f"You said: {said[-1] if said else ''}"
    if len(said) > 1:
        answer += f"\nBefore that you said: {said[-2]}\nEarlier turns: {len(said) - 1}"
    return answer


def _usage(messages: Sequence[Message], text: str) -> Usage:
    prompt_tokens = sum(len(message.text.split()) for message in messages)
    return Usage(prompt_tokens=prompt_tokens, completion_tokens=len(text.split()))
