"""The provider, through the `openai` SDK: any service that speaks OpenAI's chat completions.

The SDK's `create()` builds pydantic objects for every message, 113 ms of CPU for 1,000 of them.
Its low-level `post()` keeps authentication, headers and typed errors, and skips that.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import httpx2
import openai
from openai._models import FinalRequestOptions

from chatport.domain.errors import UpstreamError, UpstreamInvalidResponse
from chatport.domain.model import Completion, CompletionRequest, Delta, Usage
from chatport.domain.ports import LLMGateway

from .sse import SSEDecoder
from .upstream_faults import translated
from .upstream_transport import TransportLimits, UpstreamTransport

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
            answer = json.loads(response.content)
            return _completion(answer, response.headers.get("x-request-id"))

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
    body: dict[str, Any] = {
        "model": request.model,
        "messages": [{"role": role, "content": text} for role, text in request.messages],
    }
    if stream:
        body["stream"] = True
        body["stream_options"] = {"include_usage": True}
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


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
    """Yield the pieces of a streamed answer; without a text, if only an empty one, it is none."""
    with translated():
        request_id = response.headers.get("x-request-id")
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            raise UpstreamInvalidResponse(upstream_status=200, upstream_request_id=request_id)
        if request_id:
            yield Delta(upstream_request_id=request_id)
        said = False
        for chunk in _chunks(response):
            delta = _delta(chunk) if chunk is not None else HEARTBEAT
            said = said or _says_something(chunk)
            if delta.finish_reason and not said:
                raise UpstreamInvalidResponse(upstream_request_id=request_id)
            if chunk is None or delta != HEARTBEAT:
                yield delta


def _chunks(response: httpx2.Response) -> Iterator[Any]:
    """Yield the JSON of each event, and None after each heartbeat of silence.

    Reads on past `[DONE]` to the end of the body, so that the connection can be used again; but
    does not wait there for a provider that says no more.
    """
    decoder, done = SSEDecoder(), False
    for piece in _pieces(response):
        if not piece and done:
            return
        if not piece:
            yield None
        for payload in decoder.feed(piece):
            done = done or payload == b"[DONE]"
            if not done and (chunk := json.loads(payload)) is not None:
                yield chunk


def _pieces(response: httpx2.Response) -> Iterator[bytes]:
    """Yield the body as the transport does: `Response.iter_raw` drops the empty heartbeats."""
    if not isinstance(response.stream, httpx2.SyncByteStream):
        raise TypeError("the transport is synchronous")
    yield from response.stream


def _says_something(chunk: Any) -> bool:
    """Return whether the chunk has a text, if only an empty one; a tool call has none."""
    choice = _first_choice(chunk) if isinstance(chunk, dict) else None
    return choice is not None and _text(choice.get("delta")) is not None


def _delta(chunk: Any) -> Delta:
    if not isinstance(chunk, dict):
        raise UpstreamInvalidResponse
    if chunk.get("error"):
        raise UpstreamError
    choice = _first_choice(chunk) or {}
    finish_reason = choice.get("finish_reason")
    return Delta(
        text=_text(choice.get("delta")) or "",
        finish_reason=finish_reason if isinstance(finish_reason, str) else None,
        usage=_usage(chunk.get("usage")),
    )


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
