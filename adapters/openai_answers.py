"""Reading the answers of OpenAI's protocol: what a completion and a chunk say."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import reduce
from typing import Any

from chatport.domain.errors import UpstreamError, UpstreamInvalidResponse, UpstreamTruncated
from chatport.domain.history import estimated_tokens
from chatport.domain.model import Completion, Delta, Usage

from .provider_usage import Counts
from .said_sizes import said_bytes_of

CUT_SHORT = ("length", "content_filter")
"""With these reasons nothing at all is an answer: all tokens went into thinking, or a filter."""

BROKEN_OFF = ("error", "abort", "insufficient_system_resource")
"""With these reasons an answer is not whole: OpenRouter's, vLLM's and DeepSeek's."""

MAX_MEMBERS = 1_000
"""Of a chunk; OpenAI's have ten. To take `usage` out of a million of them took 10 s."""

MAX_CHOICES = 1_000
"""Of a chunk; OpenAI's `n` is at most 128. To read a million of them took 11 s."""

COMPLAINTS = ("detail", "errors", "message", "msg")
"""Where other servers than OpenAI's say what went wrong, in place of an answer."""

HEARTBEAT = Delta()


def completion(
    data: bytes, request_id: str | None, *, relayed: bool, status: int = 200
) -> Completion:
    """Check and translate an answer: an object whose first choice says something.

    Args:
        data: The answer's body.
        request_id: The provider's own id of the call.
        relayed: The client reads the answer itself; then tool calls and whatever else may come
            are an answer too, and its bytes are kept.
        status: Of the answer, a success.

    Raises:
        UpstreamError: A choice says what went wrong.
        UpstreamInvalidResponse: It is none.
    """
    answer = parsed(data)
    is_whole = isinstance(answer, dict) and not answer.get("error")  # some send what there is of it
    choice = _first_choice(answer) if is_whole else None
    is_failed = is_whole and _is_failed(answer.get("choices"), BROKEN_OFF)
    message = choice.get("message") if choice else None
    finish_reason = choice.get("finish_reason") if choice else None
    text = _text(message)
    if text is None and (
        _is_cut_short(message, finish_reason) or (relayed and _says_more(message))
    ):
        text = ""
    if is_failed or text is None or not isinstance(finish_reason, str) or not finish_reason:
        kind = UpstreamError if is_failed else UpstreamInvalidResponse
        error = kind(upstream_status=status, upstream_request_id=request_id)
        error.may_be_billed = True
        error.usage = _used(answer, len(data)) if isinstance(answer, dict) else None
        error.upstream_said = data.decode("utf-8", "replace")
        raise error
    usage, said_bytes = _counted(answer, len(data))
    return Completion(
        text=text,
        finish_reason=finish_reason,
        usage=usage,
        upstream_request_id=request_id,
        body=data if relayed else None,
        said_bytes=said_bytes,
    )


def _counted(answer: dict[str, Any], text_bytes: int) -> tuple[Usage | None, int]:
    """Return what is counted of an answer, and the bytes that this does not count."""
    said_bytes = said_bytes_of(answer.get("choices"), text_bytes)
    return Counts().take(answer.get("usage"), said_bytes)


def _used(answer: dict[str, Any], text_bytes: int) -> Usage | None:
    """Return what is counted of an answer of no use, and what is not, by its size."""
    usage, said_bytes = _counted(answer, text_bytes)
    if usage is None or not said_bytes:
        return usage
    counted = usage.completion_tokens + estimated_tokens(said_bytes)
    return replace(usage, completion_tokens=counted, estimated=True)


class StreamedAnswer:
    """Checks and translates the events of one stream."""

    def __init__(self, *, relayed: bool) -> None:
        self._relayed = relayed
        self._said_something = relayed
        self._paid = False
        self._counts = Counts()
        self._told: tuple[Usage | None, int] = None, 0
        self._kept = ""
        self._begun: set[str] = set()
        self._finished: set[str] = set()
        self._broken_off = False

    def read(self, payloads: list[bytes]) -> Iterator[Delta]:
        """Yield what the events say together, and then raise if one of them is wrong."""
        deltas: list[Delta] = []
        fault: Exception | None = None
        try:
            deltas.extend(self._delta(payload) for payload in payloads)
        except Exception as error:  # noqa: BLE001  # raised below, after what came before it
            fault = error
            said = payloads[len(deltas)].decode("utf-8", "replace")
            fault.upstream_said = said  # type: ignore[attr-defined]  # any exception can carry it
            deltas.extend(self._told_by(fault))
        if len(deltas) == 1:
            yield deltas[0]
        elif deltas or fault is None:
            yield _together(deltas)
        if fault is not None:
            raise fault

    def end(self) -> None:
        """Return if each choice that was begun has come to its end.

        Raises:
            UpstreamTruncated: One has not.
            UpstreamError: One was broken off, and said so.
        """
        if self._broken_off:
            error = UpstreamError()
            error.may_be_billed = True
            raise error
        if self._begun - self._finished:
            raise UpstreamTruncated

    def _told_by(self, fault: Exception) -> Iterator[Delta]:
        """Yield what is counted in the very event that is wrong; an error's counts are the last."""
        usage, said_bytes = self._told
        if usage is not None and (usage.prompt_tokens or usage.completion_tokens):
            is_head = self._is_head(usage) and isinstance(fault, UpstreamInvalidResponse)
            yield Delta(usage=usage, is_head=is_head, said_bytes=said_bytes)

    def _delta(self, payload: bytes) -> Delta:
        self._told = None, 0
        chunk = json.loads(payload.decode())
        if chunk is None:
            return HEARTBEAT
        if not isinstance(chunk, dict) or _is_too_large(chunk):
            raise UpstreamInvalidResponse
        said_bytes = said_bytes_of(chunk.get("choices"), len(payload))
        usage, said_bytes = self._told = self._counts.take(chunk.get("usage"), said_bytes)
        self._paid = self._paid or said_bytes > 0 or bool(usage and usage.completion_tokens)
        if _is_error(chunk):
            error = UpstreamError()
            error.may_be_billed = self._paid
            raise error
        choice = _choice_of(chunk)
        events = (payload,) if self._relayed else ()
        if choice is None:
            is_head = self._is_head(usage)
            return Delta(usage=usage, is_head=is_head, events=events, said_bytes=said_bytes)
        return Delta(
            text=self._text(choice),
            finish_reason=self._finish_reason(chunk["choices"]),
            usage=usage,
            is_head=self._is_head(usage),
            events=events,
            said_bytes=said_bytes,
        )

    def _is_head(self, usage: Usage | None) -> bool:
        """Return whether a usage came before anything was said, or had come to its end."""
        return usage is not None and self._counts.is_head and not self._finished

    def _text(self, choice: dict[str, Any]) -> str:
        """Return the text of a choice's delta; of several choices, only the first is kept so."""
        text = _text(choice.get("delta"))
        self._said_something = self._said_something or text is not None
        if not self._begun:
            self._kept = _index(choice)
        return text if text is not None and _index(choice) == self._kept else ""

    def _finish_reason(self, choices: list[dict[str, Any]]) -> str | None:
        """Return the reason if the first choice ends here, and remember which choices have."""
        reason = None
        for choice in choices:
            index, said = _index(choice), choice.get("finish_reason")
            self._begun.add(index)
            if isinstance(said, str) and said:
                self._finished.add(index)
                if said in BROKEN_OFF:  # its usage may be still to come
                    self._broken_off = True
                elif index == self._kept:
                    reason = said
        if reason and not self._said_something and reason not in CUT_SHORT:
            raise UpstreamInvalidResponse  # a tool call, which nobody has asked for
        return reason


def _index(choice: dict[str, Any]) -> str:
    """Return which of several answers this is a part of; without a number, the first.

    As text: numbers can be chosen so that a set takes the square of how many there are.
    """
    index = choice.get("index")
    return str(index) if index and isinstance(index, int | float | str) else "0"


def _is_too_large(chunk: dict[str, Any]) -> bool:
    """Return whether the chunk has more in it than anybody's; it would stop the process."""
    choices = chunk.get("choices")
    return len(chunk) > MAX_MEMBERS or (isinstance(choices, list) and len(choices) > MAX_CHOICES)


def _is_error(chunk: dict[str, Any]) -> bool:
    """Return whether the chunk says what went wrong, as OpenAI does, or as other servers do."""
    if chunk.get("error") or _is_failed(chunk.get("choices")):
        return True
    says_more = chunk.get("choices") or chunk.get("usage")
    return not says_more and any(chunk.get(name) for name in COMPLAINTS)


def _is_failed(choices: object, reasons: Sequence[str] = ()) -> bool:
    """Return whether a choice says what went wrong, as OpenRouter's do, or ends for a reason."""
    return isinstance(choices, list) and any(
        isinstance(choice, dict) and (choice.get("error") or choice.get("finish_reason") in reasons)
        for choice in choices
    )


def _together(deltas: list[Delta]) -> Delta:
    """Return one piece that says what these say; of what comes again and again, the last."""
    counted = next((delta for delta in reversed(deltas) if delta.usage), HEARTBEAT)
    return Delta(
        text="".join(delta.text for delta in deltas),
        events=tuple(event for delta in deltas for event in delta.events),
        finish_reason=next((d.finish_reason for d in reversed(deltas) if d.finish_reason), None),
        usage=counted.usage,
        is_head=counted.is_head,
        said_bytes=reduce(lambda before, delta: delta.said_bytes_after(before), deltas, 0),
    )


def parsed(data: bytes) -> Any:
    """Return what the JSON says; None, which is no answer either, if it is not JSON in UTF-8."""
    try:
        return json.loads(data.decode())
    except (ValueError, RecursionError):
        return None


def _choice_of(chunk: dict[str, Any]) -> dict[str, Any] | None:
    """Return the first choice of a chunk, which may have none.

    Raises:
        UpstreamInvalidResponse: The choices are anything but a list of objects.
    """
    choices = chunk.get("choices")
    if choices is None:
        return None
    if not isinstance(choices, list) or not all(isinstance(each, dict) for each in choices):
        raise UpstreamInvalidResponse
    return choices[0] if choices else None


def _first_choice(answer: dict[str, Any]) -> dict[str, Any] | None:
    choices = answer.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        return choices[0]
    return None


def _text(message: Any) -> str | None:
    """Return what the model said; a refusal in words counts."""
    if not isinstance(message, dict):
        return None
    text = message.get("content")
    if text is None:
        text = message.get("refusal")
    return text if isinstance(text, str) else None


def _is_cut_short(message: Any, finish_reason: Any) -> bool:
    return (
        isinstance(message, dict) and message.get("content") is None and finish_reason in CUT_SHORT
    )


def _says_more(message: Any) -> bool:
    """Return whether the message holds anything but its role: a tool call, or what comes next."""
    if not isinstance(message, dict) or not isinstance(message.get("content"), str | list | None):
        return False
    return any(value is not None for name, value in message.items() if name != "role")
