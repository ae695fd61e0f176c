"""How much an answer in OpenAI's protocol says, where the provider does not count its tokens."""

import json
import re
from collections.abc import Iterator

LABELS = frozenset({"role", "type", "id", "index", "format"})
"""Of a message and of what is in it: words that no model has said."""

THOUGHTS = (
    *("reasoning", "reasoning_content", "reasoning_details"),
    *("thinking_blocks", "provider_specific_fields"),
)
"""Some providers send the same thoughts under two or three of these names."""

DEEPEST = 50
"""Deeper than that nobody has put what a model has said."""

MOST_PARTS = 100_000
"""Of what is measured part by part, which takes 0.3 s for them; of more, all of the text counts."""

ARGUMENTS = ("arguments", "input")
"""Of a tool: JSON, which some servers send as it is, and not as a text."""

PICTURE = re.compile(r"data:image/[\w.+-]+;base64,[\w+/=\s-]*", re.ASCII)
PICTURE_BYTES = 10_000
"""A picture counts as 2,500 tokens, as it does in a prompt."""

SOUND_SHARE = 256
"""Characters of sound in base64 for a byte of text: OpenAI counts a token, which is 4 bytes, for
50 ms of it, and an MP3 of 128 kbit/s has 1,067 such characters in them."""

PLACES = ("delta", "message", "text")
"""Of what a choice says: of a chunk's, of an answer's, and of what older servers send as either."""


class _TooManyParts(Exception):
    """There are more than MOST_PARTS."""


def said_bytes_of(choices: object, text_bytes: int) -> int:
    """Return how much the choices say, in bytes of UTF-8: words, thoughts, calls of tools.

    Args:
        choices: Of an answer or a chunk.
        text_bytes: The size of the text that they stand in.
    """
    if not isinstance(choices, list):
        return 0
    parts = iter(range(MOST_PARTS))
    try:
        return sum(
            next(filter(None, (_size(choice.get(place), parts) for place in _places(choice))), 0)
            for choice in choices
            if isinstance(choice, dict)
        )
    except _TooManyParts:
        return text_bytes


def _places(choice: dict[str, object]) -> tuple[str, ...]:
    """Return where the choice may say something; beside a delta some repeat the whole message."""
    return PLACES[:1] if isinstance(choice.get("delta"), dict) else PLACES


def _size(said: object, parts: Iterator[int], name: str = "", depth: int = 0) -> int:
    """Return the size of what stands under a name, and take a part for all that is looked at."""
    if next(parts, None) is None:
        raise _TooManyParts
    if depth > DEEPEST:
        return 0
    if isinstance(said, str):
        is_picture = name == "url" and PICTURE.fullmatch(said)
        return PICTURE_BYTES if is_picture else len(said.encode("utf-8", "surrogatepass"))
    if name in ARGUMENTS and said is not None:
        return len(json.dumps(said, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    if isinstance(said, dict):
        sizes = {
            each: _size(value, parts, each, depth + 1)
            for each, value in said.items()
            if each not in LABELS and (value or each in ARGUMENTS)
        }
        thoughts = max(sizes.pop(each, 0) for each in THOUGHTS)
        if name == "audio":
            sizes["data"] = -(-sizes.get("data", 0) // SOUND_SHARE)
        return thoughts + sum(sizes.values())
    if not isinstance(said, list):
        return 0
    return sum(
        _size(each, parts, name, depth + 1) for each in said if each and not isinstance(each, int)
    )
