"""Reading a request in OpenAI's protocol, and making of it what the provider gets."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from chatport.domain.estimates import DEFAULT_OUTPUT_TOKENS
from chatport.domain.history import utf8_size
from chatport.domain.model import USER_ID
from chatport.domain.relay import Relay, RequestText
from chatport.domain.text import is_storable

from .faults import BadRequest
from .json_spans import JSONObject, containers, parse_object, scan
from .wire import ChatCompletionBody, checked

FORBIDDEN = frozenset({"api_base", "base_url", "api_key", "extra_headers", "organization", "proxy"})
"""With these, gateways behind chatport can be told to send the request, or a key, elsewhere."""

NAMES_OF_A_SCHEMA = ("properties", "$defs", "definitions")
"""The keys of these objects in a JSON Schema are names of the client's own, not parameters."""

HIDING = re.compile(r"\\u00[4-7]")
"""An escape that writes a letter, which nobody needs but to hide it."""

NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")

USER_FIELDS = ("safety_identifier", "user")

OUTPUT_FIELDS = ("max_completion_tokens", "max_tokens")
"""How long one answer may get; the first is OpenAI's newer word."""

MOST_TOKENS = 10**9
"""No answer is that long; what is above would only overflow a database's sums."""

IMAGE_DATA = re.compile(r"data:image/[\w.+-]+;base64,[A-Za-z0-9+/=_-]*")
"""What only an image can be: no text that the model might read is written so."""

IMAGE_BYTES = 10_000
"""Of text, that cost as many tokens as an image: some 2,500 for OpenAI's models, at most."""

Pseudonym = Callable[[str], str]
"""Returns what stands for a user id before the provider."""


@dataclass(frozen=True, slots=True)
class RelayedRequest:
    """A checked request.

    Attributes:
        prompt: What was said last.
        user_id: Whom the client named, if it named somebody.
        stream: Whether the answer is to be streamed.
        wants_usage: Whether the stream is to tell the tokens.
    """

    relay: Relay
    prompt: str
    user_id: str | None
    stream: bool
    wants_usage: bool


def read(body: bytes, pseudonym: Pseudonym, max_output_tokens: int | None = None) -> RelayedRequest:
    """Check a request's body, and change in it what the provider must not or must be told.

    Args:
        body: As it came.
        pseudonym: Stands for the user before the provider.
        max_output_tokens: Of all answers to a request that sets no bound itself; None for none.

    Raises:
        BadRequest: A field that chatport reads is wrong, or one is there that may not be.
        InvalidJSON: The body is not JSON.
    """
    asked = parse_object(body)
    if asked is None:
        raise BadRequest("invalid_json", "The body must be a JSON object.")
    fields = checked(ChatCompletionBody, asked.value)
    _check_free_form(asked)
    user_id = _user_id(fields.safety_identifier or fields.user)
    wants_usage = bool(fields.stream_options and fields.stream_options.include_usage)
    changes: dict[str, str] = {}
    if user_id:
        stand_in = json.dumps(pseudonym(user_id))
        changes = {name: stand_in for name in USER_FIELDS if asked.value.get(name)}
    if fields.stream and not wants_usage:
        changes["stream_options"] = _with_usage(asked)
    max_tokens = _max_tokens(asked.value)
    if max_tokens is None and max_output_tokens is None:
        max_tokens = _all(asked.value, DEFAULT_OUTPUT_TOKENS)
    elif max_output_tokens is not None and max_tokens is None:
        max_tokens = max_output_tokens
        changes[OUTPUT_FIELDS[0]] = str(max(1, max_tokens // _answers(asked.value)))
    return RelayedRequest(
        relay=Relay(
            model=fields.model,
            body=asked.changed(changes).encode(),
            text=_text(asked),
            size=_size(asked),
            max_tokens=max_tokens,
        ),
        prompt=_said_last(asked.value["messages"][-1]),
        user_id=user_id,
        stream=bool(fields.stream),
        wants_usage=wants_usage,
    )


def _user_id(name: str | None) -> str | None:
    """Return the user id for a name that may hold any characters."""
    if not name or USER_ID.fullmatch(name):
        return name or None
    return f"sha256:{hashlib.sha256(name.encode()).hexdigest()}"


def _check_free_form(asked: JSONObject) -> None:
    """Check what no record describes."""
    _check_unicode(asked)
    if not any(f'"{name}"' in asked.text for name in FORBIDDEN) and not HIDING.search(asked.text):
        return
    names_of_schemas: set[int] = set()
    for node in containers(asked.value):
        if isinstance(node, dict):
            names_of_schemas.update(id(node.get(name)) for name in NAMES_OF_A_SCHEMA)
            if id(node) not in names_of_schemas:
                _check_names(node)


def _check_names(node: Mapping[str, Any]) -> None:
    for name in FORBIDDEN.intersection(node):
        message = f"The body has the field {name}, which chatport does not pass on."
        raise BadRequest("forbidden_field", message, field=name)


def _check_unicode(asked: JSONObject) -> None:
    """Refuse what only an escape can write into JSON: a NUL, or half a surrogate pair."""
    good = not NUL.search(asked.text)
    if good and SURROGATE.search(asked.text):
        good = is_storable(json.dumps(asked.value, ensure_ascii=False))
    if not good:
        message = "The body holds a NUL or half a surrogate pair."
        raise BadRequest("invalid_unicode", message)


def _with_usage(asked: JSONObject) -> str:
    """Return the stream's options with the wish for token counts."""
    if not asked.value.get("stream_options"):
        return '{"include_usage":true}'
    span = asked.spans["stream_options"]
    return scan(asked.text[span.start : span.end]).changed({"include_usage": "true"})


def _text(asked: JSONObject) -> RequestText:
    """Return the request as it is kept: its messages, and the rest."""
    items = asked.spans["messages"].items
    return RequestText(
        messages=[asked.text[start:end] for start, end in items],
        parameters=asked.changed({"messages": "[]"}),
    )


def _max_tokens(asked: Mapping[str, Any]) -> int | None:
    """Return how long all answers together may get, if the client says so in a way we know."""
    named = [_count(asked.get(name)) for name in OUTPUT_FIELDS]
    most = max(named)  # of two, the provider may heed either
    return _all(asked, most) if most else None


def _all(asked: Mapping[str, Any], each: int) -> int:
    return min(each * _answers(asked), MOST_TOKENS)


def _answers(asked: Mapping[str, Any]) -> int:
    return max(1, _count(asked.get("n")))


def _count(value: Any) -> int:
    """Return what a provider may read as a count, also if it is not quite one; 0 for nothing."""
    if isinstance(value, str):
        with suppress(ValueError):
            value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        return 0
    return int(min(value, MOST_TOKENS))


def _size(asked: JSONObject) -> int:
    """Return how much the model reads, in bytes; an image costs the same however large it is.

    It is one only as a part of a message: elsewhere, the model reads as text whatever looks so.
    """
    size = utf8_size(asked.text)
    for message in asked.value["messages"]:
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            if isinstance(part, dict) and "image_url" in part:
                size += IMAGE_BYTES - _image_data(part)
    return size


def _image_data(part: Mapping[str, Any]) -> int:
    """Return the bytes of an image that stands in the request itself."""
    image = part["image_url"] if part.get("type") == "image_url" else None
    url = image.get("url") if isinstance(image, dict) else None
    return len(url) if isinstance(url, str) and IMAGE_DATA.fullmatch(url) else 0


def _said_last(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    return "\n".join(text for text in texts if isinstance(text, str))
