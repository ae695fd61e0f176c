"""The provider, through the `openai` SDK: any service that speaks OpenAI's chat completions.

The SDK's `create()` builds pydantic objects for every message, 113 ms of CPU for 1,000 of them.
Its low-level `post()` keeps authentication, headers and typed errors, and skips that.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast

import httpx2
import openai
from openai._models import FinalRequestOptions

from chatport.domain.errors import UpstreamError, UpstreamInvalidResponse
from chatport.domain.model import Completion, CompletionRequest, Delta, Usage
from chatport.domain.ports import LLMGateway

from .sse import SSEDecoder
from .upstream_connection import TransportLimits
from .upstream_faults import translated
from .upstream_transport import UpstreamTransport

MAX_TOKENS = 2**31
"""What an integer column of every database holds; larger counts are a provider's mistake."""

HEARTBEAT = Delta()

OPENAI_URL = "https://api.openai.com/v1"


class OpenAIGateway(LLMGateway):
    """Calls `POST {base_url}/chat/completions` once per request.

    Takes nothing from the environment: no key, address, organisation, proxy or header.

    Args:
        api_key: The provider's key; any text where the provider needs none.
        base_url: Up to and without `/chat/completions`.
        timeout_seconds: From the call to the last byte. A quarter of it may pass in silence.
    """

    def __init__(
        self, *, api_key: str, base_url: str = OPENAI_URL, timeout_seconds: float = 120.0
    ) -> None:
        limits = TransportLimits(total=timeout_seconds, silence=timeout_seconds / 4)
        self._http = httpx2.Client(transport=UpstreamTransport(limits), trust_env=False)
        self._client = _Client(api_key=api_key, base_url=base_url, http_client=self._http)

    def complete(self, request: CompletionRequest) -> Completion:
        """Call the provider and read its whole answer."""
        with translated():
            response = self._post(request, stream=False)
            return _completion(_parsed(response.content), response.headers.get("x-request-id"))

    @contextmanager
    def stream(self, request: CompletionRequest) -> Iterator[Iterator[Delta]]:
        """Call the provider and read its answer as it arrives."""
        with translated():
            response = self._post(request, stream=True)
        try:
            yield _deltas(response)
        finally:
            response.close()

    def close(self) -> None:
        """Close the connections to the provider."""
        self._client.close()

    def _post(self, request: CompletionRequest, *, stream: bool) -> httpx2.Response:
        response: Any = self._client.post(
            "/chat/completions",
            cast_to=httpx2.Response,
            content=_encode(request, stream=stream),
            options={"follow_redirects": False},
            stream=stream,
            stream_cls=openai.Stream,
        )
        return cast("httpx2.Response", response)  # what `cast_to` asked for


class _Client(openai.OpenAI):
    """The SDK's client, sending one kind of request with only the headers that we choose.

    The SDK merges seven sources of headers and parses the address three times for each call, a
    third of the whole cost; ours are always the same.
    """

    def __init__(self, *, api_key: str, base_url: str, http_client: httpx2.Client) -> None:
        super().__init__(api_key=api_key, base_url=base_url, max_retries=0, http_client=http_client)
        self._completions_url = httpx2.URL(f"{base_url.rstrip('/')}/chat/completions")
        self._completions_headers = httpx2.Headers(
            {
                "Host": self._completions_url.netloc.decode("ascii"),
                "Accept": "application/json",
                "Accept-Encoding": "identity",
                "Authorization": f"Bearer {api_key}",
                "Content-Type": "application/json",
                "User-Agent": "chatport",
            }
        )

    def _build_request(
        self, options: FinalRequestOptions, *, retries_taken: int = 0
    ) -> httpx2.Request:
        del retries_taken  # there are none
        if not isinstance(options.content, bytes):
            raise TypeError("only completions are sent")
        return httpx2.Request(
            "POST",
            self._completions_url,
            headers=self._completions_headers,
            content=options.content,
        )


def _encode(request: CompletionRequest, *, stream: bool) -> bytes:
    """Return the body. Message by message: half the cost of a list of dictionaries."""
    messages = ",".join(
        f'{{"role":{_quoted(role)},"content":{_quoted(text)}}}' for role, text in request.messages
    )
    options = ',"stream":true,"stream_options":{"include_usage":true}' if stream else ""
    body = f'{{"model":{_quoted(request.model)},"messages":[{messages}]{options}}}'
    return body.encode()


_quoted = json.JSONEncoder(ensure_ascii=False).encode


def _parsed(data: bytes) -> Any:
    """Return what the JSON says; None, which is no answer either, if it is not JSON."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _completion(answer: Any, request_id: str | None) -> Completion:
    """Check and translate an answer: an object with at least one choice that says something."""
    if not isinstance(answer, dict) or not (choice := _first_choice(answer)):
        raise UpstreamInvalidResponse(upstream_status=200, upstream_request_id=request_id)
    text = _text(choice.get("message"))
    finish_reason = choice.get("finish_reason")
    if text is None or not isinstance(finish_reason, str):
        raise UpstreamInvalidResponse(upstream_status=200, upstream_request_id=request_id)
    return Completion(
        text=text,
        finish_reason=finish_reason,
        usage=_usage(answer.get("usage")),
        upstream_request_id=request_id,
    )


def _deltas(response: httpx2.Response) -> Iterator[Delta]:
    """Yield the pieces of a streamed answer: for all events that arrive together, one piece."""
    with translated():
        request_id = response.headers.get("x-request-id")
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            raise UpstreamInvalidResponse(upstream_status=200, upstream_request_id=request_id)
        if request_id:
            yield Delta(upstream_request_id=request_id)
        answer = _StreamedAnswer()
        for payloads in _arrivals(response):
            yield from answer.read(payloads)


def _arrivals(response: httpx2.Response) -> Iterator[list[bytes]]:
    """Yield the data of the events that arrive together; nothing for a silence or a comment.

    Reads on past `[DONE]` to the end of the body, so that the connection can be used again; but
    does not wait there for a provider that says no more.
    """
    decoder, pieces = SSEDecoder(), _pieces(response)
    for piece in pieces:
        payloads = decoder.feed(piece)
        if b"[DONE]" in payloads:
            yield payloads[: payloads.index(b"[DONE]")]
            _read_to_the_end(pieces)
            return
        yield payloads


class _StreamedAnswer:
    """Checks and translates the events of one stream."""

    def __init__(self) -> None:
        self._said_something = False

    def read(self, payloads: list[bytes]) -> Iterator[Delta]:
        """Yield what the events say together, and then raise if one of them is wrong."""
        deltas: list[Delta] = []
        fault: Exception | None = None
        try:
            deltas.extend(self._delta(json.loads(payload)) for payload in payloads)
        except Exception as error:  # noqa: BLE001  # raised below, after what came before it
            fault = error
        if len(deltas) == 1:
            yield deltas[0]
        elif deltas or fault is None:
            yield _together(deltas)
        if fault is not None:
            raise fault

    def _delta(self, chunk: Any) -> Delta:
        if chunk is None:
            return HEARTBEAT
        if not isinstance(chunk, dict):
            raise UpstreamInvalidResponse
        if chunk.get("error"):
            raise UpstreamError
        choice = _first_choice(chunk) or {}
        text, finish_reason = _text(choice.get("delta")), choice.get("finish_reason")
        self._said_something = self._said_something or text is not None
        if finish_reason and not self._said_something:
            raise UpstreamInvalidResponse  # a tool call, which nobody has asked for
        return Delta(
            text=text or "",
            finish_reason=finish_reason if isinstance(finish_reason, str) else None,
            usage=_usage(chunk.get("usage")),
        )


def _together(deltas: list[Delta]) -> Delta:
    return Delta(
        text="".join(delta.text for delta in deltas),
        finish_reason=next((d.finish_reason for d in deltas if d.finish_reason), None),
        usage=next((delta.usage for delta in deltas if delta.usage), None),
    )


def _read_to_the_end(pieces: Iterator[bytes]) -> None:
    """Read the end of the body, if it is all that comes: then the connection can be used again."""
    with suppress(httpx2.TransportError):
        next(pieces, None)


def _pieces(response: httpx2.Response) -> Iterator[bytes]:
    """Yield the body as the transport does: `Response.iter_raw` drops the empty heartbeats."""
    if not isinstance(response.stream, httpx2.SyncByteStream):
        raise TypeError("the transport is synchronous")
    yield from response.stream


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


def _usage(usage: Any) -> Usage | None:
    if not isinstance(usage, dict):
        return None
    counts = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if not all(type(count) is int and 0 <= count < MAX_TOKENS for count in counts):
        return None
    return Usage(prompt_tokens=counts[0], completion_tokens=counts[1])  # type: ignore[arg-type]  # the line above has checked them
