"""A request that was passed on and its answer, put together again for people and programs."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from chatport.adapters import let_others_run
from chatport.domain.model import Exchange
from chatport.domain.relay import RequestText

from .json_spans import scan

ONCE = frozenset({"id", "type", "role", "index"})
"""The words of a delta that are said once, or again and again, but never in pieces."""

PIECES_A_TURN = 100
"""They are put together in a few milliseconds; then others have their turn."""


def request_of(text: RequestText) -> Any:
    """Return the request as the client sent it."""
    messages = ",".join(text.messages)
    return json.loads(scan(text.parameters).changed({"messages": f"[{messages}]"}))


def response_of(exchange: Exchange) -> Any:
    """Return the provider's answer; a streamed one as it would have been in one piece."""
    if not exchange.answer:
        return None
    first = _read(exchange.answer[0])
    if len(exchange.answer) == 1 and "chunk" not in str(first.get("object")):
        return first
    return assembled(_pieces(exchange.answer))


def _pieces(texts: Sequence[bytes]) -> Iterator[Any]:
    """Yield what the events of a stream say, which may be a hundred thousand."""
    for number, text in enumerate(texts):
        if number % PIECES_A_TURN == 0:
            let_others_run()
        yield _read(text)


def _read(text: str | bytes) -> Any:
    """Return what the JSON says.

    NaN and its like, which some send although they are not JSON, become text; so does what is
    too large for a number of Python's, which would be written as they are.
    """
    if isinstance(text, bytes):
        text = text.decode(json.detect_encoding(text), "surrogatepass")
    return DECODER.decode(text)


def _finite(text: str) -> float | str:
    number = float(text)
    return number if math.isfinite(number) else text


DECODER = json.JSONDecoder(parse_constant=str, parse_float=_finite)
"""One for all pieces: to make one takes as long as to read a piece."""


def assembled(chunks: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the completion that the chunks of a stream add up to."""
    whole: dict[str, Any] = {}
    choices: dict[str, dict[str, Any]] = {}
    growth = _Growth()
    for chunk in chunks:
        whole.update({name: value for name, value in chunk.items() if value is not None})
        for choice in _objects(chunk.get("choices")):
            index = choice.get("index")
            growth.add_choice(choices.setdefault(str(index or 0), {}), choice)
    growth.end()
    ordered = [choices[index] for index in sorted(choices, key=lambda index: (len(index), index))]
    return {**whole, "object": "chat.completion", "choices": ordered}


def _objects(choices: Any) -> list[dict[str, Any]]:
    """Return those of a list that are objects: whatever came, the others can be shown."""
    return [each for each in choices if isinstance(each, dict)] if isinstance(choices, list) else []


class _Text(list[str]):
    """A text that grows, in pieces: to copy it for each takes the square of its length."""


class _Items(list[Any]):
    """A list that grows, with those of its items that have an index.

    By the index as text: numbers can be chosen so that to find one takes as long as to look at all.
    """

    def __init__(self) -> None:
        super().__init__()
        self.by_index: dict[str, dict[str, Any]] = {}


class _Growth:
    """Adds pieces to what there is: texts grow, objects and lists are filled."""

    def __init__(self) -> None:
        self._texts: list[tuple[dict[str, Any], str]] = []

    def add_choice(self, whole: dict[str, Any], choice: Mapping[str, Any]) -> None:
        """Add what a chunk says of a choice."""
        piece = {name: value for name, value in choice.items() if name != "delta"}
        message = {**piece, "message": choice.get("delta") or {}}
        self._add(whole, message, once=ONCE | {"finish_reason"})

    def end(self) -> None:
        """Write each text in one piece."""
        for place, name in self._texts:
            if isinstance(text := place[name], _Text):
                place[name] = "".join(text)

    def _add(
        self, whole: dict[str, Any], piece: Mapping[str, Any], once: frozenset[str] = ONCE
    ) -> None:
        for name, value in piece.items():
            before = whole.get(name)
            if value is None:
                whole.setdefault(name, None)
            elif name not in once and isinstance(before, str | _Text) and isinstance(value, str):
                self._add_text(whole, name, value)
            elif isinstance(value, dict):
                whole[name] = before if isinstance(before, dict) else {}
                self._add(whole[name], value)
            elif isinstance(value, list):
                whole[name] = self._growing(before)
                self._extend(whole[name], value)
            else:
                whole[name] = value

    def _add_text(self, whole: dict[str, Any], name: str, piece: str) -> None:
        text = whole[name]
        if isinstance(text, str):
            whole[name] = text = _Text([text])
            self._texts.append((whole, name))
        text.append(piece)

    def _growing(self, before: object) -> _Items:
        if isinstance(before, _Items):
            return before
        items = _Items()
        if isinstance(before, list) and not isinstance(before, _Text):
            self._extend(items, before)
        return items

    def _extend(self, whole: _Items, pieces: list[Any]) -> None:
        """Add the items of a list; those with an index to the one that has it already."""
        for piece in pieces:
            index = piece.get("index") if isinstance(piece, dict) else None
            key = str(index) if isinstance(index, int | float | str) else None
            if key is not None and key in whole.by_index:
                self._add(whole.by_index[key], piece)
            else:
                whole.append(piece)
                if key is not None:
                    whole.by_index[key] = piece
