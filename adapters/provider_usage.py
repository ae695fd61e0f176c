"""What a provider has counted: the usage of an answer, or of a stream piece by piece."""

from dataclasses import replace
from typing import Any

from chatport.domain.history import estimated_tokens
from chatport.domain.model import Usage

MAX_TOKENS = 10**8
"""Ten times the longest context, Llama 4 Scout's; larger counts are a provider's mistake."""

NOTHING = Usage(prompt_tokens=0, completion_tokens=0)


class Counts:
    """Counts of one answer, and how much it says that they do not count.

    Attributes:
        is_head: What is counted came before anything was said, and has not risen since.
    """

    def __init__(self) -> None:
        self._usage: Usage | None = None
        self._said = self._uncounted = 0
        self.is_head = False

    def take(self, told: object, said_bytes: int) -> tuple[Usage | None, int]:
        """Return what is counted by now, and the bytes that a piece adds to it.

        Some streams end with zeros, or count the prompt only at their beginning. Some repeat the
        counts of their head with each piece: what does not change counts no words.

        Args:
            told: The piece's usage, as it came.
            said_bytes: How much the piece says.

        Returns:
            None, if that is nothing new, and the bytes of the piece; or else the usage, and the
            bytes of all pieces that it does not count.
        """
        self._said += said_bytes
        self._uncounted += said_bytes
        before = self._usage or NOTHING
        usage = _usage(told, before, self._said)
        if usage is None:
            return None, said_bytes
        if not usage.completion_tokens:
            usage = replace(usage, completion_tokens=before.completion_tokens)
        elif usage.completion_tokens != before.completion_tokens:
            self._uncounted = 0
        if usage == self._usage:
            return None, said_bytes
        rises = usage.completion_tokens > before.completion_tokens
        begins = self._usage is None or (self.is_head and not rises)
        self.is_head = begins and not self._said
        self._usage = usage
        return usage, self._uncounted if usage.completion_tokens else said_bytes


def _usage(told: object, before: Usage, said_bytes: int) -> Usage | None:
    """Return what a piece counts of the answer; the prompt's tokens may have come before it.

    Some count thoughts in the total alone: docs.x.ai, "Reasoning", and Gemini's thoughts. Of a
    total of which no part is known, what was said is taken off by its size, and the rest is the
    prompt's.
    """
    if not isinstance(told, dict):
        return None
    total = _count(told.get("total_tokens")) or 0
    parts = [told.get("prompt_tokens"), told.get("completion_tokens")]
    counts = [_count(each) for each in parts if each is not None]
    if None in counts or not (counts or total):
        return None
    prompt, completion = (_count(each) or 0 for each in parts)
    guessed = not (prompt or completion or before.prompt_tokens) and total > 0
    if not prompt:
        said = estimated_tokens(said_bytes) if guessed else completion
        prompt = before.prompt_tokens or max(0, total - said)
    remembered = before if prompt == before.prompt_tokens else NOTHING
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=max(completion, total - prompt),
        cached_tokens=_cached_tokens(told, prompt) or remembered.cached_tokens,
        estimated=guessed or remembered.estimated,
    )


def _count(tokens: object) -> int | None:
    return tokens if type(tokens) is int and 0 <= tokens < MAX_TOKENS else None


def _cached_tokens(usage: dict[str, Any], prompt: int) -> int:
    """Return how many tokens of the prompt were cached; 0 unless the provider says it clearly."""
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    return cached if type(cached) is int and 0 <= cached <= prompt else 0
