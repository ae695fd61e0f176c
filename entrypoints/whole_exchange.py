"""A request that was passed on and its answer, put together again for people and programs."""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from chatport.domain.model import Exchange
from chatport.domain.relay import RequestText

from .json_spans import scan

ONCE = frozenset({"id", "type", "role", "index"})
"""The words of a delta that are said once, or again and again, but never in pieces."""


def request_of(text: RequestText) -> Any:
    """Return the request as the client sent it."""
    messages = ",".join(text.messages)
    return json.loads(scan(text.parameters).changed({"messages": f"[{messages}]"}))


def response_of(exchange: Exchange) -> Any:
    """Return the provider's answer; a streamed one as it would have been in one piece."""
    pieces = [_read(piece) for piece in exchange.answer]
    if len(pieces) == 1 and "chunk" not in str(pieces[0].get("object")):
        return pieces[0]
    return assembled(pieces) if pieces else None


def _read(text: str | bytes) -> Any:
    """Return what the JSON says.

    NaN and its like, which some send although they are not JSON, become text; so does what is
    too large for a number of Python's, which would be written as they are.
    """
    return json.loads(text, parse_constant=str, parse_float=_finite)


def _finite(text: str) -> float | str:
    number = float(text)
    return number if math.isfinite(number) else text


def assembled(chunks: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the completion that the chunks of a stream add up to."""
    whole: dict[str, Any] = {}
    choices: dict[str, dict[str, Any]] = {}
    for chunk in chunks:
        whole.update({name: value for name, value in chunk.items() if value is not None})
        for choice in _objects(chunk.get("choices")):
            index = choice.get("index")
            _add_choice(choices.setdefault(str(index or 0), {}), choice)
    ordered = [choices[index] for index in sorted(choices, key=lambda index: (len(index), index))]
    return {**whole, "object": "chat.completion", "choices": ordered}


def _objects(choices: Any) -> list[dict[str, Any]]:
    """Return those of a list that are objects: whatever came, the others can be shown."""
    return [each for each in choices if isinstance(each, dict)] if isinstance(choices, list) else []


def _add_choice(whole: dict[str, Any], choice: Mapping[str, Any]) -> None:
    piece = {name: value for name, value in choice.items() if name != "delta"}
    _add(whole, {**piece, "message": choice.get("delta") or {}}, once=ONCE | {"finish_reason"})


def _add(whole: dict[str, Any], piece: Mapping[str, Any], once: frozenset[str] = ONCE) -> None:
    """Add a piece to what there is: texts grow, objects and lists are filled."""
    for name, value in piece.items():
        before = whole.get(name)
        if value is None:
            whole.setdefault(name, None)
        elif name not in once and isinstance(before, str) and isinstance(value, str):
            whole[name] = before + value
        elif isinstance(value, dict):
            whole[name] = before if isinstance(before, dict) else {}
            _add(whole[name], value)
        elif isinstance(value, list):
            whole[name] = before if isinstance(before, list) else []
            _extend(whole[name], value)
        else:
            whole[name] = value


def _extend(whole: list[Any], pieces: list[Any]) -> None:
    """Add the items of a list; those with an index to the one that has it already."""
    for piece in pieces:
        index = piece.get("index") if isinstance(piece, dict) else None
        same = [item for item in whole if isinstance(item, dict) and item.get("index") == index]
        if index is not None and same:
            _add(same[0], piece)
        else:
            whole.append(piece)
