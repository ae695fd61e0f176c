"""A provider without a network: deterministic answers for trying chatport out."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from chatport.domain.model import Completion, CompletionRequest, Delta, Usage
from chatport.domain.ports import LLMGateway


class OfflineGateway(LLMGateway):
    """Repeats the prompt and says what it remembers; counts a word as a token."""

    def complete(self, request: CompletionRequest) -> Completion:
        """Answer at once."""
        text = _answer(request)
        return Completion(text=text, finish_reason="stop", usage=_usage(request, text))

    @contextmanager
    def stream(self, request: CompletionRequest) -> Iterator[Iterator[Delta]]:
        """Answer word by word."""
        text = _answer(request)
        words = re.findall(r"\s*\S+|\s+$", text)
        yield iter(
            [
                *(Delta(text=word) for word in words),
                Delta(finish_reason="stop", usage=_usage(request, text)),
            ]
        )


def _answer(request: CompletionRequest) -> str:
    *earlier, prompt = [message.text for message in request.messages if message.role == "user"]
    answer = f"You said: {prompt}"
    if earlier:
        answer += f"\nBefore that you said: {earlier[-1]}\nEarlier turns: {len(earlier)}"
    return answer


def _usage(request: CompletionRequest, text: str) -> Usage:
    prompt_tokens = sum(len(message.text.split()) for message in request.messages)
    return Usage(prompt_tokens=prompt_tokens, completion_tokens=len(text.split()))
